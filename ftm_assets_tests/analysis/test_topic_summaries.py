from dataclasses import replace

import numpy as np
import pytest

from ftm_assets.analysis.sentences import Sentences, Turn, split_turns
from ftm_assets.analysis.topic_summaries import (
    Summaries,
    TopicEvidence,
    TopicSummary,
    evidence_of,
    keyword_summary,
)
from ftm_assets.analysis.topics import Topics, TopicSettings, fit_topics
from ftm_assets_tests.fakes import FirstWordModel, HashEncoder

SPOKEN = (
    "Freight costs rose again here.",
    "Wages went up by much.",
    "Freight costs rose again there.",
    "Freight is what we ship with.",
    "Wages went up by little.",
    "Nobody else says such things.",
)


@pytest.fixture(scope="module")
def sentences() -> Sentences:
    rows = split_turns(1, [Turn(7, 0, "Answer", "Executives", "Ann Lee", "\n".join(SPOKEN))])
    return Sentences(rows, HashEncoder().encode(SPOKEN))


@pytest.fixture(scope="module")
def topics(sentences: Sentences) -> Topics:
    """Freight with three sentences, wages with two."""
    return fit_topics(sentences, TopicSettings(min_sentences=4), FirstWordModel())


def summarized(topics: Topics, sentences: Sentences) -> Summaries:
    written = [keyword_summary(topic) for topic in evidence_of(topics, sentences)]
    return Summaries.for_topics(
        topics, written, HashEncoder().encode([summary.text for summary in written]), ("hash", "1")
    )


def test_evidence_is_a_topics_own_best_sentences_nearest_first(topics: Topics, sentences: Sentences) -> None:
    freight, wages = evidence_of(topics, sentences)
    assert freight == TopicEvidence(
        0, ("freight",), ("1_7_0000", "1_7_0002", "1_7_0003"), (SPOKEN[0], SPOKEN[2], SPOKEN[3])
    )
    assert (wages.topic_number, wages.keywords) == (1, ("wages",))
    members = {m.sentence_id for m in topics.members if m.topic_number == 1}
    assert set(wages.sentence_ids) <= members
    assert set(wages.sentences) == {SPOKEN[1], SPOKEN[4]}


def test_there_is_no_more_evidence_than_sentences_and_never_more_than_five() -> None:
    texts = [*(f"Freight is dear for all of us in {place}." for place in ("Ghent", "Oslo", "Turin")), *SPOKEN]
    rows = split_turns(1, [Turn(7, 0, "Answer", "Executives", "Ann Lee", "\n".join(texts))])
    many = Sentences(rows, HashEncoder().encode(texts))
    topics = fit_topics(many, TopicSettings(min_sentences=4), FirstWordModel())
    assert [topic.n_sentences for topic in topics.topics] == [6, 2]
    assert [len(e.sentences) for e in evidence_of(topics, many)] == [5, 2]


def test_a_keyword_summary_is_five_words_and_the_best_sentence() -> None:
    evidence = TopicEvidence(
        3, ("wage inflation", "hiring", "r&d", "d", "e", "f"), ("1_7_0002", "1_7_0001"), ("Wages rose.", "They fell.")
    )
    assert keyword_summary(evidence) == TopicSummary(
        3, "Wage inflation, hiring, r&d, d, e. Wages rose.", "keywords", None, ("1_7_0002",), None, "no model"
    )


def test_a_topic_without_keywords_is_summarized_by_its_sentence() -> None:
    evidence = TopicEvidence(0, (), ("1_7_0000",), ("That is what we are going to do.",))
    assert keyword_summary(evidence).text == "That is what we are going to do."


def test_a_topic_without_sentences_is_summarized_by_its_keywords() -> None:
    assert keyword_summary(TopicEvidence(0, ("freight",), (), ())).text == "Freight"


def test_each_topic_has_one_summary_in_order(topics: Topics, sentences: Sentences) -> None:
    summaries = summarized(topics, sentences)
    assert [s.topic_number for s in summaries.summaries] == [t.topic_number for t in topics.topics]
    assert summaries.n_by_keywords == len(summaries.summaries) == len(summaries.embeddings) == 2
    assert (summaries.input_hash, summaries.reason) == (topics.content_hash, None)
    assert summaries.encoder == ("hash", "1")
    assert summaries.provenance == {"encoder": ["hash", "1"], "settings": {}, "reason": None}


def test_without_topics_there_are_no_summaries_and_the_same_reason(sentences: Sentences) -> None:
    none = fit_topics(sentences, TopicSettings(min_sentences=100))
    summaries = summarized(none, sentences)
    assert summaries.summaries == ()
    assert summaries.reason == none.reason == "6 modelled sentences, 100 needed for topics"
    assert summaries.n_by_keywords == 0
    assert summaries.embeddings.shape[0] == 0


def test_the_hash_of_summaries_covers_texts_vectors_and_what_they_were_made_from(
    topics: Topics, sentences: Sentences
) -> None:
    summaries = summarized(topics, sentences)
    by_model = replace(summaries.summaries[0], source="model", model="m")
    others = [
        replace(summaries, summaries=(by_model, *summaries.summaries[1:])),
        replace(summaries, embeddings=np.zeros_like(summaries.embeddings)),
        replace(summaries, input_hash="other topics"),
    ]
    assert others[0].n_by_keywords == 1
    assert len({summaries.content_hash, *(other.content_hash for other in others)}) == 4
    assert summarized(topics, sentences).content_hash == summaries.content_hash
