"""What a process and its children share: messages, environment, how a child has ended."""

import ctypes
import os
import signal
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import TypeAlias

# Decision 42.
_PR_SET_PDEATHSIG = 1

Waitable: TypeAlias = Connection | socket.socket | int


def die_with(parent: int) -> None:
    """Let the kernel kill this process when its parent dies. parent: the process that should be its parent"""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # It died before the kernel was asked.
        os._exit(1)


def receive(connection: Connection) -> object:
    """The next message, None if there is none or the other end has gone."""
    with suppress(OSError, EOFError):
        return connection.recv() if connection.poll() else None
    return None


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """The variables for processes that are started in the block."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def ending(status: int) -> str:
    """How a process ended. status: its exit code, or minus the signal that killed it"""
    return f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit code {status}"
