"""The values of a source's rows, checked and made plain: missing is missing, and what cannot be read is a reject.

A source of your own may hand over whatever a data frame holds: NaN, NaT, numpy scalars, floats for ids. Rows whose
values are plain already stay the same objects.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields, replace
from datetime import UTC, date, datetime, time
from decimal import Decimal
from functools import lru_cache
from operator import attrgetter
from reprlib import Repr
from typing import Any, TypeGuard

import numpy as np

from ftm_assets.analysis.transcripts import Component, Reject, SourceFirm
from ftm_assets.errors import FtmError

BIGINT, INT = 2**63 - 1, 2**31 - 1
_YEARS = range(1900, 2100)
# From here on not every whole number is a float, so the last digits of an id may be lost.
_EXACT_FLOAT = 2**53
# How pandas, SAS and SQL write "nothing". For numbers and dates only: a ticker or a name may well be NA.
_NOTHING = frozenset({"", ".", "na", "<na>", "nan", "nat", "none", "null", "\\n"})
_repr = Repr()
_repr.maxstring = _repr.maxother = 200


class NotARow(FtmError):
    """A source yields something else than its contract says."""

    def __init__(self, expected: str, found: object) -> None:
        super().__init__(
            f"the transcript source hands over a {type(found).__name__} ({_repr.repr(found)}) where {expected} is "
            "expected; docs/transcripts.md has a source that is complete"
        )


def is_nothing(cell: str) -> bool:
    """Whether text that should be a number or a date says that there is none."""
    return cell.strip().lower() in _NOTHING


def is_missing(value: object) -> bool:
    """Whether a value of a data frame says that there is none: None, NaN, NaT, pd.NA, numpy's masked."""
    if value is None or value is np.ma.masked:
        return True
    if isinstance(value, Decimal):
        return value.is_nan()
    try:
        return bool(value != value)  # noqa: PLR0124  (only NaN and NaT differ from themselves)
    except (TypeError, ValueError):
        # Not imported: pandas takes a third of a second, and its NA refuses to be true or false.
        return type(value).__name__ == "NAType"


def integer(cell: str, largest: int = BIGINT) -> int:
    """An integer, also as pandas writes it (`123.0`). raises: ValueError"""
    match = re.fullmatch(r"([+-]?\d{1,19})(?:\.0*)?", cell.strip(), re.ASCII)
    if match is None or abs(int(match[1])) > largest:
        raise ValueError(
            f"not an integer up to {largest}; write plain digits (a spreadsheet makes 1.2E+08 of long numbers)"
        )
    return int(match[1])


def checked_rows(rows: Iterable[object]) -> Iterator[Component | Reject]:
    """The rows of a source with plain values.

    rejected: rows with a required id or date that is missing or cannot be read; the Reject names row and field
    kept:     rows with an optional value that cannot be read, which is left empty; a Reject, then the Component
    times:    in UTC where they have no time zone; the day of a call is that in UTC
    raises:   NotARow
    """
    for number, row in enumerate(rows, start=1):
        if isinstance(row, Component):
            if _is_plain(row):
                yield row
            else:
                yield from _mended(row, number)
        elif isinstance(row, Reject):
            yield _plain_reject(row, number)
        else:
            raise NotARow("a Component or a Reject", row)


def checked_firm(firm: object) -> SourceFirm:
    """A firm with plain values, without the days that are missing. raises: NotARow"""
    if not isinstance(firm, SourceFirm):
        raise NotARow("a SourceFirm", firm)
    try:
        return SourceFirm(
            company_id=_id(firm.company_id),
            name=_text(firm.name) or "",
            ticker=_text(firm.ticker),
            call_dates=tuple(sorted({_day(day) for day in firm.call_dates if not is_missing(day)})),
        )
    except (TypeError, ValueError) as error:
        raise FtmError(
            f"the transcript source names a firm that cannot be read ({error}): {_repr.repr(firm)}; give a company id, "
            "a name, a ticker or None, and the dates of its calls"
        ) from error


# --- one row

# Repairs are no value of a source.
_COMPONENT_FIELDS = tuple(field.name for field in fields(Component) if field.name != "repairs")
_values = attrgetter(*_COMPONENT_FIELDS)
_moments = attrgetter("call_at", "created_at")
_numbers = attrgetter("row_number", "company_id", "transcript_id", "permno", "event_id", "component_id", "person_id")


def _is_plain(row: Component) -> bool:
    """Whether every value is what `Component` says, and within what the database can hold."""
    return (
        _are_plain(tuple(map(type, _values(row))))
        and isinstance(row.repairs, tuple)
        and not row.repairs
        and row.call_date.year in _YEARS
        and abs(row.component_order) <= INT
        and all(number is None or abs(number) <= BIGINT for number in _numbers(row))
        and all(moment is None or (moment.tzinfo and moment.year in _YEARS) for moment in _moments(row))
    )


@lru_cache(maxsize=4096)
def _are_plain(types: tuple[type, ...]) -> bool:
    return all(found in _FIELDS[name][1] for name, found in zip(_COMPONENT_FIELDS, types, strict=True))


def _mended(row: Component, number: int) -> Iterator[Component | Reject]:
    plain: dict[str, Any] = {}
    repairs: dict[str, str] = {}
    reject: tuple[str, str] | None = None
    for name in _COMPONENT_FIELDS:
        read, types = _FIELDS[name]
        value = getattr(row, name)
        try:
            plain[name] = _OF_NOTHING[name] if is_missing(value) and name in _OF_NOTHING else read(value)
        except ValueError as error:
            if name == "row_number":
                plain[name] = number
            elif type(None) in types:
                plain[name] = None
                repairs[name] = f"left empty: {error}"
            else:
                reject = reject or (name, str(error))
    place = {"transcript_id": plain.get("transcript_id"), "source": plain.get("source", "")}
    if reject:
        name, reason = reject
        yield Reject(plain["row_number"], name, _shown(getattr(row, name)), reason, **place)
        return
    if repairs:
        value = _shown(getattr(row, next(iter(repairs))))
        reason = "; ".join(dict.fromkeys(repairs.values()))
        yield Reject(plain["row_number"], ", ".join(repairs), value, reason, kept=True, **place)
    yield replace(row, **plain, repairs=())


def _plain_reject(row: Reject, number: int) -> Reject:
    def text(value: object) -> str:
        return "" if is_missing(value) else value if type(value) is str else _shown(value)

    return Reject(
        row_number=_or_else(_id, row.row_number, number),
        column=text(row.column),
        value=text(row.value),
        reason=text(row.reason),
        transcript_id=_or_else(_id, row.transcript_id, None),
        kept=bool(row.kept),
        source=text(row.source),
    )


def _or_else(read: Callable[[object], int], value: object, otherwise: Any) -> Any:
    try:
        return read(value)
    except ValueError:
        return otherwise


def _shown(value: object) -> str:
    try:
        return _repr.repr(_unboxed(value))
    except ValueError:
        # Python writes no integer of more than 4,300 digits.
        return f"a {type(value).__name__}"


# --- one value


def _unboxed(value: object) -> object:
    """The value of Python behind a numpy scalar."""
    if isinstance(value, np.datetime64):
        # Its nanoseconds would become an integer.
        return value.astype("datetime64[us]").item()
    return value.item() if isinstance(value, np.generic) else value


def _is_number(value: object) -> TypeGuard[int | float | Decimal]:
    return isinstance(value, int | float | Decimal) and not isinstance(value, bool)


def _id(value: object, largest: int = BIGINT) -> int:
    value = _unboxed(value)
    if is_missing(value) or (isinstance(value, str) and is_nothing(value)):
        raise ValueError("missing; give an integer")
    if isinstance(value, str):
        return integer(value, largest)
    if not _is_number(value):
        raise ValueError(f"a {type(value).__name__}, not an integer")
    if isinstance(value, float) and abs(value) >= _EXACT_FLOAT:
        raise ValueError("a float that has lost digits of the integer; give an integer")
    if not -largest <= value <= largest or value != int(value):
        raise ValueError(f"not an integer up to {largest}")
    return int(value)


def _small(value: object) -> int:
    return _id(value, INT)


def _optional_id(value: object) -> int | None:
    return None if isinstance(value, str) and is_nothing(value) else _id(value)


def _text(value: object) -> str | None:
    if is_missing(value):
        return None
    value = _unboxed(value)
    if isinstance(value, str):
        return str(value)
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            raise ValueError("bytes that are not UTF-8; decode them in the source") from error
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if _is_number(value):
        return str(value)
    raise ValueError(f"a {type(value).__name__}, not text")


def _day(value: object) -> date:
    """The day in UTC."""
    if is_missing(value) or (isinstance(value, str) and is_nothing(value)):
        raise ValueError("missing; give a date")
    moment = _moment(value)
    return moment.astimezone(UTC).date() if isinstance(moment, datetime) else moment


def _call_at(value: object) -> datetime | None:
    moment = _optional_moment(value)
    if moment is None or isinstance(moment, datetime):
        return moment
    raise ValueError("a day, not a time")


def _created_at(value: object) -> datetime | None:
    moment = _optional_moment(value)
    return moment if moment is None or isinstance(moment, datetime) else datetime.combine(moment, time(), UTC)


def _optional_moment(value: object) -> date | None:
    return None if isinstance(value, str) and is_nothing(value) else _moment(value)


def _moment(value: object) -> date:
    """A date, or a datetime with its time zone; in UTC where it has none."""
    value = _unboxed(value)
    if isinstance(value, str):
        value = _of_iso(value)
    if not isinstance(value, date):
        raise ValueError(f"a {type(value).__name__}, not a date; give a datetime.date or datetime.datetime")
    if value.year not in _YEARS:
        raise ValueError(f"not a year from {_YEARS.start} to {_YEARS.stop - 1}")
    if not isinstance(value, datetime):
        return value
    # Field by field: pandas' Timestamp has nanoseconds, which datetime has not.
    clock = (value.hour, value.minute, value.second, value.microsecond)
    moment = datetime(value.year, value.month, value.day, *clock, tzinfo=value.tzinfo, fold=value.fold)
    return moment.replace(tzinfo=UTC) if moment.utcoffset() is None else moment


def _of_iso(text: str) -> date:
    for read in (date.fromisoformat, datetime.fromisoformat):
        try:
            return read(text.strip())
        except ValueError:
            continue
    raise ValueError("not a date; write YYYY-MM-DD, or give a datetime.date")


# Field of Component -> what reads a value that is there, and the types that need no reading. Decision 120.
_FIELDS: dict[str, tuple[Callable[[Any], Any], tuple[type, ...]]] = {
    "row_number": (_id, (int,)),
    "company_id": (_id, (int,)),
    "company_name": (_text, (str,)),
    "transcript_id": (_id, (int,)),
    "call_date": (_day, (date,)),
    "component_order": (_small, (int,)),
    "type_name": (_text, (str,)),
    "speaker_type": (_text, (str,)),
    "person": (_text, (str,)),
    "text": (_text, (str,)),
    "headline": (_text, (str,)),
    "ticker": (_text, (str, type(None))),
    "gvkey": (_text, (str, type(None))),
    "permno": (_optional_id, (int, type(None))),
    "event_id": (_optional_id, (int, type(None))),
    "event_type": (_text, (str, type(None))),
    "call_at": (_call_at, (datetime, type(None))),
    "collection_type": (_text, (str, type(None))),
    "presentation_type": (_text, (str, type(None))),
    "created_at": (_created_at, (datetime, type(None))),
    "component_id": (_optional_id, (int, type(None))),
    "person_id": (_optional_id, (int, type(None))),
    "source": (_text, (str,)),
}
# What a missing value becomes; a field that is not here cannot do without one.
_OF_NOTHING: dict[str, str | None] = {
    name: None if type(None) in types else "" for name, (_, types) in _FIELDS.items() if types not in ((int,), (date,))
}
