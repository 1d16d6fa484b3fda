"""Every advisory lock of the project, and the only code that takes one.

Postgres frees an advisory lock when the transaction or the connection of its holder ends, however the holder ended. So
no heartbeat has to be written, and none can starve.
"""

from enum import StrEnum

import sqlalchemy as sa
from sqlalchemy.engine import Connection


class Lock(StrEnum):
    """What can be locked. A lock that exists several times has a detail too, such as the quarter of a search index.

    Postgres knows a lock by one number, the hash of value and detail, within one database. So no value may begin with
    another one. The values of `SERVICES` and `GPU_WORKER` appear in error messages. The first three are taken in
    Dagster's database, the others in ours; they stay apart even where both are the same database.
    """

    SERVICES = "ftm up"
    GPU_WORKER = "a GPU worker"
    QUEUE_TABLES = "ftm launcher tables"
    MIGRATION = "ftm migration"
    INGEST = "ftm ingest"
    COMMAND = "ftm command"  # Detail: the command, such as `backfill 2021Q4`.
    SEARCH_INDEX = "ftm search index"  # Detail: the quarter.
    LLM_CLIENT = "ftm language model client"  # Detail: the random number of the process.


_KEY = "hashtextextended(:name, 0)"
_OWNER = f"""
    SELECT activity.application_name FROM pg_locks AS locks JOIN pg_stat_activity AS activity USING (pid)
    WHERE locks.locktype = 'advisory' AND locks.granted AND locks.objsubid = 1
      AND activity.datname = current_database() AND locks.database = activity.datid
      AND ((locks.classid::bigint << 32) | locks.objid::bigint) = {_KEY}
"""  # noqa: S608  (a constant)


def acquire(connection: Connection, lock: Lock, detail: object = "") -> None:
    """Wait for a lock and hold it until `release` or the end of the connection."""
    connection.execute(_call("pg_advisory_lock", lock, detail))


def try_acquire(connection: Connection, lock: Lock, detail: object = "") -> bool:
    """Take a lock until `release` or the end of the connection; False if another connection holds it."""
    return bool(connection.scalar(_call("pg_try_advisory_lock", lock, detail)))


def acquire_for_transaction(connection: Connection, lock: Lock, detail: object = "") -> None:
    """Wait for a lock and hold it until the transaction ends."""
    connection.execute(_call("pg_advisory_xact_lock", lock, detail))


def try_acquire_for_transaction(connection: Connection, lock: Lock, detail: object = "") -> bool:
    """Take a lock until the transaction ends; False if another connection holds it."""
    return bool(connection.scalar(_call("pg_try_advisory_xact_lock", lock, detail)))


def release(connection: Connection, lock: Lock, detail: object = "") -> None:
    """Give up a lock of this connection."""
    connection.execute(_call("pg_advisory_unlock", lock, detail))


def is_held(connection: Connection, lock: Lock, detail: object = "") -> bool:
    """Whether another connection holds a lock. Must be asked in a transaction."""
    # Shared, so that two who ask at once do not take each other for the holder.
    return not connection.scalar(_call("pg_try_advisory_xact_lock_shared", lock, detail))


def owner_of(lock: Lock) -> sa.TextClause:
    """A query for the application name of the connection that holds a lock; no row if none does."""
    return sa.text(_OWNER).bindparams(name=_name(lock))


def is_free(lock: Lock) -> sa.TextClause:
    """A condition that is true while no connection holds a lock."""
    return sa.text(f"NOT EXISTS ({_OWNER})").bindparams(name=_name(lock))


def _call(function: str, lock: Lock, detail: object) -> sa.TextClause:
    return sa.text(f"SELECT {function}({_KEY})").bindparams(name=_name(lock, detail))


def _name(lock: Lock, detail: object = "") -> str:
    return f"{lock} {detail}".rstrip()
