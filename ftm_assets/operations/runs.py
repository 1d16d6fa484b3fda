"""One run of the graph in this process: who may execute it, how Ctrl-C ends it, why it failed."""

import signal
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress

import dagster as dg
import sqlalchemy as sa

from ftm_assets.errors import FtmError
from ftm_assets.launcher.single_gpu import COMMAND_TAG, is_of_command
from ftm_assets.settings import read_settings
from ftm_assets.storage.server.advisory_locks import Lock, release, try_acquire
from ftm_assets.storage.server.database import Database

# One process creates, starts and ends an in-process run, so one that never started is abandoned, too.
_UNFINISHED = [
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


class AlreadyRunning(FtmError):
    """Another process does the same work."""

    def __init__(self, command: str) -> None:
        super().__init__(f"another `ftm {command}` is running; wait for it, or stop it first")


class QuarterOutsideWindow(FtmError):
    """The graph has no partition for the quarter."""

    def __init__(self, quarter: str, window: str) -> None:
        super().__init__(f"{quarter} is outside FTM_QUARTERS={window}; widen it to take that quarter in")


def check_quarter_in_window(quarter: str) -> None:
    """raises: QuarterOutsideWindow if the graph has no such partition"""
    settings = read_settings()
    if quarter not in settings.quarter_keys():
        raise QuarterOutsideWindow(quarter, settings.quarters)


@contextmanager
def exclusive(instance: dg.DagsterInstance, database: Database, command: str) -> Iterator[None]:
    """The sole right to execute a command's runs; marks runs that a killed predecessor left unfinished as failed.

    raises: AlreadyRunning
    """
    with database.engine.connect() as connection:
        if not try_acquire(connection, Lock.COMMAND, command):
            raise AlreadyRunning(command)
        connection.commit()
        try:
            _fail_abandoned(instance, command)
            yield
        finally:
            with suppress(sa.exc.DBAPIError):  # A server that was restarted has released it already.
                connection.rollback()
                release(connection, Lock.COMMAND, command)


def _fail_abandoned(instance: dg.DagsterInstance, command: str) -> None:
    unfinished = instance.get_runs(dg.RunsFilter(tags={COMMAND_TAG: command}, statuses=_UNFINISHED))
    for run in filter(is_of_command, unfinished):
        instance.report_run_failed(run, "The process that executed this run was killed; its work starts over.")


def execute(
    defs: dg.Definitions,
    instance: dg.DagsterInstance,
    job: str,
    partition_key: str,
    command: str,
    config: Mapping[str, object] | None = None,
    *,
    raise_on_error: bool = True,
) -> dg.ExecuteInProcessResult:
    """Execute a job here. raises: KeyboardInterrupt on Ctrl-C and, with `raise_on_error`, whatever a step raises"""
    with _ctrl_c_ends_the_command():
        return defs.resolve_job_def(job).execute_in_process(
            instance=instance,
            partition_key=partition_key,
            run_config=config,
            tags={COMMAND_TAG: command},
            raise_on_error=raise_on_error,
        )


@contextmanager
def _ctrl_c_ends_the_command() -> Iterator[None]:
    """KeyboardInterrupt at the end of the block if Ctrl-C was pressed in it.

    Dagster turns it into a failed run, or between two steps ignores it. The user meant the whole command.
    """
    pressed, wakeup = socket.socketpair()
    with pressed, wakeup:
        pressed.setblocking(False)
        wakeup.setblocking(False)
        before = signal.set_wakeup_fd(wakeup.fileno())
        try:
            yield
        except dg.DagsterExecutionInterruptedError:
            raise KeyboardInterrupt from None
        finally:
            signal.set_wakeup_fd(before)
        with suppress(BlockingIOError):
            if {signal.SIGINT, signal.SIGTERM} & set(pressed.recv(1024)):
                raise KeyboardInterrupt


def first_failure(events: Iterable[dg.DagsterEvent]) -> str:
    """The error of the first failed step, or else of the run, without Dagster's words around it."""
    for event in events:
        error = event.step_failure_data.error if event.is_step_failure else None
        while error is not None and error.cause is not None and (error.cls_name or "").startswith("Dagster"):
            error = error.cause
        if error is not None:
            return error.message.strip()
        if event.event_type is dg.DagsterEventType.RUN_FAILURE and event.message:
            return event.message
    return "the run failed before its first step; see its page in the UI"
