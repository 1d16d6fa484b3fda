"""Rows deleted on purpose: a call, a firm, a quarter."""

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ftm_assets.storage.maintain.search_index import drop_search_index
from ftm_assets.storage.schema import tables as t
from ftm_assets.storage.stages import STAGES
from ftm_assets.storage.write.calls import delete_call, partition_table, raise_if_locked, set_lock_timeout
from ftm_assets.storage.write.themes import delete_themes


@dataclass(frozen=True)
class CallToDelete:
    """A call that is to be deleted with all that was made from it."""

    quarter: str
    company_id: int
    firm_key: str
    transcript_id: int
    headline: str


def calls_to_delete(
    connection: Connection, quarter: str | None = None, company_id: int | None = None, transcript_id: int | None = None
) -> list[CallToDelete]:
    """The calls that meet every condition, and the versions that they superseded. None without a condition."""
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
    # By firm and transcript: a joint call is a call of each of its firms.
    chosen = sa.select(t.Call.company_id, t.Call.transcript_id).where(*wanted)
    call, winner = (sa.tuple_(t.Call.company_id, id_) for id_ in (t.Call.transcript_id, t.Call.superseded_by))
    found = connection.execute(
        sa.select(
            t.Call.quarter,
            t.Call.company_id,
            t.Firm.partition_key.label("firm_key"),
            t.Call.transcript_id,
            t.Call.headline,
        )
        .join(t.Firm, t.Firm.company_id == t.Call.company_id)
        .where(sa.or_(call.in_(chosen), winner.in_(chosen)))
        .order_by(t.Call.quarter, t.Firm.partition_key, t.Call.transcript_id)
    )
    return [CallToDelete(**row) for row in found.mappings()]


def delete_calls(connection: Connection, calls: list[CallToDelete]) -> None:
    """Delete the calls and what was derived from their firm-quarters.

    Published themes stay, marked stale, until the quarter's themes are made again.
    """
    for call in calls:
        delete_call(connection, call.company_id, call.transcript_id)


def firms_without_calls(connection: Connection) -> list[str]:
    """Keys of firms that have no call left; they are kept, because a firm that comes back keeps its key."""
    has_calls = sa.exists().where(t.FirmQuarter.company_id == t.Firm.company_id)
    return list(connection.scalars(sa.select(t.Firm.partition_key).where(~has_calls).order_by(t.Firm.partition_key)))


def drop_quarter(connection: Connection, quarter: str) -> int:
    """Delete everything of a quarter, its partition of `sentences` included; returns how many calls it held.

    raises: QuarterInUse if a lock is not free within LOCK_TIMEOUT_MS
    """
    partition = partition_table(quarter)
    # The partition holds the sentences; the other tables of the stages hold rows of all quarters.
    of_stages: list[type[t.Base]] = [table for stage in STAGES for table in stage.tables if table is not t.Sentence][
        ::-1
    ]
    with raise_if_locked(quarter, "dropped"):
        set_lock_timeout(connection)
        # All at once and before all else: dropping the partition drops triggers of these tables too, and taking such
        # locks one by one ends in a deadlock.
        locked: list[type[t.Base]] = [t.FirmQuarter, *of_stages, t.Component, t.Theme]
        names = ", ".join(table.__tablename__ for table in locked)
        connection.execute(sa.text(f"LOCK TABLE {names}, ONLY sentences"))
    # Versions in other quarters that one of this quarter superseded: nothing else would be left of their event.
    kept, gone = t.Call.__table__.alias(), t.Call.__table__
    left_behind = connection.execute(
        sa.select(kept.c.company_id, kept.c.transcript_id)
        .join(gone, (gone.c.company_id == kept.c.company_id) & (gone.c.transcript_id == kept.c.superseded_by))
        .where(gone.c.quarter == quarter, kept.c.quarter != quarter)
    ).all()
    for company_id, transcript_id in left_behind:
        delete_call(connection, company_id, transcript_id)
    n_calls = connection.execute(
        sa.select(sa.func.count()).select_from(t.Call).where(t.Call.quarter == quarter)
    ).scalar_one()
    drop_search_index(connection, quarter)
    delete_themes(connection, quarter)
    _delete(connection, quarter, *of_stages)
    # A partition under a foreign key cannot be dropped while it is attached.
    if connection.scalar(sa.text("SELECT to_regclass(:name)"), {"name": partition}):
        connection.execute(sa.text(f"ALTER TABLE sentences DETACH PARTITION {partition}"))
        connection.execute(sa.text(f"DROP TABLE {partition}"))
    _delete(connection, quarter, t.Component, t.Call, t.Materialization, t.FirmQuarter, t.Quarter)
    return n_calls


def _delete(connection: Connection, quarter: str, *tables: type[t.Base]) -> None:
    for table in tables:
        connection.execute(sa.delete(table).where(table.__table__.c.quarter == quarter))
