"""Topics of one firm in one quarter: groups of sentences about the same subject, named by their keywords."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from pydantic import Field

from ftm_assets.analysis.bertopic_model import FIRM, BERTopicModel
from ftm_assets.analysis.clustering import ClusterSettings, TopicModel, TopicModelResult
from ftm_assets.analysis.communities import CommunityModel
from ftm_assets.analysis.content_hash import content_hash
from ftm_assets.analysis.sentences import Sentences
from ftm_assets.analysis.vectors import centroids
from ftm_assets.analysis.words import terms

# Decision 34: nearest alone would prefer empty sentences.
_TERM_WEIGHT, _MOST_TERMS = 0.04, 8


class TopicSettings(ClusterSettings, frozen=True):
    """Clustering within a firm: fine-grained, so that a short exchange can be a topic."""

    agreement: float = Field(
        0.65,
        ge=0.5,
        lt=1,
        description="communities: consensus threshold, share of runs that must join two neighbours",
    )
    min_topic_size: int = Field(5, ge=2, le=500, description="fewest sentences that make a topic")
    min_sentences: int = Field(
        20, ge=4, description="a firm with fewer modelled sentences gets no topics, and the reason"
    )


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic, named by its keywords."""

    topic_number: int
    label: str
    keywords: tuple[str, ...]
    n_sentences: int


@dataclass(frozen=True, slots=True)
class TopicSentence:
    """The topic of one sentence.

    raw_topic:    as clustered, -1 for an outlier
    topic_number: after any re-assignment of outliers, None for a sentence without topic
    rank:         1 for the sentence that represents the topic best, None for a sentence without topic
    """

    sentence_id: str
    raw_topic: int
    topic_number: int | None
    probability: float
    rank: int | None


@dataclass(frozen=True)
class Topics:
    """One firm-quarter's topics, largest first, and the assignment of every modelled sentence.

    centroids:  (k, d) float32 of unit length, row i belongs to topics[i]
    input_hash: content hash of the sentences
    reason:     why there is no topic, else None
    """

    topics: tuple[Topic, ...]
    members: tuple[TopicSentence, ...]
    centroids: np.ndarray
    input_hash: str
    reason: str | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def content_hash(self) -> str:
        """Hash of topics, assignments and centroids."""
        return content_hash(self.topics, self.members, self.centroids)

    @property
    def outlier_share(self) -> float:
        """Share of the modelled sentences without topic; 0 if there is no sentence."""
        outside = sum(member.topic_number is None for member in self.members)
        return outside / max(1, len(self.members))

    def exemplars(self, topic_number: int, n: int) -> tuple[str, ...]:
        """Ids of the n sentences that represent the topic best, the best first."""
        ranked = sorted((m.rank, m.sentence_id) for m in self.members if m.topic_number == topic_number and m.rank)
        return tuple(sentence_id for _, sentence_id in ranked[:n])


DEFAULTS = TopicSettings()


def fit_topics(sentences: Sentences, settings: TopicSettings = DEFAULTS, model: TopicModel | None = None) -> Topics:
    """Topics of a firm's modelled sentences. Too few sentences give no topics and the reason, never an error."""
    modelled = sentences.modelled()
    terms_of = [terms(row.text, sentences.names) for row in modelled.rows]
    n = len(terms_of)
    if n < settings.min_sentences:
        reason = sentences.reason or f"{n} modelled sentences, {settings.min_sentences} needed for topics"
        nothing = TopicModelResult(np.full(n, -1), np.zeros(n, np.float32), ())
        return _topics(sentences, terms_of, nothing, settings, reason)
    found = (model or topic_model(settings)).fit_transform(terms_of, modelled.embeddings)
    no_topics = None if found.keywords else "no group of sentences hangs together"
    return _topics(sentences, terms_of, found, settings, no_topics)


def topic_model(settings: TopicSettings) -> TopicModel:
    """The model that the settings name."""
    if settings.model == "bertopic":
        return BERTopicModel(settings, FIRM, settings.min_topic_size)
    return CommunityModel(settings, settings.min_topic_size)


def _topics(
    sentences: Sentences,
    terms_of: Sequence[Sequence[str]],
    found: TopicModelResult,
    settings: TopicSettings,
    reason: str | None,
) -> Topics:
    modelled = sentences.modelled()
    centres = centroids(modelled.embeddings, found.assignments)
    richness = np.array([len(set(of_sentence)) for of_sentence in terms_of], np.int64)
    ranks = ranks_within(modelled.embeddings, centres, found.assignments, richness)
    return Topics(
        topics=tuple(
            Topic(topic_number=number, label=label, keywords=keywords, n_sentences=size)
            for number, (label, keywords, size) in enumerate(
                zip(found.labels, found.keywords, found.sizes.tolist(), strict=True)
            )
        ),
        members=tuple(
            TopicSentence(
                sentence_id=row.sentence_id,
                raw_topic=topic,
                topic_number=topic if topic >= 0 else None,
                probability=probability,
                rank=rank or None,
            )
            for row, topic, probability, rank in zip(
                modelled.rows, found.assignments.tolist(), found.probabilities.tolist(), ranks.tolist(), strict=True
            )
        ),
        centroids=centres,
        input_hash=sentences.content_hash,
        reason=reason,
        provenance={"settings": settings.model_dump(), "reason": reason},
    )


def ranks_within(
    embeddings: np.ndarray, centres: np.ndarray, assignments: np.ndarray, richness: np.ndarray
) -> np.ndarray:
    """Rank of each row within its cluster: 1 for the best, 0 for an outlier. The first row wins between equals.

    Nearness to the centroid alone would prefer sentences with little content, so each term counts as .04 of cosine.

    embeddings: (n, d)    centres: (k, d)    assignments: (n,) int in -1..k-1
    richness:   (n,) int, distinct terms of each row; more than eight count as eight
    returns:    (n,) int64
    """
    ranks = np.zeros(len(assignments), np.int64)
    for number in range(len(centres)):
        rows = np.flatnonzero(assignments == number)
        nearness = np.round(embeddings[rows].astype(np.float64) @ centres[number].astype(np.float64), 6)
        score = nearness + _TERM_WEIGHT * np.minimum(richness[rows], _MOST_TERMS)
        ranks[rows[np.argsort(-np.round(score, 6), kind="stable")]] = np.arange(1, len(rows) + 1)
    return ranks
