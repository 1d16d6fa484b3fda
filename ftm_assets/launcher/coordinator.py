"""Who leaves Dagster's queue first, and what it takes up when it does."""

from dagster import DagsterRun, QueuedRunCoordinator
from dagster._core.run_coordinator import SubmitRunContext
from dagster._core.storage.tags import BACKFILL_ID_TAG, PRIORITY_TAG

from ftm_assets.launcher.single_gpu import SingleGpuRunLauncher

CLICKED_PRIORITY = "100"
PLACE_TAG = "ftm/place"


class ClickFirstRunCoordinator(QueuedRunCoordinator):
    """`QueuedRunCoordinator` that tags runs as they come; same configuration.

    Runs outside of backfills get a priority, if they have none: a person waits for them. All are told where they will
    be executed, in a `lane`, in the `next lane` that is free, or in a `process` of their own, so that `dagster.yaml`
    can limit each: thousands of firms that wait must keep neither a click nor the load of a quarter from its place.
    Another launcher than ours has none of these places, and so none of their limits.
    """

    def submit_run(self, context: SubmitRunContext) -> DagsterRun:
        """Called by Dagster for every run that is to be queued."""
        run, launcher = context.dagster_run, self._instance.run_launcher
        clicked = BACKFILL_ID_TAG not in run.tags
        tags = {}
        if isinstance(launcher, SingleGpuRunLauncher):
            in_lane = launcher.needs_worker(run)
            tags[PLACE_TAG] = ("next lane" if clicked else "lane") if in_lane else "process"
        if clicked and PRIORITY_TAG not in run.tags:
            tags[PRIORITY_TAG] = CLICKED_PRIORITY
        self._instance.add_run_tags(run.run_id, tags)
        return super().submit_run(context)
