from typing import cast

import dagster as dg
from dagster._core.run_coordinator import SubmitRunContext
from dagster._core.storage.tags import BACKFILL_ID_TAG, PRIORITY_TAG
from dagster._core.workspace.context import BaseWorkspaceRequestContext

from ftm_assets.launcher.coordinator import ClickFirstRunCoordinator
from ftm_assets_tests.launcher.jobs import ORIGIN

NO_WORKSPACE = cast(BaseWorkspaceRequestContext, None)


def test_clicked_runs_leave_dagsters_queue_before_those_of_backfills(instance: dg.DagsterInstance) -> None:
    assert isinstance(instance.run_coordinator, ClickFirstRunCoordinator)
    clicked, of_backfill = {"ftm/note": "a click"}, {BACKFILL_ID_TAG: "abcdef"}
    for tags, priority in (
        (clicked, "100"),
        (clicked | {PRIORITY_TAG: "-3"}, "-3"),
        (of_backfill, None),
        (of_backfill | {PRIORITY_TAG: "7"}, "7"),
    ):
        run = instance.add_run(dg.DagsterRun(job_name="job", tags=tags, remote_job_origin=ORIGIN))
        submitted = instance.run_coordinator.submit_run(SubmitRunContext(run, NO_WORKSPACE))
        found = instance.get_run_by_id(run.run_id)
        assert found and found.status is dg.DagsterRunStatus.QUEUED
        assert submitted.tags.get(PRIORITY_TAG) == found.tags.get(PRIORITY_TAG) == priority
