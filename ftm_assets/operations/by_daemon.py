"""Backfills that Dagster's daemon carries out, run by run; a person sees them in the UI, and may look on from here."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg
from dagster._core.execution.backfill import BulkActionsFilter, BulkActionStatus, PartitionBackfill
from dagster._core.storage.tags import BACKFILL_ID_TAG, PARTITION_NAME_TAG
from dagster._core.utils import make_new_backfill_id
from dagster._time import get_current_timestamp

from ftm_assets.assets.jobs import index_in_work, themes_in_work
from ftm_assets.errors import FtmError
from ftm_assets.launcher.queue import WorkerReport
from ftm_assets.operations.in_process import FIRM_ASSETS, SUMMARY_ASSETS, FirmRun, first_failure
from ftm_assets.partition_key import PartitionKey
from ftm_assets.partitions import FIRM, firm_quarter_key
from ftm_assets.settings import Settings
from ftm_assets.storage.server.database import Database
from ftm_assets.storage.write import stages

QUARTER_TAG = "ftm/quarter"
# What must be the same for a worker as for who asks it for something.
RESULT_SETTINGS = ("FTM_ENCODER", "FTM_PRECISION", "FTM_QUARTERS", "FTM_LLM_MODEL")
# A daemon says every 30 s that it lives.
DAEMON_TIMEOUT_S = 75.0
POLL_S = 1.0
_UNDER_WAY = [BulkActionStatus.REQUESTED, BulkActionStatus.CANCELING, BulkActionStatus.FAILING]
_FAILED = [dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]


class NoBackfill(FtmError):
    """Nothing is under way that could be stopped."""

    def __init__(self, quarter: str) -> None:
        super().__init__(f"no backfill of {quarter} is under way")


class OtherBackfill(FtmError):
    """A backfill is under way that does not do what was asked for."""

    def __init__(self, quarter: str, backfill_id: str, lacks: str) -> None:
        super().__init__(
            f"Dagster carries out backfill {backfill_id} of {quarter}, which does not {lacks}; "
            f"wait for its end, or end it with: ftm backfill {quarter} --cancel"
        )


class DaemonGone(FtmError):
    """There is nobody any more who would carry the backfill out."""

    def __init__(self, quarter: str) -> None:
        super().__init__(f"Dagster's daemon has gone; its backfill of {quarter} goes on once it is back: ftm up")


class WorkerDiffers(FtmError):
    """The GPU worker was started with other settings than this command."""

    def __init__(self, name: str, its: str | None, here: str) -> None:
        super().__init__(
            f"the GPU worker was started with {name}={its}, here it is {here}; "
            "restart it (ftm up) with the one that you mean, or unset it here"
        )


@dataclass(frozen=True)
class BackfillProgress:
    """How many of a backfill's runs have ended, well or not, and whether that is all."""

    n_succeeded: int
    n_failed: int
    is_over: bool

    @property
    def n_ended(self) -> int:
        """Runs that have ended."""
        return self.n_succeeded + self.n_failed


@dataclass(frozen=True)
class PendingWork:
    """What Dagster was asked for, by whomever, and has not ended."""

    n_runs_waiting: int
    n_runs_begun: int
    n_backfills: int


def pending_work(instance: dg.DagsterInstance) -> PendingWork:
    """What waits and what goes on, in the queue, in the worker and in processes of their own."""
    status = dg.DagsterRunStatus
    waiting = [status.QUEUED, status.NOT_STARTED, status.STARTING]
    return PendingWork(
        instance.get_runs_count(dg.RunsFilter(statuses=waiting)),
        instance.get_runs_count(dg.RunsFilter(statuses=[status.STARTED, status.CANCELING])),
        len(instance.get_backfills(filters=BulkActionsFilter(statuses=_UNDER_WAY))),
    )


def daemon_is_up(instance: dg.DagsterInstance) -> bool:
    """Whether a daemon that carries out backfills has lately said that it lives."""
    heartbeat = instance.get_daemon_heartbeats().get("BACKFILL")
    return heartbeat is not None and time.time() - heartbeat.timestamp < DAEMON_TIMEOUT_S


def check_worker(said: WorkerReport | None, settings: Settings) -> None:
    """Find out that the worker would do something else than was asked for before it does.

    raises: WorkerDiffers if it has another encoder, language model, or window of quarters
    """
    here = settings.of_worker()
    for name in RESULT_SETTINGS:
        if said is not None and said.settings.get(name) != here[name]:
            raise WorkerDiffers(name, said.settings.get(name), here[name])


def differences(said: WorkerReport | None, settings: Settings) -> list[str]:
    """Settings that the worker was started with and that are others here, one line each; its own hold."""
    if said is None:
        return []
    both = ((name, said.settings.get(name), here) for name, here in settings.of_worker().items())
    return [
        f"it was started with {name}={its}, here it is {here}: restart it" for name, its, here in both if its != here
    ]


def encoder_of(said: WorkerReport | None) -> tuple[str, str] | None:
    """Name and revision of the model that the worker has loaded, None before."""
    if said is None or said.encoder is None:
        return None
    name, _, revision = said.encoder.rpartition("@")
    return name, revision


def check_encoder(database: Database, quarter: str, said: WorkerReport | None) -> None:
    """Compare the model that the worker has loaded with the quarter's, before a thousand runs find out.

    raises: EncoderMismatch
    """
    if encoder := encoder_of(said):
        with database.transaction() as connection:
            stages.check_encoder(connection, quarter, *encoder)


def under_way(instance: dg.DagsterInstance, quarter: str) -> str | None:
    """Id of the backfill of a quarter that was begun here and has runs left, None if there is none."""
    for backfill_id in _of_quarter(instance, quarter, BulkActionStatus.REQUESTED):
        # Dagster takes half a minute more to find out that all went well.
        if _count(instance, backfill_id, [dg.DagsterRunStatus.SUCCESS]) < n_firms(instance, backfill_id):
            return backfill_id
    return None


def wait_for_canceled(instance: dg.DagsterInstance, quarter: str) -> None:
    """Return when no backfill of the quarter is being canceled. raises: DaemonGone"""
    while _of_quarter(instance, quarter, BulkActionStatus.CANCELING):
        _check_daemon(instance, quarter)
        time.sleep(POLL_S)


def wait_for_themes(instance: dg.DagsterInstance, quarter: str) -> bool:
    """Return when no run of the quarter's themes goes on, of the sensor's for instance; whether there was one."""
    return _wait_for(themes_in_work, instance, quarter)


def wait_for_index(instance: dg.DagsterInstance, quarter: str) -> bool:
    """Return when no run of the quarter's search index goes on; whether there was one."""
    return _wait_for(index_in_work, instance, quarter)


def _wait_for(in_work: Callable[[dg.DagsterInstance, str], bool], instance: dg.DagsterInstance, quarter: str) -> bool:
    waited = False
    while in_work(instance, quarter) and daemon_is_up(instance):
        waited = True
        time.sleep(POLL_S)
    return waited


def _of_quarter(instance: dg.DagsterInstance, quarter: str, status: BulkActionStatus) -> list[str]:
    wanted = BulkActionsFilter(statuses=[status], tags={QUARTER_TAG: quarter})
    return [backfill.backfill_id for backfill in instance.get_backfills(filters=wanted)]


def _check_daemon(instance: dg.DagsterInstance, quarter: str) -> None:
    if not daemon_is_up(instance):
        raise DaemonGone(quarter)


def begin(
    defs: dg.Definitions,
    instance: dg.DagsterInstance,
    quarter: str,
    keys: Sequence[str],
    assets: Sequence[dg.AssetKey] = FIRM_ASSETS,
    config: Mapping[str, Any] | None = None,
) -> str:
    """Ask the daemon for one run of these firm assets for each firm; returns the backfill's id."""
    instance.add_dynamic_partitions(FIRM, list(keys))
    backfill = PartitionBackfill.from_asset_partitions(
        backfill_id=make_new_backfill_id(),
        asset_graph=defs.resolve_asset_graph(),
        partition_names=[firm_quarter_key(key, quarter) for key in keys],
        asset_selection=list(assets),
        backfill_timestamp=get_current_timestamp(),
        tags={QUARTER_TAG: quarter},
        dynamic_partitions_store=instance,
        all_partitions=False,
        title=f"{quarter}, {len(keys)} firms",
        description=None,
        run_config=config,
    )
    instance.add_backfill(backfill)
    return backfill.backfill_id


def firms_of(
    instance: dg.DagsterInstance, backfill_id: str, assets: Sequence[dg.AssetKey] = SUMMARY_ASSETS
) -> set[str]:
    """Keys of the firms that the backfill makes all of these assets of; summaries are part of every backfill."""
    backfill = instance.get_backfill(backfill_id)
    data = backfill.asset_backfill_data if backfill is not None else None
    if data is None or not set(assets) <= data.target_subset.asset_keys:
        return set()
    made = (data.target_subset.get_partitions_subset(asset).get_partition_keys() for asset in assets)
    return set.intersection(*({PartitionKey.parse(key).firm for key in partitions} for partitions in made))


def n_firms(instance: dg.DagsterInstance, backfill_id: str) -> int:
    """Of how many firms the backfill is."""
    return len(firms_of(instance, backfill_id))


def watch(instance: dg.DagsterInstance, backfill_id: str, quarter: str) -> Iterator[BackfillProgress]:
    """The progress of a backfill every second, the last time when it is over. raises: DaemonGone"""
    total = n_firms(instance, backfill_id)
    # Counted, not read: a backfill of thousands of firms is megabytes while Dagster makes its runs.
    requested = BulkActionsFilter(backfill_ids=[backfill_id], statuses=[BulkActionStatus.REQUESTED])
    while True:
        n_succeeded = _count(instance, backfill_id, [dg.DagsterRunStatus.SUCCESS])
        n_failed = _count(instance, backfill_id, _FAILED)
        # Dagster takes half a minute more to find out that all went well.
        is_over = n_succeeded >= total or not instance.get_backfills_count(requested)
        yield BackfillProgress(n_succeeded, n_failed, is_over)
        if is_over:
            return
        _check_daemon(instance, quarter)
        time.sleep(POLL_S)


def _count(instance: dg.DagsterInstance, backfill_id: str, statuses: list[dg.DagsterRunStatus]) -> int:
    return instance.get_runs_count(dg.RunsFilter(tags={BACKFILL_ID_TAG: backfill_id}, statuses=statuses))


def failures(instance: dg.DagsterInstance, backfill_id: str) -> list[FirmRun]:
    """Runs of a backfill that have failed or were canceled and were not made good by a later one."""
    runs = instance.get_runs(dg.RunsFilter(tags={BACKFILL_ID_TAG: backfill_id}))
    last = {run.tags[PARTITION_NAME_TAG]: run for run in reversed(runs)}
    return [
        FirmRun(PartitionKey.parse(partition).firm, run.run_id, _said(instance, run))
        for partition, run in sorted(last.items())
        if run.status in _FAILED
    ]


def _said(instance: dg.DagsterInstance, run: dg.DagsterRun) -> str:
    if run.status is dg.DagsterRunStatus.CANCELED:
        return "canceled"
    kinds = {dg.DagsterEventType.STEP_FAILURE, dg.DagsterEventType.RUN_FAILURE}
    events = (entry.dagster_event for entry in instance.all_logs(run.run_id, of_type=kinds))
    return first_failure(event for event in events if event is not None)


def cancel(instance: dg.DagsterInstance, quarter: str) -> None:
    """Ask the daemon to end the backfill of a quarter; runs that wait or go on are canceled. raises: NoBackfill"""
    found = _of_quarter(instance, quarter, BulkActionStatus.REQUESTED)
    if not found:
        raise NoBackfill(quarter)
    for backfill_id in found:
        backfill = instance.get_backfill(backfill_id)
        if backfill is not None:
            instance.update_backfill(backfill.with_status(BulkActionStatus.CANCELING))  # type: ignore[no-untyped-call]
        # Dagster ends those in its own queue and those that have begun, but none that waits for a lane in between.
        launched = dg.RunsFilter(tags={BACKFILL_ID_TAG: backfill_id}, statuses=[dg.DagsterRunStatus.STARTING])
        for run in instance.get_runs(launched):
            instance.run_launcher.terminate(run.run_id)
