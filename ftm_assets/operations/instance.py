"""Dagster's instance: the environment that it reads, what waits and runs in it, whether its daemon is running."""

import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import yaml
from dagster._core.execution.backfill import BulkActionsFilter, BulkActionStatus

import ftm_assets
from ftm_assets.errors import FtmError
from ftm_assets.partitions import FIRM
from ftm_assets.storage.server.database import Database

_log = logging.getLogger(__name__)
# The daemon writes a heartbeat every 30 s.
DAEMON_TIMEOUT_S = 75.0
POLL_S = 1.0
_CHUNK = "DAGSTER_ASSET_BACKFILL_RUN_CHUNK_SIZE"


class ProjectNotFound(FtmError):
    """The folder with `dagster.yaml` and `workspace.yaml` is not where it should be."""

    def __init__(self, missing: Path) -> None:
        super().__init__(
            f"no {missing.name} in {missing.parent}; run from a clone of the project, or set DAGSTER_HOME to its folder"
        )


@dataclass(frozen=True, kw_only=True)
class PendingWork:
    """What Dagster was asked for, in whatever way, and has not ended."""

    n_runs_waiting: int
    n_runs_begun: int
    n_backfills: int

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits and nothing runs."""
        return not (self.n_runs_waiting or self.n_runs_begun or self.n_backfills)


def dagster_environment(database: Database) -> dict[str, str]:
    """What `dagster.yaml` reads from the environment; holds a password, so it is never shown.

    raises: ProjectNotFound if `dagster.yaml` or `workspace.yaml` is missing
    """
    home = _dagster_home()
    for file in (home / "dagster.yaml", home / "workspace.yaml"):
        if not file.exists():
            raise ProjectNotFound(file)
    return {
        "DAGSTER_HOME": str(home),
        "FTM_HOME": str(database.settings.home),
        "FTM_DAGSTER_URL": database.dagster_url(),
        "FTM_RUN_STORAGE": str(database.settings.home / "dagster"),
        # How many runs of a backfill Dagster creates before it saves its progress and looks whether the backfill was
        # canceled. With Dagster's own 25, saving is a third of what it costs to create thousands of runs. Decision 109.
        _CHUNK: os.environ.get(_CHUNK) or "100",
    }


def _dagster_home() -> Path:
    """The folder that DAGSTER_HOME names if its `dagster.yaml` stores runs in our database, else the project's own.

    A shell may have the variable of another project, whose instance must not get our runs.
    """
    project = Path(ftm_assets.__file__).absolute().parents[1]
    if not os.environ.get("DAGSTER_HOME"):
        return project
    named = Path(os.environ["DAGSTER_HOME"]).absolute()
    if _stores_runs_with_us(named / "dagster.yaml"):
        return named
    _log.warning(
        "DAGSTER_HOME=%s is of another project and does not count: the storage in its dagster.yaml is not "
        "FTM_DAGSTER_URL. Used instead: %s",
        named,
        project,
    )
    return project


def _stores_runs_with_us(file: Path) -> bool:
    try:
        instance = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return False
    return isinstance(instance, dict) and "FTM_DAGSTER_URL" in yaml.safe_dump(instance.get("storage"))


@contextmanager
def dagster_instance(database: Database) -> Iterator[dg.DagsterInstance]:
    """The Dagster instance that the UI shows, on the database's server."""
    os.environ.update(dagster_environment(database))
    with dg.DagsterInstance.get() as instance:
        yield instance


def daemon_is_up(instance: dg.DagsterInstance) -> bool:
    """Whether a daemon that carries out backfills has written a heartbeat lately."""
    heartbeat = instance.get_daemon_heartbeats().get("BACKFILL")
    return heartbeat is not None and time.time() - heartbeat.timestamp < DAEMON_TIMEOUT_S


def pause() -> None:
    """Sleep until it is time to look again."""
    time.sleep(POLL_S)


def wait_while(condition: Callable[[], bool]) -> bool:
    """Return once the condition no longer holds; whether it held at first."""
    waited = False
    while condition():
        waited = True
        pause()
    return waited


def pending_work(instance: dg.DagsterInstance) -> PendingWork:
    """What waits and what runs: in Dagster's queue, in the worker and in processes of their own."""
    status = dg.DagsterRunStatus
    waiting = [status.QUEUED, status.NOT_STARTED, status.STARTING]
    under_way = [BulkActionStatus.REQUESTED, BulkActionStatus.CANCELING, BulkActionStatus.FAILING]
    return PendingWork(
        n_runs_waiting=instance.get_runs_count(dg.RunsFilter(statuses=waiting)),
        n_runs_begun=instance.get_runs_count(dg.RunsFilter(statuses=[status.STARTED, status.CANCELING])),
        n_backfills=len(instance.get_backfills(filters=BulkActionsFilter(statuses=under_way))),
    )


def unregister_firms(instance: dg.DagsterInstance, keys: Sequence[str]) -> None:
    """Remove firms that have no call left from the UI."""
    for key in keys:
        instance.delete_dynamic_partition(FIRM, key)
