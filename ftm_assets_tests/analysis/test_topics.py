from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from pydantic import ValidationError

from ftm_assets.analysis.bertopic_model import FIRM, BERTopicModel
from ftm_assets.analysis.clustering import TopicModelResult
from ftm_assets.analysis.communities import CommunityModel
from ftm_assets.analysis.sentences import Sentences, Turn, split_turns
from ftm_assets.analysis.topics import Topics, TopicSettings, fit_topics, ranks_within, topic_model
from ftm_assets.analysis.vectors import unit_rows
from ftm_assets_tests.fakes import FirstWordModel, HashEncoder

SPOKEN = (
    "Freight costs rose again here.",
    "Wages went up by much.",
    "Freight costs rose again there.",
    "Thank you.",
    "Freight is what we ship with.",
    "Wages went up by little.",
    "Nobody else says such things.",
)
FEW = TopicSettings(min_sentences=4)


def sentences_of(*texts: str, names: frozenset[str] = frozenset()) -> Sentences:
    """One turn with these sentences, and vectors that follow from their words."""
    rows = split_turns(1, [Turn(7, 0, "Answer", "Executives", "Ann Lee", "\n".join(texts))])
    assert len(rows) == len(texts)
    return Sentences(rows, HashEncoder().encode(texts), names, ("hash", "1"), "hash of the calls")


@pytest.fixture(scope="module")
def topics() -> Topics:
    """Topics of SPOKEN: freight with three sentences, wages with two, one alone, one not modelled."""
    return fit_topics(sentences_of(*SPOKEN), FEW, FirstWordModel())


def test_a_topic_model_can_be_put_in_the_place_of_the_default(topics: Topics) -> None:
    assert [(t.topic_number, t.label, t.keywords, t.n_sentences) for t in topics.topics] == [
        (0, "freight", ("freight",), 3),
        (1, "wages", ("wages",), 2),
    ]
    assert topics.reason is None


def test_every_modelled_sentence_goes_somewhere_and_boilerplate_nowhere(topics: Topics) -> None:
    numbers = {member.sentence_id: (member.raw_topic, member.topic_number) for member in topics.members}
    assert numbers == {
        "1_7_0000": (0, 0),
        "1_7_0001": (1, 1),
        "1_7_0002": (0, 0),
        "1_7_0004": (0, 0),
        "1_7_0005": (1, 1),
        "1_7_0006": (-1, None),
    }
    assert topics.outlier_share == pytest.approx(1 / 6)


def test_ranks_count_from_one_in_each_topic_and_noise_has_none(topics: Topics) -> None:
    for number, size in ((0, 3), (1, 2)):
        ranks = [member.rank for member in topics.members if member.topic_number == number]
        assert sorted(rank for rank in ranks if rank) == list(range(1, size + 1))
    assert [(member.rank, member.probability) for member in topics.members if member.topic_number is None] == [
        (None, 0)
    ]


def test_the_best_sentences_come_first(topics: Topics) -> None:
    assert topics.exemplars(0, 2) == ("1_7_0000", "1_7_0002")
    assert topics.exemplars(0, 9) == ("1_7_0000", "1_7_0002", "1_7_0004")
    assert topics.exemplars(5, 2) == ()


def test_centroids_are_unit_means_of_their_sentences(topics: Topics) -> None:
    vectors = sentences_of(*SPOKEN).embeddings
    assert np.allclose(topics.centroids[1], unit_rows(vectors[[1, 5]].mean(axis=0, keepdims=True))[0], atol=1e-6)
    assert topics.centroids.shape == (2, vectors.shape[1])


def test_ranks_follow_the_cosine_and_ties_the_order_of_the_rows() -> None:
    rows = np.array([[0, 1], [1, 0], [1, 0], [0, 1], [0.6, 0.8]], np.float32)
    centres = np.array([[1, 0], [0, 1]], np.float32)
    equally_rich = np.full(5, 3)
    assert ranks_within(rows, centres, np.array([0, 0, 0, -1, 1]), equally_rich).tolist() == [3, 1, 2, 0, 1]
    assert ranks_within(rows, centres[:0], np.full(5, -1), equally_rich).tolist() == [0] * 5


def ranks(cosines: list[float], richness: list[int]) -> list[int]:
    """Ranks in one cluster."""
    rows = np.array([[cosine, (1 - cosine**2) ** 0.5] for cosine in cosines])
    return list(ranks_within(rows, np.array([[1.0, 0.0]]), np.zeros(len(rows), int), np.array(richness)))


def test_a_sentence_that_says_more_is_the_better_one_unless_it_is_farther_away() -> None:
    assert ranks([0.9, 0.9], [1, 2]) == [2, 1]
    assert ranks([0.9, 0.87], [1, 2]) == [2, 1], "a term weighs .04"
    assert ranks([0.9, 0.85], [1, 2]) == [1, 2]
    assert ranks([0.9, 0.86], [1, 2]) == [1, 2], "of equals the first row"


def test_more_than_eight_terms_count_as_eight() -> None:
    assert ranks([0.9, 0.91], [9, 8]) == [2, 1]
    assert ranks([0.9, 0.9], [8, 30]) == [1, 2]
    assert ranks([0.9, 0.9], [7, 8]) == [2, 1]


def test_who_repeats_a_word_says_no_more() -> None:
    texts = (
        "Freight is freight and freight is freight.",
        "Freight waits in ports.",
        *["Freight is freight again."] * 2,
    )
    alike = replace(sentences_of(*texts), embeddings=unit_rows(np.ones((4, 8))))
    assert fit_topics(alike, FEW, FirstWordModel()).exemplars(0, 1) == ("1_7_0001",)


def test_topics_know_what_they_were_made_from() -> None:
    sentences = sentences_of(*SPOKEN)
    found = fit_topics(sentences, FEW, FirstWordModel())
    assert found.input_hash == sentences.content_hash
    assert found.provenance == {"settings": FEW.model_dump(), "reason": None}


def test_the_hash_of_topics_covers_topics_members_and_centroids(topics: Topics) -> None:
    others = [
        replace(topics, topics=topics.topics[:1]),
        replace(topics, members=topics.members[::-1]),
        replace(topics, centroids=topics.centroids * 2),
    ]
    assert len({topics.content_hash, *(other.content_hash for other in others)}) == 4
    assert replace(topics, provenance={}, input_hash="other sentences").content_hash == topics.content_hash


# --- firms that say little


@pytest.mark.parametrize("n", range(4))
def test_a_firm_that_says_little_has_no_topics_and_a_reason(n: int) -> None:
    sentences = sentences_of("Thank you.", *SPOKEN[:n])
    found = fit_topics(sentences, FEW)
    assert found.topics == ()
    assert found.centroids.shape == (0, sentences.embeddings.shape[1])
    assert found.reason == f"{n} modelled sentences, 4 needed for topics"
    assert found.provenance["reason"] == found.reason
    assert [(m.raw_topic, m.topic_number, m.rank, m.probability) for m in found.members] == [(-1, None, None, 0)] * n
    assert found.outlier_share == (1 if n else 0)


def test_a_firm_without_sentences_keeps_the_reason_it_came_with() -> None:
    nothing = Sentences((), np.zeros((0, 3), np.float32), reason="no call in 2021Q4")
    found = fit_topics(nothing)
    assert (found.topics, found.members, found.reason) == ((), (), "no call in 2021Q4")
    assert found.outlier_share == 0


def test_sentences_that_do_not_hang_together_have_no_topics_and_a_reason() -> None:
    class Scattered:
        def fit_transform(self, documents: object, embeddings: np.ndarray) -> TopicModelResult:
            return TopicModelResult(np.full(len(embeddings), -1), np.zeros(len(embeddings), np.float32), ())

    found = fit_topics(sentences_of(*SPOKEN), FEW, Scattered())
    assert found.topics == ()
    assert found.reason == "no group of sentences hangs together"
    assert found.outlier_share == 1


# --- the default model


def about(n: int, subjects: tuple[str, ...]) -> Sentences:
    """n sentences that speak of each subject in turn; the vectors depend on the subject alone, nearly."""
    texts = [f"Cook said {subjects[i % len(subjects)]} costs weigh on plant {chr(97 + i % 5)}x." for i in range(n)]
    chance = np.random.default_rng(1)
    vectors = np.eye(len(subjects), 32)[np.arange(n) % len(subjects)] + chance.normal(scale=0.03, size=(n, 32))
    return replace(sentences_of(*texts, names=frozenset({"cook"})), embeddings=unit_rows(vectors))


def test_the_default_model_finds_the_subjects_and_says_no_names() -> None:
    found = fit_topics(about(60, ("freight", "wage", "lease")))
    assert {topic.keywords[0].split()[0] for topic in found.topics} == {"freight", "lease", "wage"}
    assert "cook" not in " ".join(word for topic in found.topics for word in topic.keywords).split()


def test_the_settings_name_the_model() -> None:
    settings = TopicSettings(min_topic_size=9)
    assert topic_model(settings) == CommunityModel(settings, 9)
    settings = TopicSettings(model="bertopic", min_topic_size=9)
    assert topic_model(settings) == BERTopicModel(settings, FIRM, 9)


def test_the_model_gets_the_terms_of_the_modelled_sentences() -> None:
    class Recording(FirstWordModel):
        def fit_transform(self, documents: Sequence[Sequence[str]], embeddings: np.ndarray) -> TopicModelResult:
            seen.extend(documents)
            return super().fit_transform(documents, embeddings)

    seen: list[Sequence[str]] = []
    names = frozenset({"cook"})
    fit_topics(sentences_of("Freight, says Cook, is late.", "Thank you.", *SPOKEN[:3], names=names), FEW, Recording())
    assert len(seen) == 4
    assert list(seen[0]) == ["freight", "says", "late", "freight says"]


def test_a_topic_needs_as_many_sentences_as_the_settings_say() -> None:
    sentences = about(60, ("freight", "wage", "lease"))
    assert [topic.n_sentences for topic in fit_topics(sentences, TopicSettings(min_topic_size=20)).topics] == [20] * 3
    assert fit_topics(sentences, TopicSettings(min_topic_size=21)).topics == ()


@pytest.mark.parametrize("n", [20, 21, 30])
def test_the_smallest_firms_that_are_modelled_do_not_crash(n: int) -> None:
    found = fit_topics(about(n, ("freight", "wage")))
    assert len(found.members) == n
    assert found.reason is None or not found.topics


@pytest.mark.parametrize(("name", "value"), [("min_topic_size", 1), ("min_topic_size", 501), ("min_sentences", 3)])
def test_settings_outside_their_bounds_are_refused(name: str, value: int) -> None:
    with pytest.raises(ValidationError, match=name):
        TopicSettings.model_validate({name: value})
