"""Turns of a firm's calls: what the first stage is made from."""

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ftm_assets.analysis.sentences import CallDay, FirmTurns, Turn
from ftm_assets.storage.schema import tables as t
from ftm_assets.storage.schema.rows import rows_as
from ftm_assets.storage.stages.base import (
    CALL_ORDER,
    FirmQuarter,
    columns_of,
    of_firm_quarter,
    read_provenance,
    same_call,
)

TRANSCRIPTS = "transcripts"


def read_turns(connection: Connection, where: FirmQuarter) -> FirmTurns:
    """The turns of a firm's calls in a quarter, without versions that are not modelled.

    None, with the reason, for a firm without a call.
    """
    if not where.has_call:
        return FirmTurns(where.company_id, "", (), (), "", no_call(where))
    found = connection.execute(
        sa.select(*columns_of(t.Call, CallDay))
        .where(*of_firm_quarter(t.Call, where.quarter, where.company_id), t.Call.superseded_by.is_(None))
        .order_by(*CALL_ORDER)
    )
    calls = tuple(rows_as(CallDay, found))
    turns = connection.execute(
        sa.select(*columns_of(t.Component, Turn))
        .join(t.Call, same_call(t.Component))
        .where(*of_firm_quarter(t.Call, where.quarter, where.company_id), t.Call.superseded_by.is_(None))
        .order_by(*CALL_ORDER, t.Component.component_order)
    )
    name: str = connection.execute(
        sa.select(t.FirmQuarter.name).where(*of_firm_quarter(t.FirmQuarter, where.quarter, where.company_id))
    ).scalar_one()
    return FirmTurns(
        company_id=where.company_id,
        company_name=name,
        calls=calls,
        turns=tuple(rows_as(Turn, turns)),
        input_hash=read_provenance(connection, where, TRANSCRIPTS).content_hash,
        reason=None if calls else f"no call of {where.firm_key} in {where.quarter} is the version to model",
    )


def no_call(where: FirmQuarter) -> str:
    """The reason why a firm without a call has nothing."""
    return f"{where.firm_key} has no call in {where.quarter}"
