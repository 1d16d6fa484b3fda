"""A run launcher for one GPU: runs that need the model wait in a queue for the warm worker, others start as usual.

Daemon and webserver load this class, so it imports Dagster and SQLAlchemy, never a model.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Self

from dagster import DagsterRun, DefaultRunLauncher
from dagster._config import Array, StringSource, UserConfigSchema
from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._core.instance import DagsterInstance
from dagster._core.launcher import CheckRunHealthResult, LaunchRunContext, ResumeRunContext, RunLauncher, WorkerStatus
from dagster._core.storage.tags import BACKFILL_ID_TAG, PRIORITY_TAG
from dagster._serdes import ConfigurableClass, ConfigurableClassData

from ftm_assets.launcher.queue import RunQueue

# Names the command that executes a run in its own process, so that the same command may end what it left unfinished.
COMMAND_TAG = "ftm/in-process"


def is_of_command(run: DagsterRun) -> bool:
    """Whether a command executes the run in its own process. One that was started again in the UI has the tag, too."""
    return COMMAND_TAG in run.tags and run.parent_run_id is None


class SingleGpuRunLauncher(RunLauncher, ConfigurableClass):
    """Hands runs of certain assets or jobs to the GPU worker (`ftm worker`) through a queue in Postgres.

    postgres_url: the database of the instance, where the queue is kept
    assets:       a run of any of these goes to the worker
    jobs:         so does a run of any of these, whatever its selection says

    The worker executes such a run as Dagster's own processes would; it is found in the UI like any other. All
    other runs are left to `DefaultRunLauncher`: a process for each.
    """

    def __init__(
        self,
        postgres_url: str,
        assets: Sequence[str],
        jobs: Sequence[str],
        inst_data: ConfigurableClassData | None = None,
    ) -> None:
        self._inst_data = inst_data
        self._queue = RunQueue(postgres_url)
        self._assets = frozenset(assets)
        self._jobs = frozenset(jobs)
        self._processes: Any = DefaultRunLauncher()
        super().__init__()  # type: ignore[no-untyped-call]

    @property
    def inst_data(self) -> ConfigurableClassData | None:
        """The block of `dagster.yaml` that this came from."""
        return self._inst_data

    @classmethod
    def config_type(cls) -> UserConfigSchema:
        """What the block of `dagster.yaml` may hold."""
        return {"postgres_url": StringSource, "assets": Array(str), "jobs": Array(str)}

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]) -> Self:
        """Called by Dagster with the block of `dagster.yaml`."""
        return cls(**config_value, inst_data=inst_data)

    def register_instance(self, instance: DagsterInstance) -> None:
        """Called by Dagster once the instance is there."""
        super().register_instance(instance)
        self._processes.register_instance(instance)

    def needs_worker(self, run: DagsterRun) -> bool:
        """Whether the run is one for the worker. Runs from an asset page have a selection, but no tag of ours."""
        if is_of_command(run):
            return False
        selected = {key.to_user_string() for key in run.asset_selection or ()}
        return run.job_name in self._jobs or not self._assets.isdisjoint(selected)

    def launch_run(self, context: LaunchRunContext) -> None:
        """Put the run into the queue, or start its process."""
        if self.needs_worker(context.dagster_run):
            self._put(context.dagster_run)
            self._warn_without_worker(context.dagster_run)
        else:
            self._processes.launch_run(context)

    def launch_again(self, runs: Sequence[DagsterRun]) -> None:
        """Put runs into the queue that should be there; leave alone those that are, or that need no worker.

        For the worker: a daemon that was killed after it marked a run as starting, and before it launched the run,
        does not come back to it.
        """
        for run in runs:
            if self.needs_worker(run):
                self._put(run)

    def _put(self, run: DagsterRun) -> None:
        is_interactive = BACKFILL_ID_TAG not in run.tags
        self._queue.put(run.run_id, interactive=is_interactive, priority=_priority(run))

    def _warn_without_worker(self, run: DagsterRun) -> None:
        if self._queue.owner() is None:
            self._instance.report_engine_event(
                "No GPU worker is running; the run waits for one. Start it with: ftm worker", run, cls=type(self)
            )

    def terminate(self, run_id: str) -> bool:
        """End a run, whether it waits, is in a lane, or in a process of its own. False if it has ended already."""
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return False
        if not self.needs_worker(run):
            return bool(self._processes.terminate(run_id))
        self._instance.report_run_canceling(run)
        launch = self._queue.cancel(run_id)
        if launch is None or launch.lane is None or self._queue.owner() is None:
            self._instance.report_run_canceled(run, "Canceled while no lane of the GPU worker had it.")
        return True

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Run monitoring may ask for the health of a run."""
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Whether a started run is still being executed, or will be."""
        if not self.needs_worker(run):
            return self._check_process(run)
        launch = self._queue.find(run.run_id)
        if launch is None:
            return CheckRunHealthResult(WorkerStatus.NOT_FOUND, "The GPU worker does not know of the run.")
        if launch.lane is None:
            return CheckRunHealthResult(WorkerStatus.RUNNING, "The run waits for a lane of the GPU worker.")
        if self._queue.owner() is None:
            return CheckRunHealthResult(WorkerStatus.FAILED, "The GPU worker ended while the run was in a lane.")
        return CheckRunHealthResult(WorkerStatus.RUNNING)

    def _check_process(self, run: DagsterRun) -> CheckRunHealthResult:
        # A code server reports on its own when a run's process dies, so only the death of the server is news.
        client = self._processes._get_grpc_client_for_termination(run.run_id)
        if client is not None:
            try:
                client.ping("")
            except DagsterUserCodeUnreachableError as error:
                return CheckRunHealthResult(
                    WorkerStatus.FAILED, f"The code server that started the run has gone: {error}"
                )
        return CheckRunHealthResult(WorkerStatus.RUNNING)

    @property
    def supports_resume_run(self) -> bool:
        """A run whose lane has ended goes on in another one."""
        return True

    def resume_run(self, context: ResumeRunContext) -> None:
        """Let the run wait for a lane again; one whose own process has ended can only fail."""
        if self.needs_worker(context.dagster_run):
            self._put(context.dagster_run)
            self._warn_without_worker(context.dagster_run)
        else:
            self._instance.report_run_failed(
                context.dagster_run, "The process of the run has ended; start the run again unless Dagster does."
            )

    def join(self, timeout: int = 30) -> None:
        """Called by tests of Dagster: wait for the processes of runs."""
        self._processes.join(timeout)

    def dispose(self) -> None:
        """Close connections."""
        self._queue.dispose()


def _priority(run: DagsterRun) -> int:
    """As Dagster's daemon reads it: 0 if the tag is no number."""
    try:
        return int(run.tags.get(PRIORITY_TAG, 0))
    except ValueError:
        return 0
