"""Inputs of a quarter's prompts, read firm by firm and without the vectors of its sentences."""

from collections.abc import Iterator
from itertools import groupby

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ftm_assets.analysis.themes import ThemeTopic
from ftm_assets.analysis.topic_summaries import N_SENTENCES, TopicEvidence

_ROWS_PER_FETCH = 5000


def evidence_by_firm(connection: Connection, quarter: str) -> Iterator[tuple[TopicEvidence, ...]]:
    """The topics of each firm as from `analysis.topic_summaries.evidence_of`, in order of company id.

    Rows are fetched as they are needed, so that a quarter of any size takes the memory of a few firms.
    """
    rows = connection.execute(
        sa.text(
            """
            SELECT topics.company_id, topic_number, keywords, sentence_id, text
            FROM topics
            JOIN topic_sentences AS a USING (quarter, company_id, topic_number)
            JOIN sentences AS s USING (quarter, sentence_id)
            WHERE quarter = :quarter AND rank <= :n ORDER BY topics.company_id, topic_number, rank
            """
        ).execution_options(yield_per=_ROWS_PER_FETCH),
        {"quarter": quarter, "n": N_SENTENCES},
    )
    for _, of_firm in groupby(rows, key=lambda row: row.company_id):
        yield tuple(_evidence(list(of_topic)) for _, of_topic in groupby(of_firm, key=lambda row: row.topic_number))


def _evidence(rows: list[sa.Row[tuple[object, ...]]]) -> TopicEvidence:
    first = rows[0]
    return TopicEvidence(
        topic_number=first.topic_number,
        keywords=tuple(first.keywords),
        sentence_ids=tuple(row.sentence_id for row in rows),
        sentences=tuple(row.text for row in rows),
    )


def published_themes(
    connection: Connection, quarter: str
) -> tuple[dict[int, tuple[str, ...]], list[ThemeTopic], dict[tuple[int, int], str]]:
    """Keywords of the current themes by number, their topics, and the summaries of topics that still exist.

    All three are empty if no themes are published.
    """
    themes = connection.execute(
        sa.text(
            """
            SELECT theme_number, keywords FROM current_themes WHERE quarter = :quarter ORDER BY theme_number
            """
        ),
        {"quarter": quarter},
    ).all()
    members = connection.execute(
        sa.text(
            """
            SELECT m.company_id, m.topic_number, topic_label, theme_number, similarity, text
            FROM theme_topics AS m
            LEFT JOIN topic_summaries AS s ON (s.quarter, s.company_id, s.topic_number)
                                            = (m.quarter, m.company_id, m.live_topic_number)
            WHERE m.quarter = :quarter ORDER BY theme_number, m.company_id, m.topic_number
            """
        ),
        {"quarter": quarter},
    ).all()
    return (
        {row.theme_number: tuple(row.keywords) for row in themes},
        [
            ThemeTopic(row.company_id, row.topic_number, row.topic_label, row.theme_number, row.similarity)
            for row in members
        ],
        {(row.company_id, row.topic_number): row.text for row in members if row.text is not None},
    )
