"""What the themes of a quarter are made from, read from its rows and from those of the last themes."""

from collections import defaultdict
from collections.abc import Collection, Mapping
from statistics import fmean
from typing import Any

import sqlalchemy as sa
from pgvector.sqlalchemy import Vector
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlalchemy.engine import Connection

from ftm_assets.analysis.themes import (
    N_EXEMPLARS,
    N_SPOKEN,
    KnownThemes,
    QuarterTopic,
    QuarterTopics,
    Speakers,
    ThemeDescription,
)
from ftm_assets.analysis.vectors import DIMENSIONS, unit_rows
from ftm_assets.analysis.words import terms
from ftm_assets.storage.read.theme_state import current_run, current_summaries, n_expected
from ftm_assets.storage.schema import tables as t
from ftm_assets.storage.schema.vectors import binary, vectors_of
from ftm_assets.storage.server.table_stats import analyze
from ftm_assets.storage.stages.sentences import VectorsArchived


def analyze_topic_tables(connection: Connection) -> None:
    """Let Postgres know what `read_quarter_topics` will find: the last firm may have been written a second ago.

    In a transaction of its own: until its end others can neither do the same nor create a quarter.
    """
    analyze(connection, t.Materialization, t.Topic, t.TopicSummary, t.TopicSentence)


def read_quarter_topics(connection: Connection, quarter: str) -> QuarterTopics:
    """All that the themes of a quarter are made from, firms in order of company id; of a firm that is behind, nothing.

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
    speakers = _speakers(connection, quarter, firms)
    said = _said(connection, quarter, speakers)
    as_of = connection.scalar(
        sa.select(sa.func.max(t.Call.available_at)).where(t.Call.quarter == quarter, t.Call.superseded_by.is_(None))
    )
    return QuarterTopics(
        quarter=quarter,
        topics=tuple(
            QuarterTopic(r.company_id, r.topic_number, r.label, *said[r.company_id, r.topic_number], r.text)
            for r in rows
        ),
        exemplars=unit_rows(vectors_of([r.exemplar for r in rows])),
        summaries=vectors_of([r.summary for r in rows]),
        firm_hashes=firms,
        n_expected=n_expected(connection, quarter),
        n_by_keywords=sum(r.source == "keywords" for r in rows),
        as_of=as_of,
        known=_known(connection, quarter),
        encoder=connection.scalar(
            sa.select(t.Quarter.encoder + "@" + t.Quarter.encoder_revision).where(t.Quarter.quarter == quarter)
        ),
        speakers=speakers,
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
    for number, company_id, topic_number in connection.execute(
        sa.select(t.ThemeTopic.theme_number, t.ThemeTopic.company_id, t.ThemeTopic.topic_number).where(
            t.ThemeTopic.quarter == quarter
        )
    ):
        members[number].add((company_id, topic_number))
    return KnownThemes(
        numbers=tuple(members),
        centroids=vectors_of([row.centroid for row in current]),
        next_number=(highest or 0) + 1,
        members=tuple(frozenset(topics) for topics in members.values()),
        encoder=run.provenance.get("encoder"),
        descriptions={
            r.theme_number: ThemeDescription(r.theme_number, r.description, "model", r.description_model, r.title)
            for r in current
            if r.description_source == "model"
        },
    )


def _speakers(connection: Connection, quarter: str, firms: Collection[int]) -> dict[int, Speakers]:
    """Company id -> name of the firm, and of everyone who speaks in its modelled calls."""
    speakers = connection.execute(
        sa.select(t.Call.company_id, t.FirmQuarter.name, sa.func.array_agg(t.Component.person.distinct()))
        .join(
            t.Component, (t.Component.quarter == t.Call.quarter) & (t.Component.transcript_id == t.Call.transcript_id)
        )
        .join(
            t.FirmQuarter,
            (t.FirmQuarter.quarter == t.Call.quarter) & (t.FirmQuarter.company_id == t.Call.company_id),
        )
        .where(t.Call.quarter == quarter, t.Call.superseded_by.is_(None), t.Call.company_id.in_(firms))
        .group_by(t.Call.company_id, t.FirmQuarter.name)
    )
    return {company_id: Speakers(name, tuple(persons)) for company_id, name, persons in speakers}


def _said(
    connection: Connection, quarter: str, speakers: Mapping[int, Speakers]
) -> dict[tuple[int, int | None], tuple[tuple[str, ...], float]]:
    """Company id and topic number -> what its N_SPOKEN best sentences say: their terms, each once a sentence, and how
    near they are to boilerplate seeds on average.
    """
    sentences = connection.execute(
        sa.select(
            t.TopicSentence.company_id,
            t.TopicSentence.topic_number,
            t.Sentence.text,
            sa.func.coalesce(t.Sentence.boilerplate_similarity, 0.0),
        )
        .join(
            t.Sentence,
            (t.Sentence.quarter == t.TopicSentence.quarter) & (t.Sentence.sentence_id == t.TopicSentence.sentence_id),
        )
        .where(
            t.TopicSentence.quarter == quarter,
            t.TopicSentence.company_id.in_(speakers),
            t.TopicSentence.rank <= N_SPOKEN,
        )
        .order_by(t.TopicSentence.company_id, t.TopicSentence.topic_number, t.TopicSentence.rank)
    )
    found: defaultdict[tuple[int, int | None], list[tuple[list[str], float]]] = defaultdict(list)
    once: dict[str, str] = {}  # Equal terms as one string: a full quarter says 22 million.
    for firm, number, text, boilerplate_similarity in sentences:
        said = dict.fromkeys(terms(text, speakers[firm].name_tokens))
        found[firm, number].append(([once.setdefault(term, term) for term in said], boilerplate_similarity))
    return {
        topic: (tuple(term for of_sentence, _ in best for term in of_sentence), fmean(near for _, near in best))
        for topic, best in found.items()
    }


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
