"""One Dagster run in this process, from the state that it is in to its end.

The only module that uses Dagster's internals for the execution of runs; dagster-celery uses the same two functions.
"""

from dagster import DagsterInstance, DagsterRun, DagsterRunStatus
from dagster._cli.api import _execute_run_command_body, _resume_run_command_body
from dagster._core.execution.backfill import BulkActionsFilter, BulkActionStatus
from dagster._core.storage.tags import BACKFILL_ID_TAG
from dagster._utils.interrupts import capture_interrupts


def execute(instance: DagsterInstance, run_id: str) -> bool:
    """Execute a run, or go on with one that a lane has left; returns whether it has ended, well or not.

    A run that was started and left repeats all its steps: rows that are equal are not written again. SIGINT interrupts
    it: it ends as canceled if that was asked for, and has not ended otherwise. Whatever a step raises is in the run's
    events, not raised here; what is raised is the database that is away.
    """
    run = instance.get_run_by_id(run_id)
    if run is None or run.is_finished:
        return True
    if run.status is DagsterRunStatus.CANCELING:
        instance.report_run_canceled(run, "Canceled before its lane began.")
        return True
    if run.status is DagsterRunStatus.STARTING and _is_given_up(instance, run):
        instance.report_run_canceled(run, "Its backfill was cancelled before its lane began.")
        return True
    body = _resume_run_command_body if run.status is DagsterRunStatus.STARTED else _execute_run_command_body
    with capture_interrupts():
        body(run_id, instance, lambda _: None, set_exit_code_on_failure=False)
    run = instance.get_run_by_id(run_id)
    return run is None or run.is_finished


def _is_given_up(instance: DagsterInstance, run: DagsterRun) -> bool:
    """Whether its backfill is being cancelled: Dagster then cancels runs in its own queue and begun ones, none between.

    It waits for those, so that the backfill has this status until the last of them.
    """
    if BACKFILL_ID_TAG not in run.tags:
        return False
    canceling = instance.get_backfills(filters=BulkActionsFilter(statuses=[BulkActionStatus.CANCELING]))
    return run.tags[BACKFILL_ID_TAG] in {backfill.backfill_id for backfill in canceling}
