"""How long questions take at full size.

On the quarters that `python -m devtools.synthetic_quarters` fills, through the query functions that the commands use;
every question is about another theme, topic, firm, sentence or vector. The first quarter is asked about; of several,
sentences are also searched in all at once. Three ways:

- warm: asked before; what is read is in memory
- beyond memory: Postgres has 128 MB of buffers, and before each question the system forgets all of the database's
  files: what a search takes at worst where indexes are much larger than memory
- cold: Postgres is started anew and the system has forgotten its files; the first question after a restart

Recall@10 is that of the search of sentences against comparing all of them, in this process, to 1e-3 of cosine: what is
said word by word by many firms is equally near.
"""

import argparse
import json
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import sqlalchemy as sa
from rich.console import Console
from rich.table import Table
from sqlalchemy.engine import Connection

from benchmarks.statistics import nearness_recall, percentiles
from devtools.synthetic_quarters.__main__ import HOME
from devtools.synthetic_quarters.firms import Market, Shape
from ftm_assets.settings import Settings
from ftm_assets.storage.maintain.search_index import build_search_index
from ftm_assets.storage.read import queries
from ftm_assets.storage.read.queries import SearchFilter
from ftm_assets.storage.read.search_index import MODELLED, Level, SearchIndexSettings, index_states
from ftm_assets.storage.schema.vectors import vectors_of
from ftm_assets.storage.server.database import Database
from ftm_assets.storage.write.calls import partition_table

CHUNK = 20_000
TOLERANCE = 1e-3
N_NEAREST = 10
NO_FILTER = SearchFilter()
MANY_QUARTERS = (20, 100)

Ask = Callable[[Connection], Sequence[object]]


@dataclass(frozen=True)
class Known:
    """What there is to ask about, drawn at random from the first of the quarters."""

    quarters: Sequence[str]
    themes: list[str]
    topics: list[tuple[int, int]]
    firms: list[int]
    sentences: list[str]
    vectors: np.ndarray

    @classmethod
    def of(cls, connection: Connection, quarters: Sequence[str], vectors: np.ndarray, seed: int = 1) -> "Known":
        """As many of each as there are vectors."""
        draw, n, quarter = random.Random(seed), len(vectors), quarters[0]

        def some(statement: str) -> list[Any]:
            rows = connection.execute(sa.text(statement), {"quarter": quarter}).all()
            return draw.choices(rows, k=n)

        themes = some("SELECT theme_id FROM themes WHERE quarter = :quarter ORDER BY 1")
        topics = some("SELECT company_id, topic_number FROM topics WHERE quarter = :quarter ORDER BY 1, 2")
        firms = some("SELECT company_id FROM firm_quarters WHERE quarter = :quarter ORDER BY 1")
        sentences = some(
            "SELECT sentence_id FROM topic_sentences WHERE quarter = :quarter AND rank = 1 ORDER BY sentence_id"
        )
        return cls(
            quarters=quarters,
            themes=[row[0] for row in themes],
            topics=[tuple(row) for row in topics],
            firms=[row[0] for row in firms],
            sentences=[row[0] for row in sentences],
            vectors=vectors,
        )

    def kinds(self) -> dict[str, Callable[[int], Ask]]:
        """Kind of question -> the n-th question of it."""
        q = self.quarters[0]
        kinds: dict[str, Callable[[int], Ask]] = {
            "themes of the quarter": lambda _: lambda c: queries.themes_of_quarter(c, q),
            "theme -> topics": lambda n: lambda c: queries.topics_of_theme(c, self.themes[n]),
            "theme -> 50 topics": lambda n: lambda c: queries.topics_of_theme(c, self.themes[n], 50),
            "theme -> firms": lambda n: lambda c: queries.firms_of_theme(c, self.themes[n]),
            "theme -> 20 sentences": lambda n: lambda c: queries.sentences_of_theme(c, self.themes[n], 20),
            "firm -> topics": lambda n: lambda c: queries.topics_of_firm(c, q, self.firms[n]),
            "topic -> sentences": lambda n: lambda c: queries.sentences_of_topic(c, q, *self.topics[n]),
            "sentence -> theme": lambda n: lambda c: queries.sentences(c, [self.sentences[n]]),
            "firm over the quarters": lambda n: lambda c: queries.firm_profile(c, self.firms[n]),
            "search themes": lambda n: self._search(n, [Level.themes]),
            "search topics": lambda n: self._search(n, [Level.topics]),
            "search sentences": lambda n: self._search(n, [Level.sentences]),
            "  of analysts": lambda n: self._search(n, [Level.sentences], SearchFilter(role="analyst")),
            "  of a firm": lambda n: self._search(n, [Level.sentences], SearchFilter(company_id=self.firms[n])),
            "search all levels": lambda n: self._search(n, list(Level)),
        }
        if len(self.quarters) > 1:
            kinds[f"sentences of {len(self.quarters)} quarters"] = lambda n: self._search(
                n, [Level.sentences], n_quarters=len(self.quarters)
            )
        return kinds

    def _search(self, n: int, levels: Sequence[Level], where: SearchFilter = NO_FILTER, n_quarters: int = 1) -> Ask:
        vectors = dict.fromkeys(self.quarters[:n_quarters], self.vectors[n])
        return lambda c: queries.search(c, vectors, levels, where).hits


@dataclass(frozen=True)
class Taken:
    """Milliseconds of each question of a kind, and how many rows the median one brought."""

    kind: str
    way: str
    ms: list[float]
    n_rows: int


@dataclass(frozen=True)
class Size:
    """A table of the database, or an index of it: bytes that a quarter takes."""

    name: str
    n_bytes: float


def ask(connection: Connection, question: Ask) -> tuple[float, int]:
    """Milliseconds up to the last row, and how many came, in a transaction of its own."""
    started = time.perf_counter()
    with connection.begin():
        n = len(question(connection))
    return 1000 * (time.perf_counter() - started), n


def warm(database: Database, known: Known, times: int) -> list[Taken]:
    """Every question is asked twice; the second time counts."""
    found = []
    with database.engine.connect() as connection:
        for kind, nth in known.kinds().items():
            for n in range(times):
                ask(connection, nth(n))
            answers = [ask(connection, nth(n)) for n in range(times)]
            found.append(_taken(kind, "warm", answers))
    return found


def beyond_memory(database: Database, known: Known, times: int) -> list[Taken]:
    """Before each question the system forgets the files; Postgres keeps the few buffers that questions have filled."""
    found = []
    with few_buffers(database), database.engine.connect() as connection:
        checkpoint(database)
        for kind, nth in known.kinds().items():
            answers = []
            for n in range(times):
                forget_files(database)
                answers.append(ask(connection, nth(n)))
            found.append(_taken(kind, "beyond memory", answers))
    return found


def cold(database: Database, known: Known, times: int) -> list[Taken]:
    """The first question of its kind after a restart of Postgres, whose connection has read the catalog."""
    kinds = known.kinds()
    answers: dict[str, list[tuple[float, int]]] = {kind: [] for kind in kinds}
    for n in range(times):
        for kind, nth in kinds.items():
            checkpoint(database)
            restart(database)
            forget_files(database)
            with database.engine.connect() as connection:
                connection.execute(sa.text("SELECT count(*) FROM quarters"))
                connection.commit()
                answers[kind].append(ask(connection, nth(n)))
    return [_taken(kind, "cold", of_kind) for kind, of_kind in answers.items()]


def _taken(kind: str, way: str, answers: Sequence[tuple[float, int]]) -> Taken:
    return Taken(kind, way, [ms for ms, _ in answers], int(percentiles([n for _, n in answers], 50)[0]))


def checkpoint(database: Database) -> None:
    """Everything is on disk, so that nothing dirty is kept."""
    alone(database, "CHECKPOINT")


def alone(database: Database, statement: str) -> None:
    """A statement that no transaction may hold."""
    with database.engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        connection.execute(sa.text(statement))


@contextmanager
def few_buffers(database: Database) -> Iterator[None]:
    """A server with 128 MB of buffers, whatever its configuration says; with its own again at the end."""
    alone(database, "ALTER SYSTEM SET shared_buffers = '128MB'")
    restart(database)
    try:
        yield
    finally:
        alone(database, "ALTER SYSTEM RESET shared_buffers")
        restart(database)


def restart(database: Database) -> None:
    """The embedded server, stopped and started."""
    assert database.embedded is not None
    database.engine.dispose()
    database.embedded.stop()
    database.embedded.start()


def forget_files(database: Database) -> None:
    """Let the system drop what it holds of the database's files; nobody else's are touched."""
    for path in (database.settings.home / "postgres" / "data" / "base").rglob("*"):
        with suppress(FileNotFoundError, IsADirectoryError):
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)


def exact_cosines(database: Database, quarter: str, vectors: np.ndarray) -> np.ndarray:
    """Cosines of the ten nearest sentences of the quarter, falling, all of them compared: (n, 10)."""
    best = np.full((len(vectors), N_NEAREST), -1.0, np.float32)
    table = partition_table(quarter)
    with psycopg.connect(database.url()) as connection, connection.cursor("all", binary=True) as cursor:
        cursor.itersize = CHUNK
        cursor.execute(f"SELECT halfvec_send(embedding) FROM {table} WHERE {MODELLED}")
        while rows := cursor.fetchmany(CHUNK):
            cosines = vectors @ vectors_of([row[0] for row in rows]).T
            both = np.concatenate([best, np.sort(cosines, axis=1)[:, -N_NEAREST:]], axis=1)
            best = -np.sort(-both, axis=1)[:, :N_NEAREST]
    return best


@dataclass(frozen=True)
class Recall:
    """Share of the ten nearest sentences that searches found, and milliseconds of each, with so many candidates."""

    ef_search: int
    share: float
    ms: list[float]

    @property
    def n(self) -> int:
        """Searches."""
        return len(self.ms)


def recalls(
    database: Database, quarter: str, vectors: np.ndarray, exact: np.ndarray, ef_searches: Sequence[int]
) -> list[Recall]:
    """Search for the sentences nearest to each vector, with more and more candidates in the index's mind."""
    found = []
    with database.engine.connect() as connection:
        for ef_search in ef_searches:
            cosines, took = [], []
            for vector in vectors:
                started = time.perf_counter()
                with connection.begin():
                    hits = queries.search(
                        connection, {quarter: vector}, [Level.sentences], limit=N_NEAREST, ef_search=ef_search
                    ).hits
                took.append(1000 * (time.perf_counter() - started))
                cosines.append([hit.cosine for hit in hits])
            found.append(Recall(ef_search, nearness_recall(cosines, exact.tolist(), TOLERANCE), took))
    return found


def table_of_recalls(found: Sequence[Recall]) -> Table:
    """A line for each number of candidates."""
    table = Table(title=f"search of sentences, {found[0].n} vectors", title_justify="left")
    for heading in ("ef_search", "recall@10", "p50 ms", "p95 ms"):
        table.add_column(heading, justify="right")
    for each in found:
        median, high = percentiles(each.ms, 50, 95)
        table.add_row(str(each.ef_search), f"{each.share:.4f}", f"{median:.1f}", f"{high:.1f}")
    return table


def sizes(connection: Connection, quarter: str) -> list[Size]:
    """Every table and index with more than a millionth of all; of tables that quarters share, a quarter's part."""
    rows = connection.execute(
        sa.text(
            """
            SELECT c.relname, coalesce(i.indrelid::regclass::text, c.relname) AS owner,
                   CASE WHEN c.relkind = 'i' THEN pg_relation_size(c.oid) ELSE pg_table_size(c.oid) END AS n_bytes,
                   (SELECT count(DISTINCT quarter) FROM firm_quarters) AS n_quarters
            FROM pg_class AS c LEFT JOIN pg_index AS i ON i.indexrelid = c.oid
            WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'i') ORDER BY 3 DESC
            """
        )
    ).all()
    found = []
    for row in rows:
        of_leaf = row.owner.startswith("sentences_")
        if of_leaf and row.owner != partition_table(quarter):
            continue
        # An HNSW index of a shared table is of one quarter.
        alone = of_leaf or row.relname.startswith("hnsw_")
        if alone and row.relname.startswith("hnsw_") and not row.relname.endswith(quarter.lower()):
            continue
        found.append(Size(row.relname, row.n_bytes if alone else row.n_bytes / row.n_quarters))
    total = sum(size.n_bytes for size in found)
    return [size for size in found if size.n_bytes > total / 1000]


def table_of_times(found: Sequence[Taken]) -> Table:
    """A line for each kind, percentiles of each way side by side."""
    ways = list(dict.fromkeys(taken.way for taken in found))
    table = Table(title="milliseconds, p50 / p95 / p99", title_justify="left")
    table.add_column("question")
    table.add_column("rows", justify="right")
    for way in ways:
        n = len(next(taken for taken in found if taken.way == way).ms)
        table.add_column(f"{way}, {n} times", justify="right")
    for kind in dict.fromkeys(taken.kind for taken in found):
        of_kind = {taken.way: taken for taken in found if taken.kind == kind}
        figures = [" / ".join(f"{ms:.1f}" for ms in percentiles(of_kind[way].ms, 50, 95, 99)) for way in ways]
        table.add_row(kind, f"{of_kind[ways[0]].n_rows:,}", *figures)
    return table


def table_of_sizes(found: Sequence[Size], n_sentences: int) -> Table:
    """MB a quarter, and what many quarters need."""
    table = Table(title="size", title_justify="left")
    for heading in ("", "MB a quarter", "B a sentence", *(f"GB, {n} quarters" for n in MANY_QUARTERS)):
        table.add_column(heading, justify="right" if heading else "left")
    for size in (*found, Size("all", sum(size.n_bytes for size in found))):
        many = [f"{n * size.n_bytes / 2**30:.1f}" for n in MANY_QUARTERS]
        table.add_row(size.name, f"{size.n_bytes / 2**20:,.1f}", f"{size.n_bytes / n_sentences:,.0f}", *many)
    return table


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--home", type=Path, default=HOME, help="whose database holds the quarters")
    parser.add_argument("--quarter", nargs="+", default=["2021Q4"])
    parser.add_argument("--times", type=int, default=100, help="questions of each kind, warm")
    parser.add_argument("--beyond", type=int, default=20, help="questions of each kind beyond memory; 0: none")
    parser.add_argument("--cold", type=int, default=5, help="restarts for each kind; 0: none")
    parser.add_argument("--ef-search", type=int, nargs="+", default=[100, 200, 400, 800], help="to try")
    parser.add_argument("--m", type=int, default=SearchIndexSettings().m)
    parser.add_argument("--ef-construction", type=int, default=SearchIndexSettings().ef_construction)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    return parser


def main() -> None:
    """Build what is missing of the index, measure, and print."""
    chosen = parser().parse_args()
    console = Console(width=max(Console().width, 140))
    database = Database(Settings(home=chosen.home))
    settings = SearchIndexSettings(m=chosen.m, ef_construction=chosen.ef_construction)
    for each in chosen.quarter:
        for index in build_search_index(database, each, settings, lambda said: console.print(str(said))):
            if index.built:
                console.print(
                    f"{each} {index.level}: {index.n_rows:,} rows, {index.total_s:.0f} s, "
                    f"{index.n_bytes / 2**20:,.0f} MB"
                )
    quarter = chosen.quarter[0]
    with database.transaction() as connection:
        n_firms = connection.execute(
            sa.text("SELECT count(*) FROM firm_quarters WHERE quarter = :q"), {"q": quarter}
        ).scalar_one()
        n_sentences = [
            connection.execute(sa.text(f"SELECT count(*) FROM {partition_table(each)}")).scalar_one()
            for each in chosen.quarter
        ]
        market = Market(Shape(firms=n_firms), quarter)
        known = Known.of(connection, chosen.quarter, market.query_vectors(chosen.times))
        size = sizes(connection, quarter)
        states = [state for each in chosen.quarter for state in index_states(connection, each)]
    console.print(
        f"{n_firms:,} firms, {' + '.join(f'{n:,}' for n in n_sentences)} sentences, "
        f"indexes: {', '.join(f'{state.name} {state.state}' for state in states)}"
    )
    console.print(table_of_sizes(size, n_sentences[0]))
    exact = exact_cosines(database, quarter, known.vectors)
    console.print(table_of_recalls(recalls(database, quarter, known.vectors, exact, chosen.ef_search)))
    found = warm(database, known, chosen.times)
    if chosen.beyond:
        found += beyond_memory(database, known, min(chosen.beyond, chosen.times))
    if chosen.cold:
        found += cold(database, known, min(chosen.cold, chosen.times))
    console.print(table_of_times(found))
    if chosen.json:
        figures = {"times": [asdict(taken) for taken in found], "sizes": [asdict(each) for each in size]}
        chosen.json.write_text(json.dumps(figures, indent=2))
