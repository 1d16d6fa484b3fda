"""What a person typed, as the firm, quarter, theme or topic that is meant; a near miss is answered with the nearest."""

import re
from collections.abc import Iterable
from difflib import get_close_matches

from sqlalchemy.engine import Connection

from ftm_assets.errors import FtmError
from ftm_assets.storage.queries import FirmRow, firms, quarters_with_calls

N_SHOWN = 8


class Unknown(FtmError):
    """Nothing goes by this name."""

    def __init__(self, kind: str, value: str, known: Iterable[str]) -> None:
        known = list(known)
        near = get_close_matches(value, known, n=3, cutoff=0.5) or known[:N_SHOWN]
        hint = f"did you mean {', '.join(near)}?" if near else "nothing is loaded yet: ftm ingest SOURCE"
        super().__init__(f"unknown {kind} {value!r}; {hint}")


class Ambiguous(FtmError):
    """Several firms go by this name."""

    def __init__(self, value: str, found: list[FirmRow]) -> None:
        shown = ", ".join(f"{firm.partition_key} ({firm.name})" for firm in found[:N_SHOWN])
        super().__init__(f"{value!r} may be any of {len(found)} firms: {shown}; use the key")


def find_firm(connection: Connection, value: str) -> FirmRow:
    """The firm with this key, company id or ticker, or the only one with this in its name.

    raises: Unknown, Ambiguous
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
            raise Ambiguous(value, found)
    names = [name for firm in known for name in (firm.partition_key, firm.ticker, firm.name) if name]
    raise Unknown("firm", value, _as_typed(value, names))


def find_quarter(connection: Connection, value: str) -> str:
    """A quarter with calls, also as `2021q4` or `2021-Q4`. raises: Unknown"""
    quarter = parse_quarter(value)
    known = quarters_with_calls(connection)
    if quarter not in known:
        raise Unknown("quarter", value, known)
    return quarter


def parse_quarter(value: str) -> str:
    """A quarter as it is written in the database, `2021Q4`. raises: FtmError if it is none"""
    found = re.fullmatch(r"(\d{4})[\s_-]?[qQ]?([1-4])", value.strip())
    if found is None:
        raise FtmError(f"{value!r} is not a quarter; write it as 2021Q4")
    return f"{found[1]}Q{found[2]}"


def _as_typed(value: str, names: list[str]) -> list[str]:
    # Close matches compare case, people do not.
    return names if value != value.lower() else sorted(names, key=lambda name: name.lower() != name)
