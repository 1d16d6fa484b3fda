import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import dagster as dg
import pytest
from dagster import DagsterRunStatus as Status

from ftm_assets.launcher.lane_pool import Lanes, RunReturned, fitting_lanes
from ftm_assets.launcher.queue import Launch
from ftm_assets.operations.services import MARK, processes_of
from ftm_assets_tests.launcher import jobs
from ftm_assets_tests.launcher.jobs import new_run, status_of

MB = 1 << 20


class Started:
    """Lanes, and what they have left so far."""

    def __init__(self, folder: Path, n: int = 1, lane_runs: int = 100, lane_bytes: int = 4096 * MB) -> None:
        self.lanes = Lanes(
            folder, n, jobs.__name__, lane_runs, lane_bytes, {"FTM_ENCODER_ADDRESS": "encoder's address"}
        )
        self.left: list[RunReturned] = []

    def until(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + 30
        while not condition():
            self.left.extend(self.lanes.collect())
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def give(self, run_id: str, number: int = 1) -> None:
        """Let a lane begin the run as soon as it is idle."""
        lane = self.lanes.lanes[number - 1]
        self.until(lambda: lane.is_idle)
        self.lanes.give(lane, Launch(run_id=run_id, lane=number))

    def execute(self, run_id: str) -> str:
        """Let the first lane execute the run; why it has not ended, if it has not."""
        self.give(run_id)
        self.until(lambda: any(left.launch.run_id == run_id for left in self.left))
        return self.left[-1].reason

    @property
    def pid(self) -> int:
        """The first lane's process, once it is there."""
        self.until(lambda: self.lanes.lanes[0].is_idle)
        return self.lanes.lanes[0].pid


@pytest.fixture
def start(instance: dg.DagsterInstance, tmp_path: Path) -> Iterator[Callable[..., Started]]:
    """Start lanes, which execute runs of `instance`."""
    started: list[Started] = []

    def start(**options: int) -> Started:
        started.append(Started(tmp_path, **options))
        return started[-1]

    yield start
    for lanes in started:
        lanes.lanes.close()


GB = 1 << 30


@pytest.mark.parametrize(
    ("n", "growth_mb", "n_cores", "machine_bytes", "found"),
    [
        (0, 0, 2, 24 * GB, (4, 3 * GB // 2)),
        (0, 0, 8, 6 * GB, (4, 3 * GB // 2)),
        (0, 0, 1, GB, (1, 3 * GB // 2)),
        (0, 0, 64, 512 * GB, (16, 8 * GB)),
        (3, 100, 64, 512 * GB, (3, 100 << 20)),
    ],
)
def test_there_are_as_many_lanes_as_the_machine_bears(
    n: int, growth_mb: int, n_cores: int, machine_bytes: int, found: tuple[int, int]
) -> None:
    assert fitting_lanes(n, growth_mb, n_cores, machine_bytes) == found


@pytest.mark.parametrize(
    ("n", "n_cores", "machine_bytes", "n_lanes"),
    [(0, 8, 32 * GB, 26), (0, 4, 12 * GB, 12), (0, 8, 6 * GB, 4), (0, 64, 512 * GB, 32), (3, 8, 32 * GB, 3)],
)
def test_lanes_that_wait_for_a_language_model_are_more_as_far_as_memory_goes(
    n: int, n_cores: int, machine_bytes: int, n_lanes: int
) -> None:
    assert fitting_lanes(n, 0, n_cores, machine_bytes, waits=True)[0] == n_lanes


def test_a_lane_executes_one_run_after_another_in_one_process_with_one_thread(
    instance: dg.DagsterInstance, start: Callable[..., Started]
) -> None:
    lanes = start()
    environment = dict(os.environ)
    pid = lanes.pid
    runs = [new_run(instance, job) for job in ("look_job", "fail_job", "succeed_job")]
    assert [lanes.execute(run_id) for run_id in runs] == ["", "", ""]
    assert [status_of(instance, run_id) for run_id in runs] == [Status.SUCCESS, Status.FAILURE, Status.SUCCESS]
    assert lanes.pid == pid
    assert lanes.lanes.lanes[0].n_runs == 3
    assert dict(os.environ) == environment, "that is for lanes alone"


def test_a_lane_that_ends_tells_its_run_why_and_is_forked_again(
    instance: dg.DagsterInstance, start: Callable[..., Started]
) -> None:
    lanes = start()
    first = lanes.pid
    assert lanes.execute(new_run(instance, "crash_job")) == "Its lane ended, killed by SIGSEGV."
    second = lanes.pid
    assert lanes.execute(new_run(instance, "leave_job")) == "Its lane ended, exit code 7."
    assert lanes.execute(new_run(instance, "succeed_job")) == ""
    assert len({first, second, lanes.pid}) == 3


def test_lanes_do_not_share_the_fate_of_one(instance: dg.DagsterInstance, start: Callable[..., Started]) -> None:
    lanes = start(n=2)
    lanes.give(waits := new_run(instance, "wait_job"), number=2)
    assert lanes.execute(new_run(instance, "crash_job")).startswith("Its lane ended")
    found = lanes.lanes.of_run(waits)
    assert found and found.number == 2 and found.launch
    assert lanes.lanes.of_run("unknown") is None
    lanes.until(lambda: status_of(instance, waits) is Status.STARTED)


def test_a_lane_is_replaced_after_so_many_runs(instance: dg.DagsterInstance, start: Callable[..., Started]) -> None:
    lanes = start(lane_runs=2)
    pids = []
    for _ in range(4):
        pids.append(lanes.pid)
        assert lanes.execute(new_run(instance, "succeed_job")) == ""
    assert pids[0] == pids[1] != pids[2] == pids[3]
    assert lanes.lanes.lanes[0].n_runs == 4


def test_a_lane_that_grew_too_much_is_replaced_after_its_run_and_killed_at_twice_that(
    instance: dg.DagsterInstance, start: Callable[..., Started]
) -> None:
    def measure_until(condition: Callable[[], object]) -> None:
        def look() -> object:
            lanes.lanes.measure()
            return condition()

        lanes.until(look)

    lanes = start(lane_bytes=50 * MB)
    fat = lanes.pid
    lanes.give(new_run(instance, "eat_job", mb=60, for_s=0.3))
    measure_until(lambda: lanes.left)
    assert lanes.left[0].reason == ""

    thin = lanes.pid
    for _ in range(2):
        # What the one before held is not held against the new one.
        assert lanes.execute(new_run(instance, "succeed_job")) == ""
    assert fat != thin == lanes.pid

    lanes.give(new_run(instance, "eat_job", mb=120, for_s=60.0))
    measure_until(lambda: len(lanes.left) == 4)
    why = lanes.left[3].reason
    assert why.startswith("Its lane grew by ") and why.endswith("the limit is 100 (FTM_LANE_MEMORY).")
    assert lanes.pid != thin


def test_an_interrupted_run_ends_if_that_was_asked_for_and_its_lane_goes_on(
    instance: dg.DagsterInstance, start: Callable[..., Started]
) -> None:
    def interrupted(*, canceling: bool) -> str:
        lanes.give(run_id := new_run(instance, "wait_job"))
        lanes.until(lambda: "STEP_START" in step_events(instance, run_id))
        if canceling and (run := instance.get_run_by_id(run_id)):
            instance.report_run_canceling(run)
        lanes.lanes.interrupt(lanes.lanes.lanes[0])
        lanes.until(lambda: lanes.left and lanes.left[-1].launch.run_id == run_id)
        return run_id

    lanes = start()
    pid = lanes.pid
    assert status_of(instance, interrupted(canceling=True)) is Status.CANCELED
    assert lanes.left[-1].reason == ""
    assert status_of(instance, interrupted(canceling=False)) is Status.STARTED
    assert lanes.left[-1].reason.startswith("Its lane could not end it")
    lanes.lanes.interrupt(lanes.lanes.lanes[0])
    assert lanes.execute(new_run(instance, "succeed_job")) == "", "an interrupt that comes too late does no harm"
    assert lanes.pid == pid


def step_events(instance: dg.DagsterInstance, run_id: str) -> set[str]:
    events = [entry.dagster_event for entry in instance.all_logs(run_id)]
    return {event.event_type_value for event in events if event}


def test_when_their_parent_is_killed_all_lanes_end_and_come_again(
    instance: dg.DagsterInstance, start: Callable[..., Started]
) -> None:
    lanes = start(n=2)
    runs = [new_run(instance, "wait_job") for _ in range(2)]
    for number, run_id in enumerate(runs, 1):
        lanes.give(run_id, number)
    before = [lane.pid for lane in lanes.lanes.lanes]
    assert lanes.lanes._parent.pid
    os.kill(lanes.lanes._parent.pid, signal.SIGKILL)
    lanes.until(lambda: len(lanes.left) == 2)
    why = "The lanes' parent ended, killed by SIGKILL, and they with it."
    assert {left.launch.run_id: left.reason for left in lanes.left} == dict.fromkeys(runs, why)
    assert list(lanes.lanes.errors) == [why]
    lanes.until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in before))
    assert lanes.execute(new_run(instance, "succeed_job")) == ""


def test_a_lane_that_cannot_open_dagsters_instance_is_tried_again_until_it_can(
    start: Callable[..., Started], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = os.environ["FTM_DAGSTER_URL"]
    monkeypatch.delenv("FTM_DAGSTER_URL")
    lanes = start()
    lanes.until(lambda: lanes.lanes.lanes[0].fork_at)
    assert not lanes.lanes.lanes[0].is_idle
    assert lanes.left == []
    monkeypatch.setenv("FTM_DAGSTER_URL", url)
    parent = lanes.lanes._parent.pid
    assert parent
    os.kill(parent, signal.SIGKILL)
    assert lanes.pid


def test_nothing_is_left_when_the_starter_is_killed(
    instance: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = new_run(instance, "wait_job")
    monkeypatch.setenv(MARK, str(tmp_path))
    command = [sys.executable, "-m", __name__, str(tmp_path), run_id]
    starter = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert starter.stdout and starter.stdout.readline() == "begun\n"
        # The starter, multiprocessing's tracker, the lanes' parent and two lanes.
        assert len(processes_of(tmp_path)) == 5
        starter.kill()
        starter.communicate(timeout=10)
        deadline = time.monotonic() + 10
        while processes_of(tmp_path):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        for pid in processes_of(tmp_path):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    assert status_of(instance, run_id) is Status.STARTED, "it is for somebody else to go on with"


def begin(folder: str, run_id: str) -> None:
    """Begin a run in one of two lanes, say so, and wait."""
    with dg.DagsterInstance.get() as instance:
        lanes = Started(Path(folder), n=2)
        lanes.give(run_id)
        lanes.until(lambda: lanes.lanes.lanes[1].is_idle and status_of(instance, run_id) is Status.STARTED)
        sys.stdout.write("begun\n")
        sys.stdout.flush()
        time.sleep(300)


if __name__ == "__main__":
    begin(*sys.argv[1:])
