"""Rows of an answer as a table to read, as JSON or as CSV."""

import csv
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

PIPED_WIDTH = 160  # Where nobody looks on, a table need not fit a screen.

console = Console(highlight=False, width=None if sys.stdout.isatty() else PIPED_WIDTH)
errors = Console(stderr=True, highlight=False)


class Format(StrEnum):
    """How an answer is printed."""

    table = "table"
    json = "json"
    csv = "csv"


def show(
    rows: Sequence["DataclassInstance"], columns: Mapping[str, str], form: Format, title: str | None = None
) -> None:
    """Print rows; a table has the given columns (field -> heading), JSON and CSV have all fields."""
    match form:
        case Format.json:
            sys.stdout.write(json.dumps([asdict(row) for row in rows], default=str, indent=2) + "\n")
        case Format.csv:
            writer = csv.writer(sys.stdout, lineterminator="\n")
            records = [asdict(row) for row in rows]
            if records:
                writer.writerow(records[0])
            writer.writerows([_flat(value) for value in record.values()] for record in records)
        case Format.table:
            table = Table(title=title, title_justify="left", title_style="bold")
            for field, heading in columns.items():
                number = bool(rows) and isinstance(getattr(rows[0], field), int | float)
                table.add_column(heading, justify="right" if number else "left", overflow="fold")
            for row in rows:
                table.add_row(*(_cell(getattr(row, field)) for field in columns))
            console.print(table)


def _flat(value: Any) -> Any:
    return "; ".join(map(str, value)) if isinstance(value, list | tuple) else value


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.2f}"
    if isinstance(value, int):
        return f"{value:,}"
    return str(_flat(value)).replace("[", "\\[")
