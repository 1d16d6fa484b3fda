"""Ends runs that had a process of their own and have none any more. Runs in lanes are the worker's to take up again."""

from datetime import UTC, datetime, timedelta

from dagster import DagsterInstance, DagsterRun, DagsterRunStatus, RunsFilter
from dagster._core.launcher import WorkerStatus
from dagster._core.storage.tags import GRPC_INFO_TAG

from ftm_assets.launcher.single_gpu import SingleGpuRunLauncher, is_of_command

# A run's own process needs some 20 s to begin; after this long something must have happened to it.
STUCK_S = 180.0


def end_abandoned_runs(instance: DagsterInstance) -> None:
    """End runs whose processes are gone, which otherwise would count as running for ever and keep others waiting.

    Call it while no daemon is running: then all runs that have begun in a process of their own are abandoned.
    """
    begun = [DagsterRunStatus.STARTING, DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING]
    for run in _with_own_process(instance, RunsFilter(statuses=begun)):
        if run.status is DagsterRunStatus.CANCELING:
            # Dagster might retry a failed one.
            instance.report_run_canceled(run, "The process that executed this run was killed.")
        else:
            instance.report_run_failed(
                run, "The process that executed this run was killed; start it again unless Dagster does."
            )


def end_stuck_runs(instance: DagsterInstance) -> None:
    """Fail runs whose own process never began, because the code server that should have started it has gone.

    Dagster monitors runs only once they have begun.
    """
    long_ago = datetime.now(UTC) - timedelta(seconds=STUCK_S)
    starting = RunsFilter(statuses=[DagsterRunStatus.STARTING], updated_before=long_ago)
    for run in _with_own_process(instance, starting):
        health = instance.run_launcher.check_run_worker_health(run)
        if GRPC_INFO_TAG not in run.tags or health.status is not WorkerStatus.RUNNING:
            instance.report_run_failed(run, "The run's process never began: the code server to start it has gone.")


def _with_own_process(instance: DagsterInstance, wanted: RunsFilter) -> list[DagsterRun]:
    """Of the wanted runs those that a code server of ours started: not a command's, the worker's or a cluster's."""
    launcher = instance.run_launcher
    if not isinstance(launcher, SingleGpuRunLauncher):
        return []  # Its runs do not depend on our processes.
    return [run for run in instance.get_runs(wanted) if not is_of_command(run) and not launcher.needs_worker(run)]
