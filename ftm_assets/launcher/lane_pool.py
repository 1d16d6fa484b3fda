"""All lanes of a worker: which run is where, which lanes have ended, which are to be replaced."""

import os
import signal
import socket
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import cast

from ftm_assets.launcher.lane_process import LaneExited, LaneReady, RunDone, warm_parent
from ftm_assets.launcher.queue import Launch
from ftm_assets.processes.backoff import RestartBackoff
from ftm_assets.processes.child import Waitable, ending, environment, receive

_SPAWN = get_context("spawn")
_PAGE = os.sysconf("SC_PAGE_SIZE")
# One thread each: there are as many lanes as the machine can use, and a result must not depend on threads. This
# threading layer of numba survives a fork.
_LANE_ENVIRONMENT = {
    **dict.fromkeys(["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"], "1"),
    "NUMBA_THREADING_LAYER": "workqueue",
    "TOKENIZERS_PARALLELISM": "false",
}
_REFORK_S = 1.0
_MAX_LANES = 16
_MAX_WAITING_LANES = 16
# Four times what a lane was measured to have for itself; see docs/language-model.md.
_WAITING_LANE_BYTES = 512 << 20
_MIN_LANE_BYTES = 3 << 29


def fitting_lanes(n: int, growth_mb: int, n_cores: int, memory_bytes: int, *, waits: bool = False) -> tuple[int, int]:
    """How many lanes, and by how many bytes each may grow; what is 0 is derived from cores and memory.

    Two lanes more than cores, because a lane also waits, as many as memory allows, and at most 16. If lanes wait for a
    language model (`waits`), up to 16 more, as far as the remaining memory goes.
    """
    n_lanes = n or _lanes_for(n_cores, memory_bytes, waits=waits)
    growth_bytes = growth_mb << 20
    return n_lanes, growth_bytes or max(_MIN_LANE_BYTES, memory_bytes // (4 * n_lanes))


def _lanes_for(n_cores: int, memory_bytes: int, *, waits: bool) -> int:
    n_lanes = max(1, min(n_cores + 2, memory_bytes // _MIN_LANE_BYTES, _MAX_LANES))
    if not waits:
        return n_lanes
    remaining_bytes = memory_bytes - n_lanes * _MIN_LANE_BYTES
    return n_lanes + max(0, min(_MAX_WAITING_LANES, remaining_bytes // _WAITING_LANE_BYTES))


@dataclass(frozen=True)
class RunReturned:
    """A run that a lane no longer has. `reason` is why the run has not ended; empty if it has."""

    launch: Launch
    reason: str


@dataclass
class Lane:
    """One lane. It is idle while it has a connection and no launch."""

    number: int
    pid: int = 0
    connection: Connection | None = None
    launch: Launch | None = None
    since: float = field(default_factory=time.monotonic)
    n_runs: int = 0
    n_runs_of_process: int = 0
    busy_s: float = 0.0
    memory_bytes: int = 0
    memory_bytes_at_start: int = 0
    interrupted_at: float | None = None
    fork_at: float | None = None
    killed_because: str = ""

    @property
    def is_idle(self) -> bool:
        """Whether it waits for a run."""
        return self.connection is not None and self.launch is None

    @property
    def grown_bytes(self) -> int:
        """Memory that it took since its process started: it shares most of what it holds with its parent."""
        return self.memory_bytes - self.memory_bytes_at_start

    def measure(self) -> None:
        """Read the memory of its process, if that is still running."""
        with suppress(OSError):
            self.memory_bytes = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * _PAGE


class Lanes:
    """The lanes and their warm parent. No method waits for a run.

    folder:     where their socket is
    addresses:  by environment variable, the sockets of the processes that they ask
    n:          how many
    preload:    module that the warm parent imports before it forks
    lane_runs:  a lane is replaced after so many runs, so that what leaks does not add up
    lane_bytes: one that has grown by more is replaced after its run, by twice as much is killed in it
    """

    def __init__(
        self, folder: Path, n: int, preload: str, lane_runs: int, lane_bytes: int, addresses: Mapping[str, str]
    ) -> None:
        self._addresses = addresses
        self._preload = preload
        self._lane_runs = lane_runs
        self._lane_bytes = lane_bytes
        self._address = str(folder / "lanes")
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self._address)
        self._listener.listen(n)
        self._listener.setblocking(False)
        self.lanes = [Lane(number) for number in range(1, n + 1)]
        self.errors: deque[str] = deque()
        self._backoff = RestartBackoff()
        self._start_parent()

    def _start_parent(self) -> None:
        self._control, theirs = _SPAWN.Pipe()
        arguments = (theirs, os.getpid(), self._address, self._preload)
        self._parent = _SPAWN.Process(target=warm_parent, args=arguments, daemon=True)
        with environment({**_LANE_ENVIRONMENT, **self._addresses}):
            self._parent.start()
        self._backoff.started()
        self._start_parent_at: float | None = None
        theirs.close()
        for lane in self.lanes:
            lane.fork_at = 0.0

    def waitables(self) -> list[Waitable]:
        """What becomes ready, for `multiprocessing.connection.wait`, when `collect` has something to do."""
        connections = [lane.connection for lane in self.lanes if lane.connection is not None]
        parent: list[Waitable] = [self._control, self._parent.sentinel] if self._start_parent_at is None else []
        return [self._listener, *parent, *connections]

    def collect(self) -> Iterator[RunReturned]:
        """Runs that lanes no longer have, since the last call. Lanes that have ended are forked again."""
        yield from self._accept()
        for lane in self.lanes:
            done = receive(lane.connection) if lane.connection is not None else None
            if isinstance(done, RunDone):
                yield self._return_run(lane, "" if done.is_finished else f"Its lane could not end it: {done.error}")
        while isinstance(exited := receive(self._control), LaneExited):
            lane = self.lanes[exited.number - 1]
            yield from self._on_exit(lane, lane.killed_because or f"Its lane ended, {ending(exited.status)}.")
        if self._start_parent_at is not None:
            if time.monotonic() >= self._start_parent_at:
                self._start_parent()
        elif not self._parent.is_alive():
            yield from self._on_parent_exit(ending(self._parent.exitcode or 0))
        else:
            self._fork()

    def _on_parent_exit(self, how: str) -> Iterator[RunReturned]:
        reason = f"The lanes' parent ended, {how}, and they with it."
        self.errors.append(reason)
        self._control.close()
        self._start_parent_at = time.monotonic() + self._backoff.ended()
        for lane in self.lanes:
            yield from self._on_exit(lane, reason)

    def _accept(self) -> Iterator[RunReturned]:
        with suppress(BlockingIOError):
            while True:
                connection = Connection(self._listener.accept()[0].detach())
                with suppress(EOFError, ConnectionError):  # It died before its first message; its parent reports it.
                    yield from self._on_ready(cast(LaneReady, connection.recv()), connection)

    def _on_ready(self, ready: LaneReady, connection: Connection) -> Iterator[RunReturned]:
        lane = self.lanes[ready.number - 1]
        if lane.launch is not None:
            # Its predecessor connected after its end had been reported, and got a run that it never began.
            yield self._return_run(lane, "Its lane ended before the run began.")
        lane.pid, lane.connection, lane.since = ready.pid, connection, time.monotonic()
        lane.n_runs_of_process, lane.killed_because = 0, ""
        lane.measure()
        lane.memory_bytes_at_start = lane.memory_bytes

    def _return_run(self, lane: Lane, reason: str) -> RunReturned:
        returned = RunReturned(cast(Launch, lane.launch), reason)
        now = time.monotonic()
        lane.busy_s += now - lane.since
        lane.launch, lane.since = None, now
        lane.n_runs += 1
        lane.n_runs_of_process += 1
        if lane.n_runs_of_process >= self._lane_runs or lane.grown_bytes > self._lane_bytes:
            self._dismiss(lane)
        return returned

    def _on_exit(self, lane: Lane, reason: str) -> Iterator[RunReturned]:
        self._dismiss(lane)
        has_worked = lane.n_runs_of_process > 0 or lane.launch is not None
        # A lane that dies before its first run would die again at once.
        lane.fork_at = time.monotonic() + (0.0 if has_worked else _REFORK_S)
        if lane.launch is not None:
            yield self._return_run(lane, reason)

    def _dismiss(self, lane: Lane) -> None:
        """Let a lane end: it does when its connection closes."""
        if lane.connection is not None:
            lane.connection.close()
            lane.connection = None

    def _fork(self) -> None:
        for lane in self.lanes:
            if lane.fork_at is not None and lane.fork_at <= time.monotonic():
                lane.fork_at = None
                with suppress(OSError):  # The parent has just died; the next `collect` sees it.
                    self._control.send(lane.number)

    def give(self, lane: Lane, launch: Launch) -> None:
        """Let an idle lane execute a run."""
        lane.launch, lane.since, lane.interrupted_at = launch, time.monotonic(), None
        with suppress(OSError):  # The lane has just died; `collect` sees it.
            cast(Connection, lane.connection).send(launch.run_id)

    def of_run(self, run_id: str) -> Lane | None:
        """The lane that has the run."""
        return next((lane for lane in self.lanes if lane.launch is not None and lane.launch.run_id == run_id), None)

    def kill(self, lane: Lane, reason: str) -> None:
        """End a lane at once; `collect` will return its run with the reason."""
        lane.killed_because = reason
        with suppress(ProcessLookupError):
            os.kill(lane.pid, signal.SIGKILL)

    def interrupt(self, lane: Lane) -> None:
        """Interrupt a lane's run as Ctrl-C would; may be repeated."""
        lane.interrupted_at = lane.interrupted_at or time.monotonic()
        with suppress(ProcessLookupError):
            os.kill(lane.pid, signal.SIGINT)

    def measure(self) -> None:
        """Read the memory of each lane; kill one that has grown too much."""
        for lane in self.lanes:
            if lane.connection is None:
                continue
            lane.measure()
            if lane.grown_bytes > 2 * self._lane_bytes and not lane.killed_because:
                grown, limit = lane.grown_bytes >> 20, self._lane_bytes >> 19
                self.kill(lane, f"Its lane grew by {grown} MB and was killed; the limit is {limit} (FTM_LANE_MEMORY).")

    def close(self) -> None:
        """Kill all lanes and their parent."""
        self._parent.kill()
        self._parent.join()
        self._listener.close()
