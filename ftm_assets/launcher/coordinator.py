"""Runs that a person waits for leave Dagster's queue before those of backfills."""

from dagster import DagsterRun, QueuedRunCoordinator
from dagster._core.run_coordinator import SubmitRunContext
from dagster._core.storage.tags import BACKFILL_ID_TAG, PRIORITY_TAG

CLICKED_PRIORITY = "100"


class ClickFirstRunCoordinator(QueuedRunCoordinator):
    """`QueuedRunCoordinator` that gives runs outside of backfills a priority, if they have none; same configuration."""

    def submit_run(self, context: SubmitRunContext) -> DagsterRun:
        """Called by Dagster for every run that is to be queued."""
        run = context.dagster_run
        if BACKFILL_ID_TAG not in run.tags and PRIORITY_TAG not in run.tags:
            self._instance.add_run_tags(run.run_id, {PRIORITY_TAG: CLICKED_PRIORITY})
        return super().submit_run(context)
