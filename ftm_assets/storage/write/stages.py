"""The stages of a firm-quarter: read, and written whole or not at all; where nothing changed, nothing is written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import psycopg
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.engine import Connection

from ftm_assets.analysis.sentences import CallDay, FirmTurns, Sentence, Sentences, Turn
from ftm_assets.analysis.topic_summaries import Summaries, TopicSummary
from ftm_assets.analysis.topics import Topic, Topics, TopicSentence
from ftm_assets.errors import FtmError
from ftm_assets.storage.schema import tables as t
from ftm_assets.storage.schema.vectors import binary, vectors_of
from ftm_assets.storage.write.copy import copy_rows

TRANSCRIPTS = "transcripts"
STAGES = ("firm_sentences", "firm_topics", "topic_summaries")
_TABLES: dict[str, tuple[type[t.Base], ...]] = {
    # Rows that refer to others stand before them.
    "topic_summaries": (t.TopicSummary,),
    "firm_topics": (t.TopicSentence, t.Topic),
    "firm_sentences": (t.Sentence,),
}

_CALL_ORDER = (t.Call.call_date, t.Call.transcript_id)

Stored = Sentences | Topics | Summaries
_Copy = tuple[type[t.Base], Sequence[str], Sequence[Sequence[object]]]


class UnknownFirm(FtmError):
    """A firm key that no ingested call has brought."""

    def __init__(self, firm_key: str) -> None:
        super().__init__(
            f"firm {firm_key!r} is not in the database; materialize transcripts of one of its quarters first"
        )


class NoCallForFirm(FtmError):
    """A stage has rows for a firm without a call in the quarter."""

    def __init__(self, quarter: str, firm_key: str) -> None:
        super().__init__(
            f"firm {firm_key!r} has no call in {quarter}, but rows to write; materialize transcripts first"
        )


class StageNotMaterialized(FtmError):
    """A stage is read before it was written."""

    def __init__(self, stage: str, quarter: str, firm_key: str) -> None:
        super().__init__(f"{stage} of firm {firm_key!r} in {quarter} is not there; materialize it first")


class StaleInputError(FtmError):
    """What a stage was made from has been replaced while it was being made."""

    def __init__(self, stage: str, quarter: str, firm_key: str) -> None:
        super().__init__(
            f"{stage} of firm {firm_key!r} in {quarter} was made from rows that have changed meanwhile; "
            "materialize it again, with what it rests on"
        )


class EncoderMismatch(FtmError):
    """A quarter's sentences and summaries share one encoder; another one would make vectors that cannot be compared."""

    def __init__(self, quarter: str, recorded: str, offered: str) -> None:
        weights, _, precision = recorded.partition("+")
        back = "FTM_ENCODER back"
        if offered.partition("+")[0] == weights:
            back = f"FTM_PRECISION={precision or 'fp32'}"
        super().__init__(
            f"{quarter} is encoded with {recorded}, not {offered}; set {back}, "
            f"or encode the whole quarter anew: ftm backfill {quarter} --reencode"
        )


class VectorsArchived(FtmError):
    """Something needs the vectors of sentences of a quarter that goes without them."""

    def __init__(self, quarter: str) -> None:
        super().__init__(
            f"{quarter} is archived: its sentences have no vectors; "
            f"make everything again that rests on them: ftm backfill {quarter} --reencode"
        )


@dataclass(frozen=True)
class FirmQuarter:
    """A partition of the firm assets. `has_call` is False for a firm that is known, but has no call in the quarter."""

    quarter: str
    firm_key: str
    company_id: int
    has_call: bool


def find_firm_quarter(connection: Connection, quarter: str, firm_key: str) -> FirmQuarter:
    """The firm-quarter of a partition key. raises: UnknownFirm"""
    found = connection.execute(
        sa.select(t.Firm.company_id, t.FirmQuarter.company_id.is_not(None))
        .outerjoin(t.FirmQuarter, (t.FirmQuarter.company_id == t.Firm.company_id) & (t.FirmQuarter.quarter == quarter))
        .where(t.Firm.partition_key == firm_key)
    ).first()
    if found is None:
        raise UnknownFirm(firm_key)
    return FirmQuarter(quarter, firm_key, found[0], found[1])


def write(
    connection: Connection,
    where: FirmQuarter,
    value: Stored,
    provenance: Mapping[str, Any],
    seconds: float | None = None,
) -> bool:
    """Replace a stage's rows and drop what was derived from them; returns False, touching no row, if they are equal.

    provenance: what wrote it; recorded with the versions of the value, even when the rows stay
    seconds:  what making it took; recorded only with something that differs from before
    raises:   NoCallForFirm, EncoderMismatch, StaleInputError
    """
    stage = stage_of(type(value))
    copies = _copies(where, value)
    if not where.has_call:
        if any(rows for _, _, rows in copies):
            raise NoCallForFirm(where.quarter, where.firm_key)
        return False
    lock(connection, where.quarter, where.company_id)
    if not isinstance(value, Topics):
        _claim_encoder(connection, where.quarter, value.encoder)
    changed = _stored_hash(connection, where, stage) != value.content_hash
    if changed:
        clear(connection, where.quarter, where.company_id, stage)
        try:
            for table, columns, rows in copies:
                copy_rows(connection, table.__table__, columns, rows)  # type: ignore[arg-type]
        except psycopg.errors.ForeignKeyViolation as error:
            raise StaleInputError(stage, where.quarter, where.firm_key) from error
    made_by = {**provenance, **value.provenance}
    record(connection, where.quarter, where.company_id, stage, value.content_hash, value.input_hash, made_by, seconds)
    if isinstance(value, Summaries):
        link_topics(connection, where.quarter, where.company_id)
    return changed


def check_encoder(connection: Connection, quarter: str, name: str, revision: str) -> None:
    """Raise what `write` would raise of this encoder; a quarter without vectors takes any. raises: EncoderMismatch"""
    recorded = connection.execute(
        sa.select(t.Quarter.encoder, t.Quarter.encoder_revision).where(
            t.Quarter.quarter == quarter, t.Quarter.encoder.is_not(None)
        )
    ).first()
    if recorded and tuple(recorded) != (name, revision):
        raise EncoderMismatch(quarter, f"{recorded[0]}@{recorded[1]}", f"{name}@{revision}")


def stage_of(kind: type) -> str:
    """The stage (and asset) whose rows a value of this type holds."""
    return {Sentences: "firm_sentences", Topics: "firm_topics", Summaries: "topic_summaries"}[kind]


def lock(connection: Connection, quarter: str, company_id: int | None = None) -> None:
    """Keep others from writing stages of a firm-quarter, or of a whole quarter, until the transaction ends.

    Without it, two writers of one firm meet in duplicate keys, and who deletes misses rows that are not committed yet.
    """
    rows = sa.select(t.FirmQuarter.company_id).where(t.FirmQuarter.quarter == quarter)
    if company_id is not None:
        rows = rows.where(t.FirmQuarter.company_id == company_id)
    # Always in the same order, or two could wait for each other. Foreign keys are checked all the same (key_share).
    connection.execute(rows.order_by(t.FirmQuarter.company_id).with_for_update(key_share=True))


def clear(connection: Connection, quarter: str, company_id: int, stage: str) -> None:
    """Delete a stage's rows of one firm-quarter and everything derived from them, themes aside."""
    lock(connection, quarter, company_id)
    gone = STAGES[STAGES.index(stage) :]
    for derived in reversed(gone):
        for table in _TABLES[derived]:
            connection.execute(sa.delete(table).where(*_of(table, quarter, company_id)))
    connection.execute(
        sa.delete(t.Materialization).where(
            *_of(t.Materialization, quarter, company_id), t.Materialization.stage.in_(gone)
        )
    )


def record(
    connection: Connection,
    quarter: str,
    company_id: int,
    stage: str,
    content_hash: str,
    input_hash: str | None,
    provenance: dict[str, Any],
    seconds: float | None = None,
) -> None:
    """Note what a stage holds, what it was built from and how long that took; of what is noted already, nothing."""
    row = insert(t.Materialization).values(
        quarter=quarter,
        company_id=company_id,
        stage=stage,
        content_hash=content_hash,
        input_hash=input_hash,
        provenance=provenance,
        seconds=seconds,
    )
    new = {"content_hash": row.excluded.content_hash, "input_hash": row.excluded.input_hash}
    connection.execute(
        row.on_conflict_do_update(
            index_elements=["quarter", "company_id", "stage"],
            set_={
                **new,
                "provenance": row.excluded.provenance,
                "seconds": row.excluded.seconds,
                "written_at": sa.func.now(),
            },
            where=sa.or_(
                *(getattr(t.Materialization, name).is_distinct_from(value) for name, value in new.items()),
                t.Materialization.provenance.is_distinct_from(row.excluded.provenance),
            ),
        )
    )


def link_topics(connection: Connection, quarter: str, company_id: int | None = None) -> None:
    """Let published themes point at their topics again, where these are back just as the themes found them."""
    connection.execute(
        sa.text(
            """
            UPDATE theme_topics AS topic SET live_topic_number = topic.topic_number
            FROM theme_inputs AS used JOIN materializations AS now USING (quarter, company_id, content_hash)
            WHERE now.stage = 'topic_summaries'
              AND (used.quarter, used.company_id) = (topic.quarter, topic.company_id)
              AND topic.quarter = :quarter AND topic.company_id = coalesce(:company_id, topic.company_id)
              AND topic.live_topic_number IS NULL
            """
        ),
        {"quarter": quarter, "company_id": company_id},
    )


def reencode(connection: Connection, quarter: str) -> None:
    """Forget the quarter's encoder and every vector made with it, so that another one may take its place.

    A quarter that was archived is not any more.
    """
    lock(connection, quarter)
    for derived in reversed(STAGES):
        for table in _TABLES[derived]:
            connection.execute(sa.delete(table).where(table.__table__.c.quarter == quarter))
    connection.execute(
        sa.delete(t.Materialization).where(t.Materialization.quarter == quarter, t.Materialization.stage.in_(STAGES))
    )
    connection.execute(
        sa.update(t.Quarter)
        .where(t.Quarter.quarter == quarter)
        .values(encoder=None, encoder_revision=None, archived_at=None)
    )


def read_turns(connection: Connection, where: FirmQuarter) -> FirmTurns:
    """The turns of a firm's calls in a quarter, versions that are not modelled left out; none, with the reason, for a
    firm without a call.
    """
    if not where.has_call:
        return FirmTurns(where.company_id, "", (), (), "", f"{where.firm_key} has no call in {where.quarter}")
    calls = connection.execute(
        sa.select(t.Call.transcript_id, t.Call.call_date)
        .where(*_of(t.Call, where.quarter, where.company_id), t.Call.superseded_by.is_(None))
        .order_by(*_CALL_ORDER)
    ).all()
    turns = connection.execute(
        sa.select(*(getattr(t.Component, f.name) for f in fields(Turn)))
        .join(t.Call, _same_call(t.Component))
        .where(*_of(t.Call, where.quarter, where.company_id), t.Call.superseded_by.is_(None))
        .order_by(*_CALL_ORDER, t.Component.component_order)
    )
    name: str = connection.execute(
        sa.select(t.FirmQuarter.name).where(*_of(t.FirmQuarter, where.quarter, where.company_id))
    ).scalar_one()
    return FirmTurns(
        company_id=where.company_id,
        company_name=name,
        calls=tuple(CallDay(*row) for row in calls),
        turns=tuple(Turn(*row) for row in turns),
        input_hash=_stage(connection, where, TRANSCRIPTS).content_hash,
        reason=None if calls else f"no call of {where.firm_key} in {where.quarter} is the version to model",
    )


def read_sentences(connection: Connection, where: FirmQuarter) -> Sentences:
    """A firm-quarter's sentences with their vectors, in call order. raises: StageNotMaterialized, VectorsArchived"""
    turns = read_turns(connection, where)
    if not where.has_call:
        return Sentences((), vectors_of([]), input_hash=turns.input_hash, reason=turns.reason)
    stage = _stage(connection, where, "firm_sentences")
    found = connection.execute(
        sa.select(*(getattr(t.Sentence, f.name) for f in fields(Sentence)), binary(t.Sentence.embedding))
        .join(t.Call, _same_call(t.Sentence))
        .where(*_of(t.Sentence, where.quarter, where.company_id))
        .order_by(*_CALL_ORDER, t.Sentence.position)
    ).all()
    if any(row[-1] is None for row in found):
        raise VectorsArchived(where.quarter)
    return Sentences(
        rows=tuple(Sentence(*row[:-1]) for row in found),
        embeddings=vectors_of([row[-1] for row in found]),
        names=turns.names,
        encoder=(stage.provenance["encoder"][0], stage.provenance["encoder"][1]),
        input_hash=stage.input_hash or "",
        reason=stage.provenance["reason"],
        calls=turns.calls,
        company_name=turns.company_name,
    )


def read_topics(connection: Connection, where: FirmQuarter) -> Topics:
    """A firm-quarter's topics with centroids and assignments. raises: StageNotMaterialized"""
    if not where.has_call:
        return Topics((), (), vectors_of([]), "", f"{where.firm_key} has no call in {where.quarter}")
    stage = _stage(connection, where, "firm_topics")
    topics = connection.execute(
        sa.select(t.Topic.topic_number, t.Topic.label, t.Topic.keywords, t.Topic.n_sentences, binary(t.Topic.centroid))
        .where(*_of(t.Topic, where.quarter, where.company_id))
        .order_by(t.Topic.topic_number)
    ).all()
    members = connection.execute(
        sa.select(*(getattr(t.TopicSentence, f.name) for f in fields(TopicSentence)))
        .join(
            t.Sentence,
            (t.Sentence.quarter == t.TopicSentence.quarter) & (t.Sentence.sentence_id == t.TopicSentence.sentence_id),
        )
        .join(t.Call, _same_call(t.Sentence))
        .where(*_of(t.TopicSentence, where.quarter, where.company_id))
        .order_by(*_CALL_ORDER, t.Sentence.position)
    )
    return Topics(
        topics=tuple(Topic(number, label, tuple(keywords), n) for number, label, keywords, n, _ in topics),
        members=tuple(TopicSentence(*row) for row in members),
        centroids=vectors_of([row[-1] for row in topics]),
        input_hash=stage.input_hash or "",
        reason=stage.provenance["reason"],
    )


def read_summaries(connection: Connection, quarter: str, firm_key: str, input_hash: str) -> tuple[TopicSummary, ...]:
    """A firm-quarter's summaries of the topics with this content hash, in topic order; none if they are of others."""
    found = connection.execute(
        sa.select(*(getattr(t.TopicSummary, f.name) for f in fields(TopicSummary)))
        .join(t.Firm, t.Firm.company_id == t.TopicSummary.company_id)
        .join(
            t.Materialization,
            (t.Materialization.quarter == t.TopicSummary.quarter) & (t.Materialization.company_id == t.Firm.company_id),
        )
        .where(
            t.Firm.partition_key == firm_key,
            t.TopicSummary.quarter == quarter,
            t.Materialization.stage == "topic_summaries",
            t.Materialization.input_hash == input_hash,
        )
        .order_by(t.TopicSummary.topic_number)
    )
    return tuple(TopicSummary(**{**row._mapping, "evidence": tuple(row.evidence)}) for row in found)


def _copies(where: FirmQuarter, value: Stored) -> list[_Copy]:
    key = (where.quarter, where.company_id)
    if isinstance(value, Sentences):
        columns = (
            "quarter company_id sentence_id transcript_id component_order position start_char end_char "
            "role section exchange boilerplate boilerplate_similarity text embedding"
        )
        return [
            (
                t.Sentence,
                columns.split(),
                [
                    (
                        *key,
                        *(s.sentence_id, s.transcript_id, s.component_order, s.position, s.start_char, s.end_char),
                        *(s.role, s.section, s.exchange, s.boilerplate, s.boilerplate_similarity, s.text, vector),
                    )
                    for s, vector in zip(value.rows, value.embeddings, strict=True)
                ],
            )
        ]
    if isinstance(value, Topics):
        return [
            (
                t.Topic,
                "quarter company_id topic_number label keywords n_sentences centroid".split(),
                [
                    (*key, topic.topic_number, topic.label, list(topic.keywords), topic.n_sentences, centroid)
                    for topic, centroid in zip(value.topics, value.centroids, strict=True)
                ],
            ),
            (
                t.TopicSentence,
                "quarter company_id sentence_id raw_topic topic_number probability rank".split(),
                [
                    (*key, m.sentence_id, m.raw_topic, m.topic_number, float(m.probability), m.rank)
                    for m in value.members
                ],
            ),
        ]
    return [
        (
            t.TopicSummary,
            "quarter company_id topic_number text title source model reason evidence embedding".split(),
            [
                (*key, s.topic_number, s.text, s.title, s.source, s.model, s.reason, list(s.evidence), vector)
                for s, vector in zip(value.summaries, value.embeddings, strict=True)
            ],
        )
    ]


def _claim_encoder(connection: Connection, quarter: str, encoder: tuple[str, str]) -> None:
    name, revision = encoder
    connection.execute(
        sa.update(t.Quarter)
        .where(t.Quarter.quarter == quarter, t.Quarter.encoder.is_(None))
        .values(encoder=name, encoder_revision=revision)
    )
    check_encoder(connection, quarter, name, revision)


def _stage(connection: Connection, where: FirmQuarter, stage: str) -> sa.Row[Any]:
    found = connection.execute(
        sa.select(t.Materialization).where(
            *_of(t.Materialization, where.quarter, where.company_id), t.Materialization.stage == stage
        )
    ).first()
    if found is None:
        raise StageNotMaterialized(stage, where.quarter, where.firm_key)
    return found


def _stored_hash(connection: Connection, where: FirmQuarter, stage: str) -> str | None:
    return connection.scalar(
        sa.select(t.Materialization.content_hash).where(
            *_of(t.Materialization, where.quarter, where.company_id), t.Materialization.stage == stage
        )
    )


def _of(table: type[t.Base], quarter: str, company_id: int) -> tuple[sa.ColumnElement[bool], sa.ColumnElement[bool]]:
    columns = table.__table__.c
    return columns.quarter == quarter, columns.company_id == company_id


def _same_call(table: type[t.Component] | type[t.Sentence]) -> sa.ColumnElement[bool]:
    return (t.Call.quarter == table.quarter) & (t.Call.transcript_id == table.transcript_id)
