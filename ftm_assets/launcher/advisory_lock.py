"""Sole rights, held as advisory locks of the Postgres server: it takes one back when its holder's connection ends,
however the holder ended. No heartbeat has to be written, and none can starve.
"""

from contextlib import suppress
from multiprocessing.connection import wait
from types import TracebackType
from typing import Self

import sqlalchemy as sa

from ftm_assets.errors import FtmError

# A machine that vanishes says no goodbye: after some 20 s without an answer the server ends its connection.
_KEEPALIVES = "-c tcp_keepalives_idle=10 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=2"
# Nor does a server that vanishes: a query fails after as long.
PATIENCE = {"connect_timeout": 5, "tcp_user_timeout": 20_000, "keepalives_idle": 10, "keepalives_interval": 5}
_HOLDER = (
    "SELECT activity.application_name FROM pg_locks AS locks JOIN pg_stat_activity AS activity USING (pid) "
    "WHERE locks.locktype = 'advisory' AND locks.granted AND locks.objsubid = 1 "
    "AND activity.datname = current_database() AND locks.database = activity.datid "
    "AND ((locks.classid::bigint << 32) | locks.objid::bigint) = hashtextextended(:right, 0)"
)


class AlreadyHeld(FtmError):
    """Somebody else holds the right."""

    def __init__(self, right: str, holder: str) -> None:
        super().__init__(f"{right} is running already: {holder}; there can be one for a database, stop it there first")


def holder_of(right: str) -> sa.TextClause:
    """A query for the holder of a right, in its own words; no row if there is none."""
    return sa.text(_HOLDER).bindparams(right=right)


def nobody_holds(right: str) -> sa.TextClause:
    """A condition that holds while nobody has the right."""
    return sa.text(f"NOT EXISTS ({_HOLDER})").bindparams(right=right)


class AdvisoryLock:
    """A right that one process has at a time, from here until `release` or the end of the process.

    url:    of the database for which it is the sole one
    right:  what it is, such as `ftm up`
    holder: names this process to those who come later
    raises: AlreadyHeld
    """

    def __init__(self, url: sa.URL | str, right: str, holder: str) -> None:
        self.right = right
        self._engine = sa.create_engine(
            url,
            poolclass=sa.NullPool,
            isolation_level="AUTOCOMMIT",
            connect_args={"application_name": holder, "options": _KEEPALIVES, **PATIENCE},
        )
        self._connection = self._take()

    def _take(self) -> sa.Connection:
        connection = self._engine.connect()
        asked = sa.text("SELECT pg_try_advisory_lock(hashtextextended(:right, 0))").bindparams(right=self.right)
        if connection.scalar(asked):
            return connection
        holder = connection.scalar(holder_of(self.right))
        connection.close()
        raise AlreadyHeld(self.right, holder or "one that has gone just now, try again")

    def is_in_doubt(self) -> bool:
        """Whether the server has something to say on the connection, which can only be its end. Asks nobody."""
        if self._connection.closed or self._connection.invalidated:
            return True
        connection = self._connection.connection.driver_connection
        return connection is None or bool(connection.closed) or bool(wait([connection], timeout=0))

    def keep(self) -> bool:
        """Have it still, or again after the server was restarted; returns whether it had been lost.

        raises: AlreadyHeld if somebody else was faster, sqlalchemy.exc.OperationalError while the server is away
        """
        try:
            self._connection.scalar(sa.select(1))
        except (sa.exc.DBAPIError, sa.exc.ResourceClosedError):
            self._connection.close()
            self._connection = self._take()
            return True
        return False

    def release(self) -> None:
        """Let others have it, who may ask for it at once: the end of a connection is noticed a moment later only."""
        with suppress(sa.exc.DBAPIError, sa.exc.ResourceClosedError):  # Then it is gone already.
            self._connection.scalar(sa.text("SELECT pg_advisory_unlock_all()"))
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.release()
