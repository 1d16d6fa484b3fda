"""Leader election: one process at a time holds an advisory lock, on a connection that serves nothing else."""

from contextlib import suppress
from multiprocessing.connection import wait
from types import TracebackType
from typing import Self

import sqlalchemy as sa

from ftm_assets.errors import FtmError
from ftm_assets.storage.server.advisory_locks import Lock, owner_of, release, try_acquire

# A machine that vanishes does not close its connection: the server ends it after some 20 s without an answer.
_KEEPALIVES = "-c tcp_keepalives_idle=10 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=2"
# The same for a server that vanishes: a query fails after as long.
PATIENCE = {"connect_timeout": 5, "tcp_user_timeout": 20_000, "keepalives_idle": 10, "keepalives_interval": 5}


class AlreadyHeld(FtmError):
    """Another process holds the lock."""

    def __init__(self, lock: Lock, owner: str) -> None:
        super().__init__(f"{lock} is running already: {owner}; there can be one for a database, stop it there first")


class AdvisoryLock:
    """A lock that this process holds until `release`, or until the process ends.

    url:    of the database in which only one process may hold it
    owner:  how this process is named to others that try to take the lock
    raises: AlreadyHeld
    """

    def __init__(self, url: sa.URL | str, lock: Lock, owner: str) -> None:
        self.lock = lock
        self._engine = sa.create_engine(
            url,
            poolclass=sa.NullPool,
            isolation_level="AUTOCOMMIT",
            connect_args={"application_name": owner, "options": _KEEPALIVES, **PATIENCE},
        )
        self._connection = self._acquire()

    def _acquire(self) -> sa.Connection:
        connection = self._engine.connect()
        if try_acquire(connection, self.lock):
            return connection
        owner = connection.scalar(owner_of(self.lock))
        connection.close()
        raise AlreadyHeld(self.lock, owner or "a process that has just ended, try again")

    def is_in_doubt(self) -> bool:
        """Whether the server has sent something on the connection, which can only be its end. Sends no query."""
        if self._connection.closed or self._connection.invalidated:
            return True
        connection = self._connection.connection.driver_connection
        return connection is None or bool(connection.closed) or bool(wait([connection], timeout=0))

    def keep(self) -> bool:
        """Check that the lock is still held, and take it again after a restart of the server; True if it was lost.

        raises: AlreadyHeld if another process was faster, sqlalchemy.exc.OperationalError while the server is away
        """
        try:
            self._connection.scalar(sa.select(1))
        except (sa.exc.DBAPIError, sa.exc.ResourceClosedError):
            self._connection.close()
            self._connection = self._acquire()
            return True
        return False

    def release(self) -> None:
        """Let another process take the lock at once: the server notices the end of a connection a moment later."""
        with suppress(sa.exc.DBAPIError, sa.exc.ResourceClosedError):  # Then it is free already.
            release(self._connection, self.lock)
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.release()
