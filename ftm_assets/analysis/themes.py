"""Themes of a quarter: topics of several firms about the same subject."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any, Literal

import numpy as np
from pydantic import Field

from ftm_assets.analysis.bertopic_model import QUARTER, BERTopicModel
from ftm_assets.analysis.clustering import MIN_DOCUMENTS, ClusterSettings, TopicModel, TopicModelResult, label
from ftm_assets.analysis.communities import CommunityModel
from ftm_assets.analysis.content_hash import content_hash
from ftm_assets.analysis.topic_summaries import Source
from ftm_assets.analysis.vectors import centroids, unit_rows
from ftm_assets.analysis.words import baseline_shares, name_tokens, terms

ONE_FIRM = "one firm only"
DOMINATED = "one firm holds too many of its topics"
NEAR_SEEDS = "its topics say hardly more than platitudes"
FEW_KEYWORDS = "its topics share too few words but those of every call"
# Decision 34: all sentences, the nearest three, or keywords gave less stable or looser themes.
N_EXEMPLARS = 5  # Best sentences of a topic whose mean vector stands for it.
N_KEYWORD_SENTENCES = 8  # Best sentences of a topic whose terms name its theme.
_COSINE_DIGITS = 6

FEWEST_RUNS = 20  # Of a quarter with many topics.
ALL_RUNS = 2000  # Topics up to which a quarter has all runs.

ThemeInput = Literal["exemplars", "keywords", "llm"]


class ThemeSettings(ClusterSettings, frozen=True):
    """Clustering across firms: broader than within one, and growing with the quarter."""

    n_neighbors: int = Field(40, ge=2, le=200, description="communities: nearest neighbours that a topic is joined to")
    granularity: float = Field(
        0.09,
        gt=0,
        le=10,
        description="communities: resolution scale, times the square root of the topics; higher gives more, smaller "
        "themes",
    )
    agreement: float = Field(
        0.75,
        ge=0.5,
        lt=1,
        description="communities: consensus threshold, the share of runs that must join two neighbours",
    )
    n_runs: int = Field(
        100,
        ge=2,
        le=100,
        description="communities: runs of the consensus, each with another seed and without a tenth of the firms; from "
        "2,000 topics on fewer, in proportion, but at least 20",
    )
    keyword_support: float = Field(
        0.15, ge=0, le=1, description="communities: least share of a theme's firms that use a keyword of it"
    )
    n_refits: int = Field(
        5, ge=0, le=50, description="communities: how often clustering is repeated to measure stability"
    )
    min_stability: float = Field(0.5, ge=0, le=1, description="stability below which a theme counts as unstable")
    min_theme_size: int | None = Field(
        None,
        ge=2,
        description="fewest topics that make a theme; empty: a third of the square root of the topics, at least 5",
    )
    # Decision 68: exemplars need no text, and keywords are as good.
    theme_input: ThemeInput = Field(
        "exemplars",
        description="the vector of a topic: mean of its best sentences, or its summary by keywords or language model",
    )
    min_firms: int | None = Field(
        None, ge=1, description="fewest firms of a theme; empty: a third of the root of the firms, at least 2"
    )
    max_firm_share: float = Field(
        0.4, gt=0, le=1, description="largest share of a theme's topics that one firm may hold"
    )
    # Decision 69.
    max_platitude: float = Field(
        0.38,
        ge=0,
        le=1,
        description="mean cosine of its topics to the nearest boilerplate seed from which a cluster is no theme",
    )
    min_keywords_said: float = Field(
        0.3,
        ge=0,
        description="mean number of a theme's keywords that its topics must name; the more firms of the baseline use "
        "a keyword, the less it counts",
    )
    match_threshold: float = Field(
        0.8, ge=0, le=1, description="cosine from which a theme keeps the id of an earlier run"
    )

    def runs(self, n_topics: int) -> int:
        """Runs of the consensus in a quarter of `n_topics`."""
        # Chance matters most in a small quarter, and a large one cannot afford so many runs.
        # Decision 70.
        return min(self.n_runs, max(FEWEST_RUNS, self.n_runs * ALL_RUNS // max(1, n_topics)))

    def smallest_theme(self, n_topics: int) -> int:
        """Fewest topics that make a theme in a quarter of `n_topics`."""
        # The number of themes of a fixed size grows with the firms; with the root it grows with the root.
        # Decision 33.
        return self.min_theme_size or max(5, round(math.sqrt(n_topics) / 3))

    def fewest_firms(self, n_firms: int) -> int:
        """Fewest firms that make a theme in a quarter of `n_firms`."""
        return self.min_firms or max(2, round(math.sqrt(n_firms) / 3))

    def is_unstable(self, stability: float | None) -> bool:
        """Whether the stability was measured and is too low."""
        return stability is not None and stability < self.min_stability


@dataclass(frozen=True, slots=True)
class QuarterTopic:
    """One topic of the quarter, as the themes are made from it.

    sentences: its N_KEYWORD_SENTENCES best sentences, the best first
    boilerplate_similarity: mean cosine of these sentences to the nearest boilerplate seed
    summary:   for readers; clustering uses its vector alone, and only if the settings ask for it
    """

    company_id: int
    topic_number: int
    label: str
    sentences: tuple[str, ...]
    boilerplate_similarity: float
    summary: str = ""


@dataclass(frozen=True, slots=True)
class ThemeDescription:
    """A theme in two or three sentences, and its author. `model` and `title` are None for keywords."""

    theme_number: int
    text: str
    source: Source
    model: str | None
    title: str | None


Members = frozenset[tuple[int, int]]  # company id and topic number


@dataclass(frozen=True)
class KnownThemes:
    """Themes that earlier runs of the quarter have numbered.

    centroids:   (m, d) float32, row i belongs to numbers[i]; the themes of the current run only
    members:     their topics, set i belongs to numbers[i]
    next_number: the lowest number that was never used
    descriptions: number -> the description that a language model wrote, if there is one
    encoder:     `name@revision` of the model behind the centroids
    """

    numbers: tuple[int, ...] = ()
    centroids: np.ndarray = field(default_factory=lambda: np.zeros((0, 1), np.float32))
    next_number: int = 1
    members: tuple[Members, ...] = ()
    encoder: str | None = None
    descriptions: Mapping[int, ThemeDescription] = field(default_factory=dict)


@dataclass(frozen=True)
class Speakers:
    """The name of a firm, and of everyone who speaks in its modelled calls."""

    company_name: str
    persons: tuple[str, ...] = ()

    @cached_property
    def name_tokens(self) -> frozenset[str]:
        """Lower-case parts of all these names, see `words.name_tokens`."""
        return name_tokens(self.persons, self.company_name)


NO_SPEAKERS = Speakers("")


@dataclass(frozen=True)
class QuarterTopics:
    """Everything that the themes of a quarter are made from.

    exemplars, summaries: (n, d) float32 of unit length, row i belongs to topics[i]
    firm_hashes:          company id -> content hash of the summaries that are here
    n_expected:           firms with a call in the quarter
    n_by_keywords:        topics whose summary is made of keywords
    as_of:                when the last of the calls became available, None if no call has a time
    encoder:              `name@revision` of the model behind the vectors, None for a quarter without any
    speakers:             company id -> the firm's name, and everyone who speaks in its modelled calls
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
    speakers: Mapping[int, Speakers] = field(default_factory=dict)

    @property
    def input_hash(self) -> str:
        """Hash of the summaries of each firm."""
        return input_hash(self.firm_hashes)

    def input_of(self, wanted: ThemeInput) -> ThemeInput:
        """The input to cluster: the wanted one if all topics have it, since two kinds of text cannot be compared."""
        n_wanted = {"keywords": self.n_by_keywords, "llm": len(self.topics) - self.n_by_keywords}
        return wanted if n_wanted.get(wanted) == len(self.topics) else "exemplars"

    def comparable(self) -> KnownThemes:
        """The themes known before. Those of another encoder cannot be matched; only their numbers stay taken."""
        return self.known if self.known.encoder == self.encoder else KnownThemes(next_number=self.known.next_number)


def input_hash(firm_hashes: Mapping[int, str]) -> str:
    """Hash of the summaries of a quarter, whatever the order of its firms."""
    return content_hash(dict(firm_hashes))


@dataclass(frozen=True, slots=True)
class Theme:
    """A theme.

    top_firm_share: largest share of its topics that one firm holds
    concentration:  Herfindahl index of its topics over its firms, 1 for a single firm
    stability:      how well it comes back under other seeds and without a tenth of the firms, 0 to 1; None if not
                    measured
    """

    theme_number: int
    label: str
    keywords: tuple[str, ...]
    n_firms: int
    n_topics: int
    top_firm_share: float
    concentration: float
    stability: float | None


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
    """The themes of a quarter, largest first, and counts of the topics and clusters left out.

    centroids: (k, d) float32, row i belongs to themes[i]
    rejected:  reason -> clusters that broke a rule of the settings
    n_noise:   topics in no cluster at all
    provenance:  settings, encoder and the kind of text that was clustered
    descriptions, description_embeddings: of each theme in order, the second (k, d) float32 of unit length, zero for
               keywords; both empty until the themes are described
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
    provenance: Mapping[str, Any] = field(default_factory=dict)
    descriptions: tuple[ThemeDescription, ...] = ()
    description_embeddings: np.ndarray = field(default_factory=lambda: np.zeros((0, 1), np.float32))

    @property
    def input_hash(self) -> str:
        """Hash of the summaries it was made from."""
        return input_hash(self.firm_hashes)

    @cached_property
    def content_hash(self) -> str:
        """Hash of themes, members and descriptions."""
        described = (self.descriptions, self.description_embeddings) if self.descriptions else ()
        return content_hash(self.themes, self.members, self.centroids, dict(self.rejected), self.n_noise, *described)


DEFAULTS = ThemeSettings()


@dataclass(frozen=True)
class Cluster:
    """Topics that may make a theme.

    terms:        of each topic, as from `topic_terms`
    similarities: cosine of each topic to the mean of all
    stability:    as in `Theme`
    """

    topics: tuple[QuarterTopic, ...]
    terms: tuple[tuple[str, ...], ...]
    similarities: tuple[float, ...]
    keywords: tuple[str, ...]
    stability: float | None = None

    @property
    def members(self) -> Members:
        """Its topics."""
        return frozenset((topic.company_id, topic.topic_number) for topic in self.topics)

    @property
    def firms(self) -> Counter[int]:
        """Company id -> how many of its topics are here."""
        return Counter(topic.company_id for topic in self.topics)

    @property
    def boilerplate_similarity(self) -> float:
        """Mean cosine of its topics to the nearest boilerplate seed."""
        return math.fsum(topic.boilerplate_similarity for topic in self.topics) / len(self.topics)

    @property
    def keywords_per_topic(self) -> float:
        """How many of the keywords a topic names, on average.

        The more firms of the baseline use a keyword, the less it counts.
        """
        rarity = {keyword: 1 - baseline_shares().get(keyword, 0.0) for keyword in self.keywords}
        named = (rarity[term] for of_topic in self.terms for term in rarity.keys() & set(of_topic))
        # Exact: the order of a set's members changes from process to process.
        return math.fsum(named) / len(self.topics)

    def theme(self, number: int) -> Theme:
        """The theme of this number."""
        n, counts = len(self.topics), self.firms.values()
        return Theme(
            theme_number=number,
            label=label(self.keywords),
            keywords=self.keywords,
            n_firms=len(counts),
            n_topics=n,
            top_firm_share=max(counts) / n,
            concentration=sum(count**2 for count in counts) / n**2,
            stability=self.stability,
        )

    def theme_topics(self, number: int) -> list[ThemeTopic]:
        """Its topics as members of the theme of this number."""
        return [
            ThemeTopic(topic.company_id, topic.topic_number, topic.label, number, similarity)
            for topic, similarity in zip(self.topics, self.similarities, strict=True)
        ]


def find_themes(quarter: QuarterTopics, settings: ThemeSettings = DEFAULTS, model: TopicModel | None = None) -> Themes:
    """Themes of a quarter. A cluster that breaks a rule is counted with the reason; its topics stay without theme."""
    theme_input = quarter.input_of(settings.theme_input)
    vectors = quarter.exemplars if theme_input == "exemplars" else quarter.summaries
    terms_of = topic_terms(quarter)
    found = _fit(quarter, terms_of, vectors, settings, model)
    centres = centroids(vectors, found.assignments)
    clusters = _clusters(quarter, terms_of, vectors, found, centres)
    reasons = [rejection(cluster, settings, len(quarter.firm_hashes)) for cluster in clusters]
    kept = [row for row, reason in enumerate(reasons) if reason is None]
    members = [clusters[row].members for row in kept]
    numbers = match_themes(centres[kept], quarter.comparable(), settings.match_threshold, members)
    named = [(clusters[row], number) for row, number in zip(kept, numbers, strict=True)]
    return Themes(
        quarter=quarter.quarter,
        themes=tuple(cluster.theme(number) for cluster, number in named),
        members=tuple(topic for cluster, number in named for topic in cluster.theme_topics(number)),
        centroids=centres[kept],
        rejected=Counter(reason for reason in reasons if reason is not None),
        n_noise=int((found.assignments < 0).sum()),
        firm_hashes=quarter.firm_hashes,
        n_expected=quarter.n_expected,
        n_topics=len(quarter.topics),
        as_of=quarter.as_of,
        provenance={"settings": settings.model_dump(), "encoder": quarter.encoder, "theme_input": theme_input},
    )


def topic_terms(quarter: QuarterTopics) -> list[tuple[str, ...]]:
    """The terms of each topic, in the order of `quarter.topics`: those of its sentences, each once a sentence.

    Names of the topic's firm and of its speakers are left out.
    """
    interned: dict[str, str] = {}  # Equal terms as one string: a full quarter has 22 million.
    found = []
    for topic in quarter.topics:
        names = quarter.speakers.get(topic.company_id, NO_SPEAKERS).name_tokens
        distinct = (dict.fromkeys(terms(sentence, names)) for sentence in topic.sentences)
        found.append(tuple(interned.setdefault(term, term) for of_sentence in distinct for term in of_sentence))
    return found


def _fit(
    quarter: QuarterTopics,
    terms_of: Sequence[Sequence[str]],
    vectors: np.ndarray,
    settings: ThemeSettings,
    model: TopicModel | None,
) -> TopicModelResult:
    n = len(quarter.topics)
    smallest = settings.smallest_theme(n)
    if n < max(smallest, MIN_DOCUMENTS):
        return TopicModelResult(np.full(n, -1), np.zeros(n, np.float32), ())
    firms = [topic.company_id for topic in quarter.topics]
    model = model or topic_model(settings, smallest, firms)
    return model.fit_transform(terms_of, vectors)


def topic_model(settings: ThemeSettings, smallest: int, firms: Sequence[int]) -> TopicModel:
    """The model that the settings name, for topics of these firms."""
    if settings.model == "bertopic":
        return BERTopicModel(settings, QUARTER, smallest)
    runs = settings.runs(len(firms))
    return CommunityModel(settings.model_copy(update={"n_runs": runs}), smallest, firms, settings.n_refits)


def _clusters(
    quarter: QuarterTopics,
    terms_of: Sequence[tuple[str, ...]],
    vectors: np.ndarray,
    found: TopicModelResult,
    centres: np.ndarray,
) -> list[Cluster]:
    clusters = []
    for number, keywords in enumerate(found.keywords):
        rows = np.flatnonzero(found.assignments == number)
        cosines = vectors[rows].astype(np.float64) @ centres[number].astype(np.float64)
        clusters.append(
            Cluster(
                topics=tuple(quarter.topics[row] for row in rows.tolist()),
                terms=tuple(terms_of[row] for row in rows.tolist()),
                similarities=tuple(np.round(cosines, _COSINE_DIGITS).tolist()),
                keywords=keywords,
                stability=None if found.stability is None else float(found.stability[number]),
            )
        )
    return clusters


def rejection(cluster: Cluster, settings: ThemeSettings, n_firms: int) -> str | None:
    """Why the cluster is no theme of a quarter of `n_firms`, or None if it is one."""
    counts, fewest = cluster.firms.values(), settings.fewest_firms(n_firms)
    if len(counts) < fewest:
        return ONE_FIRM if len(counts) == 1 else f"fewer than {fewest} firms"
    if max(counts) / len(cluster.topics) > settings.max_firm_share:
        return DOMINATED
    # Decision 35: procedure, calendar and filler are no theme.
    if cluster.boilerplate_similarity >= settings.max_platitude:
        return NEAR_SEEDS
    return FEW_KEYWORDS if cluster.keywords_per_topic < settings.min_keywords_said else None


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
    # Decision 17: numbers are never given by rank.
    fresh = iter(range(known.next_number, known.next_number + len(centres)))
    return [numbers[i] if i in numbers else next(fresh) for i in range(len(centres))]
