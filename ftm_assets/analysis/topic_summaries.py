"""A topic in a sentence or two: what a reader sees first, from a language model or else from its own words."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np

from ftm_assets.analysis.content import content_hash
from ftm_assets.analysis.sentences import Sentences
from ftm_assets.analysis.topics import Topics

Source = Literal["keywords", "model"]
N_SENTENCES = 5  # Best sentences of a topic that its summary may rest on.
NO_MODEL = "no model"


@dataclass(frozen=True, slots=True)
class TopicEvidence:
    """All that a summary of a topic may rest on."""

    topic_number: int
    keywords: tuple[str, ...]
    sentence_ids: tuple[str, ...]
    sentences: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TopicSummary:
    """A topic's summary, who wrote it, and the ids of the sentences it rests on.

    model, title: None for keywords
    reason:       why it is made of keywords, None for a model; what stands before a colon is the kind
    """

    topic_number: int
    text: str
    source: Source
    model: str | None
    evidence: tuple[str, ...]
    title: str | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Summaries:
    """One firm-quarter's summaries, one for each topic, in topic order.

    embeddings: (k, d) float32 of unit length, row i belongs to summaries[i]
    input_hash: content hash of the topics
    encoder:    name and revision of what made the vectors
    reason:     why there is no summary, else None
    """

    summaries: tuple[TopicSummary, ...]
    embeddings: np.ndarray
    input_hash: str
    encoder: tuple[str, str]
    reason: str | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        topics: Topics,
        summaries: Sequence[TopicSummary],
        embeddings: np.ndarray,
        encoder: tuple[str, str],
        settings: Mapping[str, Any] | None = None,
    ) -> "Summaries":
        """The summaries of these topics, with their provenance."""
        provenance = {"encoder": list(encoder), "settings": dict(settings or {}), "reason": topics.reason}
        return cls(tuple(summaries), embeddings, topics.content_hash, encoder, topics.reason, provenance)

    @cached_property
    def content_hash(self) -> str:
        """Hash of texts, embeddings and topics: themes know by it alone whether a firm's topics have changed."""
        # Of a reason the kind alone: how often a server was asked in vain makes no theme stale.
        told = [
            (s.topic_number, s.text, s.source, s.model, s.evidence, s.title, s.reason and kind_of(s.reason))
            for s in self.summaries
        ]
        return content_hash(self.input_hash, told, self.embeddings)

    @property
    def n_by_keywords(self) -> int:
        """Summaries that no language model has written."""
        return sum(summary.source == "keywords" for summary in self.summaries)

    @property
    def reasons(self) -> Counter[str]:
        """Kind of reason -> summaries that are made of keywords for it."""
        return Counter(kind_of(summary.reason) for summary in self.summaries if summary.reason)


def kind_of(reason: str) -> str:
    """The kind of a reason: what stands before the colon."""
    return reason.partition(":")[0]


def keyword_summary(topic: TopicEvidence, reason: str = NO_MODEL) -> TopicSummary:
    """The summary that is always there: the topic's words, then its best sentence."""
    words = ", ".join(topic.keywords[:5]).capitalize()
    text = ". ".join(filter(None, (words, *topic.sentences[:1])))
    return TopicSummary(topic.topic_number, text, "keywords", None, topic.sentence_ids[:1], reason=reason)


def evidence_of(topics: Topics, sentences: Sentences) -> list[TopicEvidence]:
    """What each topic's summary may rest on: its keywords and its best sentences, the best first."""
    texts = {row.sentence_id: row.text for row in sentences.rows}
    best = {topic.topic_number: topics.exemplars(topic.topic_number, N_SENTENCES) for topic in topics.topics}
    return [
        TopicEvidence(t.topic_number, t.keywords, best[t.topic_number], tuple(texts[i] for i in best[t.topic_number]))
        for t in topics.topics
    ]
