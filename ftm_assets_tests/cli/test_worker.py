import csv
import io
import json
import os
import re
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest
from typer.testing import CliRunner

from ftm_assets.cli.main import app
from ftm_assets.errors import FtmError
from ftm_assets.launcher.queue import RunQueue
from ftm_assets.llm.stats import ClientStats
from ftm_assets.settings import Settings
from ftm_assets_tests.cli.test_main import ftm
from ftm_assets_tests.launcher.test_queue import lane, worker


@pytest.fixture
def queue(instance: dg.DagsterInstance) -> Iterator[RunQueue]:
    """The queue that the command finds."""
    queue = RunQueue(os.environ["FTM_DAGSTER_URL"])
    yield queue
    queue.dispose()


@pytest.fixture
def working(queue: RunQueue) -> Iterator[None]:
    """A worker with a run in the first of its two lanes, and two runs that wait."""
    now = datetime.now(UTC)
    said = worker(
        started_at=now - timedelta(seconds=100),
        reported_at=now - timedelta(seconds=3),
        encoder="all-MiniLM-L6-v2@0123456789abcdef",
        n_loads=1,
        n_texts=45_000,
        encoding_s=30.0,
        gpu_bytes=3 << 29,
    )
    lanes = [
        lane(1, run_id="run-of-acme", since=now - timedelta(seconds=20), n_runs=7, busy_s=30.0, memory_bytes=5 << 20),
        lane(2, since=now, busy_s=10.0),
        lane(3, pid=0, since=now),
    ]
    queue.put("waits", interactive=False, priority=0)
    queue.put("interactive", interactive=True, priority=0)
    for minute, error in enumerate(["out of memory", "run 7: Its lane ended.", "out of memory"]):
        queue.log_error(error, datetime(2021, 11, 1, 9, minute, tzinfo=UTC))
    with queue.lock("process 70 on box"):
        queue.report_status(said, lanes)
        yield


@pytest.mark.usefixtures("working")
def test_status_says_what_lanes_do_what_waits_and_what_went_wrong() -> None:
    said = ftm("worker", "status")
    for fact in (
        "waiting: 2 runs, 1 of them interactive",
        "model: all-MiniLM-L6-v2@0123456789abcdef on auto, loaded 1 times",
        "texts: 45,000 encoded, 1,500 a second; GPU memory: 1.5 GiB",
        "last errors, UTC:\n  2021-11-01 09:02:00 (2 times) out of memory\n",
        "\n  2021-11-01 09:01:00 run 7: Its lane ended.\n",
        "run-of-acme",
    ):
        assert fact in said
    # Later by as much as the command takes.
    assert re.search(r"worker: process 70 on box, working; up for 10\d s, reported [3-9] s ago\n", said)
    assert "restart it" not in said


@pytest.mark.parametrize(
    ("n_unpriced", "unpriced"), [(0, ""), (7, ", 7 of them at an unknown price")], ids=["known", "unknown"]
)
def test_status_says_how_the_language_model_does(queue: RunQueue, n_unpriced: int, unpriced: str) -> None:
    told = ClientStats(70, 4, 60, 50, n_unpriced, 2, 14, 12_000, 3_400, 0.256, "down", "api.x.ai: ConnectError")
    settings = {**Settings().of_worker(), "FTM_LLM_MODEL": "grok-9"}
    with queue.lock("process 70 on box"):
        queue.report_status(worker(settings=settings, model=asdict(told)), [])
        said = ftm("worker", "status")
    assert (
        f"language model: grok-9, down; 14 questions under way, 50 replies{unpriced} to 60 requests, 4 reused, "
        "2 unanswered; tokens: 12,000 in, 3,400 out; $0.26\n"
    ) in said


@pytest.mark.usefixtures("working")
def test_scripts_get_the_lanes_alone() -> None:
    first, second, third = json.loads(ftm("worker", "status", "-f", "json"))
    assert (first["lane"], first["run"], first["n_runs"], first["memory_mb"]) == (1, "run-of-acme", 7, 5)
    assert first["busy_share"] == pytest.approx(0.5, abs=0.05), "30 s before and 20 s of 100 s now"
    assert [lane["state"] for lane in (first, second, third)] == ["busy", "idle", "starting"]
    assert (second["run"], second["busy_share"]) == ("", pytest.approx(0.1, abs=0.02))
    rows = list(csv.DictReader(io.StringIO(ftm("worker", "status", "-f", "csv"))))
    assert [row["lane"] for row in rows] == ["1", "2", "3"]


@pytest.mark.usefixtures("working")
def test_a_worker_with_other_settings_is_to_be_restarted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FTM_ENCODER", "all-mpnet-base-v2")
    monkeypatch.setenv("FTM_LANES", "7")
    said = ftm("worker", "status")
    assert "it was started with FTM_ENCODER=all-MiniLM-L6-v2, here it is all-mpnet-base-v2: restart it" in said
    assert "it was started with FTM_LANES=0, here it is 7: restart it" in said


def test_without_a_worker_status_says_what_waits_and_what_to_do(queue: RunQueue) -> None:
    queue.put("waits", interactive=False, priority=0)
    queue.log_error("the machine is on fire", datetime(2021, 11, 1, tzinfo=UTC))
    result = CliRunner().invoke(app, ["worker", "status"])
    assert "waiting: 1 runs, 0 of them interactive" in result.stdout
    assert "the machine is on fire" in result.stdout, "why it is gone"
    assert "no GPU worker is running; start it with: ftm worker" in str(result.exception)


def test_what_a_worker_that_has_gone_had_said_is_not_shown(queue: RunQueue) -> None:
    queue.report_status(worker(), [lane(1)])
    with pytest.raises(FtmError, match="no GPU worker is running"):
        ftm("worker", "status")
