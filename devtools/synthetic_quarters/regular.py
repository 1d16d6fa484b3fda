"""Quarters of thousands of sentences whose structure is plain, so that a test knows what every search must find."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import sqlalchemy as sa

from devtools.synthetic_quarters.fill import fill
from devtools.synthetic_quarters.firms import ANSWER, QUESTION, MadeFirm, MadeTurn, Market, Shape, make_components
from ftm_assets.analysis.transcripts import quarter_dates
from ftm_assets.analysis.vectors import pad, unit_rows
from ftm_assets.storage.server.database import Database

WIDTH = 48  # Of the vectors before they are padded: fewer are cheaper to make, and as hard to search.
SPREAD = 0.08
SENTENCES_A_TOPIC = 3  # Few, so that there are many topics among not too many sentences.
FIRST_COMPANY = 100
# So much text that reading all of it costs Postgres more than the way along an index, as in a full quarter.
FILLER = " It is said at length." * 32


@dataclass(frozen=True)
class RegularShape:
    """How large the quarter is: themes say the same, topics are one theme as a firm speaks of it."""

    quarter: str
    n_firms: int
    topics_a_firm: int
    n_themes: int
    seed: int = 7

    @property
    def sentences_a_firm(self) -> int:
        """How many each firm says."""
        return self.topics_a_firm * SENTENCES_A_TOPIC

    @property
    def n_sentences(self) -> int:
        """How many all firms say."""
        return self.n_firms * self.sentences_a_firm

    def company_of(self, i: int) -> int:
        """The firm that says the i-th sentence."""
        return FIRST_COMPANY + i // self.sentences_a_firm

    def transcript_of(self, company_id: int) -> int:
        """The firm's one call."""
        return company_id * 1_000_000 + int(self.quarter[:4]) * 10 + int(self.quarter[5])

    def sentence_id(self, i: int) -> str:
        """The id of the i-th sentence."""
        company_id = self.company_of(i)
        return f"{company_id}_{self.transcript_of(company_id)}_{i % self.sentences_a_firm:04d}"


class RegularMarket(Market):
    """Sentence i is of topic i // SENTENCES_A_TOPIC, which is of firm // topics_a_firm and of a theme at random.

    Every third sentence is an analyst's, all are in Q&A.
    """

    def __init__(self, regular: RegularShape) -> None:
        super().__init__(Shape(firms=regular.n_firms, themes=regular.n_themes, seed=regular.seed), regular.quarter)
        self.regular = regular
        draw = np.random.default_rng(regular.seed)
        n_topics = regular.n_firms * regular.topics_a_firm
        self.theme_of = draw.integers(regular.n_themes, size=n_topics)
        centres = unit_rows(draw.normal(size=(regular.n_themes, WIDTH)))
        self.of_topics = unit_rows(centres[self.theme_of] + SPREAD * draw.normal(size=(n_topics, WIDTH)))
        of_sentences = np.repeat(self.of_topics, SENTENCES_A_TOPIC, axis=0)
        self.vectors = pad(unit_rows(of_sentences + SPREAD * draw.normal(size=of_sentences.shape)))

    def firms(self) -> Iterator[MadeFirm]:
        """Every firm, in order of company id."""
        return map(self.firm, range(self.regular.n_firms))

    def firm(self, number: int) -> MadeFirm:
        """The firm with so many before it."""
        regular, n = self.regular, self.regular.sentences_a_firm
        company_id = FIRST_COMPANY + number
        topics = slice(number * regular.topics_a_firm, (number + 1) * regular.topics_a_firm)
        topic_of = np.repeat(np.arange(regular.topics_a_firm), SENTENCES_A_TOPIC)
        themes = self.theme_of[topics]
        texts = tuple(f"Sentence {number * n + i} of theme {themes[topic_of[i]]}.{FILLER}" for i in range(n))
        starts = range(0, n, SENTENCES_A_TOPIC)
        turns = tuple(turn for start in starts for turn in _question_and_answer(start))
        components, places = make_components(
            turns,
            texts,
            company_id=company_id,
            company_name=f"Firm {company_id}",
            ticker=None,
            transcript_id=regular.transcript_of(company_id),
            call_date=quarter_dates(regular.quarter)[1],
        )
        return MadeFirm(
            company_id=company_id,
            components=components,
            turns=turns,
            texts=texts,
            places=places,
            vectors=self.vectors[number * n : (number + 1) * n],
            topic_of=topic_of,
            flags=(None,) * n,
            theme_of=themes,
            keywords=(("word",),) * regular.topics_a_firm,
            summary_vectors=pad(self.of_topics[topics]),
        )


def fill_regular(database: Database, regular: RegularShape) -> np.ndarray:
    """Write a quarter; returns the vectors of its sentences in order of firms and position: (n, 768) float32."""
    market = RegularMarket(regular)
    fill(database, market)
    with database.transaction() as connection:
        connection.execute(sa.text("ANALYZE"))
    return market.vectors


def _question_and_answer(start: int) -> tuple[MadeTurn, MadeTurn]:
    return (
        MadeTurn(QUESTION[0], QUESTION[1], start, start + 1),
        MadeTurn(ANSWER[0], ANSWER[1], start + 1, start + SENTENCES_A_TOPIC),
    )
