import dagster as dg
import pytest
from dagster import DagsterRunStatus as Status

from ftm_assets.launcher.execution import execute
from ftm_assets_tests.launcher.jobs import messages, new_run, status_of


def test_a_run_ends_well_or_not_and_either_way_it_has_ended(instance: dg.DagsterInstance) -> None:
    well, ill = new_run(instance, "succeed_job"), new_run(instance, "fail_job")
    assert execute(instance, well)
    assert execute(instance, ill)
    assert (status_of(instance, well), status_of(instance, ill)) == (Status.SUCCESS, Status.FAILURE)


def test_a_run_that_a_lane_has_left_is_gone_on_with(instance: dg.DagsterInstance) -> None:
    left = new_run(instance, "succeed_job", status=Status.STARTED)
    assert execute(instance, left)
    assert status_of(instance, left) is Status.SUCCESS
    assert any("Started process for resuming job" in said for said in messages(instance, left))


def test_a_run_that_is_to_be_canceled_is_not_begun(instance: dg.DagsterInstance) -> None:
    canceling = new_run(instance, "succeed_job", status=Status.CANCELING)
    assert execute(instance, canceling)
    assert status_of(instance, canceling) is Status.CANCELED
    assert messages(instance, canceling) == ["Canceled before its lane began."]


@pytest.mark.parametrize("status", [Status.SUCCESS, Status.FAILURE, Status.CANCELED])
def test_a_run_that_has_ended_is_not_executed_again(instance: dg.DagsterInstance, status: Status) -> None:
    ended = new_run(instance, "fail_job", status=status)
    assert execute(instance, ended)
    assert status_of(instance, ended) is status
    assert messages(instance, ended) == []


def test_a_run_that_was_deleted_has_ended(instance: dg.DagsterInstance) -> None:
    deleted = new_run(instance, "succeed_job")
    instance.delete_run(deleted)
    assert execute(instance, deleted)
