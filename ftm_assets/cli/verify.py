"""The `ftm verify` command: whether a quarter's tables agree with each other."""

from typing import Annotated

import sqlalchemy as sa
import typer

from ftm_assets.cli.display import Format, FormatOption, errors, parse_column_map, show
from ftm_assets.settings import read_settings
from ftm_assets.sources.transcript_source import open_source
from ftm_assets.storage.read.resolve import find_quarter
from ftm_assets.storage.read.verify import compare_source, verify_quarter
from ftm_assets.storage.server.database import Database


def verify(
    quarter: Annotated[str, typer.Argument(help="Calendar quarter of the calls, such as 2021Q4.")],
    source: Annotated[
        str | None, typer.Option(help="Also read the source again, as `ftm ingest` does, and compare its texts.")
    ] = None,
    column: Annotated[
        list[str] | None, typer.Option(help="ours=theirs, as the source was ingested; repeatable.")
    ] = None,
    form: FormatOption = Format.table,
) -> None:
    """Compare counts and hashes of a quarter's tables, two numbers a check; exit with 1 if two differ.

    A quarter that is not made to the end, or was changed since its themes were made, differs.
    """
    columns = parse_column_map(column or [])
    with Database(read_settings()).transaction() as connection:
        # One moment for all checks: a firm that is being made meanwhile differs in none of them.
        connection.execute(sa.text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
        quarter = find_quarter(connection, quarter)
        comparisons = list(verify_quarter(connection, quarter))
        if source is not None:
            comparisons += compare_source(connection, quarter, open_source(source, columns).read(quarter))
    headings = {"check": "check", "n_expected": "expected", "n_found": "found", "is_equal": "equal"}
    show(comparisons, headings, form)
    n_different = sum(not each.is_equal for each in comparisons)
    if n_different:
        errors.print(f"{n_different} of {len(comparisons)} checks of {quarter} differ")
        raise typer.Exit(1)
