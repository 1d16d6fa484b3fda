"""The stage `firm_topics`."""

from collections.abc import Iterator

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ftm_assets.analysis.topics import Topic, Topics, TopicSentence
from ftm_assets.storage.schema import tables as t
from ftm_assets.storage.schema.rows import rows_as
from ftm_assets.storage.schema.vectors import binary, vectors_of
from ftm_assets.storage.stages.base import (
    CALL_ORDER,
    FirmQuarter,
    FirmStage,
    TableRows,
    columns_of,
    of_firm_quarter,
    read_provenance,
    rows_of,
    same_call,
    with_vectors,
)
from ftm_assets.storage.stages.sentences import SENTENCES
from ftm_assets.storage.stages.transcripts import no_call


def read_topics(connection: Connection, where: FirmQuarter) -> Topics:
    """A firm-quarter's topics with centroids and assignments. raises: StageNotMaterialized"""
    if not where.has_call:
        return Topics((), (), vectors_of([]), "", no_call(where))
    provenance = read_provenance(connection, where, TOPICS.name)
    topics = connection.execute(
        sa.select(*columns_of(t.Topic, Topic), binary(t.Topic.centroid).label("vector"))
        .where(*of_firm_quarter(t.Topic, where.quarter, where.company_id))
        .order_by(t.Topic.topic_number)
    ).freeze()
    same_sentence = (t.Sentence.quarter == t.TopicSentence.quarter) & (
        t.Sentence.sentence_id == t.TopicSentence.sentence_id
    )
    members = connection.execute(
        sa.select(*columns_of(t.TopicSentence, TopicSentence))
        .join(t.Sentence, same_sentence)
        .join(t.Call, same_call(t.Sentence))
        .where(*of_firm_quarter(t.TopicSentence, where.quarter, where.company_id))
        .order_by(*CALL_ORDER, t.Sentence.position)
    )
    return Topics(
        topics=tuple(rows_as(Topic, topics())),
        members=tuple(rows_as(TopicSentence, members)),
        centroids=vectors_of([row.vector for row in topics()]),
        input_hash=provenance.input_hash or "",
        reason=provenance.details["reason"],
    )


def _rows(where: FirmQuarter, value: Topics) -> Iterator[TableRows]:
    yield with_vectors(rows_of(where, t.Topic, Topic, value.topics), "centroid", value.centroids)
    yield rows_of(where, t.TopicSentence, TopicSentence, value.members)


TOPICS = FirmStage(
    name="firm_topics",
    value_type=Topics,
    built_from=SENTENCES.name,
    tables=(t.Topic, t.TopicSentence),
    rows=_rows,
    read=read_topics,
)
