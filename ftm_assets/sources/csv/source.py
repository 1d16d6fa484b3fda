"""Transcripts of a file in Capital IQ's columns, one row per component: CSV, Parquet, Stata or JSON lines."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, time
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TypeVar

from ftm_assets.analysis.source_values import integer, is_nothing
from ftm_assets.analysis.transcripts import (
    EARNINGS_CALLS,
    Component,
    Reject,
    SourceFirm,
    calendar_quarter,
    is_earnings_call,
    quarter_dates,
)
from ftm_assets.sources.csv.columns import column_positions, doubled_columns
from ftm_assets.sources.csv.file import Record, open_table
from ftm_assets.sources.csv.values import Dates, repaired, shown, small_integer, time_of_day

_MAX_EVENTS_NAMED = 5
_SURVEYED_COLUMNS = (
    "companyid",
    "companyname",
    "ticker",
    "transcriptid",
    "mostimportantdateutc",
    "keydeveventtypename",
)

Value = TypeVar("Value")


@dataclass
class Survey:
    """What one pass over a file tells without its texts.

    calls:    firm -> days of its calls that can be read -> name and ticker there
    quarters: those that its rows are dated in
    undated:  whether it has rows that may be reported for any quarter
    """

    calls: dict[int, dict[date, tuple[str, str | None]]] = field(default_factory=dict)
    quarters: set[str] = field(default_factory=set)
    undated: bool = False

    def add(self, other: "Survey") -> None:
        """Take in what another file tells; where both name a firm on one day, the first does."""
        for company_id, days in other.calls.items():
            self.calls[company_id] = {**days, **self.calls.get(company_id, {})}
        self.quarters |= other.quarters
        self.undated |= other.undated

    def firms(self, start: date, end: date) -> list[SourceFirm]:
        """See `TranscriptSource`. Name and ticker are those of the firm's latest call in the range."""
        found = ((firm, sorted(day for day in days if start <= day <= end)) for firm, days in self.calls.items())
        return [_source_firm(firm, days, self.calls[firm]) for firm, days in sorted(found) if days]

    def may_hold(self, quarter: str) -> bool:
        """Whether reading the file for this quarter can bring a row or a reject."""
        return self.undated or quarter in self.quarters


def _source_firm(company_id: int, days: list[date], calls: Mapping[date, tuple[str, str | None]]) -> SourceFirm:
    name, ticker = calls[days[-1]]
    return SourceFirm(company_id, name, ticker, tuple(days))


@dataclass(frozen=True)
class CsvSource:
    """A file with one row per component, of a kind that `open_table` reads; of a CSV with RFC 4180 quotes.

    Each method is one pass over the file and holds no more than the calls' dates; nothing is read before, and errors
    of the whole file are raised on the way (from `read`, while its rows are taken).

    columns:     our column name -> its name in this file, where it differs; case and outer blanks never matter
    event_types: events that are calls, where the file has `keydeveventtypename`; rows of others are passed over
    copy_of:     the address of what the file is a copy of; messages and rows name that instead of the file
    rows:        numbered as records, blank ones included, the header being 1 (a spreadsheet's numbers)
    dates:       2021-10-28, 2021/10/28, 20211028 or 28OCT2021, with or without a time of day. In 10/28/2021 the first
                 date of the file with a part above 12 tells which part is the month, for all; without such a date the
                 rows are rejected, because a wrong guess moves a call to another quarter without a trace.
    times:       UTC unless they carry an offset. Midnight in a date column is no time: exports add it to bare dates.
                 A bare creation date counts as the start of that day.
    rejected:    rows without a readable date (in every quarter, for they belong to none), integer ids or the
                 header's number of fields, and rows with broken quotes. One Reject a row, for its first fault.
    kept:        rows with NUL (removed), with bytes that are not UTF-8 (replaced by U+FFFD), or with an optional number
                 or time that cannot be read (left empty). One Reject a row, then its Component.
    raises:      SourceUnreadable, BadColumns
    """

    path: Path
    columns: Mapping[str, str] = field(default_factory=dict)
    event_types: Collection[str] = (EARNINGS_CALLS,)
    copy_of: str = ""

    @property
    def name(self) -> str:
        """The file's full path, links resolved; of a copy, the address of the original."""
        return self.copy_of or str(self.path.resolve())

    def firms(self, start: date, end: date) -> list[SourceFirm]:
        """See `TranscriptSource`. Name and ticker are those of the firm's latest call in the range."""
        return self.survey().firms(start, end)

    def survey(self) -> Survey:
        """Whose calls of which days and quarters there are."""
        with open_table(self.path, self.copy_of) as (header, records):
            return self._table(header).survey(records)

    def why_no_calls(self) -> str:
        """What there is instead of calls: how many rows, of which events, and why the first bad row is unusable."""
        n_rows, events, reject = 0, Counter[str](), None
        with open_table(self.path, self.copy_of) as (header, records):
            table = self._table(header)
            for number, row in records:
                n_rows += 1
                first = row if isinstance(row, Reject) else next(table.take(number, row, None), None)
                if isinstance(first, Reject):
                    reject = reject or first
                elif isinstance(row, list):
                    events[table.event_type(row)] += 1
        facts = [f"{n_rows:,} rows"]
        if events:
            other = ", ".join(f"{n:,} of {name!r}" for name, n in events.most_common(_MAX_EVENTS_NAMED))
            facts.append(f"{other} where calls are {' or '.join(map(repr, self.event_types))}; export those")
        if reject:
            facts.append(f"row {reject.row_number} cannot be used ({reject.column} {reject.value!r}: {reject.reason})")
        return "; ".join(facts)

    def read(self, quarter: str, firms: Collection[int] | None = None) -> Iterator[Component | Reject]:
        """See `TranscriptSource`. In the file's order; rejects whose firm cannot be told come whatever `firms` says."""
        first, last = quarter_dates(quarter)
        with open_table(self.path, self.copy_of) as (header, records):
            table = self._table(header)
            for number, row in records:
                if isinstance(row, Reject):
                    yield replace(row, source=table.source)
                    continue
                # The date comes first: most rows of a big file belong to other quarters.
                day = table.day(row)
                if day is None or first <= day <= last:
                    yield from table.take(number, row, firms)

    def _table(self, header: list[str]) -> "_Table":
        positions = column_positions(self.copy_of or str(self.path), header, self.columns)
        dates = Dates(lambda: self._cells(positions["mostimportantdateutc"]))
        doubled = doubled_columns(header, positions)
        return _Table(header, positions, doubled, dates, self.event_types, self.copy_of)

    def _cells(self, position: int) -> Iterator[str]:
        with open_table(self.path, self.copy_of) as (_, records):
            yield from (row[position] for _, row in records if not isinstance(row, Reject) and len(row) > position)


@dataclass(frozen=True)
class _Table:
    """What turns the records of one file into components."""

    header: list[str]
    positions: Mapping[str, int]
    doubled: Sequence[tuple[int, int]]
    dates: Dates
    event_types: Collection[str]
    source: str

    def day(self, row: list[str]) -> date | None:
        """The row's date, None where that cannot be read; the row may have too few fields or too many."""
        try:
            return self.dates.moment(row[self.positions["mostimportantdateutc"]]).day
        except (IndexError, ValueError):
            return None

    def survey(self, records: Iterable[Record]) -> Survey:
        """What the records tell without their texts; rows that follow each other with the same facts are one look."""
        found = Survey()
        names = [name for name in _SURVEYED_COLUMNS if name in self.positions]
        for cells, _ in groupby(self._whole(records, found), key=itemgetter(*(self.positions[name] for name in names))):
            values = _Values(dict(zip(names, cells, strict=True)))
            if not self._is_call(values):
                continue
            try:
                day = values.required("mostimportantdateutc", self.dates.moment).day
            except _Unusable:
                found.undated = True
                continue  # `read` reports the row.
            found.quarters.add(calendar_quarter(day))
            try:
                company_id = values.required("companyid", integer)
                values.required("transcriptid", integer)
            except _Unusable:
                continue
            call = (values.cells["companyname"], values.text("ticker"))
            found.calls.setdefault(company_id, {}).setdefault(day, call)
        return found

    def _whole(self, records: Iterable[Record], found: Survey) -> Iterator[list[str]]:
        """The rows with as many fields as the header."""
        for _, row in records:
            if isinstance(row, Reject) or len(row) != len(self.header):
                found.undated = True
            else:
                yield row

    def take(self, number: int, row: list[str], firms: Collection[int] | None) -> Iterator[Component | Reject]:
        """The row's component after its repairs, or its reject, or nothing where another firm or event is meant."""
        if len(row) != len(self.header):
            fields = f"{len(row)} fields where the header has {len(self.header)}"
            reason = f"{fields}; quote each field that has a comma or quote in it"
            yield Reject(number, "", shown(",".join(row)), reason, source=self.source)
            return
        for one, other in self.doubled:
            if row[one].strip() != row[other].strip():
                value = shown(f"{row[one]} | {row[other]}")
                reason = "two columns of this name that differ; keep the right one"
                yield Reject(number, self.header[one].strip(), value, reason, source=self.source)
                return
        values = _Values({name: row[i] for name, i in self.positions.items()})
        if not self._is_call(values):
            return
        try:
            company_id = values.required("companyid", integer)
            if firms is not None and company_id not in firms:
                return
            component = self._component(number, company_id, values)
        except _Unusable as why:
            transcript_id = values.optional("transcriptid", integer)
            value = shown(values.raw[why.column])
            yield Reject(number, self._name(why.column), value, why.reason, transcript_id, source=self.source)
            return
        if values.repairs:
            columns = ", ".join(self._name(column) for column in values.repairs)
            value = shown(values.raw[next(iter(values.repairs))])
            reason = "; ".join(dict.fromkeys(values.repairs.values()))
            yield Reject(number, columns, value, reason, component.transcript_id, kept=True, source=self.source)
        yield component

    def event_type(self, row: list[str]) -> str:
        """The event that the row says it is of."""
        return row[self.positions["keydeveventtypename"]].strip()

    def _is_call(self, values: "_Values") -> bool:
        return is_earnings_call(values.text("keydeveventtypename"), self.event_types)

    def _name(self, column: str) -> str:
        return self.header[self.positions[column]].strip()

    def _component(self, number: int, company_id: int, values: "_Values") -> Component:
        cells = values.cells
        held = values.required("mostimportantdateutc", self.dates.moment)
        return Component(
            row_number=number,
            company_id=company_id,
            company_name=cells["companyname"],
            transcript_id=values.required("transcriptid", integer),
            call_date=held.day,
            component_order=values.required("componentorder", small_integer),
            type_name=cells["transcriptcomponenttypename"].strip(),
            speaker_type=cells["speakertypename"].strip(),
            person=cells.get("transcriptpersonname", ""),
            text=cells["componenttext"],
            headline=cells.get("headline", ""),
            ticker=values.text("ticker"),
            gvkey=values.text("gvkey"),
            permno=values.optional("permno", integer),
            event_id=values.optional("keydevid", integer),
            event_type=values.text("keydeveventtypename"),
            call_at=held.with_time(values.optional("mostimportanttimeutc", time_of_day)),
            collection_type=values.text("transcriptcollectiontypename"),
            presentation_type=values.text("transcriptpresentationtypename"),
            created_at=self._created_at(values),
            component_id=values.optional("transcriptcomponentid", integer),
            person_id=values.optional("transcriptpersonid", integer),
            source=self.source,
        )

    def _created_at(self, values: "_Values") -> datetime | None:
        created = values.optional("transcriptcreationdate_utc", self.dates.moment)
        clock = values.optional("transcriptcreationtime_utc", time_of_day)
        return created and (created.with_time(clock) or datetime.combine(created.day, time(), UTC))


class _Unusable(Exception):
    """A required value of a row cannot be read."""

    def __init__(self, column: str, reason: str) -> None:
        super().__init__(column, reason)
        self.column, self.reason = column, reason


class _Values:
    """The values of one row by our column names.

    raw:     its cells as they stand
    cells:   as they can be stored
    repairs: column -> what was done to it; grows as optional values are found that cannot be read
    """

    def __init__(self, raw: Mapping[str, str]) -> None:
        self.raw = raw
        self.cells: dict[str, str] = {}
        self.repairs: dict[str, str] = {}
        for name, cell in raw.items():
            self.cells[name], reason = repaired(cell)
            if reason:
                self.repairs[name] = reason

    def text(self, name: str) -> str | None:
        return self.cells.get(name, "").strip() or None

    def required(self, name: str, parse: Callable[[str], Value]) -> Value:
        try:
            return parse(self.cells[name])
        except ValueError as error:
            raise _Unusable(name, str(error)) from error

    def optional(self, name: str, parse: Callable[[str], Value]) -> Value | None:
        cell = self.cells.get(name, "")
        if is_nothing(cell):
            return None
        try:
            return parse(cell)
        except ValueError as error:
            self.repairs[name] = f"left empty: {error}"
            return None
