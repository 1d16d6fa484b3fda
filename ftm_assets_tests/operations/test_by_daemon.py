import threading
import time

import dagster as dg
import pytest
import sqlalchemy as sa
from dagster._core.execution.backfill import BulkActionStatus
from dagster._core.storage.tags import BACKFILL_ID_TAG, PARTITION_NAME_TAG
from dagster._daemon.types import DaemonHeartbeat

from ftm_assets.operations import instance as dagster_instance
from ftm_assets.operations.backfill import by_daemon as backfills
from ftm_assets.operations.backfill.executor import check_encoder, wait_for_themes
from ftm_assets.operations.instance import daemon_is_up
from ftm_assets.partitions import firm_quarter_key
from ftm_assets.settings import Settings
from ftm_assets.storage.server.database import Database
from ftm_assets.storage.write.calls import create_quarter
from ftm_assets.storage.write.stages import EncoderMismatch
from ftm_assets_tests.launcher.test_queue import worker

QUARTER = "2021Q4"
KEYS = ["ACME-7", "CRN-9", "DUNE-10"]


@pytest.fixture
def begun(defs: dg.Definitions, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> str:
    """A backfill of three firms that no daemon carries out."""
    monkeypatch.setattr(dagster_instance, "POLL_S", 0.0)
    return backfills.begin(defs, instance, QUARTER, KEYS)


def run(instance: dg.DagsterInstance, backfill_id: str, key: str, status: dg.DagsterRunStatus) -> str:
    tags = {BACKFILL_ID_TAG: backfill_id, PARTITION_NAME_TAG: firm_quarter_key(key, QUARTER)}
    return instance.add_run(dg.DagsterRun(job_name="firm_quarter", tags=tags, status=status)).run_id


def say_that_a_daemon_lives(instance: dg.DagsterInstance, ago_s: float = 0.0) -> None:
    instance.add_daemon_heartbeat(DaemonHeartbeat(time.time() - ago_s, "BACKFILL", None, None))


def set_status(instance: dg.DagsterInstance, backfill_id: str, status: BulkActionStatus) -> None:
    """What the daemon does."""
    backfill = instance.get_backfill(backfill_id)
    assert backfill is not None
    instance.update_backfill(backfill.with_status(status))  # type: ignore[no-untyped-call]


def test_a_backfill_is_asked_for_and_found_again_until_it_is_over(
    instance: dg.DagsterInstance, begun: str, defs: dg.Definitions
) -> None:
    assert backfills.firms_of(instance, begun) == set(KEYS)
    assert set(KEYS) <= set(instance.get_dynamic_partitions("firm"))
    running = backfills.running_backfill(instance, QUARTER)
    assert running and running.backfill_id == begun
    assert set(running.firms) == set(running.whole_firms) == set(KEYS)
    assert backfills.running_backfill(instance, "2022Q1") is None

    backfills.cancel(instance, QUARTER)

    backfill = instance.get_backfill(begun)
    assert backfill is not None and backfill.status is BulkActionStatus.CANCELING
    set_status(instance, begun, BulkActionStatus.CANCELED)
    assert backfills.running_backfill(instance, QUARTER) is None
    with pytest.raises(backfills.NoBackfill, match="no backfill of 2021Q4 is under way"):
        backfills.cancel(instance, QUARTER)


def test_it_is_looked_on_until_every_firm_has_gone_well(instance: dg.DagsterInstance, begun: str) -> None:
    seen = []
    say_that_a_daemon_lives(instance)
    for progress in backfills.watch(instance, begun, QUARTER):
        seen.append((progress.n_succeeded, progress.n_ended, progress.is_over))
        assert len(seen) < 5
        run(instance, begun, KEYS[len(seen) - 1] if len(seen) <= len(KEYS) else KEYS[0], dg.DagsterRunStatus.SUCCESS)
    assert seen == [(0, 0, False), (1, 1, False), (2, 2, False), (3, 3, True)]


def test_one_that_ends_before_every_firm_has_is_looked_on_no_longer(instance: dg.DagsterInstance, begun: str) -> None:
    say_that_a_daemon_lives(instance)
    run(instance, begun, "ACME-7", dg.DagsterRunStatus.SUCCESS)
    set_status(instance, begun, BulkActionStatus.CANCELED)
    assert list(backfills.watch(instance, begun, QUARTER)) == [backfills.BackfillProgress(1, 0, True)]


def test_what_failed_and_was_not_made_good_is_named_with_the_reason(instance: dg.DagsterInstance, begun: str) -> None:
    run(instance, begun, "ACME-7", dg.DagsterRunStatus.FAILURE)
    run(instance, begun, "ACME-7", dg.DagsterRunStatus.SUCCESS)
    canceled = run(instance, begun, "CRN-9", dg.DagsterRunStatus.CANCELED)
    failed = instance.get_run_by_id(run(instance, begun, "DUNE-10", dg.DagsterRunStatus.STARTED))
    assert failed is not None
    instance.report_run_failed(failed, "Its lane ended, killed by SIGSEGV.")

    assert [(firm.firm_key, firm.run_id, firm.error) for firm in backfills.failures(instance, begun)] == [
        ("CRN-9", canceled, "canceled"),
        ("DUNE-10", failed.run_id, "Its lane ended, killed by SIGSEGV."),
    ]


def test_runs_that_wait_for_a_lane_are_canceled_with_their_backfill(instance: dg.DagsterInstance, begun: str) -> None:
    waiting = run(instance, begun, "ACME-7", dg.DagsterRunStatus.STARTING)
    backfills.cancel(instance, QUARTER)
    found = instance.get_run_by_id(waiting)
    assert found is not None and found.status is dg.DagsterRunStatus.CANCELED


def test_a_backfill_all_of_whose_runs_went_well_is_over_before_dagster_says_so(
    instance: dg.DagsterInstance, begun: str
) -> None:
    for key in KEYS:
        run(instance, begun, key, dg.DagsterRunStatus.SUCCESS)
    assert backfills.running_backfill(instance, QUARTER) is None


def test_one_that_is_being_canceled_is_waited_for(instance: dg.DagsterInstance, begun: str) -> None:
    say_that_a_daemon_lives(instance)
    backfills.cancel(instance, QUARTER)
    end = threading.Timer(0.3, set_status, [instance, begun, BulkActionStatus.CANCELED])
    end.start()
    backfills.wait_for_canceled(instance, QUARTER)
    end.join()
    found = instance.get_backfill(begun)
    assert found is not None and found.status is BulkActionStatus.CANCELED


def test_nobody_waits_for_a_daemon_that_has_gone(instance: dg.DagsterInstance, begun: str) -> None:
    say_that_a_daemon_lives(instance, ago_s=100)
    with pytest.raises(backfills.DaemonGone, match="goes on once you start it again: ftm up"):
        list(backfills.watch(instance, begun, QUARTER))
    backfills.cancel(instance, QUARTER)
    with pytest.raises(backfills.DaemonGone):
        backfills.wait_for_canceled(instance, QUARTER)


def test_themes_that_the_sensor_has_begun_are_waited_for(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dagster_instance, "POLL_S", 0.05)
    say_that_a_daemon_lives(instance)
    assert not wait_for_themes(instance, QUARTER)
    started, tags = dg.DagsterRunStatus.STARTED, {PARTITION_NAME_TAG: QUARTER}
    instance.add_run(dg.DagsterRun(job_name="ingest_quarter", status=started, tags=tags))
    assert not wait_for_themes(instance, QUARTER), "that makes no themes"
    themes = instance.add_run(dg.DagsterRun(job_name="quarter_themes", status=started, tags=tags))
    end = threading.Timer(0.3, instance.report_run_failed, [themes])
    end.start()

    assert wait_for_themes(instance, QUARTER)

    end.join()
    found = instance.get_run_by_id(themes.run_id)
    assert found is not None and found.is_finished


def test_a_worker_that_would_do_something_else_is_noticed_before_it_does() -> None:
    here = Settings()
    backfills.check_worker(None, here)
    backfills.check_worker(worker(settings=Settings(lanes=7).of_worker()), here)
    found = backfills.differences(worker(settings=Settings(lanes=7).of_worker()), here)
    assert found == ["it was started with FTM_LANES=7, here it is 0: restart it"]
    assert backfills.differences(None, here) == backfills.differences(worker(settings=here.of_worker()), here) == []
    with pytest.raises(backfills.WorkerDiffers, match="FTM_ENCODER=other, here it is all-MiniLM-L6-v2; restart"):
        backfills.check_worker(worker(settings=Settings(encoder="other").of_worker()), here)


def test_a_quarter_of_another_encoder_is_noticed_before_its_runs_begin(database: Database) -> None:
    with database.transaction() as connection:
        create_quarter(connection, QUARTER)
        connection.execute(sa.text("UPDATE quarters SET encoder = 'hash', encoder_revision = '1'"))
    check_encoder(database, QUARTER, backfills.encoder_of(None))
    check_encoder(database, QUARTER, backfills.encoder_of(worker(encoder=None)))
    check_encoder(database, QUARTER, backfills.encoder_of(worker(encoder="hash@1")))
    with pytest.raises(EncoderMismatch, match="hash"):
        check_encoder(database, QUARTER, backfills.encoder_of(worker(encoder="other@1")))


@pytest.mark.parametrize(("age_s", "is_up"), [(10, True), (100, False)])
def test_a_daemon_is_up_if_it_said_so_lately(instance: dg.DagsterInstance, age_s: float, is_up: bool) -> None:
    assert not daemon_is_up(instance)
    say_that_a_daemon_lives(instance, age_s)
    assert daemon_is_up(instance) == is_up
