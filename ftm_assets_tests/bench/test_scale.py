"""The made-up quarter: the same every time, of the shape it claims, and good enough for every constraint and stage."""

from collections.abc import Iterator

import numpy as np
import pytest

from bench.scale.fill import fill
from bench.scale.likeness import local_dimension
from bench.scale.market import Market, Shape
from ftm_assets.analysis.vectors import centroids
from ftm_assets.storage.database import Database
from ftm_assets.storage.queries import quarter_status
from ftm_assets_tests.storage.rows import ask

QUARTER = "2021Q4"
FEW = Shape(firms=6, themes=4)


@pytest.fixture(scope="module")
def market() -> Iterator[Market]:
    yield Market(FEW, QUARTER)


def test_a_firm_is_the_same_every_time_whichever_others_there_are(market: Market) -> None:
    again, other_quarter = Market(Shape(firms=2, themes=4), QUARTER).firm(2), Market(FEW, "2022Q1").firm(2)
    firm = market.firm(2)
    assert again.components == firm.components
    assert np.array_equal(again.vectors, firm.vectors)
    assert other_quarter.components != firm.components


def test_every_sentence_stands_in_its_turn(market: Market) -> None:
    firm = market.firm(1)
    said = [
        component.text[start:end]
        for turn, component in zip(firm.turns, firm.components, strict=True)
        for start, end in firm.places[turn.first : turn.end]
    ]
    assert tuple(said) == firm.texts


def test_shares_are_those_of_the_shape() -> None:
    firms = list(Market(Shape(firms=40, themes=4), QUARTER).firms())
    n = sum(len(firm.texts) for firm in firms)
    assert n / 40 == pytest.approx(450, rel=0.1)
    assert sum((firm.topic_of >= 0).sum() for firm in firms) / n == pytest.approx(0.67, abs=0.01)
    assert sum(flag is not None for firm in firms for flag in firm.flags) / n == pytest.approx(0.26, abs=0.01)
    assert np.mean([len(firm.theme_of) for firm in firms]) == pytest.approx(30, rel=0.1)


def test_vectors_are_of_length_one_and_padded(market: Market) -> None:
    vectors = market.firm(1).vectors
    assert vectors.shape == (len(market.firm(1).texts), 768)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1)
    assert not vectors[:, 384:].any()


def test_sentences_lie_nearer_to_their_topic_than_to_others(market: Market) -> None:
    firm = market.firm(1)
    inside = firm.topic_of >= 0
    middles = centroids(firm.vectors, firm.topic_of)
    cosines = firm.vectors[inside] @ middles.T
    own = cosines[np.arange(inside.sum()), firm.topic_of[inside]]
    assert own.mean() > 0.6
    assert np.median(cosines) < 0.3


def test_a_quarter_fills_every_table_and_is_complete(database: Database, market: Market) -> None:
    filled = fill(database, market)
    with database.transaction() as connection:
        status = quarter_status(connection, QUARTER)
    assert (status.n_expected, status.n_complete, status.themes.current) == (6, 6, True)
    assert (status.n_sentences, status.n_topics) == (filled.n_sentences, filled.n_topics)
    assert status.n_themes == filled.n_themes == 4
    [(in_place,)] = ask(
        database,
        "SELECT bool_and(substr(k.text, start_char + 1, end_char - start_char) = s.text) FROM sentences AS s "
        "JOIN components AS k USING (quarter, transcript_id, component_order)",
    )
    assert in_place


def test_the_local_dimension_of_a_plane_is_two() -> None:
    # Distances to the k nearest of points spread evenly over a plane grow with the root of k.
    near = 1 - (0.02 * np.sqrt(np.arange(1, 21))) ** 2 / 2
    assert local_dimension(np.tile(near, (3, 1))) == pytest.approx(2, rel=0.3)
