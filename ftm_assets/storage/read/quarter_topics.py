"""Reads the input of a quarter's themes: its topics with their sentences and vectors, and the themes before."""

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import sqlalchemy as sa
from pgvector.sqlalchemy import Vector
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlalchemy.engine import Connection

from ftm_assets.analysis.themes import (
    N_EXEMPLARS,
    N_KEYWORD_SENTENCES,
    KnownThemes,
    QuarterTopic,
    QuarterTopics,
    Speakers,
    ThemeDescription,
)
from ftm_assets.analysis.vectors import DIMENSIONS, unit_rows
from ftm_assets.storage.read.theme_state import current_run, current_summaries, n_expected
from ftm_assets.storage.schema import tables as t
from ftm_assets.storage.schema.vectors import binary, vectors_of
from ftm_assets.storage.server.table_stats import analyze
from ftm_assets.storage.stages.base import same_call
from ftm_assets.storage.stages.sentences import VectorsArchived


def analyze_topic_tables(connection: Connection) -> None:
    """Refresh the statistics of the tables that `read_quarter_topics` reads: a firm may have been written just now.

    In a transaction of its own: until its end others can neither do the same nor create a quarter.
    """
    analyze(connection, t.Materialization, t.Topic, t.TopicSummary, t.TopicSentence)


def read_quarter_topics(connection: Connection, quarter: str) -> QuarterTopics:
    """Everything that the themes of a quarter are made from, firms in order of company id, stale firms left out.

    A topic's exemplar vector is the unit-length mean of its N_EXEMPLARS best sentences.

    raises: VectorsArchived
    """
    firms = current_summaries(connection, quarter)
    rows = connection.execute(
        sa.select(
            t.Topic.company_id,
            t.Topic.topic_number,
            t.Topic.label,
            t.TopicSummary.text,
            t.TopicSummary.source,
            binary(t.TopicSummary.embedding).label("summary"),
            binary(_exemplar_mean()).label("exemplar"),
        )
        .join(t.TopicSummary, _same_topic(t.TopicSummary))
        .where(t.Topic.quarter == quarter, t.Topic.company_id.in_(firms))
        .order_by(t.Topic.company_id, t.Topic.topic_number)
    ).all()
    if any(row.exemplar is None for row in rows):
        raise VectorsArchived(quarter)
    best = _best_sentences(connection, quarter, firms)
    as_of = connection.scalar(
        sa.select(sa.func.max(t.Call.available_at)).where(t.Call.quarter == quarter, t.Call.superseded_by.is_(None))
    )
    return QuarterTopics(
        quarter=quarter,
        topics=tuple(
            QuarterTopic(
                company_id=row.company_id,
                topic_number=row.topic_number,
                label=row.label,
                sentences=tuple(best[row.company_id, row.topic_number].texts),
                boilerplate_similarity=fmean(best[row.company_id, row.topic_number].boilerplate_similarities),
                summary=row.text,
            )
            for row in rows
        ),
        exemplars=unit_rows(vectors_of([row.exemplar for row in rows])),
        summaries=vectors_of([row.summary for row in rows]),
        firm_hashes=firms,
        n_expected=n_expected(connection, quarter),
        n_by_keywords=sum(row.source == "keywords" for row in rows),
        as_of=as_of,
        known=_known(connection, quarter),
        encoder=connection.scalar(
            sa.select(t.Quarter.encoder + "@" + t.Quarter.encoder_revision).where(t.Quarter.quarter == quarter)
        ),
        speakers=_speakers(connection, quarter, firms),
    )


def _known(connection: Connection, quarter: str) -> KnownThemes:
    run = current_run(connection, quarter)
    if run is None:
        return KnownThemes()
    current = connection.execute(
        sa.select(
            t.Theme.theme_number,
            t.Theme.title,
            t.Theme.description,
            t.Theme.description_source,
            t.Theme.description_model,
            binary(t.Theme.centroid).label("centroid"),
        )
        .where(t.Theme.quarter == quarter, t.Theme.run_number == run.run_number)
        .order_by(t.Theme.theme_number)
    ).all()
    highest = connection.scalar(sa.select(sa.func.max(t.Theme.theme_number)).where(t.Theme.quarter == quarter))
    members: dict[int, set[tuple[int, int]]] = {row.theme_number: set() for row in current}
    for topic in connection.execute(
        sa.select(t.ThemeTopic.theme_number, t.ThemeTopic.company_id, t.ThemeTopic.topic_number).where(
            t.ThemeTopic.quarter == quarter
        )
    ):
        members[topic.theme_number].add((topic.company_id, topic.topic_number))
    return KnownThemes(
        numbers=tuple(members),
        centroids=vectors_of([row.centroid for row in current]),
        next_number=(highest or 0) + 1,
        members=tuple(frozenset(topics) for topics in members.values()),
        encoder=run.provenance.get("encoder"),
        descriptions={
            row.theme_number: ThemeDescription(
                theme_number=row.theme_number,
                text=row.description,
                source="model",
                model=row.description_model,
                title=row.title,
            )
            for row in current
            if row.description_source == "model"
        },
    )


def _speakers(connection: Connection, quarter: str, firms: Collection[int]) -> dict[int, Speakers]:
    """Company id -> name of the firm, and of everyone who speaks in its modelled calls."""
    rows = connection.execute(
        sa.select(
            t.Call.company_id,
            t.FirmQuarter.name.label("company_name"),
            sa.func.array_agg(t.Component.person.distinct()).label("persons"),
        )
        .join(t.Component, same_call(t.Component))
        .join(
            t.FirmQuarter,
            (t.FirmQuarter.quarter == t.Call.quarter) & (t.FirmQuarter.company_id == t.Call.company_id),
        )
        .where(t.Call.quarter == quarter, t.Call.superseded_by.is_(None), t.Call.company_id.in_(firms))
        .group_by(t.Call.company_id, t.FirmQuarter.name)
    )
    return {row.company_id: Speakers(row.company_name, tuple(row.persons)) for row in rows}


@dataclass(frozen=True, slots=True)
class _BestSentences:
    """The N_KEYWORD_SENTENCES best sentences of a topic, the best first, and how near each is to a boilerplate seed."""

    texts: list[str] = field(default_factory=list)
    boilerplate_similarities: list[float] = field(default_factory=list)


def _best_sentences(
    connection: Connection, quarter: str, firms: Collection[int]
) -> dict[tuple[int, int | None], _BestSentences]:
    """Company id and topic number -> the best sentences of the topic."""
    rows = connection.execute(
        sa.select(
            t.TopicSentence.company_id,
            t.TopicSentence.topic_number,
            t.Sentence.text,
            sa.func.coalesce(t.Sentence.boilerplate_similarity, 0.0).label("boilerplate_similarity"),
        )
        .join(
            t.Sentence,
            (t.Sentence.quarter == t.TopicSentence.quarter) & (t.Sentence.sentence_id == t.TopicSentence.sentence_id),
        )
        .where(
            t.TopicSentence.quarter == quarter,
            t.TopicSentence.company_id.in_(firms),
            t.TopicSentence.rank <= N_KEYWORD_SENTENCES,
        )
        .order_by(t.TopicSentence.company_id, t.TopicSentence.topic_number, t.TopicSentence.rank)
    )
    best: defaultdict[tuple[int, int | None], _BestSentences] = defaultdict(_BestSentences)
    for row in rows:
        of_topic = best[row.company_id, row.topic_number]
        of_topic.texts.append(row.text)
        of_topic.boilerplate_similarities.append(row.boilerplate_similarity)
    return best


def _exemplar_mean() -> sa.ScalarSelect[Any]:
    # In single precision, and in order of rank: a sum of floats depends on it.
    vector = sa.cast(t.Sentence.embedding, Vector(DIMENSIONS))
    return (
        sa.select(sa.func.avg(aggregate_order_by(vector, t.TopicSentence.rank), type_=Vector(DIMENSIONS)))
        .select_from(t.Sentence)
        .join(
            t.TopicSentence,
            (t.TopicSentence.quarter == t.Sentence.quarter) & (t.TopicSentence.sentence_id == t.Sentence.sentence_id),
        )
        .where(
            t.TopicSentence.quarter == t.Topic.quarter,
            t.TopicSentence.company_id == t.Topic.company_id,
            t.TopicSentence.topic_number == t.Topic.topic_number,
            t.TopicSentence.rank <= N_EXEMPLARS,
        )
        .scalar_subquery()
    )


def _same_topic(table: type[t.TopicSummary]) -> sa.ColumnElement[bool]:
    return (
        (table.quarter == t.Topic.quarter)
        & (table.company_id == t.Topic.company_id)
        & (table.topic_number == t.Topic.topic_number)
    )
