"""Resolves what you type to a firm or quarter. If nothing matches, the error names the nearest."""

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from itertools import islice

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ftm_assets.errors import FtmError
from ftm_assets.storage.read.queries import FirmRow, firms, quarters_with_calls
from ftm_assets.storage.schema import tables as t

N_SHOWN = 8


class NotFound(FtmError):
    """Nothing has this name."""

    def __init__(self, kind: str, value: str, known: Iterable[str]) -> None:
        # Case does not matter in a name.
        names = {name.casefold(): name for name in known}
        near = [names[name] for name in get_close_matches(value.casefold(), names, n=3, cutoff=0.5)]
        if near:
            hint = f"did you mean {', '.join(near)}?"
        elif names:
            hint = f"there are {', '.join(islice(names.values(), N_SHOWN))}{' ...' if len(names) > N_SHOWN else ''}"
        else:
            hint = "nothing is loaded yet; load calls with: ftm ingest SOURCE"
        super().__init__(f"unknown {kind} {value!r}; {hint}")


class AmbiguousName(FtmError):
    """Several firms have this name."""

    def __init__(self, value: str, found: list[FirmRow]) -> None:
        shown = ", ".join(f"{firm.partition_key} ({firm.name})" for firm in found[:N_SHOWN])
        super().__init__(f"{value!r} matches {len(found)} firms: {shown}; use the key")


class NoCall(FtmError):
    """The firm is known, but has no call in the quarter."""

    def __init__(self, firm: FirmRow, quarter: str, others: Sequence[str]) -> None:
        elsewhere = f"it has calls in {', '.join(others)}" if others else "nor in any other quarter"
        super().__init__(f"{firm.partition_key} ({firm.name}) has no call in {quarter}; {elsewhere}")


def find_firm(connection: Connection, value: str) -> FirmRow:
    """The firm with this key, company id or ticker, or the only one with this in its name.

    raises: NotFound, AmbiguousName
    """
    known = firms(connection)
    wanted = value.strip().casefold()
    for matches in (
        lambda firm: wanted in (firm.partition_key.casefold(), str(firm.company_id)),
        lambda firm: wanted == (firm.ticker or "").casefold(),
        lambda firm: wanted == firm.name.casefold(),
        lambda firm: wanted in firm.name.casefold(),
    ):
        found = [firm for firm in known if wanted and matches(firm)]
        if len(found) == 1:
            return found[0]
        if found:
            raise AmbiguousName(value, found)
    names = [
        name for column in ("partition_key", "ticker", "name") for firm in known if (name := getattr(firm, column))
    ]
    raise NotFound("firm", value, names)


def find_firm_in(connection: Connection, quarter: str, value: str) -> FirmRow:
    """As `find_firm`, a firm with a call in the quarter. raises: NotFound, AmbiguousName, NoCall"""
    firm = find_firm(connection, value)
    others = connection.scalars(
        sa.select(t.FirmQuarter.quarter)
        .where(t.FirmQuarter.company_id == firm.company_id)
        .order_by(t.FirmQuarter.quarter)
    ).all()
    if quarter not in others:
        raise NoCall(firm, quarter, others)
    return firm


def find_quarter(connection: Connection, value: str) -> str:
    """A quarter with calls, also as `2021q4` or `2021-Q4`. raises: NotFound"""
    quarter = parse_quarter(value)
    known = quarters_with_calls(connection)
    if quarter not in known:
        raise NotFound("quarter", quarter, known)
    return quarter


def parse_quarter(value: str) -> str:
    """A quarter as it is written in the database, `2021Q4`. raises: FtmError if it is none"""
    found = re.fullmatch(r"([0-9]{4})[\s_-]?[qQ]([1-4])", value.strip())
    if found is None:
        raise FtmError(f"{value!r} is not a quarter; write it as 2021Q4")
    return f"{found[1]}Q{found[2]}"
