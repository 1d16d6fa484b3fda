"""Runs and backfills that a person ends, in each state that they may be in."""

import os
import signal
import time
from collections.abc import Callable

import pytest

from devtools.processes import wait_for
from ftm_assets_tests.launcher.stack import QUARTER, Box

pytestmark = [pytest.mark.slow, pytest.mark.timeout(280)]


def test_a_running_run_is_terminated_and_its_lane_lives_on(box: Box) -> None:
    box.work()
    loads, (firm, other) = box.n_loads(), box.firms(2)
    box.order("hold", firm)
    [run_id] = box.launch([firm])
    box.wait_until_came(firm)
    lanes = set(box.lane_pids())

    box.terminate(run_id)

    assert box.end([run_id], 10) == ["CANCELED"]
    assert firm not in box.materialized(QUARTER)
    assert box.end(box.launch([other])) == ["SUCCESS"]
    assert set(box.lane_pids()) == lanes
    assert box.n_loads() == loads


@pytest.mark.parametrize("terminate", [Box.terminate, Box.terminate_by_launcher])
def test_a_run_that_waits_for_a_lane_is_terminated_without_one(box: Box, terminate: Callable[[Box, str], None]) -> None:
    box.work()
    firms = box.firms(3)
    box.order("hold", *firms[:2])
    held = box.launch(firms[:2])
    box.wait_until_came(*firms[:2])
    [run_id] = box.launch(firms[2:])
    box.wait_for_status(run_id, "STARTING")
    wait_for(lambda: box.queue.find(run_id), 5, "launch")

    terminate(box, run_id)

    assert box.end([run_id], 1) == ["CANCELED"]
    box.withdraw(*firms)
    assert box.end(held) == ["SUCCESS"] * 2
    assert not box.came(firms[2])


def test_a_run_in_dagsters_queue_is_terminated_before_the_daemon_sees_it(box: Box) -> None:
    box.work()
    [firm] = box.firms(1)
    box.processes["daemon"].send_signal(signal.SIGSTOP)
    [run_id] = box.launch([firm])

    box.terminate(run_id)
    box.processes["daemon"].send_signal(signal.SIGCONT)

    assert box.end([run_id], 5) == ["CANCELED"]
    assert not box.came(firm)


@pytest.mark.parametrize("terminate", [Box.terminate, Box.terminate_by_launcher])
def test_a_run_that_its_lane_has_not_begun_is_terminated(box: Box, terminate: Callable[[Box, str], None]) -> None:
    box.work()
    [firm, other] = box.firms(2)
    lanes = box.lane_pids()
    for pid in lanes:
        os.kill(pid, signal.SIGSTOP)
    [run_id] = box.launch([firm])
    box.wait_for_claim(run_id)

    terminate(box, run_id)
    time.sleep(2)  # The worker interrupts, and the lane does not listen.
    for pid in lanes:
        os.kill(pid, signal.SIGCONT)

    assert box.end([run_id], 10) == ["CANCELED"]
    assert not box.came(firm)
    assert box.end(box.launch([other])) == ["SUCCESS"]


def test_a_run_that_does_not_listen_is_terminated_with_its_lane(box: Box) -> None:
    box.work()
    [firm] = box.firms(1)
    box.order("hold", firm)
    [run_id] = box.launch([firm])
    box.wait_until_came(firm)
    os.kill(box.came(firm)[0], signal.SIGSTOP)

    box.terminate(run_id)

    assert box.end([run_id], 40) == ["CANCELED"]
    assert "its lane was killed" in box.events(run_id)


def test_a_run_claimed_by_a_dead_worker_is_terminated_without_waiting_for_the_next(box: Box) -> None:
    box.work()
    [firm] = box.firms(1)
    for pid in box.lane_pids():
        os.kill(pid, signal.SIGSTOP)
    [run_id] = box.launch([firm])
    box.wait_for_claim(run_id)
    box.kill("worker")

    box.terminate_by_launcher(run_id)

    assert box.end([run_id], 5) == ["CANCELED"]
    box.work()
    wait_for(box.queue_is_empty, 10, "empty queue")
    assert not box.came(firm)


def test_a_cancelled_backfill_is_resumed_where_it_was(box: Box) -> None:
    box.work()
    loads, firms = box.n_loads(), box.firms(12)
    box.order("hold", *firms[6:])
    backfill_id = box.backfill(firms)
    wait_for(lambda: sum(bool(box.came(firm)) for firm in firms[6:]) == 2, 90, "two held firms")

    box.ask("mutation($b: String!) { cancelPartitionBackfill(backfillId: $b) { __typename } }", b=backfill_id)
    wait_for(lambda: sum(s == "STARTED" for s in _statuses(box, backfill_id)) == 0, 60, "end of the held runs")
    box.end([run.run_id for run in box.backfill_runs(backfill_id)], 10)

    assert set(_statuses(box, backfill_id)) == {"SUCCESS", "CANCELED"}
    assert sum(bool(box.came(firm)) for firm in firms[6:]) == 2, "none of those that waited has begun"
    done = box.materialized(QUARTER) & set(firms)
    assert done == set(firms[:6])
    box.withdraw(*firms)
    again = box.backfill(firms[6:])
    wait_for(lambda: set(firms) <= box.materialized(QUARTER), 90, "resumed backfill")

    wait_for(lambda: set(_statuses(box, again)) == {"SUCCESS"}, 10, "end of its runs")
    assert box.backfill_status(backfill_id) == "CANCELED"
    assert box.n_loads() == loads


def _statuses(box: Box, backfill_id: str) -> list[str]:
    return [run.status.value for run in box.backfill_runs(backfill_id)]
