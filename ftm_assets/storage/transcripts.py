"""Calls of a quarter into the database: only what changed is replaced, and what was derived from it is dropped."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import date
from itertools import groupby
from operator import attrgetter
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.engine import Connection

from ftm_assets.analysis.content import content_hash
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
from ftm_assets.storage import tables as t
from ftm_assets.storage.copy import copy_rows
from ftm_assets.storage.stages import STAGES, TRANSCRIPTS, clear, record

MAX_REJECTS = 10_000
_ROWS_AT_A_TIME = 2_000

# Rows wait here until the whole source was read: grouping them takes no memory, and their order does not matter.
_incoming = sa.Table(
    "incoming",
    sa.MetaData(),
    *(
        sa.Column(name, kind)
        for names, kind in (
            ("row_number company_id transcript_id permno event_id component_id person_id", sa.BigInteger()),
            ("component_order", sa.Integer()),
            ("call_date", sa.Date()),
            ("call_at created_at", sa.DateTime(timezone=True)),
            ("company_name type_name speaker_type person text headline ticker gvkey", sa.Text()),
            ("event_type collection_type presentation_type", sa.Text()),
        )
        for name in names.split()
    ),
    prefixes=["TEMPORARY"],
    postgresql_on_commit="DROP",
)
_COLUMNS = tuple(f.name for f in fields(Component))


class TooManyRejects(FtmError):
    """So many rows are unusable that the source is probably not what it should be."""

    def __init__(self, source: str, last: Reject) -> None:
        super().__init__(
            f"{source}: more than {MAX_REJECTS:,} rows cannot be used as they stand, the last is row {last.row_number} "
            f"({last.column} {last.value!r}: {last.reason}); nothing was loaded. "
            "Check the columns and the encoding (iconv -f WINDOWS-1252 -t UTF-8)."
        )


@dataclass
class IngestCounts:
    """What became of a source's rows for a quarter; the counts of rows and of calls each add up.

    rows:  n_rows = n_components + n_superseded_components + n_duplicates + n_rejected
    calls: n_calls = n_new + n_changed + n_unchanged, the n_superseded versions among them
    """

    n_rows: int = 0
    n_components: int = 0
    n_superseded_components: int = 0
    n_duplicates: int = 0
    n_rejected: int = 0
    n_repaired: int = 0
    n_calls: int = 0
    n_new: int = 0
    n_changed: int = 0
    n_unchanged: int = 0
    n_superseded: int = 0


@dataclass(frozen=True)
class Ingested:
    """A quarter after its source was read.

    firm_keys:     all firms with a call in the quarter
    changed_firms: those whose sentences must be made anew
    content_hash:  of all calls that the quarter now holds
    rejects:       rows that were left out or repaired, in order of the source
    """

    firm_keys: tuple[str, ...]
    changed_firms: tuple[str, ...]
    content_hash: str
    counts: IngestCounts
    rejects: tuple[Reject, ...]


def create_quarter(connection: Connection, quarter: str) -> None:
    """Register a quarter and create its leaf of `sentences`; a no-op on one that is there.

    The leaf takes an exclusive lock on the parent, so it is made before any firm runs, and never waited for long.
    """
    connection.execute(insert(t.Quarter).values(quarter=quarter).on_conflict_do_nothing())
    connection.execute(sa.text("SET LOCAL lock_timeout = '5s'"))
    connection.execute(
        sa.text(f"CREATE TABLE IF NOT EXISTS {leaf(quarter)} PARTITION OF sentences FOR VALUES IN ('{quarter}')")
    )


def leaf(quarter: str) -> str:
    """The table that holds a quarter's sentences."""
    return f"sentences_{quarter.lower()}"


def ingest(
    connection: Connection, quarter: str, rows: Iterable[Component | Reject], source: str, as_of: date | None = None
) -> Ingested:
    """Load a quarter's components inside the connection's transaction; calls that did not change stay as they are.

    Calls that the source does not hold are left alone. One version of each event is modelled: see
    `superseded_versions`; of the others only the call is kept, not its text.

    raises: TooManyRejects, and whatever reading the source raises
    """
    rejects: list[Reject] = []
    changed: list[str] = []
    counts = IngestCounts()
    connection.execute(sa.schema.CreateTable(_incoming))
    counts.n_rows = copy_rows(connection, _incoming, _COLUMNS, _loaded(rows, rejects, source))
    counts.n_rows += sum(not reject.kept for reject in rejects)
    connection.execute(sa.text("CREATE INDEX ON incoming (company_id, transcript_id, component_order, row_number)"))
    connection.execute(sa.text("ANALYZE incoming"))
    _reject_second_firms(connection, rejects)
    counts.n_duplicates = _drop_duplicates(connection, rejects)
    for company_id, calls in _incoming_firms(connection):
        key = _register(connection, quarter, calls[-1].head)
        if _ingest_firm(connection, quarter, company_id, calls, source, as_of, counts):
            changed.append(key)
    counts.n_rejected = sum(not reject.kept for reject in rejects)
    counts.n_repaired = len(rejects) - counts.n_rejected
    _write_rejects(connection, source, rejects)
    keys = tuple(firm_keys(connection, quarter))
    return Ingested(keys, tuple(changed), _quarter_hash(connection, quarter), counts, tuple(rejects))


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


def _loaded(rows: Iterable[Component | Reject], rejects: list[Reject], source: str) -> Iterator[tuple[object, ...]]:
    values = attrgetter(*_COLUMNS)
    for row in rows:
        if isinstance(row, Component):
            yield values(row)
            continue
        rejects.append(row)
        if len(rejects) > MAX_REJECTS:
            raise TooManyRejects(source, row)


def _reject_second_firms(connection: Connection, rejects: list[Reject]) -> None:
    # The first firm to claim a transcript keeps it, whether it came in this source or in an earlier one.
    gone = connection.execute(
        sa.text(
            """
            WITH claims AS (
                SELECT transcript_id, company_id, -1 AS row_number FROM calls
                WHERE transcript_id IN (SELECT transcript_id FROM incoming)
                UNION ALL
                SELECT transcript_id, company_id, min(row_number) FROM incoming GROUP BY 1, 2
            ), owners AS (
                SELECT DISTINCT ON (transcript_id) transcript_id, company_id FROM claims
                ORDER BY transcript_id, row_number
            )
            DELETE FROM incoming USING owners
            WHERE incoming.transcript_id = owners.transcript_id AND incoming.company_id <> owners.company_id
            RETURNING incoming.row_number, incoming.transcript_id, incoming.company_id, owners.company_id
            """
        )
    )
    rejects += [
        Reject(row, "companyid", str(company), f"transcript {transcript} already belongs to firm {owner}", transcript)
        for row, transcript, company, owner in gone
    ]


def _drop_duplicates(connection: Connection, rejects: list[Reject]) -> int:
    gone = connection.execute(
        sa.text(
            """
            WITH firsts AS (
                SELECT DISTINCT ON (transcript_id, component_order) transcript_id, component_order, row_number, text
                FROM incoming ORDER BY transcript_id, component_order, row_number
            )
            DELETE FROM incoming AS later USING firsts AS first
            WHERE (later.transcript_id, later.component_order) = (first.transcript_id, first.component_order)
              AND later.row_number > first.row_number
            RETURNING later.row_number, later.transcript_id, later.component_order, first.row_number,
                      later.text = first.text
            """
        )
    ).all()
    rejects += [
        Reject(row, "componentorder", str(order), f"row {first} has the same component with another text", transcript)
        for row, transcript, order, first, same in gone
        if not same
    ]
    return sum(same for *_, same in gone)


def _incoming_firms(connection: Connection) -> Iterator[tuple[int, list[Call]]]:
    in_order = sa.select(_incoming).order_by(
        _incoming.c.company_id, _incoming.c.call_date, _incoming.c.transcript_id, _incoming.c.component_order
    )
    # Streamed: the rows stay on the server.
    options = {"stream_results": True, "max_row_buffer": _ROWS_AT_A_TIME}
    with connection.execute(in_order, execution_options=options) as found:
        components = (Component(**row) for row in found.mappings())
        for company_id, firm in groupby(components, key=attrgetter("company_id")):
            yield company_id, [Call(tuple(group)) for _, group in groupby(firm, key=attrgetter("transcript_id"))]


def _register(connection: Connection, quarter: str, head: Component) -> str:
    key = firm_key(head.company_id, head.company_name, head.ticker)
    connection.execute(insert(t.Firm).values(company_id=head.company_id, partition_key=key).on_conflict_do_nothing())
    row = insert(t.FirmQuarter).values(
        quarter=quarter,
        company_id=head.company_id,
        name=head.company_name,
        ticker=head.ticker,
        gvkey=head.gvkey,
        permno=head.permno,
    )
    facts = {name: row.excluded[name] for name in ("name", "ticker", "gvkey", "permno")}
    connection.execute(row.on_conflict_do_update(index_elements=["quarter", "company_id"], set_=facts))
    stored: str = connection.execute(
        sa.select(t.Firm.partition_key).where(t.Firm.company_id == head.company_id)
    ).scalar_one()
    return stored


def _ingest_firm(
    connection: Connection,
    quarter: str,
    company_id: int,
    calls: Sequence[Call],
    source: str,
    as_of: date | None,
    counts: IngestCounts,
) -> bool:
    """Write a firm's calls of the quarter; returns whether what its sentences are made from has changed."""
    stored = {
        row.transcript_id: row
        for row in connection.execute(
            sa.select(t.Call).where(t.Call.quarter == quarter, t.Call.company_id == company_id)
        )
    }
    incoming = {call.transcript_id: call for call in calls}
    replaced = _superseded(connection, stored, incoming, as_of)
    _leave_other_quarters(connection, quarter, incoming)

    text_changed = False
    for transcript_id, call in incoming.items():
        before = stored.get(transcript_id)
        superseded_by = replaced.get(transcript_id)
        counts.n_calls += 1
        if superseded_by is None:
            counts.n_components += len(call.components)
        else:
            counts.n_superseded += 1
            counts.n_superseded_components += len(call.components)
        if before and (before.content_hash, before.superseded_by) == (call.content_hash(), superseded_by):
            counts.n_unchanged += 1
            continue
        counts.n_changed += before is not None
        counts.n_new += before is None
        same_text = before and (before.text_hash, before.superseded_by) == (call.text_hash(), superseded_by)
        if not same_text and not text_changed:
            text_changed = True
            clear(connection, quarter, company_id, STAGES[0])
        _write_call(connection, quarter, call, superseded_by, source, with_text=not same_text)
    for transcript_id, row in stored.items():
        # A version that only the database has may give way to one that has just come.
        winner = replaced.get(transcript_id) or replaced.get(row.superseded_by or 0)
        if transcript_id not in incoming and winner and winner != row.superseded_by:
            if row.superseded_by is None and not text_changed:
                text_changed = True
                clear(connection, quarter, company_id, STAGES[0])
            _supersede(connection, quarter, transcript_id, winner)
    _record(connection, quarter, company_id)
    return text_changed


def _superseded(
    connection: Connection, stored: dict[int, Any], incoming: dict[int, Call], as_of: date | None
) -> dict[int, int]:
    modelled = [row for key, row in stored.items() if key not in incoming and row.superseded_by is None]
    if len(modelled) + len(incoming) < 2:
        return {}
    versions = [
        CallVersion(
            call.transcript_id,
            call.head.event_id,
            call.head.call_date,
            call.available_at,
            shingles(component.text for component in call.components),
        )
        for call in incoming.values()
    ] + [
        CallVersion(
            row.transcript_id,
            row.event_id,
            row.call_date,
            row.available_at,
            shingles(
                connection.scalars(
                    sa.select(t.Component.text)
                    .where(t.Component.quarter == row.quarter, t.Component.transcript_id == row.transcript_id)
                    .order_by(t.Component.component_order)
                )
            ),
        )
        for row in modelled
    ]
    return superseded_versions(versions, as_of)


def _write_call(
    connection: Connection, quarter: str, call: Call, superseded_by: int | None, source: str, *, with_text: bool
) -> None:
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
        content_hash=call.content_hash(),
        text_hash=call.text_hash(),
        source=source,
    )
    facts = {c.name: row.excluded[c.name] for c in t.Call.__table__.c if not c.primary_key}
    connection.execute(row.on_conflict_do_update(index_elements=["quarter", "transcript_id"], set_=facts))
    if not with_text:
        return
    _delete_components(connection, quarter, call.transcript_id)
    if superseded_by is None:
        columns = "component_order type_name speaker_type person component_id person_id text".split()
        values = attrgetter(*columns)
        copy_rows(
            connection,
            t.Component.__table__,  # type: ignore[arg-type]
            ["quarter", "transcript_id", *columns],
            ((quarter, call.transcript_id, *values(component)) for component in call.components),
        )


def _supersede(connection: Connection, quarter: str, transcript_id: int, winner: int) -> None:
    _delete_components(connection, quarter, transcript_id)
    connection.execute(
        sa.update(t.Call)
        .where(t.Call.quarter == quarter, t.Call.transcript_id == transcript_id)
        .values(superseded_by=winner)
    )


def _delete_components(connection: Connection, quarter: str, transcript_id: int) -> None:
    connection.execute(
        sa.delete(t.Component).where(t.Component.quarter == quarter, t.Component.transcript_id == transcript_id)
    )


def _leave_other_quarters(connection: Connection, quarter: str, incoming: dict[int, Call]) -> None:
    """Take calls whose date was corrected across a quarter's edge out of the quarter they were in."""
    moved = connection.execute(
        sa.select(t.Call.quarter, t.Call.company_id, t.Call.transcript_id).where(
            t.Call.transcript_id.in_(incoming), t.Call.quarter != quarter
        )
    ).all()
    for old_quarter, company_id, transcript_id in moved:
        delete_call(connection, old_quarter, company_id, transcript_id)


def delete_call(connection: Connection, quarter: str, company_id: int, transcript_id: int) -> None:
    """Delete a call and what was derived from its firm-quarter; a firm without any call left leaves the quarter."""
    clear(connection, quarter, company_id, STAGES[0])
    _delete_components(connection, quarter, transcript_id)
    connection.execute(sa.delete(t.Call).where(t.Call.quarter == quarter, t.Call.transcript_id == transcript_id))
    of_firm = (t.Call.quarter == quarter, t.Call.company_id == company_id)
    if connection.scalar(sa.select(sa.exists().where(*of_firm, t.Call.superseded_by.is_(None)))):
        _record(connection, quarter, company_id)
        return
    connection.execute(sa.delete(t.Call).where(*of_firm))
    for table in (t.Stage, t.FirmQuarter):
        connection.execute(sa.delete(table).where(table.quarter == quarter, table.company_id == company_id))


def _record(connection: Connection, quarter: str, company_id: int) -> None:
    calls = connection.execute(
        sa.select(t.Call.transcript_id, t.Call.text_hash)
        .where(t.Call.quarter == quarter, t.Call.company_id == company_id, t.Call.superseded_by.is_(None))
        .order_by(t.Call.transcript_id)
    )
    record(connection, quarter, company_id, TRANSCRIPTS, content_hash([tuple(call) for call in calls]), None, {})


def _quarter_hash(connection: Connection, quarter: str) -> str:
    calls = connection.execute(
        sa.select(t.Call.transcript_id, t.Call.content_hash, t.Call.superseded_by)
        .where(t.Call.quarter == quarter)
        .order_by(t.Call.transcript_id)
    )
    return content_hash([tuple(call) for call in calls])


def _write_rejects(connection: Connection, source: str, rejects: Sequence[Reject]) -> None:
    for reject in rejects:
        row = insert(t.Reject).values(
            source=source,
            row_number=reject.row_number,
            reason=reject.reason,
            column=reject.column,
            value=reject.value,
            transcript_id=reject.transcript_id,
            kept=reject.kept,
        )
        connection.execute(row.on_conflict_do_nothing())
