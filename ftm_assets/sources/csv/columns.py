"""The columns of a CSV of transcripts, and where they stand in a header."""

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches

from ftm_assets.errors import FtmError
from ftm_assets.sources.csv.values import shown

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


_PREVIEW = "preview"


class BadColumns(FtmError):
    """The header lacks a column, or the column map does not fit the header."""


def column_positions(file: str, header: Sequence[str], columns: Mapping[str, str]) -> dict[str, int]:
    """Our column name -> its place in the header, for all required columns and the optional ones that are there.

    Of several columns of one name it is the first.

    file:    what messages call it
    columns: our name -> the header's, where they differ; case and outer blanks never matter
    raises:  BadColumns
    """
    known = [*REQUIRED_COLUMNS, *OPTIONAL_COLUMNS]
    there = [_folded(name) for name in header]
    mapped = {_folded(ours): _folded(theirs) for ours, theirs in columns.items()}
    for ours in mapped:
        if ours not in known:
            raise BadColumns(f"the column map names {ours!r}{_nearest(ours, known)}; it can name: {', '.join(known)}")
    names = {ours: mapped.get(ours, ours) for ours in known}
    if _PREVIEW in names["componenttext"]:
        raise BadColumns(f"the column map gives no text: {_only_a_preview(names['componenttext'])}")
    missing = [names[ours] for ours in dict.fromkeys([*REQUIRED_COLUMNS, *mapped]) if names[ours] not in there]
    if missing:
        spare = [name for name in there if name not in names.values() and _PREVIEW not in name]
        previews = [name.strip() for name in header if _PREVIEW in _folded(name)]
        only_a_preview = f". {_only_a_preview(previews[0])}" if previews and names["componenttext"] in missing else ""
        raise BadColumns(
            f"{file} has no column {', '.join(f'{name!r}{_nearest(name, spare)}' for name in missing)}; it has: "
            f"{shown(', '.join(header), 1000)}. Separate fields by comma, tab, semicolon or |; rename a column that "
            f"has another name, or give a column map, such as {{{REQUIRED_COLUMNS[0]!r}: 'its name in this file'}}"
            f"{only_a_preview}"
        )
    return {ours: there.index(name) for ours, name in names.items() if name in there}


def doubled_columns(header: Sequence[str], positions: Mapping[str, int]) -> list[tuple[int, int]]:
    """The columns that we read, each with every other one of its name: a join often leaves two that are equal."""
    there = [_folded(name) for name in header]
    return [
        (first, other)
        for first in positions.values()
        for other, name in enumerate(there)
        if other != first and name == there[first]
    ]


def _only_a_preview(name: str) -> str:
    return (
        f"{name!r} holds only the beginning of each text and is not read: export the whole text, which Capital IQ "
        "calls 'componenttext' (rename the column if it holds whole texts)"
    )


def _folded(name: str) -> str:
    return name.strip().lower()


def _nearest(name: str, names: Iterable[str]) -> str:
    near = get_close_matches(name, list(names), n=1)
    return f" (nearest: {near[0]!r})" if near else ""
