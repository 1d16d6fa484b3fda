"""Quarters of thousands of generated rows, enough for Postgres to choose its plans as it does for millions."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
import sqlalchemy as sa

from ftm_assets.analysis.vectors import pad, unit_rows
from ftm_assets.storage.schema import tables as t
from ftm_assets.storage.server.database import Database
from ftm_assets.storage.write.calls import create_quarter
from ftm_assets.storage.write.copy import copy_rows

WIDTH = 48  # Of the vectors before they are padded: fewer are cheaper to make, and as hard to search.
SENTENCES_A_TOPIC = 3  # Few, so that there are many topics among not too many sentences.
# So much text that reading all of it costs Postgres more than the way along an index, as in a full quarter.
FILLER = " It is said at length." * 32
ENCODER = ("generated", "1")


@dataclass(frozen=True)
class Shape:
    """How large a generated quarter is: themes say the same, topics are one theme as a firm speaks of it."""

    quarter: str
    n_firms: int
    topics_a_firm: int
    n_themes: int
    seed: int = 7

    @property
    def n_topics(self) -> int:
        """Topics of all firms."""
        return self.n_firms * self.topics_a_firm

    @property
    def n_sentences(self) -> int:
        """Sentences of all topics."""
        return self.n_topics * SENTENCES_A_TOPIC


def fill(database: Database, shape: Shape) -> np.ndarray:
    """Write a quarter; returns the vectors of its sentences in order of firms and position: (n, 768) float32.

    Sentence i is of topic i // SENTENCES_A_TOPIC, which is of firm // topics_a_firm and of a theme at random. Every
    third sentence is an analyst's, in Q&A.
    """
    quarter, random = shape.quarter, np.random.default_rng(shape.seed)
    theme_of = random.integers(shape.n_themes, size=shape.n_topics)
    centres = unit_rows(random.normal(size=(shape.n_themes, WIDTH)))
    of_topics = unit_rows(centres[theme_of] + 0.08 * random.normal(size=(shape.n_topics, WIDTH)))
    topic_of = np.repeat(np.arange(shape.n_topics), SENTENCES_A_TOPIC)
    vectors = pad(unit_rows(of_topics[topic_of] + 0.08 * random.normal(size=(shape.n_sentences, WIDTH))))
    firms = range(100, 100 + shape.n_firms)
    numbered = [(firm, number) for firm in firms for number in range(shape.topics_a_firm)]

    with database.transaction() as connection:
        create_quarter(connection, quarter)
        connection.execute(
            sa.update(t.Quarter)
            .where(t.Quarter.quarter == quarter)
            .values(encoder=ENCODER[0], encoder_revision=ENCODER[1])
        )
        connection.execute(
            sa.text(
                """
                INSERT INTO firms SELECT n, 'FIRM-' || n FROM generate_series(CAST(:a AS int), :z) AS n
                ON CONFLICT DO NOTHING
                """
            ),
            {"a": firms[0], "z": firms[-1]},
        )

        def copy(table: type[t.Base], columns: str, rows: Iterator[Sequence[object]]) -> None:
            copy_rows(connection, table.__table__, columns.split(), rows)  # type: ignore[arg-type]

        copy(t.FirmQuarter, "quarter company_id name", ((quarter, firm, f"Firm {firm}") for firm in firms))
        day = date(int(quarter[:4]), int(quarter[5]) * 3, 1)
        copy(
            t.Call,
            "quarter transcript_id company_id call_date headline content_hash text_hash source",
            ((quarter, _call(quarter, firm), firm, day, f"Firm {firm}", "", "", "generated") for firm in firms),
        )
        copy(
            t.Component,
            "quarter transcript_id company_id component_order type_name speaker_type person text",
            (
                (quarter, _call(quarter, firm), firm, order, "Answer", "Executives", f"Person {order}", "said")
                for firm in firms
                for order in range(2)
            ),
        )
        copy(
            t.Sentence,
            "quarter sentence_id company_id transcript_id component_order position start_char end_char role section "
            "text embedding",
            (
                (
                    *(quarter, sentence_id(shape, i), firm, _call(quarter, firm), asked := int(i % 3 == 0)),
                    *(i, 0, 4, "analyst" if asked else "executive", "qa" if asked else "prepared"),
                    *(f"Sentence {i} of theme {theme_of[topic_of[i]]}.{FILLER}", vectors[i]),
                )
                for i, firm in enumerate(np.repeat(firms, shape.topics_a_firm * SENTENCES_A_TOPIC).tolist())
            ),
        )
        copy(
            t.Topic,
            "quarter company_id topic_number label keywords n_sentences centroid",
            (
                (quarter, *key, f"theme {theme}", ["word"], SENTENCES_A_TOPIC, vector)
                for key, theme, vector in zip(numbered, theme_of, pad(of_topics), strict=True)
            ),
        )
        copy(
            t.TopicSentence,
            "quarter sentence_id company_id raw_topic topic_number probability rank",
            (
                (quarter, sentence_id(shape, i), firm, number, number, 1.0, i % SENTENCES_A_TOPIC + 1)
                for i, (firm, number) in ((i, numbered[topic]) for i, topic in enumerate(topic_of.tolist()))
            ),
        )
        copy(
            t.TopicSummary,
            "quarter company_id topic_number text source evidence embedding",
            (
                (quarter, *key, f"Of theme {theme}.", "keywords", [], vector)
                for key, theme, vector in zip(numbered, theme_of, pad(of_topics), strict=True)
            ),
        )
        copy(
            t.ThemeRun,
            "quarter run_number input_hash content_hash n_firms_expected n_firms n_topics rejected provenance",
            iter([(quarter, 1, "", "", len(firms), len(firms), shape.n_topics, {}, {"settings": {}})]),
        )
        copy(
            t.Theme,
            "quarter run_number theme_number label keywords n_firms n_topics top_firm_share centroid",
            (
                (quarter, 1, theme, f"theme {theme}", ["word"], 0, 0, 0.0, centre)
                for theme, centre in enumerate(pad(centres.astype(np.float32)))
            ),
        )
        copy(
            t.ThemeTopic,
            "quarter company_id topic_number live_topic_number topic_label theme_number similarity",
            (
                (quarter, *key, key[1], "label", theme, float(vector @ centres[theme]))
                for key, theme, vector in zip(numbered, theme_of.tolist(), of_topics, strict=True)
            ),
        )
    with database.transaction() as connection:
        connection.execute(sa.text("ANALYZE"))
    return vectors


def sentence_id(shape: Shape, i: int) -> str:
    """The id of the i-th sentence of a generated quarter."""
    firm = 100 + i // (shape.topics_a_firm * SENTENCES_A_TOPIC)
    return f"{firm}_{_call(shape.quarter, firm)}_{i:06d}"


def _call(quarter: str, firm: int) -> int:
    return firm * 1_000_000 + int(quarter[:4]) * 10 + int(quarter[5])
