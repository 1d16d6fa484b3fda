"""What the launcher survives: each test breaks something of a box that works, and `Box.check` looks at what is left."""

import os
import signal
import socket
import time
from pathlib import Path

import pytest
from dagster._core.events import DagsterEvent, DagsterEventType

from devtools.processes import wait_for
from ftm_assets_tests.launcher.stack import N_SENTENCES, QUARTER, Box

pytestmark = [pytest.mark.slow, pytest.mark.timeout(280)]


def test_a_killed_lane_costs_its_run_a_second_attempt(box: Box) -> None:
    box.work()
    loads = box.n_loads()
    [firm] = box.firms(1)
    box.order("hold", firm)
    [run_id] = box.launch([firm])
    box.wait_until_came(firm)

    os.kill(box.came(firm)[0], signal.SIGKILL)
    box.wait_until_came(firm, n=2)
    box.withdraw(firm)

    assert box.end([run_id]) == ["SUCCESS"]
    assert "killed by SIGKILL. The run goes on in another lane" in box.events(run_id)
    assert firm in box.materialized(QUARTER)
    assert box.n_loads() == loads


def test_a_killed_encoder_is_asked_again_by_the_lanes_that_waited_for_it(box: Box) -> None:
    box.work()
    loads, said = box.n_loads(), box.said.n_loads
    held, other = box.firms(2)
    box.order("hold", held, where="encoder")
    run_ids = box.launch([held, other])
    box.wait_until_came(held, where="encoder")

    os.kill(box.came(held, "encoder")[0], signal.SIGKILL)
    box.withdraw(held, where="encoder")

    assert box.end(run_ids) == ["SUCCESS", "SUCCESS"]
    assert len(box.came(held)) == 1, "the lane went on"
    assert box.n_loads() == loads + 1
    wait_for(lambda: box.said.n_loads == said + 1, 5, "load in what the worker says")


def test_when_the_lanes_parent_is_killed_their_runs_go_on_in_new_lanes(box: Box) -> None:
    box.work()
    loads, firms = box.n_loads(), box.firms(3)
    box.order("hold", *firms[:2])
    run_ids = box.launch(firms[:2])
    box.wait_until_came(*firms[:2])
    parent = box.parent_pid()
    assert parent is not None

    os.kill(parent, signal.SIGKILL)
    run_ids += box.launch(firms[2:])
    box.wait_until_came(*firms[:2], n=2)
    box.withdraw(*firms)

    assert box.end(run_ids) == ["SUCCESS"] * 3
    assert box.n_loads() == loads


def test_runs_of_a_killed_worker_go_on_in_the_next_one(box: Box) -> None:
    box.work()
    loads, firms = box.n_loads(), box.firms(3)
    box.order("hold", *firms[:2])
    run_ids = box.launch(firms)
    box.wait_until_came(*firms[:2])

    box.kill("worker")
    box.work()
    box.wait_until_came(*firms[:2], n=2)
    box.withdraw(*firms)

    assert box.end(run_ids) == ["SUCCESS"] * 3
    assert box.n_loads() == loads + 1, "the model of the killed one is gone"


def test_the_monitor_hands_a_started_run_of_a_gone_worker_to_nobody_twice(box: Box) -> None:
    box.work()
    [firm] = box.firms(1)
    box.order("hold", firm)
    [run_id] = box.launch([firm])
    box.wait_until_came(firm)
    box.kill("worker")

    wait_for(lambda: "The GPU worker ended" in box.events(run_id), 30, "resumption by the daemon")
    time.sleep(6)  # The monitor looks again.
    assert box.status(run_id) == "STARTED", "it waits as long as it takes"
    box.work()
    box.wait_until_came(firm, n=2)
    time.sleep(6)
    box.withdraw(firm)

    assert box.end([run_id]) == ["SUCCESS"]
    assert len(box.came(firm)) == 2, "once in each worker"


def test_a_run_that_is_resumed_while_it_is_in_a_lane_is_not_begun_twice(box: Box) -> None:
    box.work()
    [firm] = box.firms(1)
    box.order("hold", firm)
    [run_id] = box.launch([firm])
    box.wait_until_came(firm)

    # The daemon saw no worker, and says so when the next one has taken the run up.
    box.queue.put(run_id, interactive=True, priority=0)
    time.sleep(2)
    box.withdraw(firm)

    assert box.end([run_id]) == ["SUCCESS"]
    assert len(box.came(firm)) == 1


def test_a_run_in_a_lane_is_not_begun_twice_when_the_worker_lost_its_lock_for_a_moment(box: Box) -> None:
    box.work()
    [firm] = box.firms(1)
    box.order("hold", firm)
    [run_id] = box.launch([firm])
    box.wait_until_came(firm)

    box.signal(signal.SIGSTOP)
    box.break_lock()
    box.queue.put(run_id, interactive=True, priority=0)  # As the monitor does, which sees no worker just now.
    found = box.queue.find(run_id)
    assert found and found.lane is None
    box.signal(signal.SIGCONT)
    wait_for(lambda: (launch := box.queue.find(run_id)) and launch.lane is not None, 10, "lane that holds it")
    time.sleep(1)
    box.withdraw(firm)

    assert box.end([run_id]) == ["SUCCESS"]
    assert len(box.came(firm)) == 1
    assert box.queue.owner() is not None


@pytest.mark.parametrize("freed_by", ["worker", "launcher"])
def test_a_run_that_ends_each_worker_fails_in_the_end(box: Box, freed_by: str) -> None:
    [firm] = box.firms(1)
    box.work()
    box.order("hold", firm)
    [run_id] = box.launch([firm])
    for n in (1, 2, 3):
        box.wait_until_came(firm, n=n)
        box.kill("worker")
        if freed_by == "launcher":
            wait_for(lambda: box.queue.owner() is None, 10, "death of the worker")
            box.queue.put(run_id, interactive=True, priority=0)
        box.hire()

    assert box.end([run_id]) == ["FAILURE"]
    assert "Its worker ended. This was attempt 3, the last." in box.events(run_id)


def test_a_lane_that_dies_before_it_says_who_it_is_stops_nothing(box: Box) -> None:
    box.work()
    with socket.socket(socket.AF_UNIX) as lane:
        lane.connect(str(Path(box.encoder_address()).parent / "lanes"))

    assert box.end(box.launch(box.firms(1))) == ["SUCCESS"]
    assert box.works()


def test_runs_go_on_without_the_daemon_and_others_start_when_it_is_back(box: Box) -> None:
    box.work()
    loads, firms = box.n_loads(), box.firms(6)
    box.order("hold", *firms[:2])
    begun = box.launch(firms[:2])
    box.wait_until_came(*firms[:2])

    box.kill("daemon")
    waiting = box.launch(firms[2:])
    box.withdraw(*firms)

    assert box.end(begun) == ["SUCCESS"] * 2
    assert {box.status(run_id) for run_id in waiting} == {"QUEUED"}
    box.start("daemon")
    assert box.end(waiting) == ["SUCCESS"] * 4
    assert box.n_loads() == loads


def test_a_run_that_the_daemon_was_about_to_launch_when_it_was_killed_is_launched_after_all(box: Box) -> None:
    box.work()
    [run_id] = box.create(box.firms(1))
    starting = DagsterEvent(DagsterEventType.PIPELINE_STARTING.value, "firm_quarter")
    box.instance.report_dagster_event(starting, run_id)

    assert box.end([run_id]) == ["SUCCESS"]


def test_a_killed_postgres_costs_no_more_than_the_runs_in_flight(box: Box) -> None:
    box.work()
    loads, pids, firms = box.n_loads(), [box.processes[n].pid for n in ("worker", "daemon")], box.firms(8)
    box.order("hold", *firms[:2])
    run_ids = box.launch(firms[:2])
    box.wait_until_came(*firms[:2])
    run_ids += box.launch(firms[2:])

    os.kill(box.postmaster_pid(), signal.SIGKILL)
    time.sleep(3)
    box.withdraw(*firms)
    time.sleep(2)
    box.database.keep_up()

    ended = box.end(run_ids)
    assert ended[2:] == ["SUCCESS"] * 6
    assert set(ended[:2]) <= {"SUCCESS", "FAILURE"}
    assert [len(box.came(firm)) for firm in firms] == [1] * 8, "none twice"
    assert [box.processes[n].pid for n in ("worker", "daemon")] == pids
    assert box.processes["worker"].poll() is None
    assert box.processes["daemon"].poll() is None
    assert box.n_loads() == loads
    assert box.queue.owner() is not None, "the worker has its lock again"


def test_at_a_spot_notice_runs_in_lanes_end_and_others_wait_for_the_next_worker(box: Box) -> None:
    box.work(FTM_GRACE="60")
    firms = box.firms(3)
    box.order("hold", *firms[:2])
    begun = box.launch(firms[:2])
    box.wait_until_came(*firms[:2])

    box.signal(signal.SIGTERM)
    [waiting] = box.launch(firms[2:])
    time.sleep(2)
    box.withdraw(*firms)

    assert box.processes["worker"].wait(30) == 0
    assert box.end(begun, 1) == ["SUCCESS"] * 2
    assert [len(box.came(firm)) for firm in firms] == [1, 1, 0]
    box.work()
    assert box.end([waiting]) == ["SUCCESS"]


def test_runs_that_outlast_the_grace_time_are_handed_back_and_go_on(box: Box) -> None:
    box.work(FTM_GRACE="1")
    firms = box.firms(2)
    box.order("hold", *firms)
    run_ids = box.launch(firms)
    box.wait_until_came(*firms)

    box.signal(signal.SIGTERM)
    assert box.processes["worker"].wait(10) == 0
    assert [box.status(run_id) for run_id in run_ids] == ["STARTED"] * 2, "nothing has failed"
    assert "The worker stopped before the run had ended" in box.events(run_ids[0])
    box.withdraw(*firms)
    box.work()

    assert box.end(run_ids) == ["SUCCESS"] * 2


def test_a_claim_that_a_dead_worker_left_behind_is_taken_up(box: Box) -> None:
    box.work()
    firms = box.firms(2)
    for pid in box.lane_pids():
        os.kill(pid, signal.SIGSTOP)
    run_ids = box.launch(firms)
    for run_id in run_ids:
        box.wait_for_claim(run_id)

    box.kill("worker")
    assert {box.status(run_id) for run_id in run_ids} == {"STARTING"}
    box.work()

    assert box.end(run_ids) == ["SUCCESS"] * 2
    assert [len(box.came(firm)) for firm in firms] == [1, 1]


def test_a_run_that_leaks_is_ended_and_says_why(box: Box) -> None:
    box.work(FTM_LANE_MEMORY="100")
    loads, (firm, other) = box.n_loads(), box.firms(2)
    box.order("leak", firm)
    leaking, healthy = box.launch([firm, other])

    assert box.end([leaking, healthy]) == ["FAILURE", "SUCCESS"]
    assert "the limit is 200 (FTM_LANE_MEMORY). This was attempt 3, the last." in box.events(leaking)
    assert box.n_loads() == loads


def test_a_run_that_segfaults_fails_after_its_attempts_and_harms_no_other(box: Box) -> None:
    box.work()
    loads, (firm, *others) = box.n_loads(), box.firms(5)
    box.order("segfault", firm)

    broken, *healthy = box.launch([firm, *others])

    assert box.end([broken, *healthy]) == ["FAILURE", *["SUCCESS"] * 4]
    assert "killed by SIGSEGV. This was attempt 3, the last." in box.events(broken)
    assert len(box.came(firm)) == 3
    run = box.instance.get_run_by_id(broken)
    assert run is not None
    assert run.tags["dagster/will_retry"] == "false", "nor does Dagster begin it again"
    assert box.n_loads() == loads


def test_a_step_that_raises_fails_its_run_at_once(box: Box) -> None:
    box.work()
    [firm] = box.firms(1)
    box.order("raise", firm)
    [run_id] = box.launch([firm])

    assert box.end([run_id]) == ["FAILURE"]
    assert "as it was ordered" in box.events(run_id)
    assert len(box.came(firm)) == 1


def test_a_model_that_cannot_be_loaded_fails_runs_with_that_reason(box: Box) -> None:
    box.rest()
    broken, mended = box.firms(2)
    (box.orders / "no model").touch()
    box.work()
    [run_id] = box.launch([broken])

    assert box.end([run_id], 30) == ["FAILURE"]
    assert "out of memory on the device" in box.events(run_id)
    assert any("out of memory on the device" in error.message for error in box.queue.errors()), "the worker says it too"
    (box.orders / "no model").unlink()
    assert box.end(box.launch([mended])) == ["SUCCESS"], "without a new worker"


def test_a_request_that_kills_the_encoder_fails_its_own_run_and_no_other(box: Box) -> None:
    box.work()
    loads, (firm, *others) = box.n_loads(), box.firms(5)
    box.order("segfault", firm, where="encoder")

    broken, *healthy = box.launch([firm, *others])

    assert box.end([broken, *healthy]) == ["FAILURE", *["SUCCESS"] * 4]
    assert f"the encoder process died each time it encoded these {N_SENTENCES} texts" in box.events(broken)
    assert len(box.came(firm, "encoder")) == 3
    assert box.n_loads() == loads + 3


def test_changed_code_is_taken_over_between_runs(box: Box) -> None:
    box.work()
    loads, (firm, waiting) = box.n_loads(), box.firms(2)
    pid, started_at = box.processes["worker"].pid, box.said.started_at
    box.order("hold", firm)
    [held] = box.launch([firm])
    box.wait_until_came(firm)

    (box.home / "dagster home" / "dagster.yaml").touch()
    wait_for(lambda: box.said.phase == "stopping", 10, "notice of the change")
    [after] = box.launch([waiting])
    box.withdraw(firm)

    assert box.end([held, after]) == ["SUCCESS"] * 2
    assert (len(box.came(firm)), len(box.came(waiting))) == (1, 1)
    assert box.said.started_at > started_at
    assert box.processes["worker"].pid == pid, "ftm up sees no end of it"
    assert box.n_loads() == loads + 1
