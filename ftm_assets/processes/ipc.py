"""Connections from a lane to a process of the worker."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Client, Connection

from ftm_assets.errors import FtmError

_RETRY_S = 0.2


class ProcessGone(FtmError):
    """A process of the worker has ended and was not started again in time."""

    def __init__(self, name: str, waited_s: float) -> None:
        super().__init__(f"no {name} for {waited_s:.0f} s; see why with: ftm worker status")


@dataclass
class IpcClient:
    """Connections to a socket, opened when they are used and kept for the next use.

    name:      of the process, for people
    timeout_s: how long to wait for a process that is gone
    """

    address: str
    name: str
    timeout_s: float
    _kept: Connection | None = field(default=None, init=False, repr=False)

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """A connection that nothing else uses during the block. raises: ProcessGone

        After any exception the connection is closed: an interrupt may have left half an answer in it.
        """
        connection, self._kept = self._kept or self._connect(), None
        try:
            yield connection
        except BaseException:
            connection.close()
            raise
        self._kept = connection

    def _connect(self) -> Connection:
        started = time.monotonic()
        while True:
            try:
                return Client(self.address)
            except OSError:
                if time.monotonic() - started > self.timeout_s:
                    raise ProcessGone(self.name, self.timeout_s) from None
                time.sleep(_RETRY_S)
