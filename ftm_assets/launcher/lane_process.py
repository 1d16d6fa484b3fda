"""A lane: a process that executes one run after another, forked from a parent that has everything imported.

    lane_pool.Lanes -- number -----> warm parent -- fork --> lane
                    <- LaneExited --'                         |
                    <- LaneReady, RunDone --------------------'
                    -- run id ------------------------------->

Parent and lanes end with the process that started them, because the kernel kills them when their parent dies: no lane
goes on with a run that another worker may take up. Decision 42.
"""

import importlib
import os
import signal
import sys
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Client, Connection

from ftm_assets.processes.child import die_with


@dataclass(frozen=True)
class LaneReady:
    """A lane waits for its first run."""

    number: int
    pid: int


@dataclass(frozen=True)
class RunDone:
    """A lane has done what it can for its run. `error` is why, if the run has not ended."""

    is_finished: bool
    error: str = ""


@dataclass(frozen=True)
class LaneExited:
    """A lane's process has ended. `status` is its exit code, or minus the signal that killed it."""

    number: int
    status: int


def warm_parent(control: Connection, starter: int, address: str, preload: str) -> None:
    """Main function of the warm parent: import, then fork a lane for each number received, and report each that ends.

    It has no thread, no connection to a database and nothing on the GPU, so that a fork of it is whole.
    """
    die_with(starter)
    os.setsid()  # Ctrl-C in the terminal is not for lanes.
    importlib.import_module(preload)
    numbers: dict[int, int] = {}
    here = os.getpid()
    while True:
        if control.poll(0.05):
            wanted: int = control.recv()
            pid = os.fork()
            if pid == 0:
                control.close()
                os._exit(_lane(here, address, wanted))
            numbers[pid] = wanted
        while numbers and (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if number := numbers.pop(ended[0], 0):  # Else a child of what was preloaded.
                control.send(LaneExited(number, os.waitstatus_to_exitcode(ended[1])))


def _lane(parent: int, address: str, number: int) -> int:
    die_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # A late one must not end the lane; Dagster listens during a run.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # The worker decides when a lane goes.
    try:
        _serve(address, number)
    except EOFError:
        return 0  # The worker has no more runs for it.
    except Exception:
        traceback.print_exc()
        sys.stderr.flush()
        return 1
    return 0


def _serve(address: str, number: int) -> None:
    from dagster import DagsterInstance

    from ftm_assets.launcher.execution import execute

    # The worker waits for the first message of a lane that has connected, so the instance is opened before.
    with DagsterInstance.get() as instance, Client(address) as worker:
        worker.send(LaneReady(number, os.getpid()))
        while True:
            run_id: str = worker.recv()
            try:
                has_ended = execute(instance, run_id)
                done = RunDone(has_ended, "" if has_ended else "it was interrupted")
            except Exception as error:
                traceback.print_exc()
                done = RunDone(False, str(error).strip().partition("\n")[0] or type(error).__name__)
            worker.send(done)
