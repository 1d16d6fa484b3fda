"""The way from a lane to a process of the worker's."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Client, Connection

from ftm_assets.errors import FtmError

_ASK_AGAIN_S = 0.2


class ProcessGone(FtmError):
    """A process of the worker's did not come back."""

    def __init__(self, name: str, waited_s: float) -> None:
        super().__init__(f"no {name} for {waited_s:.0f} s; see what the worker says: ftm worker status")


@dataclass
class IpcClient:
    """Connections to a socket, opened when they are used and kept for the next use.

    name:       of the process, for people
    patience_s: how long one that is gone is waited for
    """

    address: str
    name: str
    patience_s: float
    _kept: Connection | None = field(default=None, init=False, repr=False)

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """A connection that nobody else uses while the block runs. raises: ProcessGone

        An interrupt in between leaves half an answer in it, so that it is not used again after any exception.
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
                if time.monotonic() - started > self.patience_s:
                    raise ProcessGone(self.name, self.patience_s) from None
                time.sleep(_ASK_AGAIN_S)
