from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
import sqlalchemy as sa

from ftm_assets.assets.sensors import complete_quarters, default_status
from ftm_assets.assets.transcripts import NoSource, TranscriptSettings, load_quarter
from ftm_assets.definitions import defs as shipped
from ftm_assets.errors import FtmError
from ftm_assets.operations.ingest import ingest_quarters
from ftm_assets.partitions import firm_quarter_key
from ftm_assets.settings import Settings
from ftm_assets.storage.maintain.deletion import drop_quarter
from ftm_assets.storage.schema import tables as t
from ftm_assets.storage.server.database import Database
from ftm_assets_tests.six_firms import six_firms

QUARTER = "2021Q4"
ASSETS = ("transcripts", "firm_sentences", "firm_topics", "topic_summaries", "cross_firm_themes")
THEMES = dg.AssetKey("cross_firm_themes")


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def loaded(defs: dg.Definitions, instance: dg.DagsterInstance, database: Database, tmp_path: Path) -> list[str]:
    """Keys of six firms, ingested."""
    ingest(defs, instance, database, six_firms(tmp_path / "calls.csv"))
    return list(instance.get_dynamic_partitions("firm"))


def ingest(defs: dg.Definitions, instance: dg.DagsterInstance, database: Database, source: Path) -> None:
    list(ingest_quarters(defs, instance, database, [QUARTER], {"source": str(source)}))


def checks_of(result: dg.ExecuteInProcessResult) -> dict[str, tuple[bool, dg.AssetCheckSeverity]]:
    return {e.check_name: (e.passed, e.severity) for e in result.get_asset_check_evaluations()}


def run(defs: dg.Definitions, instance: dg.DagsterInstance, job: str, partition: str) -> dg.ExecuteInProcessResult:
    return defs.resolve_job_def(job).execute_in_process(instance=instance, partition_key=partition)


def test_whoever_opens_the_lineage_reads_what_each_asset_is() -> None:
    for name in ASSETS:
        spec = shipped.resolve_asset_graph().get(dg.AssetKey(name))
        assert spec.description and spec.owners and spec.kinds and spec.code_version
        columns = spec.metadata["dagster/column_schema"].columns
        assert columns and all(column.description for column in columns), name


def test_each_asset_rests_on_the_one_before() -> None:
    graph = shipped.resolve_asset_graph()
    parents = {name: {key.to_user_string() for key in graph.get(dg.AssetKey(name)).parent_keys} for name in ASSETS}
    assert parents == {
        "transcripts": set(),
        "firm_sentences": {"transcripts"},
        "firm_topics": {"firm_sentences"},
        "topic_summaries": {"firm_topics", "firm_sentences"},
        "cross_firm_themes": {"topic_summaries"},
    }


def test_the_launchpad_offers_settings_within_their_bounds(
    defs: dg.Definitions, instance: dg.DagsterInstance, loaded: list[str]
) -> None:
    with pytest.raises(dg.DagsterInvalidConfigError):
        defs.resolve_job_def("firm_quarter").execute_in_process(
            instance=instance,
            partition_key=firm_quarter_key("ACME-7", QUARTER),
            run_config={"ops": {"firm_topics": {"config": {"min_topic_size": "many"}}}},
        )
    with pytest.raises(Exception, match="min_topic_size"):
        defs.resolve_job_def("firm_quarter").execute_in_process(
            instance=instance,
            partition_key=firm_quarter_key("ACME-7", QUARTER),
            run_config={"ops": {"firm_topics": {"config": {"min_topic_size": 1}}}},
        )


def test_settings_of_the_launchpad_are_recorded_with_what_they_made(
    defs: dg.Definitions, instance: dg.DagsterInstance, loaded: list[str], database: Database
) -> None:
    defs.resolve_job_def("firm_quarter").execute_in_process(
        instance=instance,
        partition_key=firm_quarter_key("ACME-7", QUARTER),
        run_config={"ops": {"firm_topics": {"config": {"min_topic_size": 9}}}},
    )
    with database.transaction() as connection:
        provenance = connection.scalar(
            sa.select(t.Materialization.provenance).where(t.Materialization.stage == "firm_topics")
        )
    assert provenance is not None
    assert (provenance["code"], provenance["settings"]["min_topic_size"]) == ("3", 9)


def test_firm_checks_tell_what_was_found(defs: dg.Definitions, instance: dg.DagsterInstance, loaded: list[str]) -> None:
    found = checks_of(run(defs, instance, "firm_quarter", firm_quarter_key("ACME-7", QUARTER)))
    assert found["every_sentence_embedded"] == (True, dg.AssetCheckSeverity.ERROR)
    assert found["outlier_share"] == (True, dg.AssetCheckSeverity.WARN)
    # Nobody but the keywords has written the summaries.
    assert found["every_topic_summarized"] == (False, dg.AssetCheckSeverity.WARN)


def test_themes_of_a_part_of_the_firms_pass_with_a_warning(
    defs: dg.Definitions, instance: dg.DagsterInstance, loaded: list[str]
) -> None:
    for key in loaded[1:]:
        run(defs, instance, "firm_quarter", firm_quarter_key(key, QUARTER))

    result = run(defs, instance, "quarter_themes", QUARTER)

    assert result.success
    found = checks_of(result)
    assert found["quarter_coverage"] == (False, dg.AssetCheckSeverity.WARN)
    assert found["theme_rules"][0] and found["themes_current"][0]
    told = result.asset_materializations_for_node("cross_firm_themes")[0].metadata
    assert (told["firms expected"].value, told["firms present"].value) == (6, 5)


def asked(defs: dg.Definitions, instance: dg.DagsterInstance, database: Database) -> list[str | None]:
    """Run keys that the sensor asks for now."""
    context = dg.build_sensor_context(
        instance=instance, resources={"database": database}, repository_def=defs.get_repository_def()
    )
    requests = complete_quarters.evaluate_tick(context).run_requests or []
    assert all(request.partition_key == QUARTER for request in requests)
    return [request.run_key for request in requests]


def run_firms(defs: dg.Definitions, instance: dg.DagsterInstance, *keys: str) -> None:
    for key in keys:
        run(defs, instance, "firm_quarter", firm_quarter_key(key, QUARTER))


def test_the_sensor_waits_for_the_last_firm_and_asks_once_for_each_set_of_summaries(
    defs: dg.Definitions, instance: dg.DagsterInstance, loaded: list[str], database: Database
) -> None:
    run_firms(defs, instance, *loaded[1:])
    assert asked(defs, instance, database) == []

    run_firms(defs, instance, loaded[0])
    first, second = asked(defs, instance, database), asked(defs, instance, database)
    assert len(first) == 1
    assert first == second, "Dagster starts a key once, so a set that failed is not tried for ever"

    of_a_person = instance.create_run_for_job(
        defs.resolve_job_def("quarter_themes"), tags={"dagster/partition": QUARTER}, status=dg.DagsterRunStatus.STARTED
    )
    assert asked(defs, instance, database) == [], "one is enough"
    instance.report_run_failed(of_a_person)
    assert asked(defs, instance, database) == first

    run(defs, instance, "quarter_themes", QUARTER)
    assert asked(defs, instance, database) == []


@pytest.mark.slow
def test_the_sensor_asks_again_for_summaries_that_came_back(
    defs: dg.Definitions, instance: dg.DagsterInstance, loaded: list[str], database: Database, tmp_path: Path
) -> None:
    keys: list[str | None] = []

    def complete(*firms: str) -> None:
        run_firms(defs, instance, *firms)
        keys.extend(asked(defs, instance, database))
        run(defs, instance, "quarter_themes", QUARTER)
        assert asked(defs, instance, database) == []

    complete(*loaded)
    for corrected in (True, False, True):
        ingest(defs, instance, database, six_firms(tmp_path / "again.csv", corrected=corrected))
        complete("NA-8")
    with database.transaction() as connection:
        drop_quarter(connection, QUARTER)
    ingest(defs, instance, database, six_firms(tmp_path / "again.csv", corrected=True))
    complete(*loaded)

    assert len(keys) == len(set(keys)) == 5


def test_the_sensor_says_what_it_waits_for(
    defs: dg.Definitions, instance: dg.DagsterInstance, loaded: list[str], database: Database
) -> None:
    def reason() -> str | None:
        context = dg.build_sensor_context(
            instance=instance, resources={"database": database}, repository_def=defs.get_repository_def()
        )
        return complete_quarters.evaluate_tick(context).skip_message

    run_firms(defs, instance, *loaded[1:])
    assert reason() == "waiting for 2021Q4 (1 firms to do)"
    run_firms(defs, instance, loaded[0])
    run(defs, instance, "quarter_themes", QUARTER)
    assert reason() == "all themes are current or being made"


def test_the_sensor_starts_nothing_that_costs_money_unless_told_to() -> None:
    assert default_status(Settings()) is dg.DefaultSensorStatus.RUNNING
    assert default_status(Settings(llm_model="paid-1")) is dg.DefaultSensorStatus.STOPPED


def test_data_versions_are_content_hashes(
    defs: dg.Definitions, instance: dg.DagsterInstance, loaded: list[str], database: Database
) -> None:
    run(defs, instance, "firm_quarter", firm_quarter_key("ACME-7", QUARTER))
    with database.transaction() as connection:
        stored = connection.scalar(
            sa.select(t.Materialization.content_hash).where(t.Materialization.stage == "firm_topics")
        )
    event = instance.get_latest_materialization_event(dg.AssetKey("firm_topics"))
    assert event is not None and event.asset_materialization is not None
    assert (event.asset_materialization.tags or {})["dagster/data_version"] == stored


def test_a_run_without_a_source_says_where_to_name_one(database: Database) -> None:
    with pytest.raises(NoSource, match="FTM_SOURCE"):
        load_quarter(database, QUARTER, TranscriptSettings())


def test_the_source_may_be_named_in_the_environment(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FTM_SOURCE", str(six_firms(tmp_path / "calls.csv")))
    assert load_quarter(database, QUARTER, TranscriptSettings()).counts.n_calls == 6


def test_a_date_that_is_none_is_named(database: Database, tmp_path: Path) -> None:
    config = TranscriptSettings(source=str(six_firms(tmp_path / "calls.csv")), as_of="last week")
    with pytest.raises(FtmError, match="as_of 'last week' is not a date; write it as YYYY-MM-DD"):
        load_quarter(database, QUARTER, config)
    with database.transaction() as connection:
        assert connection.scalar(sa.select(t.Quarter.quarter)) is None, "nothing was begun"
