"""How fast sentences with vectors come into the database.

The same made-up sentences of 768 dimensions in a database of its own, one way after the other and all over again, into
a leaf with every key, index and constraint that it has in use. CPU time is that of this process and of its Postgres
backend; on a busy machine it tells more than the clock.
"""

import argparse
import json
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from pgvector.sqlalchemy import HALFVEC, Vector
from rich.console import Console
from rich.table import Table
from sqlalchemy.engine import Connection

from benchmarks.statistics import Summary, percentiles
from devtools.synthetic_quarters.firms import Market, Shape
from ftm_assets.analysis.sentences import Sentences
from ftm_assets.analysis.vectors import DIMENSIONS
from ftm_assets.settings import Settings
from ftm_assets.storage.schema import tables as t
from ftm_assets.storage.server.database import Database
from ftm_assets.storage.stages.base import FirmQuarter, Provenance, find_firm_quarter
from ftm_assets.storage.stages.transcripts import read_turns
from ftm_assets.storage.write.calls import create_quarter, ingest, partition_table
from ftm_assets.storage.write.copy import copy_rows
from ftm_assets.storage.write.stages import write

QUARTER = "2021Q4"
COLUMNS = (
    "quarter",
    "company_id",
    "sentence_id",
    "transcript_id",
    "component_order",
    "position",
    "start_char",
    "end_char",
    "role",
    "section",
    "exchange",
    "boilerplate",
    "boilerplate_similarity",
    "text",
    "embedding",
)
SLOW_ROWS = 2_000  # Of ways that are so slow that all rows would take minutes.
HNSW = f"USING hnsw ((embedding::halfvec({DIMENSIONS})) halfvec_cosine_ops)"
FOREIGN_KEYS = (
    "FOREIGN KEY (quarter, company_id) REFERENCES firm_quarters",
    "FOREIGN KEY (quarter, transcript_id, component_order) REFERENCES components",
)

Row = Sequence[object]


@dataclass(frozen=True)
class Loaded:
    """One load: rows, seconds up to the commit, CPU seconds of this process and of the backend, bytes of the table."""

    n_rows: int
    wall_s: float
    client_s: float
    backend_s: float
    table_bytes: int

    @property
    def rows_per_s(self) -> float:
        """By the clock."""
        return self.n_rows / self.wall_s

    @property
    def cpu_us(self) -> float:
        """Microseconds of CPU a row, both sides."""
        return 1e6 * (self.client_s + self.backend_s) / self.n_rows


@dataclass(frozen=True)
class Way:
    """A way to load: into which table, by which function, all rows or a few, beside a vector index or not."""

    table: sa.Table
    load: Callable[[Connection, sa.Table, Sequence[Row]], object]
    all_rows: bool = True
    index: bool = False


def by_text_copy(connection: Connection, table: sa.Table, rows: Sequence[Row]) -> None:
    """COPY with vectors spelled out, as psql and most tools do it."""
    driver: Any = connection.connection.driver_connection
    with driver.cursor() as cursor, cursor.copy(f"COPY {table.name} ({', '.join(COLUMNS)}) FROM STDIN") as copy:
        for row in rows:
            vector: Any = row[-1]
            copy.write_row([*row[:-1], f"[{','.join(map(str, vector.tolist()))}]"])


def by_insert(connection: Connection, table: sa.Table, rows: Sequence[Row]) -> None:
    """SQLAlchemy's insert with pgvector's type, many rows a statement."""
    connection.execute(sa.insert(table), [dict(zip(COLUMNS, row, strict=True)) for row in rows])


def by_binary_copy(connection: Connection, table: sa.Table, rows: Sequence[Row]) -> None:
    """As the IO manager does it."""
    copy_rows(connection, table, COLUMNS, rows)


def rows_of(where: FirmQuarter, sentences: Sentences) -> list[Row]:
    """The rows of a firm's sentences, in the order of COLUMNS."""
    of_firm = {"quarter": where.quarter, "company_id": where.company_id}
    by_name = [
        {**asdict(sentence), **of_firm, "embedding": vector}
        for sentence, vector in zip(sentences.rows, sentences.embeddings, strict=True)
    ]
    return [tuple(row[column] for column in COLUMNS) for row in by_name]


def prepare(database: Database, market: Market) -> list[tuple[FirmQuarter, Sentences]]:
    """Load the calls, and make the sentences of every firm."""
    with database.transaction() as connection:
        create_quarter(connection, QUARTER)
    with database.transaction() as connection:
        ingest(connection, QUARTER, (row for firm in market.firms() for row in firm.components), "made up")
        keys = {row[0]: row[1] for row in connection.execute(sa.select(t.Firm.company_id, t.Firm.partition_key))}
        made = []
        for firm in market.firms():
            where = find_firm_quarter(connection, QUARTER, keys[firm.company_id])
            made.append((where, firm.sentences(read_turns(connection, where))))
    return made


def table_like_leaf(connection: Connection, name: str, kind: Any) -> sa.Table:
    """An empty table with all that a leaf of `sentences` has, and vectors of another type."""
    connection.execute(sa.text(f"CREATE TABLE {name} (LIKE {partition_table(QUARTER)} INCLUDING ALL)"))
    connection.execute(sa.text(f"ALTER TABLE {name} ALTER embedding TYPE {kind.get_col_spec()}"))
    for key in FOREIGN_KEYS:
        connection.execute(sa.text(f"ALTER TABLE {name} ADD {key}"))
    # Types as SQLAlchemy knows them; of keys and indexes the database's own count.
    columns = [sa.Column(c.name, kind if c.name == "embedding" else c.type) for c in t.Sentence.__table__.c]
    return sa.Table(name, sa.MetaData(), *columns)


def load(database: Database, way: Way, rows: Sequence[Row]) -> Loaded:
    """Empty the table, load the rows in one transaction, and measure."""
    with database.transaction() as connection:
        connection.execute(sa.text(f"TRUNCATE {way.table.name} CASCADE"))
        if way.index:
            connection.execute(sa.text(f"CREATE INDEX hnsw ON {_leaf_of(way.table)} {HNSW}"))
    with database.engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        connection.execute(sa.text("CHECKPOINT"))  # Or what was before is paid for now.
    with database.engine.connect() as connection:
        pid: int = connection.execute(sa.text("SELECT pg_backend_pid()")).scalar_one()
        connection.commit()
        before = backend_seconds(pid)
        client, started = time.process_time(), time.perf_counter()
        with connection.begin():
            way.load(connection, way.table, rows)
        wall_s, client_s = time.perf_counter() - started, time.process_time() - client
        backend_s = backend_seconds(pid) - before
        size = connection.scalar(sa.text(f"SELECT pg_total_relation_size('{_leaf_of(way.table)}')"))
    with database.transaction() as connection:
        connection.execute(sa.text("DROP INDEX IF EXISTS hnsw"))
    return Loaded(len(rows), wall_s, client_s, backend_s, size or 0)


def _leaf_of(table: sa.Table) -> str:
    return partition_table(QUARTER) if table.name == "sentences" else table.name


def backend_seconds(pid: int) -> float:
    """CPU seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def write_firms(database: Database, firms: Iterable[tuple[FirmQuarter, Sentences]]) -> list[float]:
    """Milliseconds to write each firm's sentences as the IO manager does it, a transaction each."""
    took = []
    for where, sentences in firms:
        _ = sentences.content_hash  # Its stage has it already.
        started = time.perf_counter()
        with database.transaction() as connection:
            write(connection, where, sentences, Provenance.of(sentences, code="bench"))
        took.append(1000 * (time.perf_counter() - started))
    return took


@contextmanager
def written_before(database: Database, *, index: bool) -> Iterator[None]:
    """Sentences count as made from something else, so that they are written anew; beside a vector index or not."""
    with database.transaction() as connection:
        connection.execute(sa.text("DROP INDEX IF EXISTS hnsw"))
        connection.execute(sa.text("UPDATE materializations SET content_hash = 'other' WHERE stage = 'firm_sentences'"))
        if index:
            connection.execute(sa.text(f"CREATE INDEX hnsw ON {partition_table(QUARTER)} {HNSW}"))
    yield
    with database.transaction() as connection:
        connection.execute(sa.text("DROP INDEX IF EXISTS hnsw"))


def memory(database: Database, market: Market) -> list[tuple[int, float]]:
    """Rows that were loaded in one transaction -> MB of this process, at ten points; rows are made as they are sent."""
    seen: list[tuple[int, float]] = []
    with database.transaction() as connection:
        keys = {row[0]: row[1] for row in connection.execute(sa.select(t.Firm.company_id, t.Firm.partition_key))}
        of_firms = {company_id: find_firm_quarter(connection, QUARTER, key) for company_id, key in keys.items()}
        turns = {company_id: read_turns(connection, where) for company_id, where in of_firms.items()}
        connection.execute(sa.text("TRUNCATE sentences CASCADE"))

        def rows() -> Iterator[Row]:
            n, step = 0, max(1, market.shape.firms // 10)
            for number, firm in enumerate(market.firms(), start=1):
                made = rows_of(of_firms[firm.company_id], firm.sentences(turns[firm.company_id]))
                yield from made
                n += len(made)
                if number % step == 0:
                    seen.append((n, resident_mb()))

        copy_rows(connection, t.Sentence.__table__, COLUMNS, rows())  # type: ignore[arg-type]
    return seen


def resident_mb() -> float:
    """Of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def table_of_loads(found: dict[str, list[Loaded]]) -> Table:
    """A line for each way; the ratio is to the first one, of rows a second."""
    table = Table(title="into a leaf with its keys and indexes, one transaction", title_justify="left")
    for heading in ("", "rows", "rows/s, median (least to most)", "ratio", "CPU us a row", "of the backend", "B a row"):
        table.add_column(heading, justify="right" if heading else "left")
    first = Summary.of([each.rows_per_s for each in next(iter(found.values()))]).median
    for name, loads in found.items():
        speed = Summary.of([each.rows_per_s for each in loads])
        table.add_row(
            name,
            f"{loads[0].n_rows:,}",
            speed.shown(),
            f"{speed.median / first:.2f}",
            f"{Summary.of([each.cpu_us for each in loads]).median:.1f}",
            f"{Summary.of([1e6 * each.backend_s / each.n_rows for each in loads]).median:.1f}",
            f"{loads[0].table_bytes / loads[0].n_rows:,.0f}",
        )
    return table


def table_of_writes(found: dict[str, list[float]]) -> Table:
    """Milliseconds a firm."""
    table = Table(title="a firm's sentences, one transaction each", title_justify="left")
    for heading in ("", "firms", "ms, median", "p95", "ratio"):
        table.add_column(heading, justify="right" if heading else "left")
    first = percentiles(next(iter(found.values())), 50)[0]
    for name, took in found.items():
        median, high = percentiles(took, 50, 95)
        table.add_row(name, str(len(took)), f"{median:.1f}", f"{high:.1f}", f"{median / first:.2f}")
    return table


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--firms", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    return parser


def main() -> None:
    """Measure and print."""
    chosen = parser().parse_args()
    console = Console(width=max(Console().width, 130))
    market = Market(Shape(firms=chosen.firms), QUARTER)
    with tempfile.TemporaryDirectory() as folder:
        database = Database(Settings(home=Path(folder)))
        try:
            firms = prepare(database, market)
            rows = [row for where, sentences in firms for row in rows_of(where, sentences)]
            with database.transaction() as connection:
                full = table_like_leaf(connection, "as_vector", Vector(DIMENSIONS))
                half = table_like_leaf(connection, "as_halfvec", HALFVEC(DIMENSIONS))
            sentences: Any = t.Sentence.__table__
            ways = {
                "binary COPY, as it is": Way(sentences, by_binary_copy),
                "  vector": Way(full, by_binary_copy),
                "  halfvec": Way(half, by_binary_copy),
                "text COPY": Way(sentences, by_text_copy),
                "SQLAlchemy insert": Way(sentences, by_insert, all_rows=False),
                "binary COPY, HNSW index there": Way(sentences, by_binary_copy, all_rows=False, index=True),
            }
            loads: defaultdict[str, list[Loaded]] = defaultdict(list)
            for _ in range(chosen.repeats):
                for name, way in ways.items():
                    loads[name].append(load(database, way, rows if way.all_rows else rows[:SLOW_ROWS]))
            console.print(table_of_loads(loads))
            grown = memory(database, market)
            with database.transaction() as connection:
                connection.execute(sa.text("TRUNCATE sentences CASCADE"))
            writes = {"first": write_firms(database, firms)}
            for name, few, index in (("again", firms, False), ("again, HNSW index there", firms[:5], True)):
                with written_before(database, index=index):
                    writes[name] = write_firms(database, few)
            console.print(table_of_writes(writes))
        finally:
            if database.embedded:
                database.embedded.stop()
    console.print("memory: " + ", ".join(f"{n:,} rows {mb:.0f} MB" for n, mb in grown))
    if chosen.json:
        figures = {name: [asdict(each) for each in found] for name, found in loads.items()}
        chosen.json.write_text(json.dumps({"loads": figures, "writes_ms": writes, "memory_mb": grown}, indent=2))
