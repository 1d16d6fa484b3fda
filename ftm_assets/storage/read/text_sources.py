"""Who wrote the summaries of a quarter's topics and the descriptions of its themes."""

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection


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
            FROM themes WHERE quarter = :quarter AND run_number = (
                SELECT max(run_number) FROM theme_runs WHERE quarter = :quarter
            ) GROUP BY 2, 3
            ORDER BY 1 DESC, n DESC, 2, 3, 4
            """
        ),
        {"quarter": quarter},
    )
    return [SummarySource(**row._mapping) for row in rows]


def firms_by_keywords(connection: Connection, quarter: str) -> list[str]:
    """Keys of the firms whose current topics have a summary made of keywords."""
    return list(
        connection.scalars(
            sa.text(
                """
                SELECT partition_key FROM firms
                JOIN materializations AS topics USING (company_id)
                JOIN materializations AS summaries USING (quarter, company_id)
                WHERE quarter = :quarter AND topics.stage = 'firm_topics' AND summaries.stage = 'topic_summaries'
                  AND summaries.input_hash = topics.content_hash
                  AND EXISTS (
                      SELECT FROM topic_summaries AS s
                      WHERE (s.quarter, s.company_id, s.source) = (topics.quarter, topics.company_id, 'keywords')
                  )
                ORDER BY partition_key
                """
            ),
            {"quarter": quarter},
        )
    )


def themes_by_keywords(connection: Connection, quarter: str) -> int:
    """Number of current themes that no language model has described."""
    found = summary_sources(connection, quarter)
    return sum(each.n for each in found if each.what == "themes" and each.source == "keywords")
