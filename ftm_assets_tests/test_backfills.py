import time

import dagster as dg
import pytest
from dagster._core.execution.backfill import BulkActionStatus
from dagster._core.storage.tags import BACKFILL_ID_TAG, PARTITION_NAME_TAG
from dagster._daemon.types import DaemonHeartbeat

from ftm_assets import backfills
from ftm_assets.partitions import firm_quarter_key

QUARTER = "2021Q4"
KEYS = ["ACME-7", "CRN-9", "DUNE-10"]


@pytest.fixture
def begun(defs: dg.Definitions, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> str:
    """A backfill of three firms that no daemon carries out."""
    monkeypatch.setattr(backfills, "POLL_S", 0.0)
    return backfills.begin(defs, instance, QUARTER, KEYS)


def run(instance: dg.DagsterInstance, backfill_id: str, key: str, status: dg.DagsterRunStatus) -> str:
    tags = {BACKFILL_ID_TAG: backfill_id, PARTITION_NAME_TAG: firm_quarter_key(key, QUARTER)}
    return instance.add_run(dg.DagsterRun(job_name="firm_quarter", tags=tags, status=status)).run_id


def test_a_backfill_is_asked_for_and_found_again_until_it_is_over(
    instance: dg.DagsterInstance, begun: str, defs: dg.Definitions
) -> None:
    assert backfills.n_firms(instance, begun) == 3
    assert set(KEYS) <= set(instance.get_dynamic_partitions("firm"))
    assert backfills.under_way(instance, QUARTER) == begun
    assert backfills.under_way(instance, "2022Q1") is None

    backfills.cancel(instance, QUARTER)

    backfill = instance.get_backfill(begun)
    assert backfill is not None and backfill.status is BulkActionStatus.CANCELING
    instance.update_backfill(backfill.with_status(BulkActionStatus.CANCELED))  # type: ignore[no-untyped-call]
    assert backfills.under_way(instance, QUARTER) is None
    with pytest.raises(backfills.NoBackfill, match="no backfill of 2021Q4 is under way"):
        backfills.cancel(instance, QUARTER)


def test_it_is_looked_on_until_every_firm_has_gone_well(instance: dg.DagsterInstance, begun: str) -> None:
    seen = []
    for progress in backfills.watch(instance, begun):
        seen.append((progress.n_succeeded, progress.n_ended, progress.is_over))
        assert len(seen) < 5
        run(instance, begun, KEYS[len(seen) - 1] if len(seen) <= len(KEYS) else KEYS[0], dg.DagsterRunStatus.SUCCESS)
    assert seen == [(0, 0, False), (1, 1, False), (2, 2, False), (3, 3, True)]


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


@pytest.mark.parametrize(("age_s", "is_up"), [(10, True), (100, False)])
def test_a_daemon_is_up_if_it_said_so_lately(instance: dg.DagsterInstance, age_s: float, is_up: bool) -> None:
    assert not backfills.daemon_is_up(instance)
    instance.add_daemon_heartbeat(DaemonHeartbeat(time.time() - age_s, "BACKFILL", None, None))
    assert backfills.daemon_is_up(instance) == is_up
