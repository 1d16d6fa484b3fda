"""Where transcripts come from: a CSV in Capital IQ's columns, or a source of one's own."""

import csv
import gzip
import importlib
import io
import re
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time
from difflib import get_close_matches
from functools import cached_property, lru_cache
from operator import attrgetter
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, Protocol, TextIO

from ftm_assets.analysis.transcripts import (
    EARNINGS_CALLS,
    Component,
    Reject,
    SourceFirm,
    calendar_quarter,
    is_earnings_call,
    quarter_dates,
)
from ftm_assets.errors import FtmError

REQUIRED_COLUMNS = (
    "companyid",
    "companyname",
    "transcriptid",
    "mostimportantdateutc",
    "componentorder",
    "transcriptcomponenttypename",
    "speakertypename",
    "componenttext",
)
OPTIONAL_COLUMNS = (
    "headline",
    "ticker",
    "gvkey",
    "permno",
    "keydevid",
    "keydeveventtypename",
    "mostimportanttimeutc",
    "transcriptcollectiontypename",
    "transcriptpresentationtypename",
    "transcriptcreationdate_utc",
    "transcriptcreationtime_utc",
    "transcriptcomponentid",
    "transcriptpersonid",
    "transcriptpersonname",
)

_LONGEST_FIELD = 16 * 2**20  # Ten times the longest call; what is longer is an unclosed quote that swallows the file.
_SHOWN = 200
_BIGINT, _INT = 2**63 - 1, 2**31 - 1
_NO_MAP: Mapping[str, str] = MappingProxyType({})
# How pandas, SAS and SQL write "nothing". For numbers and dates only: a ticker or a name may well be NA.
_NOTHING = frozenset({"", ".", "NA", "<NA>", "NaN", "nan", "NaT", "None", "NULL", "null", "\\N"})
_NOT_CSV = {
    b"PK": "a zip archive or an Excel workbook; unpack it, or save the sheet as 'CSV UTF-8'",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook; save the sheet as 'CSV UTF-8'",
    b"PAR1": "a Parquet file; write it as CSV (pandas.read_parquet(...).to_csv(..., index=False))",
    b"BZh": "packed with bzip2; unpack it, or pack it with gzip",
    b"\xfd7zXZ": "packed with xz; unpack it, or pack it with gzip",
    b"\x28\xb5\x2f\xfd": "packed with zstd; unpack it, or pack it with gzip",
    b"\xff\xfe": "in UTF-16; convert it with: iconv -f UTF-16 -t UTF-8",
    b"\xfe\xff": "in UTF-16; convert it with: iconv -f UTF-16 -t UTF-8",
}


class SourceUnreadable(FtmError):
    """A transcript file is missing, is no CSV, or breaks off; nothing of it should be kept."""


class BadColumns(FtmError):
    """The header lacks a column, or the column map does not fit the header."""


class NoSuchSource(FtmError):
    """No transcript source goes by this name."""


class TranscriptSource(Protocol):
    """Anything that knows which firms held calls, and can hand out the calls of a quarter."""

    @property
    def name(self) -> str:
        """Where the calls come from, as it is recorded with them."""
        ...

    def firms(self, start: date, end: date) -> list[SourceFirm]:
        """Firms with a call from `start` to `end`, both inclusive, by company id; with the dates of those calls."""
        ...

    def quarters(self) -> dict[str, int]:
        """Calendar quarters that have calls, in order, with how many; a firm's transcripts of one day count once."""
        ...

    def read(self, quarter: str, firms: Collection[int] | None = None) -> Iterator[Component | Reject]:
        """The rows of a calendar quarter in any order, of all firms or of those named, in one pass."""
        ...


@dataclass(frozen=True)
class CsvSource:
    """A CSV with a header and one row per component, plain or gzip (told by content), UTF-8, RFC 4180 quotes.

    Each method is one pass over the file in bounded memory; nothing is read before, and errors of the whole file are
    raised on the way (from `read`, while its rows are taken).

    columns:     our column name -> its name in this file, where it differs; case and outer blanks never matter
    event_types: events that are calls, where the file has `keydeveventtypename`; rows of others are passed over
    rows:        numbered as records, blank ones included, the header being 1 (a spreadsheet's numbers)
    dates:       2021-10-28, 2021/10/28, 20211028 or 28OCT2021, with or without a time of day. In 10/28/2021 the first
                 date of the file with a part above 12 tells which part is the month, for all; without such a date the
                 rows are rejected, because a wrong guess moves a call to another quarter without a trace.
    times:       UTC unless they carry an offset. Midnight in a date column is no time: exports add it to bare dates.
                 A bare creation date counts as the start of that day. Of a full timestamp in a time column only the
                 time of day counts, because exports put 1960-01-01 before it.
    rejected:    rows without a readable date (in every quarter, for they belong to none), integer ids or the
                 header's number of fields, and rows with broken quotes. One Reject a row, for its first fault.
    kept:        rows with NUL (removed), with bytes that are not UTF-8 (replaced by U+FFFD), or with an optional number
                 or time that cannot be read (left empty). One Reject a row, then its Component.
    raises:      SourceUnreadable, BadColumns
    """

    path: Path
    columns: Mapping[str, str] = field(default_factory=dict)
    event_types: Collection[str] = (EARNINGS_CALLS,)

    @property
    def name(self) -> str:
        """The file's full path, links resolved."""
        return str(self.path.resolve())

    def firms(self, start: date, end: date) -> list[SourceFirm]:
        """See `TranscriptSource`. Name and ticker are those of the firm's latest call in the range."""
        dates: dict[int, set[date]] = defaultdict(set)
        latest: dict[int, tuple[date, str, str | None]] = {}
        with closing(_records(self.path)) as records:
            table = self._table(records)
            for company_id, day, name, ticker in table.calls(records):
                if not start <= day <= end:
                    continue
                dates[company_id].add(day)
                if company_id not in latest or day > latest[company_id][0]:
                    latest[company_id] = (day, name, ticker)
        return [SourceFirm(firm, *latest[firm][1:], tuple(sorted(dates[firm]))) for firm in sorted(dates)]

    def quarters(self) -> dict[str, int]:
        """See `TranscriptSource`."""
        firms = self.firms(date.min, date.max)
        return dict(sorted(Counter(calendar_quarter(day) for firm in firms for day in firm.call_dates).items()))

    def read(self, quarter: str, firms: Collection[int] | None = None) -> Iterator[Component | Reject]:
        """See `TranscriptSource`. In the file's order; rejects whose firm cannot be told come whatever `firms` says."""
        first, last = quarter_dates(quarter)
        with closing(_records(self.path)) as records:
            table = self._table(records)
            for number, row in records:
                if isinstance(row, Reject):
                    yield row
                    continue
                # The date comes first: most rows of a big file belong to other quarters.
                moment = table.moment(row)
                if moment is None or first <= moment.day <= last:
                    yield from table.take(number, row, moment, firms)

    def _table(self, records: "Iterator[_Record]") -> "_Table":
        number, header = next(records)
        if isinstance(header, Reject):
            raise SourceUnreadable(f"{self.path}: the header (row {number}) cannot be read: {header.reason}")
        names = _column_names(self.path, header, self.columns)
        index = {ours: header.index(theirs) for ours, theirs in names.items()}
        date_index = index["mostimportantdateutc"]

        def dates() -> Iterator[str]:
            with closing(_records(self.path)) as again:
                next(again)
                rows = (row for _, row in again if not isinstance(row, Reject))
                yield from (row[date_index] for row in rows if len(row) > date_index)

        return _Table(names, index, len(header), _Dates(dates), self.event_types)


def open_source(
    spec: str, columns: Mapping[str, str] = _NO_MAP, event_types: Collection[str] = (EARNINGS_CALLS,)
) -> TranscriptSource:
    """The transcript source that a word names.

    spec:    path of a CSV, or `package.module:attribute`: a TranscriptSource, or what returns one when called bare
    columns, event_types: for a CSV; a source of one's own decides for itself
    raises:  NoSuchSource. A CSV is not opened before it is read.
    """
    path = Path(spec).expanduser()
    if not spec.strip():
        raise NoSuchSource("no transcript source is named; give the path of a CSV, or package.module:attribute")
    scheme, remote, _ = spec.partition("://")
    if remote:
        raise NoSuchSource(
            f"{spec!r}: {scheme} sources are not available yet; copy the file here and give its path, or write a "
            "TranscriptSource and name it as package.module:attribute"
        )
    if re.fullmatch(r"[^\W\d][\w.]*:[^\W\d][\w.]*", spec) and not path.exists():
        if columns:
            raise NoSuchSource(f"a column map is for CSV files; {spec!r} knows its own columns, so leave the map out")
        return _imported(spec)
    return CsvSource(path, dict(columns), event_types)


def _imported(spec: str) -> TranscriptSource:
    module_name, attribute = spec.split(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise NoSuchSource(
            f"transcript source {spec!r}: module {module_name!r} cannot be imported ({type(error).__name__}: {error}); "
            "install it, or put its folder on PYTHONPATH"
        ) from error
    try:
        found = attrgetter(attribute)(module)
    except AttributeError as error:
        public = [name for name in vars(module) if not name.startswith("_")]
        raise NoSuchSource(
            f"transcript source {spec!r}: {module_name} has no {attribute!r}{_nearest(attribute, public)}"
        ) from error
    if callable(found) and (isinstance(found, type) or _lacking(found)):
        try:
            found = found()
        except Exception as error:
            raise NoSuchSource(
                f"transcript source {spec!r}: calling it without arguments failed ({type(error).__name__}: {error}); "
                "name an instance, or a function that needs no arguments"
            ) from error
    if lacking := _lacking(found):
        raise NoSuchSource(
            f"transcript source {spec!r} is a {type(found).__name__} without {', '.join(lacking)}; "
            "it needs what ftm_assets.resources.transcripts.TranscriptSource lists"
        )
    source: TranscriptSource = found
    return source


def _lacking(found: object) -> list[str]:
    return [name for name in ("name", "firms", "quarters", "read") if not hasattr(found, name)]


# --- The file -------------------------------------------------------------------------------------------------------

_Record = tuple[int, list[str] | Reject]


def _records(path: Path) -> Generator[_Record, None, None]:
    """Numbered records of a CSV, the header first, blank ones left out; a Reject where the quotes do not match.

    raises: SourceUnreadable, also at the end: where the file breaks off or has no rows
    """
    csv.field_size_limit(max(_LONGEST_FIELD, csv.field_size_limit()))
    number = n_filled = 0
    with _text(path) as text:
        # Strict: without it a stray quote alters the text silently, and an unclosed one swallows the rest of the file.
        reader = csv.reader(text, strict=True)
        while True:
            line = reader.line_num + 1
            row: list[str] | Reject
            try:
                row = next(reader)
            except StopIteration:
                break
            except csv.Error as error:
                row = _broken_quotes(path, number + 1, range(line, reader.line_num + 1), error)
            except (EOFError, zlib.error, OSError) as error:
                raise SourceUnreadable(
                    f"{path} breaks off after row {number} ({error}); copy or download it again, nothing of it was used"
                ) from error
            number += 1
            if row:
                n_filled += 1
                yield number, row
    if n_filled < 2:
        what = "is empty" if n_filled == 0 else "has a header but no rows"
        raise SourceUnreadable(f"{path} {what}; export the transcripts again, header and rows")


@contextmanager
def _text(path: Path) -> Iterator[TextIO]:
    try:
        raw = path.open("rb")
    except FileNotFoundError as error:
        raise SourceUnreadable(_missing_file(path)) from error
    except IsADirectoryError as error:
        inside = sorted(p.name for p in path.iterdir() if ".csv" in p.suffixes)
        names = f", such as {', '.join(inside[:3])}" if inside else ""
        raise SourceUnreadable(f"{path} is a folder; give the path of one CSV file{names}") from error
    except OSError as error:
        raise SourceUnreadable(f"{path} cannot be opened: {error.strerror}; check path and permissions") from error
    with raw:
        start = raw.peek(8)[:8]
        for magic, what in _NOT_CSV.items():
            if start.startswith(magic):
                raise SourceUnreadable(f"{path} is {what}")
        unpacked = gzip.GzipFile(fileobj=raw) if start.startswith(b"\x1f\x8b") else raw
        # Bytes that are not UTF-8 come through as lone surrogates, so that the row can say it was repaired.
        yield io.TextIOWrapper(unpacked, encoding="utf-8-sig", errors="surrogateescape", newline="")


def _missing_file(path: Path) -> str:
    folder = path.absolute().parent
    if not folder.is_dir():
        return f"{path} does not exist, nor does its folder {folder}; check the path"
    return f"{path} does not exist{_nearest(path.name, [p.name for p in folder.iterdir()])}; check the path"


def _broken_quotes(path: Path, number: int, lines: range, error: csv.Error) -> Reject:
    """The reject of a record the csv module cannot read; raises SourceUnreadable where the file itself breaks off."""
    where = f"line {lines[0]}" if len(lines) < 2 else f"lines {lines[0]}-{lines[-1]}"
    if str(error) == "unexpected end of data":
        raise SourceUnreadable(
            f"{path} ends inside a quoted field (row {number}, {where}): it is cut off or a quote is never closed; "
            "export it again, nothing of it was used"
        ) from error
    if str(error).startswith("field larger than"):
        raise SourceUnreadable(
            f"{path}: a field of row {number} ({where}) is longer than {_LONGEST_FIELD:,} characters; "
            "most likely a quote is never closed: double each quote inside a quoted field"
        ) from error
    reason = f"quotes do not match in {where} of the file ({error}); double each quote inside a quoted field"
    return Reject(number, "", "", reason)


# --- The header -----------------------------------------------------------------------------------------------------


def _column_names(path: Path, header: list[str], columns: Mapping[str, str]) -> dict[str, str]:
    """Our column name -> the header's, exactly as it stands there. raises: BadColumns"""
    known = (*REQUIRED_COLUMNS, *OPTIONAL_COLUMNS)
    found: dict[str, list[str]] = defaultdict(list)
    for name in header:
        found[_folded(name)].append(name)
    mapped = {_folded(ours): theirs for ours, theirs in columns.items()}
    for ours, theirs in mapped.items():
        if ours not in known:
            raise BadColumns(f"the column map names {ours!r}{_nearest(ours, known)}; it can name: {', '.join(known)}")
        if _folded(theirs) not in found:
            raise BadColumns(
                f"the column map reads {ours!r} from {theirs!r}, which {path} does not have"
                f"{_nearest(_folded(theirs), found)}; it has: {_listed(header)}"
            )
    wanted = {ours: _folded(mapped.get(ours, ours)) for ours in known}
    if missing := [ours for ours in REQUIRED_COLUMNS if wanted[ours] not in found]:
        spare = [name for name in found if name not in wanted.values()]
        names = ", ".join(f"{ours!r}{_nearest(ours, spare)}" for ours in missing)
        raise BadColumns(
            f"{path} has no column {names}; it has: {_listed(header)}{_other_delimiter(header)}. Rename the column, or "
            f"give a column map, such as {{{missing[0]!r}: 'its name in this file'}}"
        )
    for ours, name in wanted.items():
        if len(found[name]) > 1:
            raise BadColumns(f"{path} has {len(found[name])} columns {name!r}; keep one, or map {ours!r} to another")
    return {ours: found[name][0] for ours, name in wanted.items() if found[name]}


def _folded(name: str) -> str:
    return name.strip().lower()


def _listed(header: Sequence[str]) -> str:
    return _shown(", ".join(header), 1000)


def _other_delimiter(header: list[str]) -> str:
    text = ",".join(header)
    for delimiter, word in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
        if text.count(delimiter) > len(header):
            return f". Its fields are separated by {word}: export it with commas"
    return ""


def _nearest(name: str, names: Iterable[str]) -> str:
    near = get_close_matches(name, list(names), n=1)
    return f" (nearest: {near[0]!r})" if near else ""


# --- The rows -------------------------------------------------------------------------------------------------------


class _Unusable(Exception):
    """A required value of a row cannot be read."""

    def __init__(self, column: str, reason: str) -> None:
        super().__init__(column, reason)
        self.column, self.reason = column, reason


@dataclass(frozen=True)
class _Table:
    """What turns the records of one file into components."""

    names: Mapping[str, str]
    index: Mapping[str, int]
    width: int
    dates: "_Dates"
    event_types: Collection[str]

    def moment(self, row: list[str]) -> "_Moment | None":
        """When the row's call was held, None where that cannot be read; the row may have too few fields or too many."""
        at = self.index["mostimportantdateutc"]
        return self.dates.moment(row[at]) if at < len(row) else None

    def calls(self, records: Iterator[_Record]) -> Iterator[tuple[int, date, str, str | None]]:
        """Company id, date, name and ticker of each call that can be read; once for rows that follow each other."""
        keys = [self.index[c] for c in ("companyid", "mostimportantdateutc", "keydeveventtypename") if c in self.index]
        previous: list[str] = []
        for _, row in records:
            if isinstance(row, Reject) or len(row) != self.width:
                continue
            key = [row[i] for i in keys]
            if key == previous:
                continue
            moment = self.moment(row)
            cells = {name: _mended(cell) for name, cell in self._cells(row).items()}
            if moment is None or not is_earnings_call(_text_or_none(cells, "keydeveventtypename"), self.event_types):
                continue
            company_id = _integer_or_none(cells["companyid"])
            if company_id is None or _integer_or_none(cells["transcriptid"]) is None:
                continue  # `read` reports the row.
            previous = key
            yield company_id, moment.day, cells["companyname"], _text_or_none(cells, "ticker")

    def take(
        self, number: int, row: list[str], moment: "_Moment | None", firms: Collection[int] | None
    ) -> Iterator[Component | Reject]:
        """The row's component after its repairs, or its reject, or nothing where another firm or event is meant."""
        if len(row) != self.width:
            reason = (
                f"{len(row)} fields where the header has {self.width}; quote each field that has a comma or quote in it"
            )
            yield Reject(number, "", _shown(",".join(row)), reason)
            return
        raw = self._cells(row)
        cells = {name: _mended(cell) for name, cell in raw.items()}
        if not is_earnings_call(_text_or_none(cells, "keydeveventtypename"), self.event_types):
            return
        repairs = {name: _damage(cell) for name, cell in raw.items() if cells[name] != cell}
        values = _Values(cells, self.dates, repairs)
        try:
            company_id = values.required_integer("companyid", _BIGINT)
            if firms is not None and company_id not in firms:
                return
            component = _component(number, company_id, moment, values)
        except _Unusable as why:
            transcript_id = _integer_or_none(cells["transcriptid"])
            yield Reject(number, self.names[why.column].strip(), _shown(raw[why.column]), why.reason, transcript_id)
            return
        if repairs:
            column = ", ".join(self.names[name].strip() for name in repairs)
            reason = "; ".join(dict.fromkeys(repairs.values()))
            value = _around_damage(raw[next(iter(repairs))])
            yield Reject(number, column, value, reason, component.transcript_id, kept=True)
        yield component

    def _cells(self, row: list[str]) -> dict[str, str]:
        return {name: row[i] for name, i in self.index.items()}


@dataclass(frozen=True)
class _Values:
    """Typed values of one row. An optional one that cannot be read is None, and `repairs` says why."""

    cells: Mapping[str, str]
    dates: "_Dates"
    repairs: dict[str, str]

    def required_integer(self, name: str, largest: int) -> int:
        number = _integer_or_none(self.cells[name])
        if number is None or abs(number) > largest:
            reason = f"not an integer up to {largest}; write plain digits (a spreadsheet makes 1.2E+08 of long numbers)"
            raise _Unusable(name, reason)
        return number

    def integer(self, name: str) -> int | None:
        cell = self.cells.get(name, "").strip()
        number = _integer_or_none(cell)
        if number is None and cell not in _NOTHING:
            self.repairs[name] = "not an integer of 64 bits, left empty: write plain digits or nothing"
        return number

    def instant(self, day: date, name: str) -> datetime | None:
        cell = self.cells.get(name, "").strip()
        if cell in _NOTHING:
            return None
        try:
            return self.dates.instant(day, cell)
        except ValueError:
            self.repairs[name] = "not a time of day, left empty: write HH:MM:SS in UTC or nothing"
            return None

    def created_at(self) -> datetime | None:
        name = "transcriptcreationdate_utc"
        cell = self.cells.get(name, "").strip()
        if cell in _NOTHING:
            return None
        created = self.dates.moment(cell)
        if created is None:
            self.repairs[name] = f"left empty: {_why_no_date(cell)}"
            return None
        start_of_day = datetime.combine(created.day, time(), UTC)
        return self.instant(created.day, "transcriptcreationtime_utc") or created.at or start_of_day


def _component(number: int, company_id: int, moment: "_Moment | None", values: _Values) -> Component:
    cells = values.cells
    if moment is None:
        raise _Unusable("mostimportantdateutc", _why_no_date(cells["mostimportantdateutc"]))
    return Component(
        row_number=number,
        company_id=company_id,
        company_name=cells["companyname"],
        transcript_id=values.required_integer("transcriptid", _BIGINT),
        call_date=moment.day,
        component_order=values.required_integer("componentorder", _INT),
        type_name=cells["transcriptcomponenttypename"].strip(),
        speaker_type=cells["speakertypename"].strip(),
        person=cells.get("transcriptpersonname", ""),
        text=cells["componenttext"],
        headline=cells.get("headline", ""),
        ticker=_text_or_none(cells, "ticker"),
        gvkey=_text_or_none(cells, "gvkey"),
        permno=values.integer("permno"),
        event_id=values.integer("keydevid"),
        event_type=_text_or_none(cells, "keydeveventtypename"),
        call_at=values.instant(moment.day, "mostimportanttimeutc") or moment.at,
        collection_type=_text_or_none(cells, "transcriptcollectiontypename"),
        presentation_type=_text_or_none(cells, "transcriptpresentationtypename"),
        created_at=values.created_at(),
        component_id=values.integer("transcriptcomponentid"),
        person_id=values.integer("transcriptpersonid"),
    )


# --- The values -----------------------------------------------------------------------------------------------------


def _text_or_none(cells: Mapping[str, str], name: str) -> str | None:
    return cells.get(name, "").strip() or None


def _integer_or_none(cell: str) -> int | None:
    """An integer of 64 bits, also as pandas writes it (`123.0`)."""
    match = re.fullmatch(r"([+-]?\d{1,19})(?:\.0*)?", cell.strip(), re.ASCII)
    return int(match[1]) if match and abs(int(match[1])) <= _BIGINT else None


_DAMAGE = re.compile("[\0\udc80-\udcff]")


def _mended(cell: str) -> str:
    """The text without NUL, with U+FFFD for bytes that are not UTF-8; the same object where nothing is wrong."""
    if "\0" in cell:
        cell = cell.replace("\0", "")
    if cell.isascii():
        return cell
    try:
        cell.encode()
    except UnicodeEncodeError:
        return cell.encode(errors="surrogateescape").decode(errors="replace")
    return cell


def _damage(cell: str) -> str:
    reasons = []
    if "\0" in cell:
        reasons.append("NUL characters removed: export the file again if this text matters")
    if _DAMAGE.search(cell.replace("\0", "")):
        reasons.append("bytes that are not UTF-8 replaced by U+FFFD: convert it with iconv -f WINDOWS-1252 -t UTF-8")
    return "; ".join(reasons)


def _shown(value: str, length: int = _SHOWN) -> str:
    """The value as it can be stored and printed, damage written as \\x00 or \\xe9, shortened to `length` characters."""
    start = value[: length + 1].replace("\0", "\\x00")
    shown = start.encode(errors="surrogateescape").decode(errors="backslashreplace")
    return shown if len(shown) <= length else f"{shown[: length - 1]}…"


def _around_damage(value: str) -> str:
    damage = _DAMAGE.search(value)
    return _shown(value[max(0, damage.start() - _SHOWN // 2) :] if damage else value)


class _Moment(NamedTuple):
    day: date
    at: datetime | None


_STAMP = re.compile(
    r"""(?: (?P<year>\d{4}) (?P<hyphen>[-/]?) (?P<month>\d\d) (?P=hyphen) (?P<day>\d\d)
          | (?P<slashed>\d\d?/\d\d?/\d{4})
          | (?P<sas_day>\d\d?) -? (?P<sas_month>[A-Z]{3}) -? (?P<sas_year>\d{4}) )
        (?: [T\s:]+ (?P<clock>.+) )?""",
    re.VERBOSE | re.IGNORECASE | re.ASCII,
)
_CLOCK = re.compile(
    r"(\d\d?):(\d\d)(?::(\d\d)(?:\.\d*)?)?(?:\s*(AM|PM))?\s*(Z|UTC|GMT|[+-]\d\d:?\d\d)?", re.IGNORECASE | re.ASCII
)
_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")


class _Dates:
    """The dates of one file. cells: all of them from the start, to find out which part of 10/28/2021 is the month."""

    def __init__(self, cells: Callable[[], Iterator[str]]) -> None:
        self._cells = cells
        # A file has few dates and many rows.
        self.moment: Callable[[str], _Moment | None] = lru_cache(maxsize=65_536)(self._moment)

    def instant(self, day: date, cell: str) -> datetime | None:
        """The time of day of a cell, on that day, in UTC; None for a full timestamp at midnight. raises: ValueError"""
        stamp = self.moment(cell)
        if stamp is None:
            return _instant(day, cell)
        return datetime.combine(day, stamp.at.time(), UTC) if stamp.at else None

    def _moment(self, cell: str) -> _Moment | None:
        stamp = _STAMP.fullmatch(cell.replace("\0", "").strip())
        try:
            day = self._day(stamp) if stamp else None
            if stamp is None or day is None or not 1900 <= day.year <= 2100:
                return None
            at = _instant(day, stamp["clock"]) if stamp["clock"] else None
        except ValueError:
            return None
        if at is None:
            return _Moment(day, None)
        return _Moment(at.date(), at if at.time() != time() else None)

    def _day(self, stamp: re.Match[str]) -> date | None:
        if stamp["year"]:
            return date(int(stamp["year"]), int(stamp["month"]), int(stamp["day"]))
        if stamp["sas_year"]:
            return date(int(stamp["sas_year"]), _MONTHS.index(stamp["sas_month"].upper()) + 1, int(stamp["sas_day"]))
        one, two, year = (int(part) for part in stamp["slashed"].split("/"))
        if self._month_first is None:
            return None
        return date(year, one, two) if self._month_first else date(year, two, one)

    @cached_property
    def _month_first(self) -> bool | None:
        for cell in self._cells():
            stamp = _STAMP.fullmatch(cell.strip())
            if stamp and stamp["slashed"]:
                one, two, _ = (int(part) for part in stamp["slashed"].split("/"))
                if (one > 12) != (two > 12):
                    return two > 12
        return None


def _why_no_date(cell: str) -> str:
    stamp = _STAMP.fullmatch(cell.strip())
    if stamp and stamp["slashed"]:
        return "not a date, or its month cannot be told from its day in this file; export dates as YYYY-MM-DD"
    return "not a date; export dates as YYYY-MM-DD"


def _instant(day: date, clock: str) -> datetime:
    """A time of day such as `21:00:00`, `9:00 PM` or `17:00-04:00`, in UTC, to the second. raises: ValueError"""
    match = _CLOCK.fullmatch(clock.strip())
    if not match:
        raise ValueError("not a time of day")
    hour, half, zone = int(match[1]), (match[4] or "").upper(), (match[5] or "").upper()
    if half:
        hour = hour % 12 + 12 * (half == "PM")
    local = f"{day.isoformat()}T{hour:02}:{match[2]}:{match[3] or '00'}"
    return datetime.fromisoformat(local + (zone if zone[:1] in {"+", "-"} else "Z")).astimezone(UTC)
