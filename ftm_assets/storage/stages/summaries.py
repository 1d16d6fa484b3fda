"""The stage `topic_summaries`."""

from collections.abc import Iterator
from operator import attrgetter

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ftm_assets.analysis.topic_summaries import Summaries, TopicSummary
from ftm_assets.storage.schema import tables as t
from ftm_assets.storage.schema.rows import rows_as
from ftm_assets.storage.schema.vectors import binary, vectors_of
from ftm_assets.storage.stages.base import (
    FirmQuarter,
    FirmStage,
    TableRows,
    columns_of,
    of_firm_quarter,
    read_provenance,
    rows_of,
    with_vectors,
)
from ftm_assets.storage.stages.topics import TOPICS
from ftm_assets.storage.stages.transcripts import no_call


def read_summaries(connection: Connection, where: FirmQuarter) -> Summaries:
    """A firm-quarter's summaries with their vectors, in topic order. raises: StageNotMaterialized"""
    if not where.has_call:
        return Summaries((), vectors_of([]), "", ("", ""), no_call(where))
    provenance = read_provenance(connection, where, SUMMARIES.name)
    name, revision = provenance.details["encoder"]
    found = connection.execute(
        sa.select(*columns_of(t.TopicSummary, TopicSummary), binary(t.TopicSummary.embedding).label("vector"))
        .where(*of_firm_quarter(t.TopicSummary, where.quarter, where.company_id))
        .order_by(t.TopicSummary.topic_number)
    ).freeze()
    return Summaries(
        summaries=tuple(rows_as(TopicSummary, found())),
        embeddings=vectors_of([row.vector for row in found()]),
        input_hash=provenance.input_hash or "",
        encoder=(name, revision),
        reason=provenance.details["reason"],
    )


def find_reusable_summaries(
    connection: Connection, quarter: str, firm_key: str, input_hash: str
) -> tuple[TopicSummary, ...]:
    """A firm-quarter's summaries of the topics with this content hash, in topic order; none if they are of others."""
    found = connection.execute(
        sa.select(*columns_of(t.TopicSummary, TopicSummary))
        .join(t.Firm, t.Firm.company_id == t.TopicSummary.company_id)
        .join(
            t.Materialization,
            (t.Materialization.quarter == t.TopicSummary.quarter) & (t.Materialization.company_id == t.Firm.company_id),
        )
        .where(
            t.Firm.partition_key == firm_key,
            t.TopicSummary.quarter == quarter,
            t.Materialization.stage == SUMMARIES.name,
            t.Materialization.input_hash == input_hash,
        )
        .order_by(t.TopicSummary.topic_number)
    )
    return tuple(rows_as(TopicSummary, found))


def _rows(where: FirmQuarter, value: Summaries) -> Iterator[TableRows]:
    yield with_vectors(rows_of(where, t.TopicSummary, TopicSummary, value.summaries), "embedding", value.embeddings)


SUMMARIES = FirmStage(
    name="topic_summaries",
    value_type=Summaries,
    built_from=TOPICS.name,
    tables=(t.TopicSummary,),
    rows=_rows,
    read=read_summaries,
    encoder=attrgetter("encoder"),
)
