import os
import signal
from pathlib import Path

import dagster as dg
import pytest
import sqlalchemy as sa
import yaml
from dagster._core.execution.asset_backfill import get_asset_backfill_run_chunk_size
from dagster._utils.interrupts import capture_interrupts

import ftm_assets
from ftm_assets.analysis.communities import CommunityModel
from ftm_assets.definitions import build_definitions
from ftm_assets.launcher.single_gpu import COMMAND_TAG
from ftm_assets.operations import runs
from ftm_assets.operations.backfill.executor import (
    FirmRun,
    check_encoder,
    configured_encoder,
    reencode,
    run_themes,
)
from ftm_assets.operations.backfill.in_process import run_firms
from ftm_assets.operations.backfill.plan import BackfillOptions, NoCalls, plan_backfill
from ftm_assets.operations.backfill.state import read_state
from ftm_assets.operations.ingest import QuarterIngest, ingest_quarters
from ftm_assets.operations.instance import ProjectNotFound, dagster_environment
from ftm_assets.partitions import firm_quarter_key
from ftm_assets.sources.transcript_source import open_source, quarters_of
from ftm_assets.storage.read.queries import quarter_status
from ftm_assets.storage.schema import tables as t
from ftm_assets.storage.server.database import Database
from ftm_assets.storage.write.calls import QuarterInUse
from ftm_assets.storage.write.stages import EncoderMismatch
from ftm_assets_tests.fakes import FailingEncoder, HashEncoder
from ftm_assets_tests.six_firms import six_firms

ROOT = Path(ftm_assets.__file__).parents[1]
QUARTER = "2021Q4"
CHUNK = "DAGSTER_ASSET_BACKFILL_RUN_CHUNK_SIZE"
KEYS = ["ACME-7", "CRN-9", "DUNE-10", "ELM-11", "FIR-12", "NA-8"]


@pytest.fixture
def loaded(
    defs: dg.Definitions, instance: dg.DagsterInstance, database: Database, tmp_path: Path
) -> dg.DagsterInstance:
    """Six firms ingested, nothing else done."""
    ingest(defs, instance, database, six_firms(tmp_path / "calls.csv"))
    return instance


def ingest(defs: dg.Definitions, instance: dg.DagsterInstance, database: Database, path: Path) -> QuarterIngest:
    quarters = list(quarters_of(open_source(str(path))))
    [counts] = ingest_quarters(defs, instance, database, quarters, {"source": str(path)})
    return counts


def to_do(instance: dg.DagsterInstance, database: Database) -> list[str]:
    return list(read_state(instance, database, QUARTER).to_do)


def run_all(defs: dg.Definitions, instance: dg.DagsterInstance, database: Database) -> list[FirmRun]:
    keys = to_do(instance, database)
    done = list(run_firms(defs, instance, QUARTER, keys))
    run_themes(defs, instance, QUARTER)
    return done


def tables_of(database: Database) -> dict[str, list[tuple[object, ...]]]:
    """Every row of every table, in order of its key."""
    with database.transaction() as connection:
        return {
            name: [
                tuple(str(value) for value in row)
                for row in connection.execute(sa.select(table).order_by(*table.primary_key.columns))
            ]
            for name, table in t.Base.metadata.tables.items()
        }


def test_a_quarter_goes_from_calls_to_themes(
    defs: dg.Definitions, loaded: dg.DagsterInstance, database: Database
) -> None:
    assert [run.error for run in run_all(defs, loaded, database)] == [None] * 6

    with database.transaction() as connection:
        status = quarter_status(connection, QUARTER)
    assert (status.n_expected, status.n_complete, status.n_calls) == (6, 6, 6)
    assert (status.n_components, status.n_sentences, status.n_modelled) == (180, 180, 180)
    assert status.themes.current
    assert status.n_themes == 3
    assert to_do(loaded, database) == []
    assert read_state(loaded, database, QUARTER).themes_current
    for asset in ("firm_sentences", "firm_topics", "topic_summaries"):
        assert loaded.get_materialized_partitions(dg.AssetKey(asset)) == {
            firm_quarter_key(key, QUARTER) for key in KEYS
        }


@pytest.mark.slow
def test_the_same_backfill_again_leaves_identical_tables(
    real_defs: dg.Definitions, instance: dg.DagsterInstance, database: Database, tmp_path: Path
) -> None:
    ingest(real_defs, instance, database, six_firms(tmp_path / "calls.csv"))
    run_all(real_defs, instance, database)
    before = tables_of(database)

    every = plan_backfill(BackfillOptions(quarter=QUARTER, all_firms=True), read_state(instance, database, QUARTER))
    again = list(run_firms(real_defs, instance, QUARTER, every.firms))
    run_themes(real_defs, instance, QUARTER)

    assert [run.firm_key for run in again] == KEYS
    assert tables_of(database) == before


def test_a_corrected_call_makes_its_firm_stale_and_then_the_themes(
    defs: dg.Definitions, loaded: dg.DagsterInstance, database: Database, tmp_path: Path
) -> None:
    run_all(defs, loaded, database)

    counts = ingest(defs, loaded, database, six_firms(tmp_path / "again.csv", corrected=True))

    assert (counts.n_changed, counts.n_unchanged, counts.n_firms_changed) == (1, 5, 1)
    assert to_do(loaded, database) == ["NA-8"]
    with database.transaction() as connection:
        assert quarter_status(connection, QUARTER).themes.changed_firms == ("NA-8",)
    list(run_firms(defs, loaded, QUARTER, ["NA-8"]))
    assert to_do(loaded, database) == []
    assert not read_state(loaded, database, QUARTER).themes_current
    run_themes(defs, loaded, QUARTER)
    assert read_state(loaded, database, QUARTER).themes_current


def test_a_firm_without_a_call_has_an_empty_partition_that_says_why(
    defs: dg.Definitions, loaded: dg.DagsterInstance, database: Database
) -> None:
    [run] = run_firms(defs, loaded, "2022Q1", ["ACME-7"])

    assert run.error is None
    event = loaded.get_latest_materialization_event(dg.AssetKey("firm_sentences"))
    assert event is not None and event.asset_materialization is not None
    metadata = event.asset_materialization.metadata
    assert metadata["n_sentences"].value == 0
    assert metadata["reason"].value == "ACME-7 has no call in 2022Q1"


def test_a_failing_firm_does_not_stop_the_others_and_is_still_to_do(
    defs: dg.Definitions, instance: dg.DagsterInstance, database: Database, tmp_path: Path
) -> None:
    ingest(defs, instance, database, six_firms(tmp_path / "calls.csv", corrected=True))
    failing = build_definitions(database, FailingEncoder(on="correct the record"))

    done = list(run_firms(failing, instance, QUARTER, ["NA-8", "CRN-9"]))

    assert [run.error is None for run in done] == [False, True]
    assert done[0].error is not None and "the encoder has gone" in done[0].error
    assert to_do(instance, database) == [key for key in KEYS if key != "CRN-9"]


def test_a_firm_whose_last_run_failed_is_to_do_although_its_rows_are_whole(
    defs: dg.Definitions, loaded: dg.DagsterInstance, database: Database
) -> None:
    list(run_firms(defs, loaded, QUARTER, KEYS))
    failing = build_definitions(database, FailingEncoder(on="Freight"))

    list(run_firms(failing, loaded, QUARTER, ["NA-8"]))

    with database.transaction() as connection:
        assert quarter_status(connection, QUARTER).firms_to_do == ()
    assert to_do(loaded, database) == ["NA-8"]
    list(run_firms(defs, loaded, QUARTER, ["NA-8"]))
    assert to_do(loaded, database) == []


def test_rows_that_dagster_has_not_heard_of_are_run_again(
    defs: dg.Definitions, loaded: dg.DagsterInstance, database: Database
) -> None:
    other = dg.DagsterInstance.ephemeral()
    list(run_firms(defs, other, QUARTER, ["ACME-7"]))

    with database.transaction() as connection:
        assert "ACME-7" not in quarter_status(connection, QUARTER).firms_to_do
    assert "ACME-7" in to_do(loaded, database)


@pytest.mark.parametrize("status", [dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTED])
def test_a_run_whose_process_was_killed_is_marked_as_failed(
    loaded: dg.DagsterInstance, database: Database, status: dg.DagsterRunStatus
) -> None:
    run = dg.DagsterRun(job_name="firm_quarter", tags={COMMAND_TAG: f"backfill {QUARTER}"}, status=status)
    loaded.add_run(run)

    with runs.exclusive(loaded, database, f"backfill {QUARTER}"):
        found = loaded.get_run_by_id(run.run_id)

    assert found is not None and found.status is dg.DagsterRunStatus.FAILURE


def test_a_run_that_was_started_again_in_the_ui_is_not_taken_for_one_of_a_command(
    loaded: dg.DagsterInstance, database: Database
) -> None:
    first = dg.DagsterRun(job_name="firm_quarter", tags={COMMAND_TAG: f"backfill {QUARTER}"})
    again = loaded.add_run(
        first._replace(
            run_id=dg.DagsterRun(job_name="firm_quarter").run_id,
            status=dg.DagsterRunStatus.STARTED,
            parent_run_id=first.run_id,
            root_run_id=first.run_id,
        )
    )

    with runs.exclusive(loaded, database, f"backfill {QUARTER}"):
        found = loaded.get_run_by_id(again.run_id)

    assert found is not None and found.status is dg.DagsterRunStatus.STARTED


def test_two_backfills_of_a_quarter_at_once_are_refused(loaded: dg.DagsterInstance, database: Database) -> None:
    with (
        runs.exclusive(loaded, database, "backfill 2021Q4"),
        pytest.raises(runs.AlreadyRunning, match="another `ftm backfill 2021Q4`"),
        runs.exclusive(loaded, database, "backfill 2021Q4"),
    ):
        pass
    with runs.exclusive(loaded, database, "backfill 2021Q4"):
        pass


def test_ctrl_c_between_two_steps_which_dagster_forgets_ends_the_command() -> None:
    with pytest.raises(KeyboardInterrupt), runs._ctrl_c_ends_the_command(), capture_interrupts():
        os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_while_themes_are_made_is_ctrl_c(
    defs: dg.Definitions, loaded: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    list(run_firms(defs, loaded, QUARTER, KEYS))
    with monkeypatch.context() as patch:
        patch.setattr(CommunityModel, "fit_transform", lambda *_: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            run_themes(defs, loaded, QUARTER)


def test_a_quarter_without_calls_is_refused_with_the_next_step(
    instance: dg.DagsterInstance, database: Database
) -> None:
    state = read_state(instance, database, "2019Q1")
    with pytest.raises(NoCalls, match="ftm ingest SOURCE --quarter 2019Q1"):
        plan_backfill(BackfillOptions(quarter="2019Q1"), state)


def test_another_encoder_is_refused_until_the_quarter_is_encoded_again(
    defs: dg.Definitions, loaded: dg.DagsterInstance, database: Database
) -> None:
    list(run_firms(defs, loaded, QUARTER, ["ACME-7"]))
    other = build_definitions(database, HashEncoder(revision="2"))

    with pytest.raises(EncoderMismatch, match=f"ftm backfill {QUARTER} --reencode"):
        check_encoder(database, QUARTER, configured_encoder(other))
    [refused] = run_firms(other, loaded, QUARTER, ["NA-8"])
    assert refused.error is not None
    assert "2021Q4 is encoded with hash@1, not hash@2" in refused.error
    assert f"ftm backfill {QUARTER} --reencode" in refused.error

    reencode(database, QUARTER, configured_encoder(other))
    [accepted] = run_firms(other, loaded, QUARTER, ["NA-8"])
    assert accepted.error is None
    assert to_do(loaded, database) == [key for key in KEYS if key != "NA-8"]


def test_encoding_again_with_the_same_encoder_drops_nothing(
    defs: dg.Definitions, loaded: dg.DagsterInstance, database: Database
) -> None:
    list(run_firms(defs, loaded, QUARTER, KEYS))
    before = tables_of(database)
    reencode(database, QUARTER, configured_encoder(defs))
    assert tables_of(database) == before


def test_who_is_in_the_way_of_encoding_again_is_told_of_and_nothing_is_dropped(
    defs: dg.Definitions, loaded: dg.DagsterInstance, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    list(run_firms(defs, loaded, QUARTER, KEYS[:1]))
    before = tables_of(database)
    monkeypatch.setattr("ftm_assets.storage.write.calls.LOCK_TIMEOUT_MS", 100)
    with database.engine.connect() as other:
        other.execute(sa.text("SELECT * FROM firm_quarters FOR UPDATE"))
        with pytest.raises(QuarterInUse, match="2021Q4 cannot be re-encoded while others use it; stop what runs"):
            reencode(database, QUARTER, ("hash", "2"))
    assert tables_of(database) == before


def a_dagster_home(folder: Path, storage: object) -> Path:
    (folder / "dagster.yaml").write_text(yaml.safe_dump({"storage": storage}))
    (folder / "workspace.yaml").touch()
    return folder


def test_a_changed_copy_of_our_dagster_yaml_counts_and_needs_a_workspace(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = {"postgres": {"postgres_url": {"env": "FTM_DAGSTER_URL"}}}
    monkeypatch.setenv("DAGSTER_HOME", str(a_dagster_home(tmp_path, ours)))
    assert dagster_environment(database)["DAGSTER_HOME"] == str(tmp_path)
    (tmp_path / "workspace.yaml").unlink()
    with pytest.raises(ProjectNotFound, match=rf"no workspace.yaml in {tmp_path}; .* set DAGSTER_HOME"):
        dagster_environment(database)


@pytest.mark.parametrize("storage", [None, {"sqlite": {"base_dir": "/elsewhere"}}, "not a mapping"])
def test_the_dagster_home_of_another_project_is_named_and_does_not_count(
    database: Database,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    storage: object,
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(a_dagster_home(tmp_path, storage)))
    assert dagster_environment(database)["DAGSTER_HOME"] == str(ROOT)
    assert f"DAGSTER_HOME={tmp_path} is of another project" in caplog.text


@pytest.mark.parametrize("content", [None, b"\xff", b"[unclosed", b"- a list"])
def test_a_dagster_home_that_cannot_be_read_does_not_count(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None
) -> None:
    if content is not None:
        (tmp_path / "dagster.yaml").write_bytes(content)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    assert dagster_environment(database)["DAGSTER_HOME"] == str(ROOT)


@pytest.mark.usefixtures("instance")
def test_dagster_notes_a_backfill_after_a_hundred_runs_or_as_it_was_told(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CHUNK, "")
    for name, value in dagster_environment(database).items():
        monkeypatch.setenv(name, value)
    assert get_asset_backfill_run_chunk_size() == 100  # type: ignore[no-untyped-call]
    monkeypatch.setenv(CHUNK, "7")
    assert dagster_environment(database)[CHUNK] == "7"
