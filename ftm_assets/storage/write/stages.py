"""Stages of a firm-quarter, written whole or not at all. Where nothing changed, nothing is written. Decision 10."""

from collections.abc import Collection
from typing import Any

import psycopg
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.engine import Connection

from ftm_assets.errors import FtmError
from ftm_assets.storage.schema import tables as t
from ftm_assets.storage.stages import THEME_INPUT, derived_from, find_stage
from ftm_assets.storage.stages.base import (
    FirmQuarter,
    FirmStage,
    Provenance,
    StageValue,
    find_provenance,
    of_firm_quarter,
)
from ftm_assets.storage.stages.transcripts import TRANSCRIPTS
from ftm_assets.storage.write.copy import copy_rows


class NoCallForFirm(FtmError):
    """A stage has rows for a firm without a call in the quarter."""

    def __init__(self, quarter: str, firm_key: str) -> None:
        super().__init__(
            f"firm {firm_key!r} has no call in {quarter}, but rows to write; materialize transcripts first"
        )


class StaleInputError(FtmError):
    """The rows that a stage was made from were replaced while it was being made."""

    def __init__(self, stage: str, quarter: str, firm_key: str) -> None:
        super().__init__(
            f"{stage} of firm {firm_key!r} in {quarter} was made from rows that have changed meanwhile; "
            "materialize it again, with what it rests on"
        )


class EncoderMismatch(FtmError):
    """A quarter's sentences and summaries share one encoder; vectors of another one could not be compared."""

    def __init__(self, quarter: str, recorded: str, offered: str) -> None:
        weights, _, precision = recorded.partition("+")
        back = "FTM_ENCODER back"
        if offered.partition("+")[0] == weights:
            back = f"FTM_PRECISION={precision or 'fp32'}"
        super().__init__(
            f"{quarter} is encoded with {recorded}, not {offered}; set {back}, "
            f"or encode the whole quarter again: ftm backfill {quarter} --reencode"
        )


def write(connection: Connection, where: FirmQuarter, value: StageValue, provenance: Provenance) -> bool:
    """Replace a stage's rows and delete what was derived from them; returns False, touching no row, if they are equal.

    provenance: see `Provenance.of`; what differs is recorded even when the rows stay
    raises:     TypeError if no stage holds such a value, NoCallForFirm, EncoderMismatch, StaleInputError
    """
    stage = find_stage(type(value))
    if stage is None:
        raise TypeError(f"no stage holds a {type(value).__name__}")
    tables = list(stage.rows(where, value))
    if not where.has_call:
        if any(table.rows for table in tables):
            raise NoCallForFirm(where.quarter, where.firm_key)
        return False
    lock_firm_quarters(connection, where.quarter, where.company_id)
    if stage.encoder is not None:
        _claim_encoder(connection, where.quarter, *stage.encoder(value))
    before = find_provenance(connection, where.quarter, where.company_id, stage.name)
    changed = before is None or before.content_hash != provenance.content_hash
    if changed:
        clear(connection, where.quarter, where.company_id, stage, *derived_from(stage.name))
        try:
            for table in tables:
                copy_rows(connection, table.table.__table__, table.columns, table.rows)  # type: ignore[arg-type]
        except psycopg.errors.ForeignKeyViolation as error:
            raise StaleInputError(stage.name, where.quarter, where.firm_key) from error
    record_provenance(connection, where.quarter, where.company_id, stage.name, provenance)
    if stage is THEME_INPUT:
        link_topics(connection, where.quarter, where.company_id)
    return changed


def lock_firm_quarters(connection: Connection, quarter: str, company_id: int | None = None) -> None:
    """Keep others from writing stages of a firm-quarter, or of a whole quarter, until the transaction ends.

    Without it, two writers of one firm collide in duplicate keys, and a delete misses rows that are not committed yet.
    """
    rows = sa.select(t.FirmQuarter.company_id).where(t.FirmQuarter.quarter == quarter)
    if company_id is not None:
        rows = rows.where(t.FirmQuarter.company_id == company_id)
    # Always in the same order, or two could wait for each other. Foreign keys are checked all the same (key_share).
    connection.execute(rows.order_by(t.FirmQuarter.company_id).with_for_update(key_share=True))


def clear(connection: Connection, quarter: str, company_id: int, *stages: FirmStage[Any]) -> None:
    """Delete all that a firm-quarter has of these stages. Stages that depend on others come after them.

    Published themes keep their rows.
    """
    lock_firm_quarters(connection, quarter, company_id)
    for table in _tables_to_empty(stages):
        connection.execute(sa.delete(table).where(*of_firm_quarter(table, quarter, company_id)))
    connection.execute(
        sa.delete(t.Materialization).where(
            *of_firm_quarter(t.Materialization, quarter, company_id),
            t.Materialization.stage.in_([stage.name for stage in stages]),
        )
    )


def _tables_to_empty(stages: Collection[FirmStage[Any]]) -> list[type[t.Base]]:
    """The tables of these stages, those that refer to others first."""
    return [table for stage in stages for table in stage.tables][::-1]


def record_provenance(
    connection: Connection, quarter: str, company_id: int, stage: str, provenance: Provenance
) -> None:
    """Record where a stage's rows come from. Does nothing if only the seconds differ from what is recorded."""
    row = insert(t.Materialization).values(
        quarter=quarter,
        company_id=company_id,
        stage=stage,
        content_hash=provenance.content_hash,
        input_hash=provenance.input_hash,
        provenance=dict(provenance.details),
        seconds=provenance.seconds,
    )
    new = row.excluded
    connection.execute(
        row.on_conflict_do_update(
            index_elements=["quarter", "company_id", "stage"],
            set_={
                "content_hash": new.content_hash,
                "input_hash": new.input_hash,
                "provenance": new.provenance,
                "seconds": new.seconds,
                "written_at": sa.func.now(),
            },
            where=sa.or_(
                t.Materialization.content_hash.is_distinct_from(new.content_hash),
                t.Materialization.input_hash.is_distinct_from(new.input_hash),
                t.Materialization.provenance.is_distinct_from(new.provenance),
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
            WHERE now.stage = :stage
              AND (used.quarter, used.company_id) = (topic.quarter, topic.company_id)
              AND topic.quarter = :quarter AND topic.company_id = coalesce(:company_id, topic.company_id)
              AND topic.live_topic_number IS NULL
            """
        ),
        {"quarter": quarter, "company_id": company_id, "stage": THEME_INPUT.name},
    )


def check_encoder(connection: Connection, quarter: str, name: str, revision: str) -> None:
    """Raise what `write` would raise of this encoder; a quarter without vectors takes any. raises: EncoderMismatch"""
    recorded = connection.execute(
        sa.select(t.Quarter.encoder, t.Quarter.encoder_revision).where(
            t.Quarter.quarter == quarter, t.Quarter.encoder.is_not(None)
        )
    ).first()
    if recorded and (recorded.encoder, recorded.encoder_revision) != (name, revision):
        raise EncoderMismatch(quarter, f"{recorded.encoder}@{recorded.encoder_revision}", f"{name}@{revision}")


def _claim_encoder(connection: Connection, quarter: str, name: str, revision: str) -> None:
    """Make this the quarter's encoder if it has none. Decision 12. raises: EncoderMismatch"""
    connection.execute(
        sa.update(t.Quarter)
        .where(t.Quarter.quarter == quarter, t.Quarter.encoder.is_(None))
        .values(encoder=name, encoder_revision=revision)
    )
    check_encoder(connection, quarter, name, revision)


def reencode(connection: Connection, quarter: str) -> None:
    """Delete all stages of a quarter and its encoder, so that another one may take its place.

    A quarter that was archived is not any more.
    """
    lock_firm_quarters(connection, quarter)
    stages = derived_from(TRANSCRIPTS)
    for table in _tables_to_empty(stages):
        connection.execute(sa.delete(table).where(table.__table__.c.quarter == quarter))
    connection.execute(
        sa.delete(t.Materialization).where(
            t.Materialization.quarter == quarter, t.Materialization.stage.in_([stage.name for stage in stages])
        )
    )
    connection.execute(
        sa.update(t.Quarter)
        .where(t.Quarter.quarter == quarter)
        .values(encoder=None, encoder_revision=None, archived_at=None)
    )
