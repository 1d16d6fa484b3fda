"""The made-up quarter: the same every time, of the shape it claims, and good enough for every constraint and stage."""

from collections.abc import Iterator

import numpy as np
import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from benchmarks.queries import Known, ask, exact_cosines, sizes
from devtools.synthetic_quarters.fill import Filled, fill
from devtools.synthetic_quarters.firms import Market, Shape
from ftm_assets.analysis.vectors import centroids
from ftm_assets.settings import Settings
from ftm_assets.storage.read.queries import quarter_status
from ftm_assets.storage.server.database import Database
from ftm_assets.storage.server.embedded import EmbeddedServer
from ftm_assets_tests.storage.sql import ask as rows_of

QUARTER, OTHER_QUARTER = "2021Q4", "2021Q3"
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


@pytest.fixture(scope="module")
def quarter(
    server: EmbeddedServer, market: Market, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Database, Filled]]:
    """A database that holds the market's quarter, and what was written."""
    home = tmp_path_factory.mktemp("scale")
    database = Database(Settings(home=home, database_url=SecretStr(server.url("scale"))))
    yield database, fill(database, market)
    database.engine.dispose()


def test_a_quarter_fills_every_table_and_is_complete(quarter: tuple[Database, Filled]) -> None:
    database, filled = quarter
    with database.transaction() as connection:
        status = quarter_status(connection, QUARTER)
    assert (status.n_expected, status.n_complete, status.themes.current) == (6, 6, True)
    assert (status.n_sentences, status.n_topics) == (filled.n_sentences, filled.n_topics)
    assert status.n_themes == filled.n_themes == 4
    [(in_place,)] = rows_of(
        database,
        "SELECT bool_and(substr(k.text, start_char + 1, end_char - start_char) = s.text) FROM sentences AS s "
        "JOIN components AS k USING (quarter, transcript_id, component_order)",
    )
    assert in_place


def test_every_kind_of_question_is_answered(quarter: tuple[Database, Filled], market: Market) -> None:
    database, _ = quarter
    with database.transaction() as connection:
        known = Known.of(connection, [QUARTER], market.query_vectors(1))
    with database.engine.connect() as connection:
        assert all(ask(connection, nth(0))[1] for nth in known.kinds().values())


def test_several_quarters_are_searched_at_once(quarter: tuple[Database, Filled], market: Market) -> None:
    database, _ = quarter
    fill(database, Market(FEW, OTHER_QUARTER))
    with database.transaction() as connection:
        known = Known.of(connection, [QUARTER, OTHER_QUARTER], market.query_vectors(1))
        found = known.kinds()["sentences of 2 quarters"](0)(connection)
    assert {hit.quarter for hit in found} == {QUARTER, OTHER_QUARTER}  # type: ignore[attr-defined]


def test_the_exact_ten_are_the_nearest_of_all(quarter: tuple[Database, Filled], market: Market) -> None:
    vectors = market.query_vectors(2)
    said = np.concatenate([firm.vectors for firm in market.firms()])
    expected = -np.sort(-(vectors @ said.T), axis=1)[:, :10]
    np.testing.assert_allclose(exact_cosines(quarter[0], QUARTER, vectors), expected, atol=1e-3)


def test_sizes_are_those_of_the_tables(quarter: tuple[Database, Filled]) -> None:
    with quarter[0].transaction() as connection:
        found = {size.name: size.n_bytes for size in sizes(connection, QUARTER)}
        assert found["sentences_2021q4"] == connection.scalar(sa.text("SELECT pg_table_size('sentences_2021q4')"))
