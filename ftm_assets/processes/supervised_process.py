"""A child process that is started again whenever it ends, however it is started."""

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from multiprocessing.process import BaseProcess

from ftm_assets.processes.backoff import RestartBackoff
from ftm_assets.processes.child import Waitable, ending, environment, receive

SPAWN = get_context("spawn")


class SupervisedProcess(ABC):
    """Starts a process, and starts it again with growing back-off when it ends. `collect` is to be called often.

    What a subclass adds is how the process is started, watched and ended: by `subprocess` for the services of
    `ftm up`, by `multiprocessing` for a child that exchanges messages with us.

    name: for people, such as `encoder process`
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._backoff = RestartBackoff()
        self._restart_at: float | None = None
        self._restart()

    @abstractmethod
    def _start(self) -> None:
        """Start the process."""

    @abstractmethod
    def exit_status(self) -> int | None:
        """Its exit code, or minus the signal that killed it; None while it runs."""

    @abstractmethod
    def on_exit(self, status: int, pause_s: float) -> str:
        """Take in that it ended and is started again after a pause; returns what the log should say."""

    def watch(self) -> Iterator[str]:
        """Look after the process, which may just have ended; yields what has gone wrong."""
        yield from ()

    @property
    def is_pausing(self) -> bool:
        """Whether it has ended and is not started again yet."""
        return self._restart_at is not None

    def collect(self) -> Iterator[str]:
        """What has gone wrong since the last call."""
        if self._restart_at is not None:
            if time.monotonic() >= self._restart_at:
                self._restart()
            return
        status = self.exit_status()  # Asked first, so that the last messages of a process that ended are read.
        yield from self.watch()
        if status is not None:
            pause_s = self._backoff.ended()
            self._restart_at = time.monotonic() + pause_s
            yield self.on_exit(status, pause_s)

    def _restart(self) -> None:
        self._start()
        self._backoff.started()
        self._restart_at = None


class SpawnedProcess(SupervisedProcess):
    """A supervised child that sends messages through a pipe. One that is silent for too long is killed.

    main:      its main function: gets its end of the pipe, and `arguments()`
    parent:    the process that it ends with
    timeout_s: how long it may be silent
    without:   environment variables whose value it must not have
    """

    timeout_s = 600.0
    without: tuple[str, ...] = ()

    def __init__(self, name: str, main: Callable[..., None]) -> None:
        self.parent = os.getpid()
        self._main = main
        super().__init__(name)

    @abstractmethod
    def arguments(self) -> tuple[object, ...]:
        """What its main function gets after the pipe, at this start."""

    @abstractmethod
    def on_message(self, message: object) -> Iterator[str]:
        """Take in a message; yields what of it belongs in the error log."""

    def current_timeout_s(self) -> float:
        """How long it may be silent now."""
        return self.timeout_s

    def on_exit(self, status: int, pause_s: float) -> str:
        """See `SupervisedProcess`."""
        self._pipe.close()
        return f"{self.describe_exit(ending(status))}; it starts again"

    def describe_exit(self, how: str) -> str:
        """Take in that it ended; returns how, in more words."""
        return f"the {self.name} ended, {how}"

    def _start(self) -> None:
        self._pipe, theirs = SPAWN.Pipe()
        arguments = (theirs, *self.arguments())
        self._process: BaseProcess = SPAWN.Process(target=self._main, args=arguments, daemon=True)
        with environment(dict.fromkeys(self.without, "")):
            self._process.start()
        self._last_message_at = time.monotonic()
        theirs.close()

    def exit_status(self) -> int | None:
        """See `SupervisedProcess`."""
        return None if self._process.is_alive() else self._process.exitcode or 0

    def watch(self) -> Iterator[str]:
        """Read its messages; kill it if it hangs."""
        while (message := receive(self._pipe)) is not None:
            self._last_message_at = time.monotonic()
            yield from self.on_message(message)
        if self._process.is_alive() and time.monotonic() - self._last_message_at > self.current_timeout_s():
            self._last_message_at = time.monotonic()
            self._process.kill()
            yield f"the {self.name} hangs and is killed"

    def waitables(self) -> list[Waitable]:
        """What becomes ready, for `multiprocessing.connection.wait`, when `collect` has something to do."""
        return [] if self.is_pausing else [self._pipe, self._process.sentinel]

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()
