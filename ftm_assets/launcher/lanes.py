"""All lanes of a worker: which run is where, who has ended, who is to be replaced."""

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

from ftm_assets.launcher.lane import Done, Exited, Ready, warm_parent
from ftm_assets.launcher.queue import Launch
from ftm_assets.processes.backoff import RestartBackoff
from ftm_assets.processes.child import Waitable, ending, environment, receive

_SPAWN = get_context("spawn")
_PAGE = os.sysconf("SC_PAGE_SIZE")
# One thread each: lanes are as many as the machine can do with, and a result must not depend on threads. The layer of
# numba is the one that survives a fork.
_LANE_ENVIRONMENT = {
    **dict.fromkeys(["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"], "1"),
    "NUMBA_THREADING_LAYER": "workqueue",
    "TOKENIZERS_PARALLELISM": "false",
}
_FORK_AGAIN_S = 1.0
_MOST_LANES = 16
_WAITING_LANES = 16
# Four times what a lane was seen to have for itself; see docs/language-model.md.
_WAITING_LANE_BYTES = 512 << 20
_LEAST_LANE_BYTES = 3 << 29


def fitting_lanes(n: int, growth_mb: int, n_cores: int, machine_bytes: int, *, waits: bool = False) -> tuple[int, int]:
    """How many lanes, and by how many bytes each may grow; what is 0 is derived from the machine.

    Two more than cores, because a lane also waits, as many as memory allows, and no more than 16. Where they wait for a
    language model (`waits`), up to 16 more, as far as the memory goes that those leave.
    """
    if not n:
        n = max(1, min(n_cores + 2, machine_bytes // _LEAST_LANE_BYTES, _MOST_LANES))
        left = machine_bytes - n * _LEAST_LANE_BYTES
        n += max(0, min(_WAITING_LANES, left // _WAITING_LANE_BYTES)) if waits else 0
    return n, growth_mb << 20 or max(_LEAST_LANE_BYTES, machine_bytes // (4 * n))


@dataclass(frozen=True)
class RunLeft:
    """A lane is through with a run. `why` it has not ended; empty if it has."""

    launch: Launch
    why: str


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
    memory_bytes_at_birth: int = 0
    interrupted_at: float | None = None
    fork_at: float | None = None
    killed_because: str = ""

    @property
    def is_idle(self) -> bool:
        """Whether it waits for a run."""
        return self.connection is not None and self.launch is None

    @property
    def grown_bytes(self) -> int:
        """Memory that it took since its process began: most of what it holds it shares with its parent."""
        return self.memory_bytes - self.memory_bytes_at_birth

    def measure(self) -> None:
        """Look at the memory of its process, if that is still there."""
        with suppress(OSError):
            self.memory_bytes = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * _PAGE


class Lanes:
    """The lanes and their warm parent. No method waits for a run.

    folder:     where their socket is
    addresses:  by variable, the sockets of the processes that they ask
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
        self.complaints: deque[str] = deque()
        self._pauses = RestartBackoff()
        self._start_parent()

    def _start_parent(self) -> None:
        self._control, theirs = _SPAWN.Pipe()
        arguments = (theirs, os.getpid(), self._address, self._preload)
        self._parent = _SPAWN.Process(target=warm_parent, args=arguments, daemon=True)
        with environment({**_LANE_ENVIRONMENT, **self._addresses}):
            self._parent.start()
        self._pauses.started()
        self._start_parent_at: float | None = None
        theirs.close()
        for lane in self.lanes:
            lane.fork_at = 0.0

    def waited(self) -> list[Waitable]:
        """What becomes ready, for `multiprocessing.connection.wait`, when `collect` has something to tell."""
        connections = [lane.connection for lane in self.lanes if lane.connection is not None]
        parent: list[Waitable] = [self._control, self._parent.sentinel] if self._start_parent_at is None else []
        return [self._listener, *parent, *connections]

    def collect(self) -> Iterator[RunLeft]:
        """Runs that lanes are through with since the last call. Lanes that have ended are forked again."""
        yield from self._welcome()
        for lane in self.lanes:
            done = receive(lane.connection) if lane.connection is not None else None
            if isinstance(done, Done):
                yield self._left(lane, "" if done.is_finished else f"Its lane could not end it: {done.error}")
        while isinstance(exited := receive(self._control), Exited):
            lane = self.lanes[exited.number - 1]
            yield from self._ended(lane, lane.killed_because or f"Its lane ended, {ending(exited.status)}.")
        if self._start_parent_at is not None:
            if time.monotonic() >= self._start_parent_at:
                self._start_parent()
        elif not self._parent.is_alive():
            yield from self._orphaned(ending(self._parent.exitcode or 0))
        else:
            self._fork()

    def _orphaned(self, how: str) -> Iterator[RunLeft]:
        why = f"The lanes' parent ended, {how}, and they with it."
        self.complaints.append(why)
        self._control.close()
        self._start_parent_at = time.monotonic() + self._pauses.ended()
        for lane in self.lanes:
            yield from self._ended(lane, why)

    def _welcome(self) -> Iterator[RunLeft]:
        with suppress(BlockingIOError):
            while True:
                connection = Connection(self._listener.accept()[0].detach())
                with suppress(EOFError, ConnectionError):  # It died on the way; its parent tells.
                    yield from self._seat(cast(Ready, connection.recv()), connection)

    def _seat(self, ready: Ready, connection: Connection) -> Iterator[RunLeft]:
        lane = self.lanes[ready.number - 1]
        if lane.launch is not None:
            # Its predecessor was welcomed after its end had been told, and got a run that it never began.
            yield self._left(lane, "Its lane ended before the run began.")
        lane.pid, lane.connection, lane.since = ready.pid, connection, time.monotonic()
        lane.n_runs_of_process, lane.killed_because = 0, ""
        lane.measure()
        lane.memory_bytes_at_birth = lane.memory_bytes

    def _left(self, lane: Lane, why: str) -> RunLeft:
        left = RunLeft(cast(Launch, lane.launch), why)
        now = time.monotonic()
        lane.busy_s += now - lane.since
        lane.launch, lane.since = None, now
        lane.n_runs += 1
        lane.n_runs_of_process += 1
        if lane.n_runs_of_process >= self._lane_runs or lane.grown_bytes > self._lane_bytes:
            self._dismiss(lane)
        return left

    def _ended(self, lane: Lane, why: str) -> Iterator[RunLeft]:
        self._dismiss(lane)
        # One that dies before its first run would die again at once.
        lane.fork_at = time.monotonic() + (0 if lane.n_runs_of_process or lane.launch else _FORK_AGAIN_S)
        if lane.launch is not None:
            yield self._left(lane, why)

    def _dismiss(self, lane: Lane) -> None:
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
        with suppress(OSError):  # The lane has just died; `collect` tells.
            cast(Connection, lane.connection).send(launch.run_id)

    def of_run(self, run_id: str) -> Lane | None:
        """The lane that has the run."""
        return next((lane for lane in self.lanes if lane.launch is not None and lane.launch.run_id == run_id), None)

    def kill(self, lane: Lane, why: str) -> None:
        """End a lane at once; `collect` will give its run with the reason."""
        lane.killed_because = why
        with suppress(ProcessLookupError):
            os.kill(lane.pid, signal.SIGKILL)

    def interrupt(self, lane: Lane) -> None:
        """Interrupt a lane's run as Ctrl-C would; may be repeated."""
        lane.interrupted_at = lane.interrupted_at or time.monotonic()
        with suppress(ProcessLookupError):
            os.kill(lane.pid, signal.SIGINT)

    def measure(self) -> None:
        """Look at the memory of each lane; kill one that has grown too much."""
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
