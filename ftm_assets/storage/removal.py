"""Rows taken out on purpose: a call, a firm, a quarter."""

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ftm_assets.storage import tables as t
from ftm_assets.storage.stages import reencode
from ftm_assets.storage.themes import delete_themes
from ftm_assets.storage.transcripts import delete_call, leaf


@dataclass(frozen=True)
class CallToForget:
    """A call that is taken out, with all that was made from it."""

    quarter: str
    company_id: int
    firm_key: str
    transcript_id: int
    headline: str


def calls_to_forget(
    connection: Connection, quarter: str | None = None, company_id: int | None = None, transcript_id: int | None = None
) -> list[CallToForget]:
    """The calls that meet every condition given; of none given, none."""
    wanted = [
        column == value
        for column, value in (
            (t.Call.quarter, quarter),
            (t.Call.company_id, company_id),
            (t.Call.transcript_id, transcript_id),
        )
        if value is not None
    ]
    if not wanted:
        return []
    found = connection.execute(
        sa.select(t.Call.quarter, t.Call.company_id, t.Firm.partition_key, t.Call.transcript_id, t.Call.headline)
        .join(t.Firm, t.Firm.company_id == t.Call.company_id)
        .where(*wanted)
        .order_by(t.Call.quarter, t.Firm.partition_key, t.Call.transcript_id)
    )
    return [CallToForget(*row) for row in found]


def forget(connection: Connection, calls: list[CallToForget]) -> list[str]:
    """Delete the calls and what was derived from their firm-quarters; returns keys of firms that have no call left.

    Published themes stay, marked stale, until the quarter's themes are made anew.
    """
    for call in calls:
        delete_call(connection, call.quarter, call.company_id, call.transcript_id)
    company_ids = {call.company_id for call in calls}
    gone = connection.execute(
        sa.select(t.Firm.company_id, t.Firm.partition_key).where(
            t.Firm.company_id.in_(company_ids), ~sa.exists().where(t.FirmQuarter.company_id == t.Firm.company_id)
        )
    ).all()
    return sorted(key for _, key in gone)


def drop_quarter(connection: Connection, quarter: str) -> int:
    """Delete everything of a quarter, its leaf of `sentences` included; returns how many calls it held."""
    delete_themes(connection, quarter)
    reencode(connection, quarter)
    connection.execute(sa.text("SET LOCAL lock_timeout = '5s'"))
    # A leaf under a foreign key cannot be dropped where it hangs.
    if connection.scalar(sa.text("SELECT to_regclass(:leaf)"), {"leaf": leaf(quarter)}):
        connection.execute(sa.text(f"ALTER TABLE sentences DETACH PARTITION {leaf(quarter)}"))
        connection.execute(sa.text(f"DROP TABLE {leaf(quarter)}"))
    n_calls = connection.execute(
        sa.select(sa.func.count()).select_from(t.Call).where(t.Call.quarter == quarter)
    ).scalar_one()
    for table in (t.Component, t.Call, t.Stage, t.FirmQuarter, t.Quarter):
        connection.execute(sa.delete(table).where(table.__table__.c.quarter == quarter))
    return n_calls
