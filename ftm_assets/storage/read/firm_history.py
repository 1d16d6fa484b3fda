"""A firm over the quarters: how much it said in each, and about what."""

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ftm_assets.storage.schema.rows import rows_as


@dataclass(frozen=True)
class FirmQuarterRow:
    """A firm in a quarter, under its name in that quarter.

    n_calls:                              without superseded versions
    n_modelled, n_in_topics, n_in_themes: sentences; each count includes the next one
    """

    quarter: str
    firm_key: str
    name: str
    n_calls: int
    n_sentences: int
    n_modelled: int
    n_in_topics: int
    n_in_themes: int
    n_topics: int
    n_themes: int


@dataclass(frozen=True)
class FirmThemeRow:
    """A theme in which a firm has topics, the firm's sentences in it, and their share of its modelled sentences."""

    quarter: str
    theme_id: str
    label: str
    n_topics: int
    n_sentences: int
    share: float


def firm_profile(connection: Connection, company_id: int) -> list[FirmQuarterRow]:
    """A firm's quarters, in order, each with its calls, sentences, topics and themes."""
    rows = connection.execute(
        sa.text(
            """
            SELECT f.quarter, firms.partition_key AS firm_key, f.name, held.n_calls, spoken.n_sentences,
                   spoken.n_modelled, topics.n_in_topics, topics.n_in_themes, topics.n_topics, topics.n_themes
            FROM firm_quarters AS f
            JOIN firms USING (company_id)
            -- Quarter by quarter, because only then Postgres looks into the partition of the quarter alone.
            CROSS JOIN LATERAL (
                SELECT count(*) AS n_calls FROM calls AS c
                WHERE (c.quarter, c.company_id) = (f.quarter, f.company_id) AND c.superseded_by IS NULL
            ) AS held
            CROSS JOIN LATERAL (
                SELECT count(*) AS n_sentences, count(*) FILTER (WHERE s.boilerplate IS NULL) AS n_modelled
                FROM sentences AS s WHERE (s.quarter, s.company_id) = (f.quarter, f.company_id)
            ) AS spoken
            CROSS JOIN LATERAL (
                SELECT count(*) AS n_topics, coalesce(sum(n_sentences), 0)::int AS n_in_topics,
                       coalesce(sum(n_sentences) FILTER (WHERE theme_number IS NOT NULL), 0)::int AS n_in_themes,
                       count(DISTINCT theme_number) AS n_themes
                FROM topic_context AS t WHERE (t.quarter, t.company_id) = (f.quarter, f.company_id)
            ) AS topics
            WHERE f.company_id = :company_id ORDER BY f.quarter
            """
        ),
        {"company_id": company_id},
    )
    return rows_as(FirmQuarterRow, rows)


def firm_themes(connection: Connection, company_id: int, quarter: str | None = None) -> list[FirmThemeRow]:
    """The themes of a firm, quarter by quarter (or of one quarter), those with most of its sentences first."""
    rows = connection.execute(
        sa.text(
            """
            SELECT quarter, theme_id, theme_label AS label, n_topics, n_sentences, share FROM firm_theme_panel
            WHERE company_id = :company_id AND n_topics > 0 AND quarter = coalesce(CAST(:quarter AS text), quarter)
            ORDER BY quarter, n_sentences DESC, theme_number
            """
        ),
        {"company_id": company_id, "quarter": quarter},
    )
    return rows_as(FirmThemeRow, rows)
