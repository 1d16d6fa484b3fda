"""Who wrote the summaries of a quarter's topics and the descriptions of its themes."""

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ftm_assets.storage.schema.rows import rows_as
from ftm_assets.storage.stages import SUMMARIES


@dataclass(frozen=True)
class SummarySource:
    """Texts of a quarter with the same origin.

    what:   topics or themes
    source: model or keywords
    model:  the language model, None for keywords
    reason: kind of reason why they are made of keywords, None for a model
    n:      how many texts
    """

    what: str
    source: str
    model: str | None
    reason: str | None
    n: int


def summary_sources(connection: Connection, quarter: str) -> list[SummarySource]:
    """Who wrote the summaries of the quarter's topics and the descriptions of its current themes, most first."""
    rows = connection.execute(
        sa.text(
            """
            -- Before reasons were kept there was no language model.
            SELECT 'topics' AS what, source, model,
                   CASE source WHEN 'keywords' THEN split_part(coalesce(reason, 'no model'), ':', 1) END AS reason,
                   count(*) AS n
            FROM topic_summaries WHERE quarter = :quarter GROUP BY 2, 3, 4
            UNION ALL
            SELECT 'themes', coalesce(description_source, 'keywords'), description_model, NULL, count(*)
            FROM current_themes WHERE quarter = :quarter GROUP BY 2, 3
            ORDER BY 1 DESC, n DESC, 2, 3, 4
            """
        ),
        {"quarter": quarter},
    )
    return rows_as(SummarySource, rows)


def firms_by_keywords(connection: Connection, quarter: str) -> list[str]:
    """Keys of the firms whose current topics have a summary made of keywords."""
    return list(
        connection.scalars(
            sa.text(
                """
                SELECT firm_key FROM firm_status AS f
                WHERE quarter = :quarter AND stage = :stage AND status = 'current'
                  AND EXISTS (
                      SELECT FROM topic_summaries AS s
                      WHERE (s.quarter, s.company_id, s.source) = (f.quarter, f.company_id, 'keywords')
                  )
                ORDER BY firm_key
                """
            ),
            {"quarter": quarter, "stage": SUMMARIES.name},
        )
    )


def themes_by_keywords(connection: Connection, quarter: str) -> int:
    """Number of current themes that no language model has described."""
    found = summary_sources(connection, quarter)
    return sum(each.n for each in found if each.what == "themes" and each.source == "keywords")
