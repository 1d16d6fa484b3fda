import dagster as dg
import psycopg
import pytest
from dagster._core.execution.backfill import BulkActionStatus

from ftm_assets.operations.backfill import by_daemon as backfills
from ftm_assets.storage.server.embedded import EmbeddedServer
from ftm_assets_tests.cli.test_main import ftm

RUN = dg.DagsterRunStatus


def test_a_machine_is_idle_only_when_nothing_waits_and_nothing_runs(instance: dg.DagsterInstance) -> None:
    assert ftm("idle") == "nothing waits and nothing runs\n"

    for status in (RUN.NOT_STARTED, RUN.STARTING, RUN.STARTED, RUN.SUCCESS, RUN.FAILURE):
        instance.add_run(dg.DagsterRun(job_name="quarter_themes", status=status))

    assert ftm("idle", fails=True) == "2 runs wait, 1 go on, 0 backfills are under way\n"


def test_a_backfill_whose_runs_are_still_to_be_made_counts(instance: dg.DagsterInstance, defs: dg.Definitions) -> None:
    begun = backfills.begin(defs, instance, "2021Q4", ["ACME-7"])
    assert ftm("idle", fails=True) == "0 runs wait, 0 go on, 1 backfills are under way\n"

    backfill = instance.get_backfill(begun)
    assert backfill is not None
    instance.update_backfill(backfill.with_status(BulkActionStatus.CANCELED))  # type: ignore[no-untyped-call]
    assert ftm("idle") == "nothing waits and nothing runs\n"


def test_migrate_makes_both_databases_and_may_be_repeated(
    server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = server.url("unattended")
    monkeypatch.setenv("FTM_DATABASE_URL", url)
    monkeypatch.setenv("FTM_DAGSTER_DATABASE_URL", server.url("unattended_dagster"))
    for name in ("FTM_DAGSTER_URL", "FTM_RUN_STORAGE", "DAGSTER_ASSET_BACKFILL_RUN_CHUNK_SIZE"):
        monkeypatch.setenv(name, "")  # Put back afterwards: the command sets them.

    for _ in range(2):
        assert "unattended" in ftm("migrate")

    with psycopg.connect(url) as ours, psycopg.connect(server.url("unattended_dagster")) as dagsters:
        assert ours.execute("SELECT count(*) FROM sentences").fetchone() == (0,)
        assert dagsters.execute("SELECT count(*) FROM event_logs").fetchone() == (0,)
