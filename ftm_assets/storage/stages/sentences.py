"""The stage `firm_sentences`."""

from collections.abc import Iterator
from operator import attrgetter

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ftm_assets.analysis.sentences import Sentence, Sentences
from ftm_assets.errors import FtmError
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
from ftm_assets.storage.stages.transcripts import TRANSCRIPTS, read_turns


class VectorsArchived(FtmError):
    """The vectors of a quarter's sentences are needed, and were dropped when it was archived."""

    def __init__(self, quarter: str) -> None:
        super().__init__(
            f"{quarter} is archived: its sentences have no vectors; "
            f"make everything again that rests on them: ftm backfill {quarter} --reencode"
        )


def read_sentences(connection: Connection, where: FirmQuarter) -> Sentences:
    """A firm-quarter's sentences with their vectors, in call order. raises: StageNotMaterialized, VectorsArchived"""
    turns = read_turns(connection, where)
    if not where.has_call:
        return Sentences((), vectors_of([]), input_hash=turns.input_hash, reason=turns.reason)
    provenance = read_provenance(connection, where, SENTENCES.name)
    name, revision = provenance.details["encoder"]
    found = connection.execute(
        sa.select(*columns_of(t.Sentence, Sentence), binary(t.Sentence.embedding).label("vector"))
        .join(t.Call, same_call(t.Sentence))
        .where(*of_firm_quarter(t.Sentence, where.quarter, where.company_id))
        .order_by(*CALL_ORDER, t.Sentence.position)
    ).freeze()
    if any(row.vector is None for row in found()):
        raise VectorsArchived(where.quarter)
    return Sentences(
        rows=tuple(rows_as(Sentence, found())),
        embeddings=vectors_of([row.vector for row in found()]),
        names=turns.names,
        encoder=(name, revision),
        input_hash=provenance.input_hash or "",
        reason=provenance.details["reason"],
        calls=turns.calls,
        company_name=turns.company_name,
    )


def _rows(where: FirmQuarter, value: Sentences) -> Iterator[TableRows]:
    yield with_vectors(rows_of(where, t.Sentence, Sentence, value.rows), "embedding", value.embeddings)


SENTENCES = FirmStage(
    name="firm_sentences",
    value_type=Sentences,
    built_from=TRANSCRIPTS,
    tables=(t.Sentence,),
    rows=_rows,
    read=read_sentences,
    encoder=attrgetter("encoder"),
)
