from dataclasses import replace

import numpy as np
import pytest

from ftm_assets.analysis.boilerplate.seeds import boilerplate_seeds, nearness
from ftm_assets.analysis.sentences import SEED_FLAG, Sentence, SentenceSettings, Turn, measure_boilerplate, split_turns
from ftm_assets.analysis.themes import NEAR_SEEDS, Cluster, QuarterTopic, ThemeSettings, rejection
from ftm_assets.encoder import SentenceTransformerEncoder, encode_once
from ftm_assets_tests.analysis.test_boilerplate_baseline import PANDEMIC

EMPTY = (
    "Good afternoon, and welcome, everybody, to our call for the third quarter.",
    "We feel really good about how the team executed in the quarter.",
    "I think we are very well positioned going forward.",
    "And then just as a follow-up, could you give us a little more color on that?",
    "I'd now like to hand the call over to our CFO to review the results.",
)
TELLING = (
    "Ocean freight rates have doubled since the spring.",
    "We closed nine stores and opened a warehouse in Ohio.",
    "Hourly wages of drivers rose faster than our prices.",
    "The virus has closed our plants, and customers stay at home.",
    "Regulators approved the drug for children in March.",
)


@pytest.fixture(scope="module")
def encoder() -> SentenceTransformerEncoder:
    return SentenceTransformerEncoder()


def sentences_of(*texts: str) -> tuple[Sentence, ...]:
    return split_turns(
        1, [Turn(7, i, "Presenter Speech", "Executives", "Ann Lee", text) for i, text in enumerate(texts)]
    )


def unflagged(*texts: str) -> tuple[Sentence, ...]:
    return tuple(replace(row, boilerplate=None) for row in sentences_of(*texts))


def flags(encoder: SentenceTransformerEncoder, rows: tuple[Sentence, ...], **settings: float) -> list[str | None]:
    vectors = encoder.encode([row.text for row in rows])
    measured = measure_boilerplate(
        rows, vectors, encode_once(encoder, boilerplate_seeds()), SentenceSettings(**settings)
    )
    return [row.boilerplate for row in measured]


def test_nearness_is_the_cosine_to_the_nearest() -> None:
    vectors = np.array([[1, 0], [0.6, 0.8], [0, -1]], np.float32)
    assert nearness(vectors, np.eye(2, dtype=np.float32)).tolist() == [1, 0.8, 0]
    assert nearness(vectors, np.zeros((0, 2), np.float32)).tolist() == [-1, -1, -1]
    assert nearness(vectors[:0], np.eye(2, dtype=np.float32)).shape == (0,)


def test_platitudes_are_sentences_each_once() -> None:
    assert len(set(boilerplate_seeds())) == len(boilerplate_seeds()) > 50
    assert all(text.strip() == text and text[-1] in ".?" for text in boilerplate_seeds())


def test_what_any_firm_could_say_is_flagged_by_its_meaning(encoder: SentenceTransformerEncoder) -> None:
    assert flags(encoder, unflagged(*EMPTY)) == [SEED_FLAG] * len(EMPTY)
    assert flags(encoder, unflagged(*TELLING)) == [None] * len(TELLING)


def test_what_is_new_is_near_no_platitude(encoder: SentenceTransformerEncoder) -> None:
    near = nearness(encoder.encode(PANDEMIC), encode_once(encoder, boilerplate_seeds()))
    assert near.max() < SentenceSettings().max_platitude
    assert near.mean() < ThemeSettings().max_platitude


def test_the_limit_is_a_setting(encoder: SentenceTransformerEncoder) -> None:
    assert flags(encoder, unflagged(*EMPTY), max_platitude=1) == [None] * len(EMPTY)
    assert flags(encoder, unflagged(*TELLING), max_platitude=0) == [SEED_FLAG] * len(TELLING)


def test_an_amount_and_another_flag_stay(encoder: SentenceTransformerEncoder) -> None:
    rows = sentences_of("We are very pleased with our results, up 12 %.", "Thank you very much for your questions.")
    assert [row.boilerplate for row in rows] == [None, "thanks"]
    assert flags(encoder, rows) == [None, "thanks"]


def test_every_sentence_is_measured_flagged_or_not(encoder: SentenceTransformerEncoder) -> None:
    rows = unflagged(EMPTY[0], TELLING[0])
    vectors = encoder.encode([row.text for row in rows])
    empty, telling = measure_boilerplate(rows, vectors, encode_once(encoder, boilerplate_seeds()))
    assert empty.boilerplate_similarity is not None
    assert telling.boilerplate_similarity is not None
    assert empty.boilerplate_similarity > 0.55 > telling.boilerplate_similarity


def test_a_cluster_of_platitudes_is_no_theme() -> None:
    def of(*measured: float) -> Cluster:
        topics = tuple(QuarterTopic(firm, 0, "", (), each) for firm, each in enumerate(measured))
        return Cluster(topics, (("a",),) * len(topics), (1.0,) * len(topics), ("a",))

    assert rejection(of(0.3, 0.45, 0.3), ThemeSettings(), 9) is None
    assert rejection(of(0.3, 0.45, 0.4), ThemeSettings(), 9) == NEAR_SEEDS
    assert rejection(of(0.3, 0.45, 0.4), ThemeSettings(max_platitude=0.5), 9) is None
