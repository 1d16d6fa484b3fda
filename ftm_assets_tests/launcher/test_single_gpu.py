import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import dagster as dg
import pytest
from dagster import DagsterRunStatus as Status
from dagster._core.launcher import LaunchRunContext, ResumeRunContext, WorkerStatus
from dagster._core.storage.tags import BACKFILL_ID_TAG, PRIORITY_TAG
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import ModuleTarget

from ftm_assets.launcher.queue import RunQueue
from ftm_assets.launcher.single_gpu import COMMAND_TAG, SingleGpuRunLauncher
from ftm_assets_tests.launcher import jobs
from ftm_assets_tests.launcher.jobs import messages, status_of

NO_WORKER = "No GPU worker is running; the run waits for one. Start it with: ftm worker"


@pytest.fixture
def launcher(instance: dg.DagsterInstance) -> SingleGpuRunLauncher:
    """The one of `dagster.yaml`."""
    assert isinstance(instance.run_launcher, SingleGpuRunLauncher)
    return instance.run_launcher


@pytest.fixture
def queue(instance: dg.DagsterInstance) -> Iterator[RunQueue]:
    """The worker's side of the queue."""
    queue = RunQueue(os.environ["FTM_DAGSTER_URL"])
    yield queue
    queue.dispose()


def firm_run(
    instance: dg.DagsterInstance, status: Status = Status.STARTING, tags: dict[str, str] | None = None
) -> dg.DagsterRun:
    return instance.add_run(dg.DagsterRun(job_name="firm_quarter", status=status, tags=tags or {}))


def launch(launcher: SingleGpuRunLauncher, run: dg.DagsterRun) -> None:
    launcher.launch_run(LaunchRunContext(run, None))


def selecting(*assets: str, job: str = "__ASSET_JOB") -> dg.DagsterRun:
    selection = frozenset(dg.AssetKey(asset.split("/")) for asset in assets)
    return dg.DagsterRun(job_name=job, asset_selection=selection or None)


# Which runs


def test_runs_of_a_firms_assets_or_of_the_firm_job_are_the_workers_and_no_others(
    launcher: SingleGpuRunLauncher,
) -> None:
    for one_is_enough in (["firm_topics"], ["firm_sentences", "topic_summaries"], ["transcripts", "firm_topics"]):
        assert launcher.needs_worker(selecting(*one_is_enough))
    for other in (["transcripts"], ["cross_firm_themes"], ["other/firm_topics"], []):
        assert not launcher.needs_worker(selecting(*other))
    assert launcher.needs_worker(selecting(job="firm_quarter"))
    assert not launcher.needs_worker(selecting(job="ingest_quarter"))
    assert not launcher.needs_worker(selecting(job="quarter_themes"))


def test_a_run_that_a_command_executes_is_not_for_the_worker_and_one_started_again_from_it_is(
    instance: dg.DagsterInstance, launcher: SingleGpuRunLauncher
) -> None:
    run = firm_run(instance, tags={COMMAND_TAG: "backfill 2021Q4"})
    assert not launcher.needs_worker(run)
    assert launcher.check_run_worker_health(run).status is WorkerStatus.RUNNING, "and so is left alone"
    again = run._replace(parent_run_id=run.run_id, root_run_id=run.run_id)
    assert launcher.needs_worker(again)


# Launch


def test_a_launched_run_waits_in_the_queue_and_says_why_while_there_is_no_worker(
    instance: dg.DagsterInstance, launcher: SingleGpuRunLauncher, queue: RunQueue
) -> None:
    run = firm_run(instance)
    launch(launcher, run)
    found = queue.find(run.run_id)
    assert found and (found.lane, found.interactive, found.priority) == (None, True, 0)
    [why] = messages(instance, run.run_id)
    assert NO_WORKER in why


def test_while_there_is_a_worker_it_waits_in_silence(
    instance: dg.DagsterInstance, launcher: SingleGpuRunLauncher, queue: RunQueue
) -> None:
    run = firm_run(instance)
    with queue.lock("process 1 on box"):
        launch(launcher, run)
    assert queue.find(run.run_id)
    assert messages(instance, run.run_id) == []


def test_a_run_has_the_priority_of_its_tag_and_none_if_that_is_no_number(
    instance: dg.DagsterInstance, launcher: SingleGpuRunLauncher, queue: RunQueue
) -> None:
    for tag, priority in (("7", 7), ("-1", -1), ("very", 0)):
        run = firm_run(instance, tags={BACKFILL_ID_TAG: "abcdef", PRIORITY_TAG: tag})
        launch(launcher, run)
        found = queue.find(run.run_id)
        assert found and (found.interactive, found.priority) == (False, priority)


def test_a_click_during_a_backfill_is_next(
    instance: dg.DagsterInstance, launcher: SingleGpuRunLauncher, queue: RunQueue
) -> None:
    backfill = [firm_run(instance, tags={BACKFILL_ID_TAG: "abcdef", PRIORITY_TAG: "9"}) for _ in range(3)]
    clicked = firm_run(instance)
    for run in [*backfill, clicked]:
        launch(launcher, run)
    taken = queue.take(1)
    assert taken and taken.run_id == clicked.run_id


# Terminate


def test_a_run_that_waits_is_canceled_at_once(
    instance: dg.DagsterInstance, launcher: SingleGpuRunLauncher, queue: RunQueue
) -> None:
    run = firm_run(instance)
    launch(launcher, run)
    assert launcher.terminate(run.run_id)
    assert status_of(instance, run.run_id) is Status.CANCELED
    assert queue.find(run.run_id) is None
    assert "Canceled while no lane of the GPU worker had it." in messages(instance, run.run_id)


def test_a_run_in_a_lane_is_left_to_the_worker_to_end(
    instance: dg.DagsterInstance, launcher: SingleGpuRunLauncher, queue: RunQueue
) -> None:
    claimed, running = firm_run(instance, Status.STARTING), firm_run(instance, Status.STARTED)
    with queue.lock("process 1 on box"):
        for run in (claimed, running):
            launch(launcher, run)
            queue.take(1)
            assert launcher.terminate(run.run_id)
            assert launcher.terminate(run.run_id), "impatience does no harm"
            assert status_of(instance, run.run_id) is Status.CANCELING
    assert sorted(queue.to_cancel()) == sorted([claimed.run_id, running.run_id])


def test_a_run_in_a_lane_of_a_worker_that_has_gone_is_canceled_at_once(
    instance: dg.DagsterInstance, launcher: SingleGpuRunLauncher, queue: RunQueue
) -> None:
    run = firm_run(instance, Status.STARTED)
    launch(launcher, run)
    queue.take(1)
    assert launcher.terminate(run.run_id)
    assert status_of(instance, run.run_id) is Status.CANCELED


def test_a_run_that_nobody_knows_of_is_canceled(instance: dg.DagsterInstance, launcher: SingleGpuRunLauncher) -> None:
    run = firm_run(instance, Status.STARTED)
    assert launcher.terminate(run.run_id)
    assert status_of(instance, run.run_id) is Status.CANCELED


def test_a_run_that_has_ended_stays_as_it_is(instance: dg.DagsterInstance, launcher: SingleGpuRunLauncher) -> None:
    for status in (Status.SUCCESS, Status.FAILURE, Status.CANCELED):
        run = firm_run(instance, status)
        assert not launcher.terminate(run.run_id)
        assert status_of(instance, run.run_id) is status
    assert not launcher.terminate("no such run")


# Health


def test_the_health_of_a_run_is_that_of_whoever_has_it(
    instance: dg.DagsterInstance, launcher: SingleGpuRunLauncher, queue: RunQueue
) -> None:
    def health() -> WorkerStatus:
        return launcher.check_run_worker_health(run).status

    run = firm_run(instance, Status.STARTED)
    assert health() is WorkerStatus.NOT_FOUND
    launch(launcher, run)
    assert health() is WorkerStatus.RUNNING, "it waits, and may do so for long"
    with queue.lock("process 1 on box"):
        queue.take(1)
        assert health() is WorkerStatus.RUNNING
    assert health() is WorkerStatus.FAILED
    assert "ended while the run was in a lane" in (launcher.check_run_worker_health(run).msg or "")


def test_a_run_whose_worker_has_gone_waits_again_when_it_is_resumed(
    instance: dg.DagsterInstance, launcher: SingleGpuRunLauncher, queue: RunQueue
) -> None:
    run = firm_run(instance, Status.STARTED)
    launch(launcher, run)
    queue.take(1)
    launcher.resume_run(ResumeRunContext(run, None))
    assert launcher.check_run_worker_health(run).status is WorkerStatus.RUNNING
    taken = queue.take(2)
    assert taken and (taken.run_id, taken.attempts) == (run.run_id, 2)


def test_a_run_that_a_living_worker_has_taken_up_meanwhile_is_left_to_it_when_it_is_resumed(
    instance: dg.DagsterInstance, launcher: SingleGpuRunLauncher, queue: RunQueue
) -> None:
    run = firm_run(instance, Status.STARTED)
    launch(launcher, run)
    with queue.lock("process 1 on box"):
        queue.take(1)
        launcher.resume_run(ResumeRunContext(run, None))
        assert queue.take(2) is None


def test_runs_that_a_killed_daemon_has_not_launched_are_launched_again_and_those_of_others_are_not(
    instance: dg.DagsterInstance, launcher: SingleGpuRunLauncher, queue: RunQueue
) -> None:
    forgotten, other = firm_run(instance), instance.add_run(dg.DagsterRun(job_name="ingest_quarter"))
    launcher.launch_again([forgotten, other])
    launcher.launch_again([forgotten])
    taken = queue.take(1)
    assert taken and taken.run_id == forgotten.run_id
    assert queue.take(1) is None


def test_a_run_whose_own_process_has_gone_fails_when_it_is_resumed(
    instance: dg.DagsterInstance, launcher: SingleGpuRunLauncher, queue: RunQueue
) -> None:
    run = instance.add_run(dg.DagsterRun(job_name="ingest_quarter", status=Status.STARTED))
    launcher.resume_run(ResumeRunContext(run, None))
    assert status_of(instance, run.run_id) is Status.FAILURE
    assert "The process of the run has ended; start the run again unless Dagster does." in messages(
        instance, run.run_id
    )
    assert queue.find(run.run_id) is None


# Runs that are not the worker's


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_other_runs_have_processes_of_their_own(
    instance: dg.DagsterInstance, launcher: SingleGpuRunLauncher, queue: RunQueue
) -> None:
    def launched() -> dg.DagsterRun:
        run = instance.create_run_for_job(
            jobs.wait_job, remote_job_origin=job.get_remote_origin(), job_code_origin=job.get_python_origin()
        )
        instance.launch_run(run.run_id, workspace)
        while status_of(instance, run.run_id) is not Status.STARTED:
            time.sleep(0.05)
        return cast(dg.DagsterRun, instance.get_run_by_id(run.run_id))

    before = set(children(os.getpid()))
    target = ModuleTarget(jobs.__name__, None, None, "here")
    with WorkspaceProcessContext(instance, target) as context:
        workspace = context.create_request_context()
        job = workspace.get_code_location("here").get_repository("__repository__").get_full_job("wait_job")
        run = launched()
        assert queue.find(run.run_id) is None
        assert launcher.check_run_worker_health(run).status is WorkerStatus.RUNNING
        assert launcher.terminate(run.run_id)
        while status_of(instance, run.run_id) is not Status.CANCELED:
            time.sleep(0.05)

        left = launched()
        [server] = set(children(os.getpid())) - before
        for process in (*children(server), server):
            os.kill(process, signal.SIGKILL)
        health = launcher.check_run_worker_health(left)
        assert health.status is WorkerStatus.FAILED
        assert "The code server that started the run has gone" in (health.msg or "")
        launcher.resume_run(ResumeRunContext(left, None))
        assert status_of(instance, left.run_id) is Status.FAILURE
        launcher.join(timeout=1)


# The class


def test_dagster_yaml_gives_it_back_its_own_block(launcher: SingleGpuRunLauncher) -> None:
    assert launcher.inst_data and launcher.inst_data.class_name == "SingleGpuRunLauncher"
    assert launcher.supports_check_run_worker_health
    assert launcher.supports_resume_run


def test_what_daemon_and_webserver_load_of_the_launcher_loads_no_model() -> None:
    program = """
import sys
from ftm_assets.launcher import compute_logs, coordinator, instance_storage, queue, single_gpu
heavy = "torch bertopic umap sklearn sknetwork numba transformers sentence_transformers ftm_assets.analysis".split()
print([name for name in heavy if name in sys.modules])
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (found.stdout, found.stderr) == ("[]\n", "")


def test_a_password_shows_nowhere() -> None:
    launcher = SingleGpuRunLauncher("postgresql://ftm:sesame@127.0.0.1:9/dagster", [], [])
    assert "sesame" not in repr(launcher) + repr(vars(launcher))
