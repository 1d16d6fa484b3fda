"""Cells of a CSV as values: integers, dates and times as exports write them, and text that can be stored.

What cannot be read raises ValueError with a reason that says what to write instead.
"""

import re
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, time
from functools import cached_property, lru_cache
from typing import NamedTuple

from ftm_assets.analysis.source_values import INT, integer

_N_SHOWN = 200
_NOT_UTF8 = re.compile("[\udc80-\udcff]")
_DAMAGE = re.compile("[\0\udc80-\udcff]")
_YEAR = r"(?:19|20)\d\d"
_STAMP = re.compile(
    rf"""(?: (?P<iso>{_YEAR} (?P<hyphen>[-/]?) \d\d (?P=hyphen) \d\d)
           | (?P<slashed>\d\d?/\d\d?/{_YEAR})
           | (?P<sas>\d\d?-?[A-Z]{{3}}-?{_YEAR}) )
         (?: [T\s:]+ (?P<clock>.+) )?""",
    re.VERBOSE | re.IGNORECASE | re.ASCII,
)
_CLOCK = re.compile(
    r"""(?P<hour>[01]?\d|2[0-3]) : (?P<minute>[0-5]\d) (?: :(?P<second>[0-5]\d) (?:\.\d*)? )?
        \s* (?P<half>AM|PM)? \s* (?: Z|UTC|GMT | (?P<offset>[+-][01]\d(?: :?[0-5]\d )?) )?""",
    re.VERBOSE | re.IGNORECASE | re.ASCII,
)


class Moment(NamedTuple):
    """A day, and the instant in UTC where one was given."""

    day: date
    at: datetime | None

    def with_time(self, clock: time | None) -> datetime | None:
        """The instant of the day at this time of UTC; without one, the instant that is known."""
        return self.at if clock is None else datetime.combine(self.day, clock, UTC)


def small_integer(cell: str) -> int:
    """An integer of 32 bits. raises: ValueError"""
    return integer(cell, INT)


def time_of_day(cell: str) -> time:
    """A time such as `21:00:00`, `9:00 PM` or `17:00-04:00`, in UTC, to the second. raises: ValueError

    Of a full timestamp only the time counts, because exports put 1960-01-01 before it.
    """
    stamp = _STAMP.fullmatch(cell.strip())
    clock = stamp["clock"] if stamp and stamp["clock"] else cell
    return _instant(date(1960, 1, 1), clock).time()


class Dates:
    """The dates of one file.

    cells: all of them from the start, asked for once, to find out which part of 10/28/2021 is the month
    """

    def __init__(self, cells: Callable[[], Iterable[str]]) -> None:
        self._cells = cells
        # A file has few dates and many rows.
        self.moment = lru_cache(maxsize=65_536)(self._moment)

    def _moment(self, cell: str) -> Moment:
        """What `2021-10-28`, `20211028`, `28OCT2021` or `10/28/2021` means, with or without a time. raises: ValueError

        Midnight is no time: exports add it to bare dates.
        """
        # Dates are read before their row is repaired.
        stamp = _STAMP.fullmatch(cell.replace("\0", "").strip())
        try:
            day = self._day(stamp)
            at = _instant(day, stamp["clock"]) if stamp and stamp["clock"] else None
        except ValueError as error:
            raise ValueError(f"not a date ({error}); export dates as YYYY-MM-DD") from error
        if at is None:
            return Moment(day, None)
        return Moment(at.date(), at if at.time() != time() else None)

    def _day(self, stamp: re.Match[str] | None) -> date:
        if stamp is None:
            raise ValueError("in no form that is known")
        if stamp["iso"]:
            return date.fromisoformat(re.sub("[-/]", "", stamp["iso"]))
        if stamp["sas"]:
            return datetime.strptime(stamp["sas"].replace("-", ""), "%d%b%Y").date()
        if self._month_first is None:
            raise ValueError("its month cannot be told from its day in this file")
        return datetime.strptime(stamp["slashed"], "%m/%d/%Y" if self._month_first else "%d/%m/%Y").date()

    @cached_property
    def _month_first(self) -> bool | None:
        for cell in self._cells():
            stamp = _STAMP.fullmatch(cell.strip())
            if stamp and stamp["slashed"]:
                one, two, _ = map(int, stamp["slashed"].split("/"))
                if (one > 12) != (two > 12):
                    return two > 12
        return None


def _instant(day: date, clock: str) -> datetime:
    match = _CLOCK.fullmatch(clock.strip())
    if match is None:
        raise ValueError("not a time of day; write HH:MM:SS in UTC")
    hour = int(match["hour"])
    if match["half"]:
        hour = hour % 12 + 12 * (match["half"].upper() == "PM")
    local = f"{day}T{hour:02}:{match['minute']}:{match['second'] or '00'}{match['offset'] or 'Z'}"
    return datetime.fromisoformat(local).astimezone(UTC)


def repaired(cell: str) -> tuple[str, str]:
    """The text as it can be stored, and what was done for that: "" where nothing was wrong."""
    reasons = []
    if "\0" in cell:
        cell = cell.replace("\0", "")
        reasons.append("NUL characters removed: export the file again if this text matters")
    if not cell.isascii() and _NOT_UTF8.search(cell):
        cell = cell.encode(errors="surrogateescape").decode(errors="replace")
        reasons.append("bytes that are not UTF-8 replaced by U+FFFD: convert it with iconv -f WINDOWS-1252 -t UTF-8")
    return cell, "; ".join(reasons)


def shown(value: str, length: int = _N_SHOWN) -> str:
    """The value as it can be stored and printed, up to `length` characters from shortly before its first damage.

    Damage is written as \\x00 or \\xe9.
    """
    damage = _DAMAGE.search(value)
    start = max(0, damage.start() - length // 2) if damage else 0
    part = value[start : start + length + 1].replace("\0", "\\x00")
    safe = part.encode(errors="surrogateescape").decode(errors="backslashreplace")
    return safe if len(safe) <= length else f"{safe[: length - 1]}…"
