"""The way from a theme down to its topics, firms and sentences, and back up."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ftm_assets.storage.schema import tables as t
from ftm_assets.storage.schema.rows import rows_as

_SENTENCE_ID = re.compile(r"([0-9]{1,18})_([0-9]{1,18})_[0-9]+")


@dataclass(frozen=True)
class ThemeRow:
    """A published theme, with the counts of the day on which it was published.

    concentration: Herfindahl index of its topics over firms, 1 for one firm
    stability:     None if it was not measured
    title, description, description_model: by a language model, None if none wrote any
    """

    quarter: str
    theme_id: str
    theme_number: int
    label: str
    keywords: tuple[str, ...]
    n_firms: int
    n_topics: int
    n_sentences: int
    top_firm_share: float
    concentration: float
    stability: float | None
    title: str | None = None
    description: str | None = None
    description_model: str | None = None


@dataclass(frozen=True)
class TopicRow:
    """A topic with its firm, its summary and, if it has one, its theme. `live` is False once the topic was replaced."""

    quarter: str
    topic_id: str
    firm_key: str
    firm_name: str
    topic_number: int
    label: str
    n_sentences: int | None
    summary: str | None
    source: str | None
    theme_id: str | None
    similarity: float | None
    live: bool
    title: str | None = None
    model: str | None = None


@dataclass(frozen=True)
class ThemeFirmRow:
    """A firm in a theme: its topics there, the sentences of those that were not replaced since, and the best match."""

    quarter: str
    theme_id: str
    company_id: int
    firm_key: str
    firm_name: str
    n_topics: int
    n_sentences: int
    similarity: float


@dataclass(frozen=True)
class SentenceRow:
    """A sentence with its call, speaker, topic and theme."""

    quarter: str
    sentence_id: str
    firm_key: str
    firm_name: str
    call_date: date
    transcript_id: int
    component_order: int
    start_char: int
    end_char: int
    person: str
    role: str
    section: str
    utterance_type: str
    exchange: int | None
    boilerplate: str | None
    topic_number: int | None
    topic_label: str | None
    rank: int | None
    probability: float | None
    theme_id: str | None
    text: str


def themes_of_quarter(connection: Connection, quarter: str) -> list[ThemeRow]:
    """The current themes, those of most firms first."""
    rows = connection.execute(
        sa.text(
            """
            SELECT quarter, theme_id, theme_number, label, keywords, n_firms, n_topics, n_sentences, top_firm_share,
                   concentration, stability, title,
                   CASE description_source WHEN 'model' THEN description END AS description, description_model
            FROM current_themes WHERE quarter = :quarter ORDER BY n_firms DESC, n_topics DESC, theme_number
            """
        ),
        {"quarter": quarter},
    )
    return rows_as(ThemeRow, rows)


def topics_of_theme(connection: Connection, theme_id: str, limit: int | None = None) -> list[TopicRow]:
    """Down one step: the topics of a theme, nearest to its centroid first, also those that were replaced since."""
    rows = connection.execute(
        sa.text(
            """
            -- Not from `topic_context`, which leaves out topics that were replaced and firms whose calls were deleted.
            WITH members AS MATERIALIZED (
                SELECT m.*, theme_id FROM themes JOIN theme_topics AS m USING (quarter, theme_number)
                WHERE theme_id = :theme_id ORDER BY similarity DESC, company_id, topic_number LIMIT :limit
            )
            SELECT m.quarter, m.company_id || '_' || m.quarter || '_' || m.topic_number AS topic_id,
                   firms.partition_key AS firm_key, coalesce(f.name, firms.partition_key) AS firm_name,
                   m.topic_number, m.topic_label AS label, topics.n_sentences, s.text AS summary, s.source,
                   m.theme_id, m.similarity, m.live_topic_number IS NOT NULL AS live, s.title, s.model
            FROM members AS m
            JOIN firms USING (company_id)
            LEFT JOIN firm_quarters AS f USING (quarter, company_id)
            LEFT JOIN topics ON (topics.quarter, topics.company_id, topics.topic_number)
                              = (m.quarter, m.company_id, m.live_topic_number)
            LEFT JOIN topic_summaries AS s ON (s.quarter, s.company_id, s.topic_number)
                                            = (topics.quarter, topics.company_id, topics.topic_number)
            ORDER BY m.similarity DESC, m.company_id, m.topic_number
            """
        ),
        {"theme_id": theme_id, "limit": limit},
    )
    return rows_as(TopicRow, rows)


def firms_of_theme(connection: Connection, theme_id: str, limit: int | None = None) -> list[ThemeFirmRow]:
    """Down one step by firm: those with most topics in the theme first."""
    rows = connection.execute(
        sa.text(
            """
            -- Not from `firm_theme_panel`, which leaves out topics that were replaced and firms without calls.
            WITH chosen AS MATERIALIZED (
                SELECT themes.quarter, theme_id, m.company_id, count(*) AS n_topics,
                       coalesce(sum(topics.n_sentences), 0)::int AS n_sentences, max(similarity) AS similarity
                FROM themes
                JOIN theme_topics AS m USING (quarter, theme_number)
                LEFT JOIN topics ON (topics.quarter, topics.company_id, topics.topic_number)
                                  = (m.quarter, m.company_id, m.live_topic_number)
                WHERE theme_id = :theme_id GROUP BY themes.quarter, theme_id, m.company_id
                ORDER BY n_topics DESC, n_sentences DESC, m.company_id LIMIT :limit
            )
            SELECT quarter, theme_id, company_id, partition_key AS firm_key,
                   coalesce(name, partition_key) AS firm_name, n_topics, n_sentences, similarity
            FROM chosen
            JOIN firms USING (company_id)
            LEFT JOIN firm_quarters USING (quarter, company_id)
            ORDER BY n_topics DESC, n_sentences DESC, company_id
            """
        ),
        {"theme_id": theme_id, "limit": limit},
    )
    return rows_as(ThemeFirmRow, rows)


_LIVE_TOPIC = """
    quarter, topic_id, firm_key, firm_name, topic_number, topic_label AS label, n_sentences, summary,
    summary_source AS source, theme_id, similarity, true AS live, topic_title AS title, summary_model AS model
"""


def topics_of_firm(connection: Connection, quarter: str, company_id: int) -> list[TopicRow]:
    """A firm's topics in a quarter, largest first, each with its theme: down from the firm, up to the themes."""
    rows = connection.execute(
        sa.text(
            f"""
            SELECT {_LIVE_TOPIC} FROM topic_context
            WHERE quarter = :quarter AND company_id = :company_id ORDER BY topic_number
            """  # noqa: S608  (a constant)
        ),
        {"quarter": quarter, "company_id": company_id},
    )
    return rows_as(TopicRow, rows)


def topics_without_theme(connection: Connection, quarter: str, limit: int | None = None) -> list[TopicRow]:
    """Topics that are in no theme, those of most sentences first."""
    rows = connection.execute(
        sa.text(
            f"""
            SELECT {_LIVE_TOPIC} FROM topic_context WHERE quarter = :quarter AND theme_number IS NULL
            ORDER BY n_sentences DESC, company_id, topic_number LIMIT :limit
            """  # noqa: S608  (a constant)
        ),
        {"quarter": quarter, "limit": limit},
    )
    return rows_as(TopicRow, rows)


def sentences_of_topic(
    connection: Connection, quarter: str, company_id: int, topic_number: int, limit: int | None = None
) -> list[SentenceRow]:
    """Down one step: the sentences of a topic, nearest to its centroid first."""
    return _sentences(
        connection,
        """
        SELECT quarter, sentence_id, rank AS place FROM topic_sentences
        WHERE quarter = :quarter AND company_id = :company_id AND topic_number = :topic_number
        """,
        {"quarter": quarter, "company_id": company_id, "topic_number": topic_number},
        limit,
    )


def sentences_of_theme(connection: Connection, theme_id: str, limit: int | None = None) -> list[SentenceRow]:
    """Down two steps: the sentences of a theme, each topic's best one first, so that a few show many firms."""
    return _sentences(
        connection,
        # Not from `topic_context`, which would look up every topic of the theme: 8 ms instead of 5.
        # The first n sentences are those of the first n topics, because each of these has one of rank 1.
        """
        SELECT a.quarter, sentence_id, row_number() OVER (ORDER BY rank, nth) AS place
        FROM (
            SELECT m.quarter, m.company_id, m.live_topic_number,
                   row_number() OVER (ORDER BY similarity DESC, m.company_id, m.live_topic_number) AS nth
            FROM themes JOIN theme_topics AS m USING (quarter, theme_number)
            WHERE theme_id = :theme_id AND m.live_topic_number IS NOT NULL ORDER BY nth LIMIT :limit
        ) AS nearest
        JOIN topic_sentences AS a ON (a.quarter, a.company_id, a.topic_number)
                                   = (nearest.quarter, nearest.company_id, nearest.live_topic_number)
        """,
        {"theme_id": theme_id},
        limit,
    )


def sentences(connection: Connection, sentence_ids: Sequence[str]) -> list[SentenceRow]:
    """Up from sentences: each with its call, topic and theme, in order of the ids; unknown ids are left out."""
    found = [match for match in map(_SENTENCE_ID.fullmatch, dict.fromkeys(sentence_ids)) if match]
    return _sentences(
        connection,
        # The call gives the quarter, and so the only partition to look into.
        """
        SELECT quarter, sentence_id, sentence_id AS place
        FROM unnest(CAST(:ids AS text[]), CAST(:firms AS bigint[]), CAST(:calls AS bigint[]))
            AS given (sentence_id, company_id, transcript_id)
        JOIN calls USING (company_id, transcript_id)
        """,
        {
            "ids": [match[0] for match in found],
            "firms": [int(match[1]) for match in found],
            "calls": [int(match[2]) for match in found],
        },
        None,
    )


def sentences_of(connection: Connection, identifier: str, limit: int | None = None) -> list[SentenceRow]:
    """The sentences of a theme or a topic, or the one sentence, that has this id; none if nothing has it."""
    if identifier.startswith("theme_"):
        return sentences_of_theme(connection, identifier, limit)
    topic = connection.execute(
        sa.select(t.Topic.quarter, t.Topic.company_id, t.Topic.topic_number).where(t.Topic.topic_id == identifier)
    ).first()
    if topic is None:
        return sentences(connection, [identifier])
    return sentences_of_topic(connection, **topic._mapping, limit=limit)


def _sentences(connection: Connection, chosen: str, values: dict[str, Any], limit: int | None) -> list[SentenceRow]:
    """The sentences that a query has chosen, with their call, speaker, topic and theme, in order of their `place`."""
    rows = connection.execute(
        sa.text(
            f"""
            -- Not from `sentence_context`: joined to a list, its nine tables are read whole, which takes a second
            -- instead of 2 ms. In parts, because planning a join of ten tables takes longer than joining them.
            WITH chosen AS MATERIALIZED (SELECT * FROM ({chosen}) AS found ORDER BY place LIMIT :limit),
            spoken AS MATERIALIZED (
                SELECT place, quarter, sentence_id, company_id, transcript_id, component_order, c.call_date, start_char,
                       end_char, k.person, s.role, s.section, s.utterance_type, s.exchange, s.boilerplate, s.text
                FROM chosen
                JOIN sentences AS s USING (quarter, sentence_id)
                JOIN calls AS c USING (quarter, company_id, transcript_id)
                JOIN components AS k USING (quarter, transcript_id, company_id, component_order)
            ), named AS MATERIALIZED (
                SELECT spoken.*, partition_key AS firm_key, name AS firm_name
                FROM spoken JOIN firms USING (company_id) JOIN firm_quarters USING (quarter, company_id)
            )
            SELECT s.quarter, s.sentence_id, s.firm_key, s.firm_name, s.call_date,
                   s.transcript_id, s.component_order, s.start_char, s.end_char, s.person, s.role, s.section,
                   s.utterance_type, s.exchange, s.boilerplate, a.topic_number, topics.label AS topic_label, a.rank,
                   a.probability, themes.theme_id, s.text
            FROM named AS s
            LEFT JOIN topic_sentences AS a ON (a.quarter, a.sentence_id) = (s.quarter, s.sentence_id)
            LEFT JOIN topics ON (topics.quarter, topics.company_id, topics.topic_number)
                              = (a.quarter, a.company_id, a.topic_number)
            LEFT JOIN theme_topics AS m ON (m.quarter, m.company_id, m.live_topic_number)
                                         = (a.quarter, a.company_id, a.topic_number)
            LEFT JOIN themes ON (themes.quarter, themes.theme_number) = (m.quarter, m.theme_number)
            ORDER BY s.place
            """  # noqa: S608  (the text is a constant of this module)
        ),
        {**values, "limit": limit},
    )
    return rows_as(SentenceRow, rows)
