"""A firm over the quarters: how much it said in each, and what of."""

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection


@dataclass(frozen=True)
class FirmQuarterRow:
    """A firm in a quarter under its name of then. n_calls leaves superseded versions out; n_modelled, n_in_topics and
    n_in_themes are sentences, each held by the one before.
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
    """A theme in which a firm has topics, how many of its sentences these hold, and their share of the modelled."""

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
            SELECT f.quarter, firms.partition_key, f.name, calls.n, said.n, said.n_modelled,
                   topics.n_sentences, topics.n_in_themes, topics.n, topics.n_themes
            FROM firm_quarters AS f
            JOIN firms USING (company_id)
            -- Quarter by quarter, because only then Postgres looks into the quarter's leaf alone.
            CROSS JOIN LATERAL (
                SELECT count(*) AS n FROM calls AS c
                WHERE (c.quarter, c.company_id) = (f.quarter, f.company_id) AND c.superseded_by IS NULL
            ) AS calls
            CROSS JOIN LATERAL (
                SELECT count(*) AS n, count(*) FILTER (WHERE s.boilerplate IS NULL) AS n_modelled
                FROM sentences AS s WHERE (s.quarter, s.company_id) = (f.quarter, f.company_id)
            ) AS said
            CROSS JOIN LATERAL (
                SELECT count(*) AS n, coalesce(sum(p.n_sentences), 0)::int AS n_sentences,
                       coalesce(sum(p.n_sentences) FILTER (WHERE m.theme_number IS NOT NULL), 0)::int AS n_in_themes,
                       count(DISTINCT m.theme_number) AS n_themes
                FROM topics AS p
                LEFT JOIN theme_topics AS m ON (m.quarter, m.company_id, m.live_topic_number)
                                             = (p.quarter, p.company_id, p.topic_number)
                WHERE (p.quarter, p.company_id) = (f.quarter, f.company_id)
            ) AS topics
            WHERE f.company_id = :company_id ORDER BY f.quarter
            """
        ),
        {"company_id": company_id},
    )
    return [FirmQuarterRow(*row) for row in rows]


def firm_themes(connection: Connection, company_id: int, quarter: str | None = None) -> list[FirmThemeRow]:
    """The themes of a firm, quarter by quarter (or of one), those with most of its sentences first."""
    rows = connection.execute(
        sa.text(
            """
            SELECT f.quarter, themes.theme_id, themes.label, in_theme.n, in_theme.n_sentences,
                   in_theme.n_sentences::float / said.n_modelled
            FROM firm_quarters AS f
            CROSS JOIN LATERAL (
                SELECT count(*) AS n_modelled FROM sentences AS s
                WHERE (s.quarter, s.company_id) = (f.quarter, f.company_id) AND s.boilerplate IS NULL
            ) AS said
            CROSS JOIN LATERAL (
                SELECT m.theme_number, count(*) AS n, sum(p.n_sentences)::int AS n_sentences
                FROM theme_topics AS m
                JOIN topics AS p ON (p.quarter, p.company_id, p.topic_number)
                                  = (m.quarter, m.company_id, m.live_topic_number)
                WHERE (m.quarter, m.company_id) = (f.quarter, f.company_id) GROUP BY m.theme_number
            ) AS in_theme
            JOIN themes ON (themes.quarter, themes.theme_number) = (f.quarter, in_theme.theme_number)
            WHERE f.company_id = :company_id AND f.quarter = coalesce(CAST(:quarter AS text), f.quarter)
            ORDER BY f.quarter, in_theme.n_sentences DESC, themes.theme_number
            """
        ),
        {"company_id": company_id, "quarter": quarter},
    )
    return [FirmThemeRow(*row) for row in rows]
