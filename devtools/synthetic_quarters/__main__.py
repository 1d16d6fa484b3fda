"""Fill a database with quarters of full size that are made up: python -m devtools.synthetic_quarters [QUARTER ...]

Everything goes through the functions that the assets use: keys, hashes and stages are those of a real database. 3,000
firms are 1.35 million sentences. The database is in a home of its own; a quarter that is there is left alone.
"""

import argparse
from pathlib import Path
from statistics import median

import sqlalchemy as sa
from rich.console import Console
from rich.table import Table

from devtools.synthetic_quarters.fill import Filled, fill, settle
from devtools.synthetic_quarters.firms import Market, Shape
from ftm_assets.settings import Settings
from ftm_assets.storage.server.database import Database

HOME = Path(".ftm/bench-scale")


def table_of(quarter: str, filled: Filled) -> Table:
    """What was written, and how long each part took."""
    title = f"{quarter}: {filled.n_sentences:,} sentences, {filled.n_topics:,} topics, {filled.n_themes} themes"
    table = Table(title=title, title_justify="left")
    for heading in ("", "seconds", "times", "median ms"):
        table.add_column(heading, justify="right" if heading else "left")
    for part, seconds in filled.seconds.items():
        table.add_row(part, f"{sum(seconds):.1f}", f"{len(seconds):,}", f"{1000 * median(seconds):.1f}")
    return table


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("quarters", nargs="*", default=["2021Q4"])
    parser.add_argument("--firms", type=int, default=Shape.firms)
    parser.add_argument("--home", type=Path, default=HOME, help="where the database is, or comes to be")
    return parser


def main() -> None:
    """Fill each quarter that is not there, and say what that took."""
    chosen = parser().parse_args()
    database = Database(Settings(home=chosen.home))
    console = Console(width=120)
    for quarter in chosen.quarters:
        with database.transaction() as connection:
            there = connection.scalar(sa.text("SELECT 1 FROM firm_quarters WHERE quarter = :q LIMIT 1"), {"q": quarter})
        if there:
            console.print(
                f"{quarter} is there already; to fill it anew: FTM_HOME={chosen.home} ftm drop {quarter} --yes"
            )
            continue
        console.print(table_of(quarter, fill(database, Market(Shape(firms=chosen.firms), quarter))))
    with database.engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        settle(connection)


if __name__ == "__main__":
    main()
