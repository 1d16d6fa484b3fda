"""A topic in a sentence or two: what a reader sees first, written from its keywords and its best sentences."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Protocol

import numpy as np

from ftm_assets.analysis.content import content_hash
from ftm_assets.analysis.sentences import Sentences
from ftm_assets.analysis.topics import Topics

Source = Literal["keywords", "model"]
N_SENTENCES = 3  # Best sentences of a topic that a summarizer is told.


@dataclass(frozen=True, slots=True)
class TopicEvidence:
    """All that a summarizer is told about a topic."""

    topic_number: int
    keywords: tuple[str, ...]
    sentence_ids: tuple[str, ...]
    sentences: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TopicSummary:
    """A topic's summary, who wrote it, and the ids of the sentences it rests on. `model` is None for keywords."""

    topic_number: int
    text: str
    source: Source
    model: str | None
    evidence: tuple[str, ...]


class Summarizer(Protocol):
    """Anything that writes summaries: keywords alone, or a language model."""

    def summarize(self, topics: Sequence[TopicEvidence]) -> list[TopicSummary]:
        """One summary for each topic, in the same order."""
        ...


@dataclass(frozen=True)
class Summaries:
    """One firm-quarter's summaries, one for each topic, in topic order.

    embeddings: (k, d) float32 of unit length, row i belongs to summaries[i]
    built_from: content hash of the topics
    encoder:    name and revision of what made the vectors
    reason:     why there is no summary, else None
    """

    summaries: tuple[TopicSummary, ...]
    embeddings: np.ndarray
    built_from: str
    encoder: tuple[str, str]
    reason: str | None = None
    versions: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        topics: Topics,
        summaries: Sequence[TopicSummary],
        embeddings: np.ndarray,
        encoder: tuple[str, str],
    ) -> "Summaries":
        """The summaries of these topics, with their provenance."""
        versions = {"encoder": list(encoder), "reason": topics.reason}
        return cls(tuple(summaries), embeddings, topics.content_hash, encoder, topics.reason, versions)

    @cached_property
    def content_hash(self) -> str:
        """Hash of texts, embeddings and topics: themes know by it alone whether a firm's topics have changed."""
        return content_hash(self.built_from, self.summaries, self.embeddings)

    @property
    def n_by_keywords(self) -> int:
        """Summaries that no language model has written."""
        return sum(summary.source == "keywords" for summary in self.summaries)


class KeywordSummarizer:
    """The summary that is always there: the topic's words, then its best sentence."""

    def summarize(self, topics: Sequence[TopicEvidence]) -> list[TopicSummary]:
        """See `Summarizer`."""
        return [
            TopicSummary(
                topic.topic_number,
                ". ".join(filter(None, (", ".join(topic.keywords[:5]).capitalize(), topic.sentences[0]))),
                "keywords",
                None,
                topic.sentence_ids[:1],
            )
            for topic in topics
        ]


def evidence_of(topics: Topics, sentences: Sentences) -> list[TopicEvidence]:
    """What each topic's summary may rest on: its keywords and its best sentences, nearest to the centroid first."""
    texts = {row.sentence_id: row.text for row in sentences.rows}
    best = {topic.topic_number: topics.exemplars(topic.topic_number, N_SENTENCES) for topic in topics.topics}
    return [
        TopicEvidence(t.topic_number, t.keywords, best[t.topic_number], tuple(texts[i] for i in best[t.topic_number]))
        for t in topics.topics
    ]
