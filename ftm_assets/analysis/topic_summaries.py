"""A topic in a sentence or two, by a language model or made of the topic's keywords."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np

from ftm_assets.analysis.content_hash import content_hash
from ftm_assets.analysis.sentences import Sentences
from ftm_assets.analysis.topics import Topics

Source = Literal["keywords", "model"]
N_SENTENCES = 5  # Best sentences of a topic that its summary may use.
NO_MODEL = "no model"


@dataclass(frozen=True, slots=True)
class TopicEvidence:
    """What a summary of a topic may use."""

    topic_number: int
    keywords: tuple[str, ...]
    sentence_ids: tuple[str, ...]
    sentences: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TopicSummary:
    """A topic's summary, its author, and the ids of the sentences it is based on.

    model, title: None for keywords
    reason:       why it is made of keywords, None for a model; the part before a colon is its kind
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
    encoder:    name and revision of the model behind the vectors
    reason:     why there is no summary, else None
    """

    summaries: tuple[TopicSummary, ...]
    embeddings: np.ndarray
    input_hash: str
    encoder: tuple[str, str]
    reason: str | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def for_topics(
        cls,
        topics: Topics,
        summaries: Sequence[TopicSummary],
        embeddings: np.ndarray,
        encoder: tuple[str, str],
        settings: Mapping[str, Any] | None = None,
    ) -> "Summaries":
        """The summaries of these topics, with their provenance."""
        provenance = {"encoder": list(encoder), "settings": dict(settings or {}), "reason": topics.reason}
        return cls(
            summaries=tuple(summaries),
            embeddings=embeddings,
            input_hash=topics.content_hash,
            encoder=encoder,
            reason=topics.reason,
            provenance=provenance,
        )

    @cached_property
    def content_hash(self) -> str:
        """Hash of texts, embeddings and topics: a change of a firm's topics reaches the themes through it alone."""
        # Only the kind of a reason: the number of failed attempts must make no theme stale.
        # Decision 65.
        hashed = [
            (s.topic_number, s.text, s.source, s.model, s.evidence, s.title, s.reason and kind_of(s.reason))
            for s in self.summaries
        ]
        return content_hash(self.input_hash, hashed, self.embeddings)

    @property
    def n_by_keywords(self) -> int:
        """Number of summaries made of keywords."""
        return sum(summary.source == "keywords" for summary in self.summaries)

    @property
    def reasons(self) -> Counter[str]:
        """Kind of reason -> number of summaries made of keywords for it."""
        return Counter(kind_of(summary.reason) for summary in self.summaries if summary.reason)


def kind_of(reason: str) -> str:
    """The kind of a reason: the part before the colon."""
    return reason.partition(":")[0]


def keyword_summary(topic: TopicEvidence, reason: str = NO_MODEL) -> TopicSummary:
    """The summary without a language model: the topic's keywords, then its best sentence."""
    words = ", ".join(topic.keywords[:5]).capitalize()
    text = ". ".join(filter(None, (words, *topic.sentences[:1])))
    return TopicSummary(topic.topic_number, text, "keywords", None, topic.sentence_ids[:1], reason=reason)


def evidence_of(topics: Topics, sentences: Sentences) -> list[TopicEvidence]:
    """What each topic's summary may use: its keywords and its best sentences, the best first."""
    texts = {row.sentence_id: row.text for row in sentences.rows}
    best = {topic.topic_number: topics.exemplars(topic.topic_number, N_SENTENCES) for topic in topics.topics}
    return [
        TopicEvidence(t.topic_number, t.keywords, best[t.topic_number], tuple(texts[i] for i in best[t.topic_number]))
        for t in topics.topics
    ]
