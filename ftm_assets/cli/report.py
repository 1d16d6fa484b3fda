"""The `ftm report` command: a quarter as one HTML file."""

from pathlib import Path
from typing import Annotated

import typer

from ftm_assets.cli.display import console
from ftm_assets.errors import FtmError
from ftm_assets.settings import read_settings
from ftm_assets.storage.read.report import read_report
from ftm_assets.storage.read.resolve import find_quarter
from ftm_assets.storage.server.database import Database


class NotWritable(FtmError):
    """A file cannot be written to the path you gave."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"cannot write {path}: {reason}; name another file with --output")


def report(
    quarter: Annotated[str, typer.Argument(help="Calendar quarter of the calls, such as 2021Q4.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write; by default report_2021Q4.html in this folder.")
    ] = None,
) -> None:
    """Write a report of a quarter's themes as one HTML file, which needs no network. An existing file is replaced."""
    from ftm_assets.report.page import render

    database = Database(read_settings())
    with database.transaction() as connection:
        quarter = find_quarter(connection, quarter)
    with database.transaction() as connection:
        found = read_report(connection, quarter)
    path = output or Path(f"report_{quarter}.html")
    page = render(found)
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise NotWritable(path, error.strerror or str(error)) from error
    console.print(f"wrote {path}", markup=False)
