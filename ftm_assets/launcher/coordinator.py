"""Which run leaves Dagster's queue first, and which pool it counts towards when it does."""

from dagster import DagsterRun, QueuedRunCoordinator
from dagster._core.run_coordinator import SubmitRunContext
from dagster._core.storage.tags import BACKFILL_ID_TAG, PRIORITY_TAG

from ftm_assets.launcher.single_gpu import SingleGpuRunLauncher

INTERACTIVE_PRIORITY = "100"
POOL_TAG = "ftm/pool"


class InteractiveFirstRunCoordinator(QueuedRunCoordinator):
    """`QueuedRunCoordinator` that tags runs as they come; same configuration.

    Runs outside of backfills are interactive: a person waits for them, so they get a priority if they have none. Each
    run also gets its pool, for which `dagster.yaml` has a limit: `subprocess` if it has a process of its own, else
    `interactive` or `batch`, the two that wait for a lane. So thousands of firms that wait keep neither a click nor
    the load of a quarter waiting. Another launcher than ours has no such pools, and so none of their limits.
    Decisions 39 and 40.
    """

    def submit_run(self, context: SubmitRunContext) -> DagsterRun:
        """Called by Dagster for every run that is to be queued."""
        run = context.dagster_run
        is_interactive = BACKFILL_ID_TAG not in run.tags
        tags = {}
        launcher = self._instance.run_launcher
        if isinstance(launcher, SingleGpuRunLauncher):
            tags[POOL_TAG] = _pool(needs_worker=launcher.needs_worker(run), is_interactive=is_interactive)
        if is_interactive and PRIORITY_TAG not in run.tags:
            tags[PRIORITY_TAG] = INTERACTIVE_PRIORITY
        self._instance.add_run_tags(run.run_id, tags)
        return super().submit_run(context)


# The name that a copy of an older `dagster.yaml` has.
ClickFirstRunCoordinator = InteractiveFirstRunCoordinator


def _pool(*, needs_worker: bool, is_interactive: bool) -> str:
    if not needs_worker:
        return "subprocess"
    return "interactive" if is_interactive else "batch"
