"""Archiving: an old quarter gives up the vectors of its sentences, most of its disk space. Decision 79."""

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ftm_assets.errors import FtmError
from ftm_assets.storage.read.search_index import Level, index_name
from ftm_assets.storage.read.theme_state import current_summaries, n_expected, theme_state
from ftm_assets.storage.schema import tables as t
from ftm_assets.storage.server.advisory_locks import Lock, try_acquire_for_transaction
from ftm_assets.storage.server.database import Database
from ftm_assets.storage.write.calls import (
    LOCK_TIMEOUT_MS,
    QuarterInUse,
    partition_table,
    raise_if_locked,
    set_lock_timeout,
)
from ftm_assets.storage.write.stages import lock_firm_quarters


class NotFinished(FtmError):
    """Firms or themes are missing or stale, and could not be made after the vectors are gone."""

    def __init__(self, quarter: str) -> None:
        super().__init__(
            f"firms or themes of {quarter} are missing or stale, and need the vectors of its sentences; "
            f"make them first: ftm backfill {quarter}"
        )


@dataclass(frozen=True)
class ArchiveResult:
    """How many vectors were dropped, and the bytes of the quarter's sentences with their indexes, before and after."""

    n_vectors: int
    bytes_before: int
    bytes_after: int


def bytes_of_sentences(connection: Connection, quarter: str) -> int:
    """Bytes of a quarter's sentences with their indexes."""
    size = sa.text("SELECT pg_total_relation_size(to_regclass(:name))")
    return int(connection.execute(size, {"name": partition_table(quarter)}).scalar_one())


def archive(database: Database, quarter: str) -> ArchiveResult:
    """Drop the vectors of a quarter's sentences with their index, and give the disk space back.

    Texts, topics, summaries, themes and their vectors stay. If it was stopped half-way, run it again.

    raises: NotFinished, QuarterInUse
    """
    with raise_if_locked(quarter, "archived"), database.transaction() as connection:
        set_lock_timeout(connection)
        lock_firm_quarters(connection, quarter)
        before = bytes_of_sentences(connection, quarter)
        summaries = current_summaries(connection, quarter)
        is_whole = len(summaries) == n_expected(connection, quarter)
        if not is_whole or not theme_state(connection, quarter, summaries).current:
            raise NotFinished(quarter)
        if not try_acquire_for_transaction(connection, Lock.SEARCH_INDEX, quarter):
            raise QuarterInUse(quarter, "archived")
        # Decision 79.
        dropped = connection.execute(
            sa.text(f"UPDATE {partition_table(quarter)} SET embedding = NULL WHERE embedding IS NOT NULL")  # noqa: S608
        )
        connection.execute(
            sa.update(t.Quarter)
            .where(t.Quarter.quarter == quarter, t.Quarter.archived_at.is_(None))
            .values(archived_at=sa.func.now())
        )
        # Last, because it blocks readers until the transaction ends.
        connection.execute(sa.text(f"DROP INDEX IF EXISTS {index_name(Level.sentences, quarter)}"))
    with raise_if_locked(quarter, "vacuumed"):
        _vacuum(database, quarter)
    with database.transaction() as connection:
        return ArchiveResult(dropped.rowcount, before, bytes_of_sentences(connection, quarter))


def _vacuum(database: Database, quarter: str) -> None:
    """Give the space of the vectors back to the system; until then only other sentences can use it."""
    with database.engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT")
        try:
            connection.execute(sa.text(f"SET lock_timeout = {LOCK_TIMEOUT_MS}"))
            connection.execute(sa.text(f"VACUUM (FULL, ANALYZE) {partition_table(quarter)}"))
        finally:
            connection.invalidate()  # Its lock_timeout must not reach others through the pool.
