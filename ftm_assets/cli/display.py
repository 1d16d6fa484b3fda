"""Rows printed as a table, as JSON or as CSV."""

import csv
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ftm_assets.errors import FtmError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

PIPED_WIDTH = 160  # Output that is piped need not fit a screen.

console = Console(highlight=False, width=None if sys.stdout.isatty() else PIPED_WIDTH)
errors = Console(stderr=True, highlight=False, width=None if sys.stderr.isatty() else PIPED_WIDTH)


class Format(StrEnum):
    """How rows are printed."""

    table = "table"
    json = "json"
    csv = "csv"


FormatOption = Annotated[Format, typer.Option("--format", "-f", help="table for people, json or csv for scripts.")]


def headings(row_type: type["DataclassInstance"], *columns: str) -> dict[str, str]:
    """Field or property -> heading: its name without underscores; `n_firms` becomes `firms`.

    raises: AttributeError for a column that rows of this type do not have
    """
    known = {field.name for field in fields(row_type)}
    for name in columns:
        if name not in known:
            getattr(row_type, name)
    return {name: name.removeprefix("n_").replace("_", " ") for name in columns}


def join_with_more(names: Sequence[str], n_shown: int = 10) -> str:
    """The names in a row; of many only the first ones, and how many more there are."""
    more = f" and {len(names) - n_shown} more" if len(names) > n_shown else ""
    return ", ".join(names[:n_shown]) + more


def show(
    rows: Sequence["DataclassInstance"], columns: Mapping[str, str], form: Format, title: str | None = None
) -> None:
    """Print rows. A table has the given columns (field or property -> heading), JSON and CSV also all other fields.

    CSV leaves out fields that hold records of their own, because these do not fit a cell.
    """
    match form:
        case Format.json:
            sys.stdout.write(json.dumps([_record(row, columns) for row in rows], default=str, indent=2) + "\n")
        case Format.csv:
            records = [{name: _flat(v) for name, v in _record(row, columns).items() if _fits(v)} for row in rows]
            writer = csv.DictWriter(sys.stdout, records[0] if records else columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(records)
        case Format.table:
            table = Table(title=escape(title) if title else None, title_justify="left", title_style="bold")
            for field, heading in columns.items():
                is_number = bool(rows) and isinstance(getattr(rows[0], field), int | float)
                table.add_column(escape(heading), justify="right" if is_number else "left", overflow="fold")
            for row in rows:
                table.add_row(*(_cell(field, getattr(row, field)) for field in columns))
            console.print(table)


def _record(row: "DataclassInstance", columns: Mapping[str, str]) -> dict[str, Any]:
    return asdict(row) | {name: getattr(row, name) for name in columns}


def _fits(value: Any) -> bool:
    inside = value if isinstance(value, list | tuple) else [value]
    return not any(isinstance(each, dict) for each in inside)


def _flat(value: Any) -> Any:
    return "; ".join(map(str, value)) if isinstance(value, list | tuple) else value


def money(dollars: float | None) -> str:
    """Dollars for people: less than a cent is not shown as zero, nor is an unknown amount."""
    if dollars is None:
        return "unknown"
    return f"{dollars:,.4f}" if 0 < dollars < 0.01 else f"{dollars:,.2f}"


def _cell(field: str, value: Any) -> str:
    if field == "dollars":
        return money(value)
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.2f}"
    if isinstance(value, int) and field.startswith("n_"):
        return f"{value:,}"  # Identifiers stay as they are, so that you can paste them.
    return escape(str(_flat(value)))


def parse_column_map(pairs: list[str]) -> dict[str, str]:
    """The values of `--column` as a mapping of our names to theirs. raises: FtmError"""
    found = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
    if len(found) < len(pairs):
        raise FtmError(f"--column takes ours=theirs, such as companyid=gvkey; got {pairs}")
    return found
