"""What settings of the sentences' vector index bring: python -m bench.index [--m 16 24] [--ef-construction 64 128]

On the quarter that `python -m bench.scale` fills; a few hundred firms will do. For each pair of settings the index is
built anew, and searched with more and more candidates. Recall@10 is against comparing all sentences.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

import sqlalchemy as sa
from rich.console import Console
from rich.table import Table

from bench.queries import Recall, exact_cosines, recalls
from bench.scale.__main__ import HOME
from bench.scale.synthetic_calls import Market, Shape
from bench.statistics import percentiles
from ftm_assets.settings import Settings
from ftm_assets.storage.maintain.search_index import Level, SearchIndexSettings, build_search_index
from ftm_assets.storage.server.database import Database


@dataclass(frozen=True)
class Built:
    """An index of one quarter's sentences, and what searches found with it."""

    settings: SearchIndexSettings
    n_rows: int
    seconds: float
    n_bytes: int
    recalls: list[Recall]


def build(database: Database, quarter: str, settings: SearchIndexSettings) -> tuple[int, float, int]:
    """Build the indexes of a quarter with these settings; rows, seconds and bytes of that of the sentences."""
    [of_sentences] = [
        index for index in build_search_index(database, quarter, settings) if index.level is Level.sentences
    ]
    return of_sentences.n_rows, of_sentences.total_s, of_sentences.n_bytes


def table_of(found: Sequence[Built]) -> Table:
    """A line for each setting and number of candidates."""
    table = Table(title=f"{found[0].n_rows:,} sentences, {found[0].recalls[0].n} vectors", title_justify="left")
    for heading in ("m", "ef_construction", "build s", "B a row", "ef_search", "recall@10", "p50 ms", "p95 ms"):
        table.add_column(heading, justify="right")
    for built in found:
        for each in built.recalls:
            median, high = percentiles(each.ms, 50, 95)
            table.add_row(
                *(str(built.settings.m), str(built.settings.ef_construction), f"{built.seconds:.0f}"),
                *(f"{built.n_bytes / built.n_rows:,.0f}", str(each.ef_search), f"{each.share:.4f}"),
                *(f"{median:.1f}", f"{high:.1f}"),
            )
    return table


def main() -> None:
    """Build, search, and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--home", type=Path, default=HOME, help="of the database that bench.scale has filled")
    parser.add_argument("--quarter", default="2021Q4")
    parser.add_argument("--m", type=int, nargs="+", default=[16, 24])
    parser.add_argument("--ef-construction", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--ef-search", type=int, nargs="+", default=[100, 200, 400, 800])
    parser.add_argument("--times", type=int, default=200, help="vectors to search for")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    chosen = parser.parse_args()
    database = Database(Settings(home=chosen.home))
    with database.transaction() as connection:
        statement = "SELECT count(*) FROM firm_quarters WHERE quarter = :quarter"
        n_firms = connection.execute(sa.text(statement), {"quarter": chosen.quarter}).scalar_one()
    vectors = Market(Shape(firms=n_firms), chosen.quarter).query_vectors(chosen.times)
    exact = exact_cosines(database, chosen.quarter, vectors)
    found = []
    for m, ef_construction in product(chosen.m, chosen.ef_construction):
        settings = SearchIndexSettings(m=m, ef_construction=ef_construction)
        built = build(database, chosen.quarter, settings)
        found.append(Built(settings, *built, recalls(database, chosen.quarter, vectors, exact, chosen.ef_search)))
    Console(width=120).print(table_of(found))
    if chosen.json:
        figures = [{**asdict(built), "settings": built.settings.model_dump()} for built in found]
        chosen.json.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
