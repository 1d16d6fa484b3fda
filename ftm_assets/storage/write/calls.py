"""Calls of a quarter into the database: only what changed is replaced, and what was derived from it is dropped."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date
from itertools import groupby
from operator import attrgetter
from typing import Any

import psycopg
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.engine import Connection

from ftm_assets.analysis.content_hash import content_hash
from ftm_assets.analysis.transcripts import (
    Call,
    CallVersion,
    Component,
    Reject,
    firm_key,
    fiscal_period,
    shingles,
    superseded_versions,
)
from ftm_assets.errors import FtmError
from ftm_assets.storage.read.ingested import unknown_types
from ftm_assets.storage.schema import tables as t
from ftm_assets.storage.server.advisory_locks import Lock, acquire_for_transaction
from ftm_assets.storage.server.table_stats import analyze
from ftm_assets.storage.stages import derived_from
from ftm_assets.storage.stages.base import CALL_ORDER, Provenance, find_provenance, of_firm_quarter
from ftm_assets.storage.stages.transcripts import TRANSCRIPTS
from ftm_assets.storage.write.copy import copy_rows
from ftm_assets.storage.write.stages import clear, record_provenance
from ftm_assets.storage.write.staging import (
    Rejects,
    cut_texts,
    deduplicate,
    drop_staging,
    iter_firms,
    load_staging,
    write_rejects,
)
from ftm_assets.storage.write.upsert_plan import IngestCounts, UpsertPlan, count_calls, plan_upserts

LOCK_TIMEOUT_MS = 5_000


@dataclass(frozen=True)
class Ingested:
    """A quarter after its source was read.

    firm_keys:     all firms with a call in the quarter
    changed_firms: those whose sentences must be made again
    content_hash:  of all calls that the quarter now holds
    rejects:       rows that were left out or repaired, by row number; of repairs the first MAX_REJECTS
    warnings:      what the user should look at although every row was loaded, a sentence each
    """

    firm_keys: tuple[str, ...]
    changed_firms: tuple[str, ...]
    content_hash: str
    counts: IngestCounts
    rejects: tuple[Reject, ...]
    warnings: tuple[str, ...] = ()


def create_quarter(connection: Connection, quarter: str) -> None:
    """Register a quarter and create its partition of `sentences`; does nothing if they are there.

    raises: OperationalError if a lock is not free within LOCK_TIMEOUT_MS; try again later
    """
    set_lock_timeout(connection)
    connection.execute(insert(t.Quarter).values(quarter=quarter).on_conflict_do_nothing())
    table = partition_table(quarter)
    if connection.scalar(sa.text("SELECT to_regclass(:name)"), {"name": table}):
        return
    # Attached, because PARTITION OF would keep all others out of `sentences`. Decision 21. The tables that a partition
    # refers to are locked all the same, in the order in which `ingest` and firms write: a deadlock might cost one of
    # those its work.
    connection.execute(sa.text("LOCK TABLE firm_quarters, topic_sentences, components IN SHARE ROW EXCLUSIVE MODE"))
    connection.execute(sa.text(f"CREATE TABLE {table} (LIKE sentences INCLUDING ALL)"))
    connection.execute(sa.text(f"ALTER TABLE sentences ATTACH PARTITION {table} FOR VALUES IN ('{quarter}')"))


class QuarterInUse(FtmError):
    """Another connection reads or writes a quarter, and does not end."""

    def __init__(self, quarter: str, action: str) -> None:
        super().__init__(
            f"{quarter} cannot be {action} while others use it; stop what runs, close open transactions "
            "(in DBeaver: commit), and try again"
        )


@contextmanager
def raise_if_locked(quarter: str, action: str) -> Iterator[None]:
    """Translate the error of a lock timeout. raises: QuarterInUse

    action: what is done to the quarter, such as `dropped`
    """
    try:
        yield
    except sa.exc.OperationalError as error:
        if isinstance(error.orig, psycopg.errors.LockNotAvailable):
            raise QuarterInUse(quarter, action) from error
        raise


def set_lock_timeout(connection: Connection) -> None:
    """Let the rest of the transaction wait at most LOCK_TIMEOUT_MS for a lock."""
    connection.execute(sa.text(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}"))


def partition_table(quarter: str) -> str:
    """The table that holds a quarter's sentences, a partition of `sentences`."""
    return f"sentences_{quarter.lower()}"


def ingest(
    connection: Connection, quarter: str, rows: Iterable[Component | Reject], source: str, as_of: date | None = None
) -> Ingested:
    """Load a quarter's components inside the connection's transaction; calls that did not change stay as they are.

    Calls that the source does not hold are left alone, unless another version takes their place. One version of each
    event is modelled, whichever quarters its versions are dated in, or none: see `superseded_versions`. Of the others
    only the call is kept, not its text.

    raises: TooManyRejects, and whatever reading the source raises
    """
    rejects = Rejects(source)
    counts = IngestCounts()
    changed: list[str] = []
    n_rows = load_staging(connection, quarter, rows, rejects)
    # Sources are read in parallel, but written one after another: they may share firms, transcripts and rejects.
    acquire_for_transaction(connection, Lock.INGEST)
    n_duplicates, n_joint_calls = deduplicate(connection, rejects)
    cut = cut_texts(connection, quarter)
    for company_id, calls in iter_firms(connection):
        plans = _plan_firm(connection, quarter, company_id, calls, as_of)
        key = _register(connection, quarter, company_id, plans)
        if _apply(connection, quarter, company_id, plans, source):
            changed.append(key)
        counts += count_calls(plans)
    write_rejects(connection, rejects)
    drop_staging(connection)
    if changed:
        analyze(connection, t.FirmQuarter, t.Call, t.Component)
    return Ingested(
        firm_keys=tuple(firm_keys(connection, quarter)),
        changed_firms=tuple(changed),
        content_hash=_quarter_hash(connection, quarter),
        counts=replace(
            counts,
            n_rows=n_rows,
            n_duplicates=n_duplicates,
            n_rejected=rejects.n_rejected,
            n_repaired=rejects.n_repaired,
            n_joint_calls=n_joint_calls,
        ),
        rejects=tuple(rejects.noted),
        warnings=(*cut, *unknown_types(connection, quarter)),
    )


def firm_keys(connection: Connection, quarter: str) -> list[str]:
    """Partition keys of the firms with a call in the quarter, in order."""
    return list(
        connection.scalars(
            sa.select(t.Firm.partition_key)
            .join(t.FirmQuarter, t.FirmQuarter.company_id == t.Firm.company_id)
            .where(t.FirmQuarter.quarter == quarter)
            .order_by(t.Firm.partition_key)
        )
    )


def _plan_firm(
    connection: Connection, quarter: str, company_id: int, calls: Sequence[Call], as_of: date | None
) -> list[UpsertPlan]:
    incoming = {call.transcript_id: call for call in calls}
    _delete_from_other_quarters(connection, quarter, company_id, incoming)
    events = {call.head.event_id for call in calls} - {None}
    stored = {
        row.transcript_id: row
        for row in connection.execute(
            sa.select(t.Call)
            .where(*_of_firm(company_id), sa.or_(t.Call.quarter == quarter, t.Call.event_id.in_(events)))
            .order_by(t.Call.quarter, t.Call.transcript_id)
        )
    }
    return plan_upserts(quarter, stored, incoming, _superseded(connection, stored, incoming, as_of))


def _of_firm(company_id: int) -> tuple[sa.ColumnElement[bool], ...]:
    """The firm's calls of all quarters; by its quarters, because the index on `calls` begins with the quarter."""
    quarters = sa.select(t.FirmQuarter.quarter).where(t.FirmQuarter.company_id == company_id)
    return t.Call.company_id == company_id, t.Call.quarter.in_(quarters)


def _apply(connection: Connection, quarter: str, company_id: int, plans: Sequence[UpsertPlan], source: str) -> bool:
    """Write what changes of a firm's calls; returns whether its sentences of the quarter must be made again."""
    stale = {plan.quarter for plan in plans if plan.modelled_now != plan.modelled_before}
    for where in sorted(stale):
        clear(connection, where, company_id, *derived_from(TRANSCRIPTS))
    for plan in plans:
        if plan.changes:
            _apply_to_call(connection, company_id, plan, source)
    for where in sorted(stale - {quarter}):
        _record_calls(connection, where, company_id)
    return _record_calls(connection, quarter, company_id)


def _apply_to_call(connection: Connection, company_id: int, plan: UpsertPlan, source: str) -> None:
    quarter, transcript_id, call = plan.quarter, plan.transcript_id, plan.call
    if call is None:
        _mark_superseded(connection, quarter, company_id, transcript_id, plan.superseded_by)
    else:
        _write_call(connection, quarter, call, plan.superseded_by, source)
    if plan.modelled_now != plan.modelled_before:
        _delete_components(connection, quarter, company_id, [transcript_id])
        if call and plan.modelled_now is not None:
            _write_components(connection, quarter, call)
    elif call and plan.modelled_now is not None:
        _update_component_ids(connection, quarter, call)


def _register(connection: Connection, quarter: str, company_id: int, plans: Sequence[UpsertPlan]) -> str:
    """Make the firm known in the quarter, as the latest of its calls names it; returns its key."""
    head = next(plan.call.head for plan in reversed(plans) if plan.call)
    others = [plan.before for plan in plans if plan.before and plan.call is None and plan.quarter == quarter]
    key = firm_key(company_id, head.company_name, head.ticker)
    connection.execute(insert(t.Firm).values(company_id=company_id, partition_key=key).on_conflict_do_nothing())
    row = insert(t.FirmQuarter).values(
        quarter=quarter,
        company_id=company_id,
        name=head.company_name,
        ticker=head.ticker,
        gvkey=head.gvkey,
        permno=head.permno,
    )
    if all((other.call_date, other.transcript_id) < (head.call_date, head.transcript_id) for other in others):
        # What the latest call leaves out, an earlier one may have given.
        facts = {
            name: sa.func.coalesce(row.excluded[name], getattr(t.FirmQuarter, name))
            for name in ("name", "ticker", "gvkey", "permno")
        }
        row = row.on_conflict_do_update(
            index_elements=["quarter", "company_id"],
            set_=facts,
            where=sa.or_(*(getattr(t.FirmQuarter, name).is_distinct_from(fact) for name, fact in facts.items())),
        )
    else:
        row = row.on_conflict_do_nothing()
    connection.execute(row)
    stored: str = connection.execute(
        sa.select(t.Firm.partition_key).where(t.Firm.company_id == company_id)
    ).scalar_one()
    return stored


def _superseded(
    connection: Connection, stored: dict[int, Any], incoming: dict[int, Call], as_of: date | None
) -> dict[int, int]:
    modelled = [row for key, row in stored.items() if key not in incoming and row.superseded_by is None]
    if as_of is None and len(modelled) + len(incoming) < 2:
        return {}
    versions = [
        CallVersion(
            transcript_id=call.transcript_id,
            event_id=call.head.event_id,
            call_date=call.head.call_date,
            available_at=call.available_at,
            shingles=shingles(component.text for component in call.components),
        )
        for call in incoming.values()
    ] + [
        CallVersion(
            transcript_id=row.transcript_id,
            event_id=row.event_id,
            call_date=row.call_date,
            available_at=row.available_at,
            shingles=shingles(
                connection.scalars(
                    sa.select(t.Component.text)
                    .where(
                        *of_firm_quarter(t.Component, row.quarter, row.company_id),
                        t.Component.transcript_id == row.transcript_id,
                    )
                    .order_by(t.Component.component_order)
                )
            ),
        )
        for row in modelled
    ]
    return superseded_versions(versions, as_of)


def _write_call(connection: Connection, quarter: str, call: Call, superseded_by: int | None, source: str) -> None:
    head = call.head
    year, number = fiscal_period(head.headline) or (None, None)
    row = insert(t.Call).values(
        quarter=quarter,
        transcript_id=call.transcript_id,
        company_id=head.company_id,
        call_date=head.call_date,
        call_at=head.call_at,
        available_at=call.available_at,
        headline=head.headline,
        fiscal_year=year,
        fiscal_quarter=number,
        event_id=head.event_id,
        event_type=head.event_type,
        collection_type=head.collection_type,
        presentation_type=head.presentation_type,
        superseded_by=superseded_by,
        content_hash=call.content_hash,
        text_hash=call.text_hash,
        source=head.source or source,
        repairs=call.repairs,
    )
    facts = {c.name: row.excluded[c.name] for c in t.Call.__table__.c if not c.primary_key}
    connection.execute(row.on_conflict_do_update(index_elements=["quarter", "transcript_id", "company_id"], set_=facts))


def _write_components(connection: Connection, quarter: str, call: Call) -> None:
    columns = ("component_order", "type_name", "speaker_type", "person", "component_id", "person_id", "text")
    values = attrgetter(*columns)
    copy_rows(
        connection,
        t.Component.__table__,  # type: ignore[arg-type]
        ["quarter", "transcript_id", "company_id", *columns],
        ((quarter, call.transcript_id, call.head.company_id, *values(component)) for component in call.components),
    )


def _update_component_ids(connection: Connection, quarter: str, call: Call) -> None:
    """Update the identifiers of components whose text did not change, so that their sentences stay."""
    connection.execute(
        sa.text(
            """
            UPDATE components SET component_id = new.component_id, person_id = new.person_id FROM staging AS new
            WHERE components.quarter = :quarter AND components.transcript_id = :transcript_id
              AND components.company_id = :company_id
              AND new.company_id = :company_id AND new.transcript_id = components.transcript_id
              AND new.component_order = components.component_order
            """
        ),
        {"quarter": quarter, "transcript_id": call.transcript_id, "company_id": call.head.company_id},
    )


def _mark_superseded(
    connection: Connection, quarter: str, company_id: int, transcript_id: int, winner: int | None
) -> None:
    connection.execute(
        sa.update(t.Call)
        .where(*of_firm_quarter(t.Call, quarter, company_id), t.Call.transcript_id == transcript_id)
        .values(superseded_by=winner)
    )


def _delete_components(connection: Connection, quarter: str, company_id: int, transcript_ids: Collection[int]) -> None:
    connection.execute(
        sa.delete(t.Component).where(
            *of_firm_quarter(t.Component, quarter, company_id), t.Component.transcript_id.in_(transcript_ids)
        )
    )


def _delete_from_other_quarters(
    connection: Connection, quarter: str, company_id: int, incoming: Mapping[int, Call]
) -> None:
    """Delete calls from the quarter they were in if a corrected date moves them to this one."""
    moved = connection.execute(
        sa.select(t.Call.quarter, t.Call.transcript_id).where(
            t.Call.company_id == company_id, t.Call.transcript_id.in_(incoming), t.Call.quarter != quarter
        )
    ).all()
    for call in moved:
        versions = connection.scalars(
            sa.select(t.Call.transcript_id).where(
                *of_firm_quarter(t.Call, call.quarter, company_id),
                sa.or_(t.Call.transcript_id == call.transcript_id, t.Call.superseded_by == call.transcript_id),
            )
        ).all()
        _delete_versions(connection, call.quarter, company_id, versions)


def delete_call(connection: Connection, company_id: int, transcript_id: int) -> None:
    """Delete a call, the versions of any quarter that it superseded, and what was derived from their firm-quarters.

    A firm without any call left leaves the quarter.
    """
    versions = connection.execute(
        sa.select(t.Call.quarter, t.Call.transcript_id)
        .where(
            *_of_firm(company_id), sa.or_(t.Call.transcript_id == transcript_id, t.Call.superseded_by == transcript_id)
        )
        .order_by(t.Call.quarter)
    ).all()
    for quarter, calls in groupby(versions, key=attrgetter("quarter")):
        _delete_versions(connection, quarter, company_id, [call.transcript_id for call in calls])


def _delete_versions(connection: Connection, quarter: str, company_id: int, transcript_ids: Sequence[int]) -> None:
    of_firm = sa.select(t.Call).where(*of_firm_quarter(t.Call, quarter, company_id))
    gone = t.Call.transcript_id.in_(transcript_ids)
    # Nothing was derived from superseded versions.
    if connection.scalar(sa.select(of_firm.where(gone, t.Call.superseded_by.is_(None)).exists())):
        clear(connection, quarter, company_id, *derived_from(TRANSCRIPTS))
        _delete_components(connection, quarter, company_id, transcript_ids)
    connection.execute(sa.delete(t.Call).where(*of_firm_quarter(t.Call, quarter, company_id), gone))
    if connection.scalar(sa.select(of_firm.exists())):
        _record_calls(connection, quarter, company_id)
        return
    for table in (t.Materialization, t.FirmQuarter):
        connection.execute(sa.delete(table).where(*of_firm_quarter(table, quarter, company_id)))


def _record_calls(connection: Connection, quarter: str, company_id: int) -> bool:
    """Record the name and the texts that the firm's sentences are made from; returns whether they have changed."""
    name = connection.scalar(sa.select(t.FirmQuarter.name).where(*of_firm_quarter(t.FirmQuarter, quarter, company_id)))
    calls = connection.execute(
        sa.select(t.Call.transcript_id, t.Call.text_hash)
        .where(*of_firm_quarter(t.Call, quarter, company_id), t.Call.superseded_by.is_(None))
        # In the order of `read_turns`: topics depend on the order of their sentences.
        .order_by(*CALL_ORDER)
    )
    now = Provenance(content_hash(name, [tuple(call) for call in calls]), input_hash=None, details={})
    before = find_provenance(connection, quarter, company_id, TRANSCRIPTS)
    record_provenance(connection, quarter, company_id, TRANSCRIPTS, now)
    return before is None or before.content_hash != now.content_hash


def _quarter_hash(connection: Connection, quarter: str) -> str:
    calls = connection.execute(
        sa.select(t.Call.transcript_id, t.Call.content_hash, t.Call.superseded_by)
        .where(t.Call.quarter == quarter)
        .order_by(t.Call.transcript_id, t.Call.company_id)
    )
    return content_hash([tuple(call) for call in calls])
