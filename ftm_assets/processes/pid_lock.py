"""A lock file that one process holds while it lives, and that names it to others."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from ftm_assets.errors import FtmError

_POLL_S = 0.03


class LockHeld(FtmError):
    """Another process holds the lock; `pid` is None while it has not written its number."""

    def __init__(self, file: Path, pid: int | None) -> None:
        super().__init__(f"{file} is held by process {pid}")
        self.pid = pid


@dataclass(frozen=True)
class PidLock:
    """A lock on a file of this machine. The kernel releases it when its owner ends, however that ends.

    timeout_s: how long to wait for processes that hold it only to look
    """

    file: Path
    timeout_s: float = 1.0

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lock during the block. raises: LockHeld"""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("a+") as lock:
            deadline = time.monotonic() + self.timeout_s
            # Others take it for a moment, to see whether it is free.
            while not _try_lock(lock, fcntl.LOCK_EX):
                if time.monotonic() > deadline:
                    raise LockHeld(self.file, self._written())
                time.sleep(_POLL_S)
            lock.truncate(0)
            lock.write(f"{os.getpid()} {_start_time(os.getpid())}")
            lock.flush()
            yield

    def owner(self) -> int | None:
        """The process that holds the lock now, not one that once wrote its number; None if it is free.

        raises: FtmError if the process that holds it does not write its number
        """
        try:
            lock = self.file.open("r")
        except FileNotFoundError:
            return None
        with lock:
            deadline = time.monotonic() + self.timeout_s
            while not _try_lock(lock, fcntl.LOCK_SH):
                pid = self._written()
                if pid is not None:
                    return pid
                if time.monotonic() > deadline:
                    raise FtmError(f"{self.file} is held by an unknown process; find it with: fuser {self.file}")
                time.sleep(_POLL_S)
        return None

    def _written(self) -> int | None:
        """The running process whose number is in the file; None if that one has ended, or none is written yet."""
        pid, _, started = self.file.read_text().partition(" ")
        return int(pid) if pid and _start_time(int(pid)) == started else None


def _try_lock(lock: TextIO, how: int) -> bool:
    try:
        fcntl.flock(lock, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _start_time(pid: int) -> str:
    """When a process started, which tells it from a later one with its number; empty if that cannot be read."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""
