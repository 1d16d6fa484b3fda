"""One Dagster run in this process, from the state that it is in to its end.

The only module that uses Dagster's internals for the execution of runs; dagster-celery uses the same two functions.
"""

from dagster import DagsterInstance, DagsterRun, DagsterRunStatus
from dagster._cli.api import _execute_run_command_body, _resume_run_command_body
from dagster._core.execution.backfill import BulkActionsFilter, BulkActionStatus
from dagster._core.storage.tags import BACKFILL_ID_TAG
from dagster._utils.interrupts import capture_interrupts


def execute(instance: DagsterInstance, run_id: str) -> bool:
    """Execute a run, or go on with one whose lane has ended; returns whether it has ended, whatever its result.

    A run that was started before repeats all its steps (Decision 44): rows that are equal are not written again.
    SIGINT interrupts it: it ends as canceled if it is being canceled, and has not ended otherwise. Errors of steps are
    in the run's events, not raised here. What is raised is that the database cannot be reached.
    """
    run = instance.get_run_by_id(run_id)
    if run is None or run.is_finished:
        return True
    if run.status is DagsterRunStatus.CANCELING:
        instance.report_run_canceled(run, "Canceled before its lane began.")
        return True
    if run.status is DagsterRunStatus.STARTING and _is_of_canceled_backfill(instance, run):
        instance.report_run_canceled(run, "Its backfill was cancelled before its lane began.")
        return True
    body = _resume_run_command_body if run.status is DagsterRunStatus.STARTED else _execute_run_command_body
    with capture_interrupts():
        body(run_id, instance, lambda _: None, set_exit_code_on_failure=False)
    run = instance.get_run_by_id(run_id)
    return run is None or run.is_finished


def _is_of_canceled_backfill(instance: DagsterInstance, run: DagsterRun) -> bool:
    """Whether its backfill is being canceled: Dagster cancels runs in its own queue and those begun, none in between.

    It waits for those, so the backfill keeps this status until the last of them has ended.
    """
    if BACKFILL_ID_TAG not in run.tags:
        return False
    canceling = instance.get_backfills(filters=BulkActionsFilter(statuses=[BulkActionStatus.CANCELING]))
    return run.tags[BACKFILL_ID_TAG] in {backfill.backfill_id for backfill in canceling}
