"""Firms and their calls, made up, the same every time: the values that the stages of the graph exchange.

No text is of a real call. Words are syllables, lengths and shares are those measured on 46 real firms of a quarter:
a quarter of the sentences are flagged, two of five of these repeat a phrase word by word; two thirds are in
topics; two of five topics are in no theme.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta

import numpy as np

from devtools.synthetic_quarters.vectors import Mix, Space
from ftm_assets.analysis.sentences import FirmTurns, Role, Section, Sentence, Sentences
from ftm_assets.analysis.themes import QuarterTopics, Theme, Themes, ThemeTopic
from ftm_assets.analysis.topic_summaries import Summaries, evidence_of, keyword_summary
from ftm_assets.analysis.topics import Topic, Topics, TopicSentence
from ftm_assets.analysis.transcripts import Component, quarter_dates
from ftm_assets.analysis.vectors import centroids, pad, unit_rows

ENCODER = ("made-up", "1")
SETTINGS = {"made": "up"}
SYLLABLES = (
    "ba",
    "ce",
    "di",
    "fo",
    "gu",
    "ha",
    "je",
    "ki",
    "lo",
    "mu",
    "na",
    "pe",
    "qui",
    "ro",
    "su",
    "ta",
    "ve",
    "wi",
    "xo",
    "yu",
    "zan",
    "der",
    "mil",
    "ton",
    "fer",
    "gal",
    "hol",
    "ster",
)
N_WORDS, N_PASSAGE, LONGEST = 120, 6_000, 150  # Words of a subject, of a passage about it, of a sentence at most.
N_PHRASES, N_COURTESIES = 400, 12
FIRST_ID = 1_000_000
FEWEST, SMALLEST = 150, 5  # Sentences of a firm and of a topic.
PREPARED = 0.36  # Share of the sentences.
CLOSE = 3.0  # How much nearer than a sentence of its topic a phrase, a summary or a question lies to the middle.
ANALYSTS = "Analysts"
OPERATOR = ("Presentation Operator Message", "Operator")
# Type, speaker, sentences in a turn: from, and below.
REMARK = ("Presenter Speech", "Executives", 6, 30)
QUESTION = ("Question", ANALYSTS, 1, 5)
ANSWER = ("Answer", "Executives", 2, 10)


@dataclass(frozen=True)
class Shape:
    """How much there is.

    sentences:     of a firm, mean and standard deviation; never below 150
    topics:        of a firm, mean; their number varies with that of the sentences
    themes:        of a quarter
    in_topics, flagged: shares of the sentences; what is in neither is in no topic
    repeated:      share of the flagged sentences that are a phrase word by word
    in_no_theme:   share of the topics
    """

    firms: int = 3000
    sentences: tuple[float, float] = (450.0, 100.0)
    topics: float = 30.0
    themes: int = 200
    in_topics: float = 0.67
    flagged: float = 0.26
    repeated: float = 0.4
    in_no_theme: float = 0.37
    seed: int = 1
    mix: Mix = field(default_factory=Mix)


@dataclass(frozen=True)
class MadeTurn:
    """A turn, and which of the firm's sentences it holds: from `first` up to, but without, `end`."""

    type_name: str
    speaker_type: str
    first: int
    end: int


@dataclass(frozen=True, eq=False)
class MadeFirm:
    """A firm's quarter before it is stored.

    turns, components: of its one call, side by side
    texts, places, vectors, topic_of, flags: of each sentence; topic -1 outside of any, flag None where it is modelled
    theme_of, keywords, summary_vectors: of each topic; theme -1 for none
    """

    company_id: int
    components: tuple[Component, ...]
    turns: tuple[MadeTurn, ...]
    texts: tuple[str, ...]
    places: tuple[tuple[int, int], ...]
    vectors: np.ndarray
    topic_of: np.ndarray
    flags: tuple[str | None, ...]
    theme_of: np.ndarray
    keywords: tuple[tuple[str, ...], ...]
    summary_vectors: np.ndarray

    def sentences(self, turns: FirmTurns) -> Sentences:
        """Its sentences, made from the turns as they were stored."""
        rows = []
        for turn, component in zip(self.turns, self.components, strict=True):
            for n in range(turn.first, turn.end):
                role: Role = "analyst" if turn.speaker_type == ANALYSTS else "executive"
                section: Section = "prepared" if turn.type_name == REMARK[0] else "qa"
                rows.append(
                    Sentence(
                        sentence_id=f"{self.company_id}_{component.transcript_id}_{n:04d}",
                        transcript_id=component.transcript_id,
                        component_order=component.component_order,
                        position=n,
                        start_char=self.places[n][0],
                        end_char=self.places[n][1],
                        text=self.texts[n],
                        role=role,
                        section=section,
                        exchange=None if section == "prepared" else 1 + component.component_order // 2,
                        boilerplate=self.flags[n],
                        boilerplate_similarity=round(0.2 + 0.3 * abs(float(self.vectors[n, 0])), 4),
                    )
                )
        return Sentences.from_turns(turns, tuple(rows), self.vectors, ENCODER)

    def topics(self, sentences: Sentences) -> Topics:
        """Its topics, best sentences first within each."""
        modelled = np.array([flag is None for flag in self.flags])
        labels, vectors = self.topic_of[modelled], self.vectors[modelled]
        middles = centroids(vectors, labels)
        nearness = np.where(labels >= 0, (vectors * middles[labels]).sum(axis=1), -1)
        order = np.lexsort((-nearness, labels))
        starts = np.searchsorted(labels[order], np.arange(len(middles)))
        ranks = np.zeros(len(labels), np.int64)
        ranks[order] = np.arange(len(labels)) - np.where(labels[order] >= 0, starts[labels[order]], 0) + 1
        sizes = np.bincount(labels[labels >= 0], minlength=len(middles)).tolist()
        return Topics(
            topics=tuple(
                Topic(number, ", ".join(words[:3]), words, size)
                for number, (words, size) in enumerate(zip(self.keywords, sizes, strict=True))
            ),
            members=tuple(
                TopicSentence(row.sentence_id, topic, topic, 1.0, rank)
                if topic >= 0
                else TopicSentence(row.sentence_id, topic, None, 0.0, None)
                for row, topic, rank in zip(sentences.modelled().rows, labels.tolist(), ranks.tolist(), strict=True)
            ),
            centroids=middles,
            input_hash=sentences.content_hash,
            provenance={"settings": SETTINGS, "reason": None},
        )

    def summaries(self, topics: Topics, sentences: Sentences) -> Summaries:
        """Its summaries, by keywords."""
        written = [keyword_summary(topic) for topic in evidence_of(topics, sentences)]
        return Summaries.for_topics(topics, written, self.summary_vectors, ENCODER)


class Market:
    """All firms of a quarter. A firm is the same whichever others are made."""

    def __init__(self, shape: Shape, quarter: str) -> None:
        self.shape = shape
        self.quarter = quarter
        draw = np.random.default_rng(shape.seed)
        self._number = int(quarter[:4]) * 4 + int(quarter[5])
        self.space = Space(shape.mix, draw)
        self.themes = self.space.directions(draw, shape.themes)
        self._courtesies = self.space.centres(draw, self.space.directions(draw, N_COURTESIES))
        courtesy_of = np.arange(N_PHRASES) % N_COURTESIES
        self._phrase_vectors = self.space.around(draw, self._courtesies[courtesy_of], CLOSE)
        self._passages = [Passage.made(draw) for _ in range(shape.themes + N_COURTESIES)]
        self._phrases = [
            self._passages[shape.themes + of].cut(7 * n, 1 + n % 6) for n, of in enumerate(courtesy_of.tolist())
        ]
        self._phrase_odds, self._theme_odds = odds(N_PHRASES, 1.0), odds(shape.themes, 0.7)

    def firms(self) -> Iterator[MadeFirm]:
        """Every firm, in order of company id."""
        return map(self.firm, range(1, self.shape.firms + 1))

    def firm(self, number: int) -> MadeFirm:
        """The call of one firm, and what the stages find in it."""
        draw = np.random.default_rng([self.shape.seed, self._number, number])
        n = max(FEWEST, round(draw.normal(*self.shape.sentences)))
        topic_of, flagged = assign(draw, self.shape, n)
        theme_of = draw.choice(self.shape.themes, topic_of.max() + 1, p=self._theme_odds)
        alone = draw.random(len(theme_of)) < self.shape.in_no_theme
        of_firm = self.space.directions(np.random.default_rng([self.shape.seed, number]), 1)
        of_topics = np.where(alone[:, None], self.space.directions(draw, len(theme_of)), self.themes[theme_of])
        middles = self.space.centres(draw, of_topics, of_firm)
        vectors, passage_of, phrase_of = self._sentences(draw, topic_of, flagged, middles, theme_of, of_firm)
        texts = self._texts(draw, passage_of, phrase_of)
        turns = make_turns(draw, n)
        first_day, _ = quarter_dates(self.quarter)
        components, places = make_components(
            turns,
            texts,
            company_id=FIRST_ID + number,
            company_name=f"Made Up {number}",
            ticker=f"M{number}",
            transcript_id=self._number * 100_000 + number,
            call_date=first_day + timedelta(days=20 + number % 40),
        )
        return MadeFirm(
            company_id=FIRST_ID + number,
            turns=turns,
            components=components,
            texts=texts,
            places=places,
            vectors=pad(vectors),
            topic_of=topic_of,
            flags=tuple("commonplace" if flag else None for flag in flagged.tolist()),
            theme_of=np.where(alone, -1, theme_of),
            keywords=tuple(self._passages[theme].keywords(draw) for theme in theme_of.tolist()),
            summary_vectors=pad(self.space.around(draw, middles, CLOSE)),
        )

    def themes_of(self, quarter: QuarterTopics, theme_of: Mapping[tuple[int, int], int]) -> Themes:
        """The themes of the quarter's topics, as they were planted. theme_of: company id and topic number -> theme"""
        places = defaultdict(list)
        for place, topic in enumerate(quarter.topics):
            if (theme := theme_of[topic.company_id, topic.topic_number]) >= 0:
                places[theme].append(place)
        largest_first = sorted(places, key=lambda theme: (-len(places[theme]), theme))
        themes, members, middles = [], [], []
        for number, theme in enumerate(largest_first, start=1):
            topics = [quarter.topics[place] for place in places[theme]]
            firms = Counter(topic.company_id for topic in topics)
            words = self._passages[theme].keywords(np.random.default_rng(theme))
            middle = unit_rows(quarter.exemplars[places[theme]].mean(axis=0, keepdims=True))[0]
            near = (quarter.exemplars[places[theme]] @ middle).tolist()
            middles.append(middle)
            themes.append(
                Theme(
                    theme_number=number,
                    label=", ".join(words[:3]),
                    keywords=words,
                    n_firms=len(firms),
                    n_topics=len(topics),
                    top_firm_share=max(firms.values()) / len(topics),
                    concentration=sum(k * k for k in firms.values()) / len(topics) ** 2,
                    stability=None,
                )
            )
            members += [
                ThemeTopic(topic.company_id, topic.topic_number, topic.label, number, similarity)
                for topic, similarity in zip(topics, near, strict=True)
            ]
        return Themes(
            quarter=quarter.quarter,
            themes=tuple(themes),
            members=tuple(members),
            centroids=np.array(middles, np.float32),
            rejected={},
            n_noise=len(quarter.topics) - len(members),
            firm_hashes=quarter.firm_hashes,
            n_expected=quarter.n_expected,
            n_topics=len(quarter.topics),
            as_of=quarter.as_of,
            provenance={"settings": {}, "encoder": quarter.encoder},
        )

    def query_vectors(self, n: int, quarter_seed: int = 0) -> np.ndarray:
        """Vectors of what somebody may search for, near what is said but said by nobody: (n, 768) float32."""
        draw = np.random.default_rng([self.shape.seed, quarter_seed, 0])
        of_topics = self.themes[draw.choice(self.shape.themes, n, p=self._theme_odds)]
        return pad(self.space.around(draw, self.space.centres(draw, of_topics), CLOSE))

    def _sentences(
        self,
        draw: np.random.Generator,
        topic_of: np.ndarray,
        flagged: np.ndarray,
        middles: np.ndarray,
        theme_of: np.ndarray,
        of_firm: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Vector, passage and phrase of each sentence; phrase -1 for what is no phrase."""
        n, n_themes = len(topic_of), self.shape.themes
        vectors = np.empty((n, middles.shape[1]), np.float32)
        passage_of = draw.choice(n_themes, n, p=self._theme_odds)
        phrase_of = np.full(n, -1)
        inside, outside = topic_of >= 0, (topic_of < 0) & ~flagged
        passage_of[inside] = theme_of[topic_of[inside]]
        vectors[inside] = self.space.around(draw, middles[topic_of[inside]])
        stray = self.space.centres(draw, self.themes[passage_of[outside]], of_firm)
        vectors[outside] = self.space.around(draw, stray)
        courtesy_of = draw.integers(N_COURTESIES, size=int(flagged.sum()))
        passage_of[flagged] = n_themes + courtesy_of
        vectors[flagged] = self.space.around(draw, self._courtesies[courtesy_of], CLOSE)
        repeated = flagged & (draw.random(n) < self.shape.repeated)
        phrase_of[repeated] = draw.choice(N_PHRASES, int(repeated.sum()), p=self._phrase_odds)
        vectors[repeated] = self._phrase_vectors[phrase_of[repeated]]
        return vectors, passage_of, phrase_of

    def _texts(self, draw: np.random.Generator, passage_of: np.ndarray, phrase_of: np.ndarray) -> tuple[str, ...]:
        lengths = 4 + draw.gamma(1.6, 10.0, len(passage_of)).astype(int)
        starts = draw.integers(N_PASSAGE, size=len(passage_of))
        return tuple(
            self._phrases[phrase] if phrase >= 0 else self._passages[passage].cut(start, length)
            for passage, phrase, start, length in zip(
                passage_of.tolist(), phrase_of.tolist(), starts.tolist(), lengths.tolist(), strict=True
            )
        )


@dataclass(frozen=True)
class Passage:
    """Words of one subject, one after another, from which sentences are cut.

    ends: where each word ends in the text
    """

    words: tuple[str, ...]
    text: str
    ends: tuple[int, ...]

    @classmethod
    def made(cls, draw: np.random.Generator) -> "Passage":
        """A passage with words of its own, a few of which are said often."""
        parts = draw.choice(SYLLABLES, (N_WORDS, 3))
        words = tuple(dict.fromkeys("".join(row[: 2 + n % 2]) for n, row in enumerate(parts)))
        spoken = [words[n] for n in draw.choice(len(words), N_PASSAGE + LONGEST, p=odds(len(words), 0.8))]
        return cls(words, " ".join(spoken), tuple((np.cumsum([len(word) + 1 for word in spoken]) - 1).tolist()))

    def cut(self, start: int, length: int) -> str:
        """A sentence of so many words, from this word on."""
        start, end = start % N_PASSAGE, start % N_PASSAGE + min(length, LONGEST)
        return f"{self.text[self.ends[start] + 1 : self.ends[end]].capitalize()}."

    def keywords(self, draw: np.random.Generator) -> tuple[str, ...]:
        """Ten of its more frequent words."""
        return tuple(self.words[n] for n in draw.permutation(30)[:10].tolist())


def odds(n: int, power: float) -> np.ndarray:
    """Probabilities that fall with the rank: (n,) float64."""
    weights = np.arange(3, n + 3, dtype=np.float64) ** -power
    shares: np.ndarray = weights / weights.sum()
    return shares


def assign(draw: np.random.Generator, shape: Shape, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Topic of each of a firm's n sentences, 0 the largest and -1 for none, and which of them are flagged."""
    n_inside, n_flagged = round(shape.in_topics * n), round(shape.flagged * n)
    n_topics = max(1, min(round(shape.topics * n / shape.sentences[0]), n_inside // SMALLEST))
    more = draw.multinomial(n_inside - SMALLEST * n_topics, draw.dirichlet(np.full(n_topics, 1.5)))
    sizes = np.sort(SMALLEST + more)[::-1]
    topic_of, flagged = np.full(n, -1), np.zeros(n, bool)
    topic_of[:n_inside] = np.repeat(np.arange(n_topics), sizes)
    flagged[n_inside : n_inside + n_flagged] = True
    order = draw.permutation(n)
    return topic_of[order], flagged[order]


def make_turns(draw: np.random.Generator, n: int) -> tuple[MadeTurn, ...]:
    """Turns that hold n sentences: an operator's without any, remarks, then questions and answers by turns."""
    turns, first = [MadeTurn(*OPERATOR, 0, 0)], 0
    while first < n:
        prepared = first < PREPARED * n
        kind = REMARK if prepared else ANSWER if turns[-1].type_name == QUESTION[0] else QUESTION
        end = min(n, first + int(draw.integers(kind[2], kind[3])))
        turns.append(MadeTurn(kind[0], kind[1], first, end))
        first = end
    return tuple(turns)


def make_components(
    turns: Sequence[MadeTurn],
    texts: Sequence[str],
    *,
    company_id: int,
    company_name: str,
    ticker: str | None,
    transcript_id: int,
    call_date: date,
) -> tuple[tuple[Component, ...], tuple[tuple[int, int], ...]]:
    """The turns of a call as a source has them, and where each sentence stands in its turn."""
    components, places = [], []
    for order, turn in enumerate(turns):
        sentences = texts[turn.first : turn.end]
        start = 0
        for text in sentences:
            places.append((start, start + len(text)))
            start += len(text) + 1
        components.append(
            Component(
                row_number=transcript_id * 1000 + order,
                company_id=company_id,
                company_name=company_name,
                ticker=ticker,
                transcript_id=transcript_id,
                call_date=call_date,
                headline=f"{company_name}, Earnings Call",
                component_order=order,
                type_name=turn.type_name,
                speaker_type=turn.speaker_type,
                person=f"{turn.speaker_type} {order % 5}",
                text=" ".join(sentences) or "Next.",
            )
        )
    return tuple(components), tuple(places)
