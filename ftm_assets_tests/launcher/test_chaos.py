"""Hundreds of runs, launched at once and among random kills."""

import os
import random
import signal
import time
from contextlib import suppress

import pytest

from ftm_assets_tests.launcher.stack import MANY, N_MANY, Box

pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout(280)]

CHAOS_S = 60
MANY_FIRMS = [f"F{number:04}" for number in range(N_MANY)]


@pytest.fixture(scope="module")
def undisturbed(shared_box: Box) -> dict[str, object]:
    """Hashes of a quarter whose firms were all launched within a second and left alone."""
    box = shared_box
    box.clean()
    box.start("daemon")
    box.work(FTM_LANES="3")
    loads = box.n_loads()
    run_ids = box.create(MANY_FIRMS, MANY)
    took_s = box.launch_at_once(run_ids)
    assert box.end(run_ids, 120) == ["SUCCESS"] * N_MANY
    assert took_s < 1
    assert box.n_loads() == loads
    begun = [box.events(run_id).count("Started process for run") for run_id in run_ids]
    assert begun == [1] * N_MANY, "each once"
    return box.hashes(MANY)


def test_two_hundred_launches_within_a_second_all_end_each_once(box: Box, undisturbed: dict[str, object]) -> None:
    assert box.materialized(MANY) == set(MANY_FIRMS)
    assert None not in undisturbed.values()


def test_random_kills_change_no_row(box: Box, undisturbed: dict[str, object]) -> None:
    box.forget(MANY)
    assert set(box.hashes(MANY).values()) == {None}
    box.work(FTM_LANES="3")
    dice = random.Random(3)
    run_ids = box.launch(MANY_FIRMS, MANY)
    kills: list[str] = []
    deadline = time.monotonic() + CHAOS_S
    while time.monotonic() < deadline and box.n_unfinished(run_ids):
        victim = dice.choice(["lane"] * 4 + ["encoder"] * 2 + ["parent", "worker", "daemon"])
        _kill(box, victim, dice)
        kills.append(victim)
        time.sleep(dice.uniform(2, 4))
    box.start("daemon")
    box.work(FTM_LANES="3")
    ended = box.end(run_ids, 120)

    assert set(ended) <= {"SUCCESS", "FAILURE"}
    again = [firm for firm, status in zip(MANY_FIRMS, ended, strict=True) if status == "FAILURE"]
    assert len(again) < N_MANY / 10, "few are killed three times"
    assert box.end(box.launch(again, MANY), 60) == ["SUCCESS"] * len(again)
    assert box.hashes(MANY) == undisturbed
    assert len(kills) >= 5, kills


def _kill(box: Box, victim: str, dice: random.Random) -> None:
    """Kill it, and start again what nobody else would."""
    if victim == "worker":
        box.kill("worker")
        box.hire(FTM_LANES="3")
    elif victim == "daemon":
        box.kill("daemon")
        box.start("daemon")
    else:
        only = {"encoder": box.encoder_pid(), "parent": box.parent_pid()}
        pid = dice.choice(box.lane_pids() or [None]) if victim == "lane" else only[victim]
        with suppress(ProcessLookupError):
            if pid is not None:
                os.kill(pid, signal.SIGKILL)
