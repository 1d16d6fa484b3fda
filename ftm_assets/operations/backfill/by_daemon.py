"""A backfill that Dagster's daemon carries out, run by run; people see it in the UI, and this command follows it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import dagster as dg
from dagster._core.execution.backfill import BulkActionsFilter, BulkActionStatus, PartitionBackfill
from dagster._core.storage.tags import BACKFILL_ID_TAG, PARTITION_NAME_TAG
from dagster._core.utils import make_new_backfill_id
from dagster._time import get_current_timestamp

from ftm_assets.errors import FtmError
from ftm_assets.launcher.queue import RunQueue, WorkerReport
from ftm_assets.operations.backfill.executor import BackfillExecutor, FirmRun, StartedRuns
from ftm_assets.operations.backfill.plan import (
    FIRM_ASSETS,
    SUMMARY_ASSETS,
    BackfillOptions,
    BackfillPlan,
    BackfillState,
    RunningBackfill,
)
from ftm_assets.operations.instance import daemon_is_up, pause
from ftm_assets.operations.runs import first_failure
from ftm_assets.partition_key import PartitionKey
from ftm_assets.partitions import FIRM, firm_quarter_key
from ftm_assets.settings import Settings

QUARTER_TAG = "ftm/quarter"
# What must be the same for the worker as for the command that asks it for something.
RESULT_SETTINGS = ("FTM_ENCODER", "FTM_PRECISION", "FTM_QUARTERS", "FTM_LLM_MODEL")
_FAILED = [dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]


class NoBackfill(FtmError):
    """No backfill is under way that could be canceled."""

    def __init__(self, quarter: str) -> None:
        super().__init__(f"no backfill of {quarter} is under way")


class DaemonGone(FtmError):
    """The daemon that carries the backfill out has stopped."""

    def __init__(self, quarter: str) -> None:
        super().__init__(
            f"Dagster's daemon is no longer running; its backfill of {quarter} goes on once you start it again: ftm up"
        )


class WorkerDiffers(FtmError):
    """The GPU worker was started with other settings than this command."""

    def __init__(self, name: str, of_worker: str | None, here: str) -> None:
        super().__init__(
            f"the GPU worker was started with {name}={of_worker}, here it is {here}; "
            "restart it (ftm up) with the value that you mean, or unset the variable here"
        )


@dataclass(frozen=True)
class BackfillProgress:
    """How many of a backfill's runs have succeeded and failed, and whether all have ended."""

    n_succeeded: int
    n_failed: int
    is_over: bool

    @property
    def n_ended(self) -> int:
        """Runs that have ended."""
        return self.n_succeeded + self.n_failed


class ByDaemon(BackfillExecutor):
    """Asks Dagster for a backfill, or joins the one under way, and follows it."""

    preparing = "Dagster ends a backfill before this one"
    when_stopped = "Dagster goes on without this command"

    _backfill_id: str | None = None

    @cached_property
    def worker(self) -> WorkerReport | None:
        """The last report of the GPU worker, None if none is running."""
        queue = RunQueue(self.database.dagster_url())
        try:
            return queue.last_status()[0] if queue.owner() else None
        finally:
            queue.dispose()

    def known_encoder(self) -> tuple[str, str] | None:
        """The encoder that the worker has loaded."""
        return encoder_of(self.worker)

    def warnings(self) -> list[str]:
        """See `BackfillExecutor`."""
        check_worker(self.worker, self.database.settings)
        return [f"of the GPU worker: {each}" for each in differences(self.worker, self.database.settings)]

    def state(self, quarter: str) -> BackfillState:
        """See `BackfillExecutor`."""
        return replace(super().state(quarter), running=running_backfill(self.instance, quarter))

    def prepare(self, options: BackfillOptions) -> BackfillPlan:
        """See `BackfillExecutor`. raises: DaemonGone while a backfill before this one is being canceled"""
        wait_for_canceled(self.instance, options.quarter)
        return super().prepare(options)

    def start(self, plan: BackfillPlan) -> StartedRuns:
        """See `BackfillExecutor`."""
        if not plan.has_runs:
            return StartedRuns(0)
        self._backfill_id = plan.joins or self._begin(plan)
        return StartedRuns(
            n_firms(self.instance, self._backfill_id),
            notice=f"Dagster carries out backfill {self._backfill_id}; Ctrl-C stops this command, not the backfill",
            warning="" if self.worker else "no GPU worker is running, and the runs wait for one; start it: ftm worker",
        )

    def _begin(self, plan: BackfillPlan) -> str:
        self.prepare_database(plan)
        work = plan.work
        return begin(self.defs, self.instance, plan.quarter, plan.firms, work.assets, work.config)

    def ended(self, plan: BackfillPlan) -> Iterator[int]:
        """See `BackfillExecutor`."""
        if self._backfill_id is None:
            return
        n_ended = 0
        for progress in watch(self.instance, self._backfill_id, plan.quarter):
            yield progress.n_ended - n_ended
            n_ended = progress.n_ended

    def failures(self) -> list[FirmRun]:
        """See `BackfillExecutor`."""
        return failures(self.instance, self._backfill_id) if self._backfill_id else []


def check_worker(worker: WorkerReport | None, settings: Settings) -> None:
    """Refuse a worker whose runs would give other results than this command's settings.

    raises: WorkerDiffers if it has another encoder, language model, or window of quarters
    """
    here = settings.of_worker()
    for name in RESULT_SETTINGS:
        if worker is not None and worker.settings.get(name) != here[name]:
            raise WorkerDiffers(name, worker.settings.get(name), here[name])


def differences(worker: WorkerReport | None, settings: Settings) -> list[str]:
    """Settings that the worker was started with and that differ here, one line each; the worker's are in force."""
    if worker is None:
        return []
    both = ((name, worker.settings.get(name), here) for name, here in settings.of_worker().items())
    return [
        f"it was started with {name}={of_worker}, here it is {here}: restart it"
        for name, of_worker, here in both
        if of_worker != here
    ]


def encoder_of(worker: WorkerReport | None) -> tuple[str, str] | None:
    """Name and revision of the model that the worker has loaded, None before."""
    if worker is None or worker.encoder is None:
        return None
    name, _, revision = worker.encoder.rpartition("@")
    return name, revision


def running_backfill(instance: dg.DagsterInstance, quarter: str) -> RunningBackfill | None:
    """The backfill of a quarter that a command has asked for and that has runs left, None if there is none."""
    for backfill_id in _of_quarter(instance, quarter, BulkActionStatus.REQUESTED):
        firms = firms_of(instance, backfill_id)
        # Dagster takes half a minute more to find out that all runs succeeded.
        if _count(instance, backfill_id, [dg.DagsterRunStatus.SUCCESS]) < len(firms):
            whole_firms = firms_of(instance, backfill_id, FIRM_ASSETS)
            return RunningBackfill(backfill_id=backfill_id, firms=frozenset(firms), whole_firms=frozenset(whole_firms))
    return None


def wait_for_canceled(instance: dg.DagsterInstance, quarter: str) -> None:
    """Return when no backfill of the quarter is being canceled. raises: DaemonGone"""
    while _of_quarter(instance, quarter, BulkActionStatus.CANCELING):
        _check_daemon(instance, quarter)
        pause()


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
    """Ask the daemon for one run of these assets for each firm; returns the backfill's id."""
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
    """Keys of the firms of which the backfill makes all of these assets; summaries are part of every backfill."""
    backfill = instance.get_backfill(backfill_id)
    data = backfill.asset_backfill_data if backfill is not None else None
    if data is None or not set(assets) <= data.target_subset.asset_keys:
        return set()
    made = (data.target_subset.get_partitions_subset(asset).get_partition_keys() for asset in assets)
    return set.intersection(*({PartitionKey.parse(key).firm for key in partitions} for partitions in made))


def n_firms(instance: dg.DagsterInstance, backfill_id: str) -> int:
    """How many firms the backfill has."""
    return len(firms_of(instance, backfill_id))


def watch(instance: dg.DagsterInstance, backfill_id: str, quarter: str) -> Iterator[BackfillProgress]:
    """The progress of a backfill every second, the last time when it is over. raises: DaemonGone"""
    total = n_firms(instance, backfill_id)
    # Counted, not read: a backfill of thousands of firms is megabytes while Dagster creates its runs.
    requested = BulkActionsFilter(backfill_ids=[backfill_id], statuses=[BulkActionStatus.REQUESTED])
    while True:
        n_succeeded = _count(instance, backfill_id, [dg.DagsterRunStatus.SUCCESS])
        n_failed = _count(instance, backfill_id, _FAILED)
        # Dagster takes half a minute more to find out that all runs succeeded.
        is_over = n_succeeded >= total or not instance.get_backfills_count(requested)
        yield BackfillProgress(n_succeeded, n_failed, is_over)
        if is_over:
            return
        _check_daemon(instance, quarter)
        pause()


def _count(instance: dg.DagsterInstance, backfill_id: str, statuses: list[dg.DagsterRunStatus]) -> int:
    return instance.get_runs_count(dg.RunsFilter(tags={BACKFILL_ID_TAG: backfill_id}, statuses=statuses))


def failures(instance: dg.DagsterInstance, backfill_id: str) -> list[FirmRun]:
    """Runs of a backfill that failed or were canceled, unless a later run of the same firm replaced them."""
    runs = instance.get_runs(dg.RunsFilter(tags={BACKFILL_ID_TAG: backfill_id}))
    last = {run.tags[PARTITION_NAME_TAG]: run for run in reversed(runs)}
    return [
        FirmRun(PartitionKey.parse(partition).firm, run.run_id, _reason(instance, run))
        for partition, run in sorted(last.items())
        if run.status in _FAILED
    ]


def _reason(instance: dg.DagsterInstance, run: dg.DagsterRun) -> str:
    if run.status is dg.DagsterRunStatus.CANCELED:
        return "canceled"
    kinds = {dg.DagsterEventType.STEP_FAILURE, dg.DagsterEventType.RUN_FAILURE}
    events = (entry.dagster_event for entry in instance.all_logs(run.run_id, of_type=kinds))
    return first_failure(event for event in events if event is not None)


def cancel(instance: dg.DagsterInstance, quarter: str) -> None:
    """Ask the daemon to end the backfill of a quarter; runs that wait or run are canceled. raises: NoBackfill"""
    found = _of_quarter(instance, quarter, BulkActionStatus.REQUESTED)
    if not found:
        raise NoBackfill(quarter)
    for backfill_id in found:
        backfill = instance.get_backfill(backfill_id)
        if backfill is not None:
            instance.update_backfill(backfill.with_status(BulkActionStatus.CANCELING))  # type: ignore[no-untyped-call]
        # Dagster cancels runs in its own queue and those that have begun, but none that waits for a lane in between.
        launched = dg.RunsFilter(tags={BACKFILL_ID_TAG: backfill_id}, statuses=[dg.DagsterRunStatus.STARTING])
        for run in instance.get_runs(launched):
            instance.run_launcher.terminate(run.run_id)
