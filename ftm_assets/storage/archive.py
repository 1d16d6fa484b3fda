"""An old quarter without the vectors of its sentences, which are most of what it takes on the disk."""

from dataclasses import dataclass

import psycopg
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ftm_assets.errors import FtmError
from ftm_assets.storage import tables as t
from ftm_assets.storage.database import Database
from ftm_assets.storage.search_index import Level, alone_with_index, index_name
from ftm_assets.storage.stages import lock
from ftm_assets.storage.themes import current_summaries, n_expected, theme_state
from ftm_assets.storage.transcripts import LOCK_TIMEOUT_MS, leaf, limit_waiting


class NotFinished(FtmError):
    """Firms or themes are missing or stale, and could not be made any more."""

    def __init__(self, quarter: str) -> None:
        super().__init__(
            f"firms or themes of {quarter} are missing or stale, and need the vectors of its sentences; "
            f"make them first: ftm backfill {quarter}"
        )


class ArchiveInUse(FtmError):
    """Somebody else reads or writes the quarter's sentences, and does not end."""

    def __init__(self, quarter: str) -> None:
        super().__init__(
            f"{quarter} cannot be archived, or its room not be given back, while others use its sentences; stop what "
            "runs, close open transactions (in DBeaver: commit), and archive it again"
        )


@dataclass(frozen=True)
class Size:
    """What a quarter's sentences take with their indexes, in bytes, and how many have a vector."""

    n_bytes: int
    n_vectors: int


def size_of_sentences(connection: Connection, quarter: str) -> Size:
    """What there is to win."""
    row = connection.execute(
        sa.text(
            f"SELECT pg_total_relation_size('{leaf(quarter)}'), (SELECT count(embedding) FROM {leaf(quarter)})"  # noqa: S608
        )
    ).one()
    return Size(*row)


def archive(database: Database, quarter: str) -> tuple[Size, Size]:
    """Drop the vectors of a quarter's sentences with their index, and give the room back; sizes before and after.

    Texts, topics, summaries, themes and their vectors stay. One that was stopped half-way may be repeated.

    raises: NotFinished, ArchiveInUse
    """
    try:
        with database.transaction() as connection:
            limit_waiting(connection)
            lock(connection, quarter)
            before = size_of_sentences(connection, quarter)
            summaries = current_summaries(connection, quarter)
            is_whole = len(summaries) == n_expected(connection, quarter)
            if not is_whole or not theme_state(connection, quarter, summaries).current:
                raise NotFinished(quarter)
            if not alone_with_index(connection, quarter):
                raise ArchiveInUse(quarter)
            connection.execute(
                sa.text(f"UPDATE {leaf(quarter)} SET embedding = NULL WHERE embedding IS NOT NULL")  # noqa: S608
            )
            connection.execute(
                sa.update(t.Quarter)
                .where(t.Quarter.quarter == quarter, t.Quarter.archived_at.is_(None))
                .values(archived_at=sa.func.now())
            )
            # Last, because it keeps readers out until the end.
            connection.execute(sa.text(f"DROP INDEX IF EXISTS {index_name(Level.sentences, quarter)}"))
        _give_back(database, quarter)
    except sa.exc.OperationalError as error:
        if isinstance(error.orig, psycopg.errors.LockNotAvailable):
            raise ArchiveInUse(quarter) from error
        raise
    with database.transaction() as connection:
        return before, size_of_sentences(connection, quarter)


def _give_back(database: Database, quarter: str) -> None:
    """Let the system have the room that the vectors took; until then it is only free for other sentences."""
    with database.engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT")
        try:
            connection.execute(sa.text(f"SET lock_timeout = {LOCK_TIMEOUT_MS}"))
            connection.execute(sa.text(f"VACUUM (FULL, ANALYZE) {leaf(quarter)}"))
        finally:
            connection.invalidate()  # Its setting is its own.
