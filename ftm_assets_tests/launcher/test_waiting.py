"""Who waits for whom, and who does not."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from devtools.processes import wait_for
from ftm_assets.launcher.encoder_server import RemoteEncoder
from ftm_assets_tests.launcher.stack import QUARTER, Box

pytestmark = [pytest.mark.slow, pytest.mark.timeout(280)]


@pytest.mark.alone
def test_a_huge_request_does_not_keep_small_ones_waiting(box: Box) -> None:
    box.work()
    firms = box.firms(6)
    encoder = RemoteEncoder(box.encoder_address())
    texts = [f"Text number {number} of very many of them." for number in range(100_000)]
    shapes: list[tuple[int, ...]] = []
    huge = threading.Thread(target=lambda: shapes.append(encoder.encode(texts).shape))
    small = RemoteEncoder(box.encoder_address())
    huge.start()
    waited_s = []
    run_ids = box.launch(firms)
    while huge.is_alive():
        started = time.monotonic()
        small.encode(["One short text."])
        waited_s.append(time.monotonic() - started)
        time.sleep(0.1)
    huge.join()

    assert shapes == [(100_000, 768)]
    assert len(waited_s) > 5, "small requests were answered meanwhile"
    assert sorted(waited_s)[len(waited_s) // 2] < 0.2
    assert box.end(run_ids) == ["SUCCESS"] * 6


def test_runs_wait_for_a_worker_and_say_so(box: Box) -> None:
    box.rest()
    firms = box.firms(3)
    run_ids = box.launch(firms)

    said = "No GPU worker is running; the run waits for one"
    wait_for(lambda: all(said in box.events(run_id) for run_id in run_ids), 20, "reason in each log")
    assert {box.status(run_id) for run_id in run_ids} == {"STARTING"}
    box.work()

    assert box.end(run_ids) == ["SUCCESS"] * 3


def test_a_click_is_next_also_when_a_backfill_has_filled_the_queue(box: Box) -> None:
    box.work()
    first, firms, [clicked] = box.firms(2), box.firms(51), box.firms(1)
    box.order("hold", *first)
    held = box.launch(first)
    box.wait_until_came(*first)
    backfill = box.launch(firms, **{"dagster/backfill": "abcdefgh"})
    wait_for(lambda: sum(box.status(run_id) == "STARTING" for run_id in backfill) == 50, 60, "full queue")

    [run_id] = box.launch([clicked])
    wait_for(lambda: box.queue.find(run_id), 5, "launch of the click")
    box.withdraw(*first)

    assert box.end([*held, run_id, *backfill]) == ["SUCCESS"] * 54
    begun = {record.dagster_run.run_id: record.start_time or 0.0 for record in box.instance.get_run_records()}
    assert all(begun[run_id] <= begun[other] for other in backfill)


def test_thousands_that_wait_for_a_worker_do_not_keep_a_quarter_from_being_loaded(box: Box) -> None:
    box.rest()
    run_ids = box.launch(box.firms(53), **{"dagster/backfill": "abcdefgh"})
    wait_for(lambda: sum(box.status(run_id) == "STARTING" for run_id in run_ids) == 50, 60, "full queue")

    source = {"ops": {"transcripts": {"config": {"source": str(box.home / "calls.csv")}}}}
    loaded = box.click("ingest_quarter", {"dagster/partition": QUARTER}, source)

    assert box.end([loaded], 90) == ["SUCCESS"]
    assert box.n_unfinished(run_ids) == len(run_ids)
    box.work()
    assert box.end(run_ids) == ["SUCCESS"] * len(run_ids)


def test_a_second_worker_is_refused_and_told_who_is_there(box: Box) -> None:
    box.work()
    second = subprocess.run(
        [Path(sys.executable).parent / "ftm", "worker"],
        env={**os.environ, **box.environment},
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert second.returncode == 1
    assert f"process {box.processes['worker'].pid} on " in second.stderr
    assert box.end(box.launch(box.firms(1))) == ["SUCCESS"]
