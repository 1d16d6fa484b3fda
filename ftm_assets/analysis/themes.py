"""Themes of a quarter: topics of several firms that say the same thing."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any, Literal

import numpy as np
from pydantic import Field

from ftm_assets.analysis.clustering import (
    MIN_DOCUMENTS,
    BERTopicModel,
    ClusterSettings,
    TopicModel,
    TopicModelResult,
    label,
)
from ftm_assets.analysis.content import content_hash
from ftm_assets.analysis.vectors import centroids, unit_rows
from ftm_assets.errors import FtmError

ONE_FIRM = "one firm only"
DOMINATED = "one firm holds too many of its topics"
N_EXEMPLARS = 3  # Best sentences of a topic whose mean stands for it.
_COSINE_DIGITS = 6


class MixedSummaries(FtmError):
    """Vectors of keyword summaries and of written ones say different things, and cannot be clustered together."""

    def __init__(self, quarter: str, n_written: int, n_topics: int) -> None:
        super().__init__(
            f"theme_input is 'keywords', but {n_written} of {n_topics} summaries of {quarter} were written by a model; "
            "use theme_input 'exemplars'"
        )


class ThemeSettings(ClusterSettings, frozen=True):
    """Clustering across firms: broader than within one, and growing with the quarter."""

    n_neighbors: int = Field(30, ge=2, le=200, description="UMAP: neighbours that shape the reduced space")
    n_components: int = Field(15, ge=2, le=100, description="UMAP: dimensions of the reduced space")
    min_dist: float = Field(0.05, ge=0, lt=1, description="UMAP: smallest distance between reduced points")
    cluster_selection: Literal["leaf", "eom"] = Field(
        "eom", description="HDBSCAN: fine (leaf) or stable (eom) clusters"
    )
    min_theme_size: int | None = Field(
        None,
        ge=2,
        description="fewest topics that make a theme; empty: a third of the square root of the topics, at least 5",
    )
    theme_input: Literal["exemplars", "keywords"] = Field(
        "exemplars", description="the vector of a topic: mean of its best sentences, or its keyword summary"
    )
    min_firms: int = Field(2, ge=1, description="fewest firms of a theme")
    max_firm_share: float = Field(
        0.4, gt=0, le=1, description="largest share of a theme's topics that one firm may hold"
    )
    match_threshold: float = Field(
        0.8, ge=0, le=1, description="cosine from which a theme keeps the id of an earlier run"
    )

    def smallest_theme(self, n_topics: int) -> int:
        """Fewest topics that make a theme in a quarter of `n_topics`."""
        # The number of themes of a fixed size grows with the firms; with the root it grows with the root.
        return self.min_theme_size or max(5, round(math.sqrt(n_topics) / 3))


@dataclass(frozen=True, slots=True)
class QuarterTopic:
    """One topic of the quarter, as it enters the themes."""

    company_id: int
    topic_number: int
    label: str
    keywords: tuple[str, ...]


Members = frozenset[tuple[int, int]]  # company id and topic number


@dataclass(frozen=True)
class KnownThemes:
    """Themes that earlier runs of the quarter have numbered.

    centroids:   (m, d) float32, row i belongs to numbers[i]; the themes of the current run only
    members:     their topics, set i belongs to numbers[i]
    next_number: the lowest number that was never used
    encoder:     `name@revision` of what the centroids were made with
    """

    numbers: tuple[int, ...] = ()
    centroids: np.ndarray = field(default_factory=lambda: np.zeros((0, 1), np.float32))
    next_number: int = 1
    members: tuple[Members, ...] = ()
    encoder: str | None = None


@dataclass(frozen=True)
class QuarterTopics:
    """Everything that the themes of a quarter are made from.

    exemplars, summaries: (n, d) float32 of unit length, row i belongs to topics[i]
    firm_hashes:          company id -> content hash of the summaries that are here
    n_expected:           firms with a call in the quarter
    n_by_keywords:        topics whose summary is made of keywords
    as_of:                when the last of the calls became available, None if no call tells
    encoder:              `name@revision` of what the vectors were made with, None for a quarter without any
    """

    quarter: str
    topics: tuple[QuarterTopic, ...]
    exemplars: np.ndarray
    summaries: np.ndarray
    firm_hashes: Mapping[int, str]
    n_expected: int
    n_by_keywords: int
    as_of: datetime | None = None
    known: KnownThemes = KnownThemes()
    encoder: str | None = None

    @property
    def inputs_hash(self) -> str:
        """Hash of what went in, firm by firm."""
        return inputs_hash(self.firm_hashes)

    def comparable(self) -> KnownThemes:
        """The themes known before; made with another encoder, they tell nothing but which numbers are taken."""
        return self.known if self.known.encoder == self.encoder else KnownThemes(next_number=self.known.next_number)


def inputs_hash(firm_hashes: Mapping[int, str]) -> str:
    """Hash of the summaries of a quarter, whatever the order of its firms."""
    return content_hash(dict(firm_hashes))


@dataclass(frozen=True, slots=True)
class Theme:
    """A theme; `top_firm_share` is the largest share of its topics that one firm holds."""

    theme_number: int
    label: str
    keywords: tuple[str, ...]
    n_firms: int
    n_topics: int
    top_firm_share: float


@dataclass(frozen=True, slots=True)
class ThemeTopic:
    """A topic in a theme, and its cosine to the theme's centroid."""

    company_id: int
    topic_number: int
    topic_label: str
    theme_number: int
    similarity: float


@dataclass(frozen=True)
class Themes:
    """The themes of a quarter, largest first, and what was left out.

    centroids: (k, d) float32, row i belongs to themes[i]
    rejected:  reason -> clusters that broke a rule of the settings
    n_noise:   topics in no cluster at all
    """

    quarter: str
    themes: tuple[Theme, ...]
    members: tuple[ThemeTopic, ...]
    centroids: np.ndarray
    rejected: Mapping[str, int]
    n_noise: int
    firm_hashes: Mapping[int, str]
    n_expected: int
    n_topics: int
    as_of: datetime | None = None
    versions: Mapping[str, Any] = field(default_factory=dict)

    @property
    def built_from(self) -> str:
        """Hash of the summaries it was made from."""
        return inputs_hash(self.firm_hashes)

    @cached_property
    def content_hash(self) -> str:
        """Hash of themes and members."""
        return content_hash(self.themes, self.members, self.centroids, dict(self.rejected), self.n_noise)


DEFAULTS = ThemeSettings()


def find_themes(quarter: QuarterTopics, settings: ThemeSettings = DEFAULTS, model: TopicModel | None = None) -> Themes:
    """Themes of a quarter; a cluster that breaks a rule is counted with the reason, and its topics stay without theme.

    raises: MixedSummaries if `theme_input` is keywords and some summaries are not made of keywords
    """
    if settings.theme_input == "keywords" and quarter.n_by_keywords < len(quarter.topics):
        raise MixedSummaries(quarter.quarter, len(quarter.topics) - quarter.n_by_keywords, len(quarter.topics))
    vectors = quarter.exemplars if settings.theme_input == "exemplars" else quarter.summaries
    found = _cluster(quarter, vectors, settings, model)
    centres = centroids(vectors, found.assignments)
    clusters = [np.flatnonzero(found.assignments == number).tolist() for number in range(len(centres))]
    reasons = [rejection([quarter.topics[i].company_id for i in rows], settings) for rows in clusters]
    kept = [number for number, reason in enumerate(reasons) if reason is None]
    members = [
        frozenset((quarter.topics[i].company_id, quarter.topics[i].topic_number) for i in rows) for rows in clusters
    ]
    numbers = match_themes(centres[kept], quarter.comparable(), settings.match_threshold, [members[k] for k in kept])
    named = list(zip(numbers, kept, strict=True))
    return Themes(
        quarter=quarter.quarter,
        themes=tuple(_theme(quarter, number, found.keywords[k], clusters[k]) for number, k in named),
        members=tuple(
            member for number, k in named for member in _members(quarter, number, clusters[k], vectors, centres[k])
        ),
        centroids=centres[kept],
        rejected=Counter(reason for reason in reasons if reason is not None),
        n_noise=int((found.assignments < 0).sum()),
        firm_hashes=quarter.firm_hashes,
        n_expected=quarter.n_expected,
        n_topics=len(quarter.topics),
        as_of=quarter.as_of,
        versions={"settings": settings.model_dump(), "encoder": quarter.encoder},
    )


def _cluster(
    quarter: QuarterTopics, vectors: np.ndarray, settings: ThemeSettings, model: TopicModel | None
) -> TopicModelResult:
    n = len(quarter.topics)
    smallest = settings.smallest_theme(n)
    if n < max(smallest, MIN_DOCUMENTS):
        return TopicModelResult(np.full(n, -1), np.zeros(n, np.float32), ())
    model = model or BERTopicModel(settings, smallest, str.splitlines)
    return model.fit_transform(["\n".join(topic.keywords) for topic in quarter.topics], vectors)


def _theme(quarter: QuarterTopics, number: int, keywords: tuple[str, ...], rows: Sequence[int]) -> Theme:
    firms = Counter(quarter.topics[row].company_id for row in rows)
    return Theme(number, label(keywords), keywords, len(firms), len(rows), max(firms.values()) / len(rows))


def _members(
    quarter: QuarterTopics, number: int, rows: Sequence[int], vectors: np.ndarray, centre: np.ndarray
) -> list[ThemeTopic]:
    nearness = np.round(vectors[rows].astype(np.float64) @ centre.astype(np.float64), 6).tolist()
    topics = [quarter.topics[row] for row in rows]
    return [
        ThemeTopic(topic.company_id, topic.topic_number, topic.label, number, cosine)
        for topic, cosine in zip(topics, nearness, strict=True)
    ]


def rejection(company_ids: Sequence[int], settings: ThemeSettings) -> str | None:
    """Why topics of these firms make no theme, or None if they do."""
    firms = Counter(company_ids)
    if len(firms) < settings.min_firms:
        return ONE_FIRM if len(firms) == 1 else f"fewer than {settings.min_firms} firms"
    return DOMINATED if max(firms.values()) / len(company_ids) > settings.max_firm_share else None


def match_themes(
    centres: np.ndarray, known: KnownThemes, threshold: float, members: Sequence[Members] | None = None
) -> list[int]:
    """The number of each theme: that of the known theme it is matched to one-to-one, else one never used.

    The matching maximizes the summed cosine (Kuhn 1955); pairs below the threshold do not count as matched. Between
    known themes that are equally near, as when firms repeat each other word for word, shared topics decide.

    centres: (k, d) float32 of unit length    members: the topics of each theme    returns: k distinct numbers
    """
    from scipy.optimize import linear_sum_assignment

    numbers: dict[int, int] = {}
    if len(centres) and known.numbers:
        cosines = unit_rows(centres).astype(np.float64) @ unit_rows(known.centroids).astype(np.float64).T
        cosines = np.round(cosines, _COSINE_DIGITS)
        nearness = np.where(cosines >= threshold, cosines, 0.0)
        if members and known.members:
            shared = [[len(these & those) / len(these | those) for those in known.members] for these in members]
            # All ties of a matching together weigh less than the last digit of one cosine.
            nearness = nearness + 10**-_COSINE_DIGITS / (1 + min(cosines.shape)) * np.array(shared)
        rows, columns = linear_sum_assignment(nearness, maximize=True)
        for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
            if cosines[row, column] >= threshold:
                numbers[row] = known.numbers[column]
    fresh = iter(range(known.next_number, known.next_number + len(centres)))
    return [numbers[i] if i in numbers else next(fresh) for i in range(len(centres))]
