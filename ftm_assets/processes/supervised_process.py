"""A process of the worker's that is kept alive."""

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
    """A process, started again when it ends, after pauses that get longer. Who is silent for too long is killed.

    name:    for people, as `encoder process`
    main:    its main function: gets the end of a pipe at which the worker listens, and `arguments()`
    parent:  the process that it ends with
    without: variables whose value it is not to have
    """

    silence_s = 600.0
    without: tuple[str, ...] = ()

    def __init__(self, name: str, main: Callable[..., None]) -> None:
        self.name = name
        self.parent = os.getpid()
        self._main = main
        self._pauses = RestartBackoff()
        self._start()

    @abstractmethod
    def arguments(self) -> tuple[object, ...]:
        """What its main function gets behind the pipe, at this start."""

    @abstractmethod
    def hear(self, message: object) -> Iterator[str]:
        """Take in what it says; what of it is a complaint."""

    def patience_s(self) -> float:
        """How long it may be silent now."""
        return self.silence_s

    def buried(self, how: str) -> str:
        """Take in that it ended; how, in more words."""
        return how

    def _start(self) -> None:
        self._pipe, theirs = SPAWN.Pipe()
        # Before its arguments: they may say what the one before has died of.
        self._process: BaseProcess = SPAWN.Process(target=self._main, args=(theirs, *self.arguments()), daemon=True)
        with environment(dict.fromkeys(self.without, "")):
            self._process.start()
        self._heard_at = time.monotonic()
        self._pauses.started()
        self._start_at: float | None = None
        theirs.close()

    def waited(self) -> list[Waitable]:
        """What becomes ready, for `multiprocessing.connection.wait`, when `collect` has something to do."""
        return [self._pipe, self._process.sentinel] if self._start_at is None else []

    def collect(self) -> Iterator[str]:
        """What has gone wrong since the last call."""
        if self._start_at is not None:
            if time.monotonic() >= self._start_at:
                self._start()
            return
        has_ended = not self._process.is_alive()  # Asked first: what it said last is heard, too.
        while (message := receive(self._pipe)) is not None:
            self._heard_at = time.monotonic()
            yield from self.hear(message)
        if has_ended:
            self._pipe.close()
            self._start_at = time.monotonic() + self._pauses.ended()
            yield f"{self.buried(ending(self._process.exitcode or 0))}; it starts again"
        elif time.monotonic() - self._heard_at > self.patience_s():
            self._heard_at = time.monotonic()
            self._process.kill()
            yield f"the {self.name} hangs and is killed"

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()
