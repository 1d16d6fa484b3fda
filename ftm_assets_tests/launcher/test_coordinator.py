from typing import cast

import dagster as dg
import pytest
from dagster._core.launcher import DefaultRunLauncher
from dagster._core.run_coordinator import SubmitRunContext
from dagster._core.storage.tags import BACKFILL_ID_TAG, PRIORITY_TAG
from dagster._core.workspace.context import BaseWorkspaceRequestContext

from ftm_assets.launcher.coordinator import POOL_TAG, InteractiveFirstRunCoordinator
from ftm_assets_tests.launcher.jobs import ORIGIN

OLD_POOLS = {
    ("ftm/place", "lane"): (POOL_TAG, "batch"),
    ("ftm/place", "next lane"): (POOL_TAG, "interactive"),
    ("ftm/place", "process"): (POOL_TAG, "subprocess"),
}
NO_WORKSPACE = cast(BaseWorkspaceRequestContext, None)


def submit(instance: dg.DagsterInstance, run: dg.DagsterRun) -> dg.DagsterRun:
    """The run as it is in Dagster's queue."""
    assert isinstance(instance.run_coordinator, InteractiveFirstRunCoordinator)
    instance.run_coordinator.submit_run(SubmitRunContext(instance.add_run(run), NO_WORKSPACE))
    found = instance.get_run_by_id(run.run_id)
    assert found and found.status is dg.DagsterRunStatus.QUEUED
    return found


def test_interactive_runs_leave_dagsters_queue_before_those_of_backfills(instance: dg.DagsterInstance) -> None:
    clicked, of_backfill = {"ftm/note": "a click"}, {BACKFILL_ID_TAG: "abcdef"}
    for tags, priority in (
        (clicked, "100"),
        (clicked | {PRIORITY_TAG: "-3"}, "-3"),
        (of_backfill, None),
        (of_backfill | {PRIORITY_TAG: "7"}, "7"),
    ):
        found = submit(instance, dg.DagsterRun(job_name="job", tags=tags, remote_job_origin=ORIGIN))
        assert found.tags.get(PRIORITY_TAG) == priority


def test_a_cluster_is_not_held_to_the_pools_of_one_machine(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(instance, "_run_launcher", DefaultRunLauncher())
    run = submit(instance, dg.DagsterRun(job_name="firm_quarter", remote_job_origin=ORIGIN))
    assert POOL_TAG not in run.tags
    assert run.tags[PRIORITY_TAG] == "100"


def test_each_run_counts_towards_the_limit_of_the_pool_where_it_will_be_executed(instance: dg.DagsterInstance) -> None:
    pools = set()
    for job, tags, pool in (
        ("firm_quarter", {BACKFILL_ID_TAG: "abcdef"}, "batch"),
        ("firm_quarter", {}, "interactive"),
        ("ingest_quarter", {BACKFILL_ID_TAG: "abcdef"}, "subprocess"),
        ("ingest_quarter", {}, "subprocess"),
    ):
        run = submit(instance, dg.DagsterRun(job_name=job, tags=tags, remote_job_origin=ORIGIN))
        assert run.tags[POOL_TAG] == pool
        pools.add((POOL_TAG, pool))
    runs = instance.get_settings("concurrency")["runs"]
    limits = {(limit["key"], limit["value"]): limit["limit"] for limit in runs["tag_concurrency_limits"]}
    assert set(limits) == pools | set(OLD_POOLS)
    assert runs["max_concurrent_runs"] >= sum(limits[pool] for pool in pools)
    assert all(limits[old] == limits[new] for old, new in OLD_POOLS.items()), "runs queued under the old names"
