"""The search index of a quarter: one HNSW index for its themes, one for its topics, one for its sentences.

An index holds vectors as `halfvec`, half as wide, without the zeros behind the encoder's own width. It finds nearly all
of the nearest, which are then ranked by the whole vectors (decision 74). It is built while others read and write, and
no migration creates it, as no migration creates the partitions of `sentences`: both belong to a quarter.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from time import monotonic, sleep
from typing import Any, cast

import numpy as np
import psycopg
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ftm_assets.analysis.vectors import DIMENSIONS
from ftm_assets.errors import FtmError
from ftm_assets.storage.read.search_index import (
    MODELLED,
    Level,
    SearchIndexSettings,
    State,
    index_name,
    index_states,
    indexed,
    levels_of,
)
from ftm_assets.storage.schema.vectors import vectors_of
from ftm_assets.storage.server.advisory_locks import Lock, try_acquire
from ftm_assets.storage.server.database import Database
from ftm_assets.storage.write.calls import LOCK_TIMEOUT_MS, partition_table

POLL_S = 1.0
_N_SAMPLED = 100
CLEAN_UP_MS = 1_000
# Rewriting a row under an index costs half a row's share of building it; but a firm's run waits for it. Decision 75.
BULK_SHARE = 0.1
_SAFE_IN_PARALLEL = (0, 8, 3)
# Graph of a build in memory, with some room: a row of 768 dimensions took 2,250 bytes at m = 16, and 2,762 at m = 32.
_ROW_BYTES, _DIMENSION_BYTES, _NEIGHBOUR_BYTES = 214, 2, 40
_MB = 2**20


@dataclass(frozen=True)
class BuildProgress:
    """What a build does at this moment, as Postgres reports it.

    n_done, n_total: rows in the graph, of those that the table holds
    waits_for:       process id of the session that it waits for; None if it does not wait
    """

    level: Level
    phase: str
    n_done: int
    n_total: int
    waits_for: int | None

    def __str__(self) -> str:
        text = f"{self.level}: {self.phase}"
        if self.n_total and self.n_done:
            text += f", {self.n_done:,} of {self.n_total:,} rows ({self.n_done / self.n_total:.0%})"
        if self.waits_for:
            text += f", waits for process {self.waits_for} of the server"
        return text


@dataclass(frozen=True)
class LevelIndex:
    """An index after `build_search_index`.

    built:   False if it was ready before
    seconds: for each phase that was observed, in order
    notices: from Postgres, such as a graph that has outgrown its memory
    """

    level: Level
    built: bool
    n_rows: int
    n_bytes: int
    memory_mb: int
    n_workers: int
    seconds: Mapping[str, float]
    notices: tuple[str, ...]

    @property
    def total_s(self) -> float:
        """Seconds of all phases."""
        return sum(self.seconds.values())


class NoSharedMemory(FtmError):
    """The server lacks the shared memory that a parallel build needs."""

    def __init__(self, name: str, memory_mb: int, reason: str) -> None:
        super().__init__(
            f"index {name} cannot be built in {memory_mb} MB of shared memory ({reason}); "
            "lower FTM_INDEX_MEMORY, set FTM_INDEX_WORKERS=0, or give the server more (in Docker: shm_size)"
        )


class NoQuarter(FtmError):
    """A quarter that has no table to index."""

    def __init__(self, quarter: str) -> None:
        super().__init__(f"no calls in {quarter}, so there is nothing to index; load some first: ftm ingest SOURCE")


_OnProgress = Callable[[BuildProgress], None]


def build_search_index(
    database: Database, quarter: str, settings: SearchIndexSettings, on_progress: _OnProgress = lambda _: None
) -> list[LevelIndex]:
    """Build what is missing, broken or built with other settings, the smallest level first; leave what is ready.

    Waits for another process that builds the same, and for transactions that began before. Ctrl-C drops the unfinished
    index. A build whose process is killed continues in the server, or leaves a broken index, which the next one
    replaces.

    on_progress: called every second while something is built, by this process or by another
    raises:      NoQuarter, NoSharedMemory
    """
    with database.transaction() as connection:
        if not connection.scalar(sa.text("SELECT to_regclass(:name)"), {"name": partition_table(quarter)}):
            raise NoQuarter(quarter)
    with _exclusive_session(database, quarter, on_progress) as connection:
        levels = levels_of(connection, quarter)
        return [_build_level(database, connection, quarter, level, settings, on_progress) for level in levels]


def drop_search_index(connection: Connection, quarter: str) -> None:
    """Drop the indexes of a quarter in the connection's transaction, which keeps readers out until it ends."""
    for level in Level:
        connection.execute(sa.text(f"DROP INDEX IF EXISTS {index_name(level, quarter)}"))


# Decision 75.
def drop_index_for_bulk_write(database: Database, quarter: str, n_firms: int) -> bool:
    """Drop the quarter's indexes if so many of its firms are to be written that building them again is cheaper.

    Returns whether they were dropped. While another process builds them or reads from them, they stay, and writing
    rows is slower.
    """
    with database.transaction() as connection:
        n_expected = connection.execute(
            sa.text("SELECT count(*) FROM firm_quarters WHERE quarter = :quarter"), {"quarter": quarter}
        ).scalar_one()
        there = [index.name for index in index_states(connection, quarter) if index.state is not State.missing]
    if not there or n_firms <= BULK_SHARE * n_expected:
        return False
    with _session(database) as connection:
        if not try_acquire(connection, Lock.SEARCH_INDEX, quarter):
            return False
        connection.execute(sa.text(f"SET lock_timeout = {LOCK_TIMEOUT_MS}"))
        try:
            for name in there:
                _drop(connection, name)
        except sa.exc.OperationalError as error:
            if isinstance(error.orig, psycopg.errors.LockNotAvailable):
                return False
            raise
    return True


@contextmanager
def _session(database: Database) -> Iterator[Connection]:
    """A connection on which each statement is a transaction, as CREATE INDEX CONCURRENTLY needs; closed at the end."""
    with database.engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT")
        try:
            yield connection
        finally:
            # Closed, not returned to the pool: it holds the lock, and settings of its own.
            connection.invalidate()


@contextmanager
def _exclusive_session(database: Database, quarter: str, on_progress: _OnProgress) -> Iterator[Connection]:
    """A session that holds the lock under which the quarter's indexes are built and dropped.

    The session itself holds the lock, so that a build continues undisturbed when the process that started it dies.
    """
    with _session(database) as connection:
        # Polled, not waited for in the database: CREATE INDEX CONCURRENTLY would wait for the waiter. Decision 76.
        while not try_acquire(connection, Lock.SEARCH_INDEX, quarter):
            for progress in _progress(connection, quarter):
                on_progress(progress)
            sleep(POLL_S)
        yield connection


def _build_level(
    database: Database,
    connection: Connection,
    quarter: str,
    level: Level,
    settings: SearchIndexSettings,
    on_progress: _OnProgress,
) -> LevelIndex:
    [before] = [index for index in index_states(connection, quarter, settings) if index.level is level]
    table, column, condition = _target(level, quarter)
    n_rows: int = connection.execute(sa.text(f"SELECT count(*) FROM {table}{condition}")).scalar_one()  # noqa: S608  (names of ours)
    if before.state is State.ready:
        return LevelIndex(level, False, n_rows, before.n_bytes, 0, 0, {}, ())
    if before.state is not State.missing:
        _drop(connection, before.name)
    n_workers = database.settings.index_workers if _pgvector(connection) >= _SAFE_IN_PARALLEL else 0
    width = _width(connection, table, column, condition)
    memory_mb = _memory(n_rows, width, settings.m, n_workers, database.settings.index_memory)
    for setting, value in (
        ("maintenance_work_mem", f"{memory_mb}MB"),
        ("max_parallel_maintenance_workers", str(n_workers)),
        ("lock_timeout", "0"),
        ("statement_timeout", "0"),
    ):
        connection.execute(sa.text("SELECT set_config(:setting, :value, false)"), {"setting": setting, "value": value})
    statement = (
        f"CREATE INDEX CONCURRENTLY {before.name} ON {table} "
        f"USING hnsw (({indexed(column, width)}) halfvec_cosine_ops) "
        f"WITH (m = {settings.m}, ef_construction = {settings.ef_construction}){condition}"
    )
    try:
        seconds, notices = _execute(database, connection, quarter, n_rows, statement, on_progress)
    except BaseException as error:
        # If the server is gone or the table is locked, the broken index stays, and the next build replaces it.
        with suppress(sa.exc.DBAPIError):
            connection.execute(sa.text(f"SET lock_timeout = {CLEAN_UP_MS}"))
            _drop(connection, before.name)
        if isinstance(error, sa.exc.OperationalError) and isinstance(error.orig, psycopg.errors.DiskFull):
            raise NoSharedMemory(before.name, memory_mb, str(error.orig).partition("\n")[0]) from error
        raise
    [after] = [index for index in index_states(connection, quarter, settings) if index.level is level]
    return LevelIndex(level, True, n_rows, after.n_bytes, memory_mb, n_workers, seconds, notices)


def _execute(
    database: Database, connection: Connection, quarter: str, n_rows: int, statement: str, on_progress: _OnProgress
) -> tuple[dict[str, float], tuple[str, ...]]:
    """Seconds of each phase of a build, and the notices of Postgres. An exception here cancels the build."""
    driver = cast("psycopg.Connection[Any]", connection.connection.driver_connection)
    seconds: dict[str, float] = {}
    notices: list[str] = []
    driver.add_notice_handler(lambda notice: notices.append(str(notice.message_primary)))
    with ThreadPoolExecutor(1) as thread, database.engine.connect() as watcher:
        watcher.execution_options(isolation_level="AUTOCOMMIT")
        build: Future[object] = thread.submit(connection.exec_driver_sql, statement)
        last, phase = monotonic(), "building"
        try:
            while not wait([build], timeout=POLL_S).done:
                for progress in _progress(watcher, quarter, n_rows):
                    on_progress(progress)
                    phase = progress.phase
                now = monotonic()
                seconds[phase] = seconds.get(phase, 0.0) + now - last
                last = now
        except BaseException:
            driver.cancel()
            wait([build])
            raise
        build.result()
        seconds[phase] = seconds.get(phase, 0.0) + monotonic() - last
    return seconds, tuple(notices)


def _progress(connection: Connection, quarter: str, n_total: int = 0) -> list[BuildProgress]:
    """The builds of the quarter that run at this moment, in any process."""
    names = {index_name(level, quarter): level for level in Level}
    rows = connection.execute(
        sa.text(
            """
            SELECT c.relname, p.phase, p.tuples_done AS n_done, greatest(p.tuples_total, :total) AS n_total,
                   nullif(p.current_locker_pid, 0) AS waits_for
            FROM pg_stat_progress_create_index AS p JOIN pg_class AS c ON c.oid = p.index_relid
            WHERE c.relname = ANY(:names)
            """
        ),
        {"names": list(names), "total": n_total},
    )
    return [
        BuildProgress(names[row.relname], row.phase, n_done=row.n_done, n_total=row.n_total, waits_for=row.waits_for)
        for row in rows
    ]


def _drop(connection: Connection, name: str) -> None:
    connection.execute(sa.text(f"DROP INDEX CONCURRENTLY IF EXISTS {name}"))


def _target(level: Level, quarter: str) -> tuple[str, str, str]:
    """Table, column and condition of an index; only sentences have a table for each quarter."""
    of_quarter = f" WHERE quarter = '{quarter}'"
    match level:
        case Level.themes:
            return "themes", "centroid", of_quarter
        case Level.topics:
            return "topic_summaries", "embedding", of_quarter
        case Level.sentences:
            return partition_table(quarter), "embedding", f" WHERE {MODELLED}"


def _width(connection: Connection, table: str, column: str, condition: str) -> int:
    """Dimensions before the zeros that pad every vector. Guessed from some vectors, then checked on all."""
    vectors = connection.scalars(
        sa.text(f"SELECT vector_send({column}::vector) FROM {table}{condition} LIMIT {_N_SAMPLED}")  # noqa: S608
    )
    used = np.flatnonzero(vectors_of(list(vectors)).any(axis=0))
    width = int(used[-1]) + 1 if used.size else DIMENSIONS
    if width == DIMENSIONS:
        return width
    rest = f"subvector({column}::vector, {width + 1}, {DIMENSIONS - width})"
    wider = f"SELECT EXISTS (SELECT FROM {table}{condition} AND vector_norm({rest}) > 0)"  # noqa: S608
    more = connection.scalar(sa.text(wider))
    return DIMENSIONS if more else width


def _memory(n_rows: int, width: int, m: int, n_workers: int, most_mb: int) -> int:
    """MB for a build: what its graph takes, at least the 32 a process that Postgres wants, at most the setting."""
    graph = n_rows * (_ROW_BYTES + _DIMENSION_BYTES * width + _NEIGHBOUR_BYTES * m) // _MB + 1
    return min(most_mb, max(graph, 32 * (n_workers + 1)))


def _pgvector(connection: Connection) -> tuple[int, ...]:
    version: str = connection.execute(
        sa.text("SELECT extversion FROM pg_extension WHERE extname = 'vector'")
    ).scalar_one()
    return tuple(int(part) for part in re.findall(r"\d+", version))
