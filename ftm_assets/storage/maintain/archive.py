"""An old quarter without the vectors of its sentences, which are most of what it takes on the disk."""

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ftm_assets.errors import FtmError
from ftm_assets.storage.maintain.search_index import Level, alone_with_index, index_name
from ftm_assets.storage.schema import tables as t
from ftm_assets.storage.server.database import Database
from ftm_assets.storage.write.calls import LOCK_TIMEOUT_MS, QuarterInUse, leaf, raise_if_locked, set_lock_timeout
from ftm_assets.storage.write.stages import lock
from ftm_assets.storage.write.themes import current_summaries, n_expected, theme_state


class NotFinished(FtmError):
    """Firms or themes are missing or stale, and could not be made any more."""

    def __init__(self, quarter: str) -> None:
        super().__init__(
            f"firms or themes of {quarter} are missing or stale, and need the vectors of its sentences; "
            f"make them first: ftm backfill {quarter}"
        )


@dataclass(frozen=True)
class ArchiveResult:
    """Vectors that were dropped, and bytes that the quarter's sentences took and take with their indexes."""

    n_vectors: int
    bytes_before: int
    bytes_after: int


def bytes_of_sentences(connection: Connection, quarter: str) -> int:
    """What a quarter's sentences take with their indexes."""
    size = sa.text("SELECT pg_total_relation_size(to_regclass(:leaf))")
    return int(connection.execute(size, {"leaf": leaf(quarter)}).scalar_one())


def archive(database: Database, quarter: str) -> ArchiveResult:
    """Drop the vectors of a quarter's sentences with their index, and give the room back.

    Texts, topics, summaries, themes and their vectors stay. One that was stopped half-way may be repeated.

    raises: NotFinished, QuarterInUse
    """
    with raise_if_locked(quarter, "archived"), database.transaction() as connection:
        set_lock_timeout(connection)
        lock(connection, quarter)
        before = bytes_of_sentences(connection, quarter)
        summaries = current_summaries(connection, quarter)
        is_whole = len(summaries) == n_expected(connection, quarter)
        if not is_whole or not theme_state(connection, quarter, summaries).current:
            raise NotFinished(quarter)
        if not alone_with_index(connection, quarter):
            raise QuarterInUse(quarter, "archived")
        # Decision 79.
        dropped = connection.execute(
            sa.text(f"UPDATE {leaf(quarter)} SET embedding = NULL WHERE embedding IS NOT NULL")  # noqa: S608
        )
        connection.execute(
            sa.update(t.Quarter)
            .where(t.Quarter.quarter == quarter, t.Quarter.archived_at.is_(None))
            .values(archived_at=sa.func.now())
        )
        # Last, because it keeps readers out until the end.
        connection.execute(sa.text(f"DROP INDEX IF EXISTS {index_name(Level.sentences, quarter)}"))
    with raise_if_locked(quarter, "given the room back that its vectors took"):
        _give_back(database, quarter)
    with database.transaction() as connection:
        return ArchiveResult(dropped.rowcount, before, bytes_of_sentences(connection, quarter))


def _give_back(database: Database, quarter: str) -> None:
    """Let the system have the room that the vectors took; until then it is only free for other sentences."""
    with database.engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT")
        try:
            connection.execute(sa.text(f"SET lock_timeout = {LOCK_TIMEOUT_MS}"))
            connection.execute(sa.text(f"VACUUM (FULL, ANALYZE) {leaf(quarter)}"))
        finally:
            connection.invalidate()  # Its setting is its own.
