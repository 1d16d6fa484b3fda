from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
import sqlalchemy as sa

from ftm_assets import runs
from ftm_assets.assets.sensors import complete_quarters
from ftm_assets.assets.transcripts import NoSource, TranscriptSettings, ingest_quarter
from ftm_assets.definitions import defs as shipped
from ftm_assets.errors import FtmError
from ftm_assets.partitions import firm_quarter_key
from ftm_assets.storage import tables as t
from ftm_assets.storage.database import Database
from ftm_assets_tests.sources import six_firms

QUARTER = "2021Q4"
ASSETS = ("transcripts", "firm_sentences", "firm_topics", "topic_summaries", "cross_firm_themes")
THEMES = dg.AssetKey("cross_firm_themes")


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def loaded(defs: dg.Definitions, instance: dg.DagsterInstance, tmp_path: Path) -> list[str]:
    """Keys of six firms, ingested."""
    list(runs.ingest_quarters(defs, instance, [QUARTER], {"source": str(six_firms(tmp_path / "calls.csv"))}))
    return list(instance.get_dynamic_partitions("firm"))


def checks_of(result: dg.ExecuteInProcessResult) -> dict[str, tuple[bool, dg.AssetCheckSeverity]]:
    return {e.check_name: (e.passed, e.severity) for e in result.get_asset_check_evaluations()}


def run(defs: dg.Definitions, instance: dg.DagsterInstance, job: str, partition: str) -> dg.ExecuteInProcessResult:
    return defs.resolve_job_def(job).execute_in_process(instance=instance, partition_key=partition)


def test_whoever_opens_the_lineage_reads_what_each_asset_is() -> None:
    for name in ASSETS:
        spec = shipped.resolve_asset_graph().get(dg.AssetKey(name))
        assert spec.description and spec.owners and spec.kinds and spec.code_version
        assert spec.metadata["dagster/column_schema"].columns


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
        versions = connection.scalar(sa.select(t.Stage.versions).where(t.Stage.stage == "firm_topics"))
    assert versions is not None
    assert (versions["code"], versions["settings"]["min_topic_size"]) == ("1", 9)


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


def test_the_sensor_waits_for_the_last_firm_and_asks_once_for_each_set_of_summaries(
    defs: dg.Definitions, instance: dg.DagsterInstance, loaded: list[str], database: Database
) -> None:
    def evaluated() -> list[dg.RunRequest]:
        context = dg.build_sensor_context(
            instance=instance, resources={"database": database}, repository_def=defs.get_repository_def()
        )
        return list(complete_quarters.evaluate_tick(context).run_requests or [])

    for key in loaded[1:]:
        run(defs, instance, "firm_quarter", firm_quarter_key(key, QUARTER))
    assert evaluated() == []

    run(defs, instance, "firm_quarter", firm_quarter_key(loaded[0], QUARTER))
    [first], [second] = evaluated(), evaluated()
    assert first.partition_key == QUARTER
    assert first.run_key == second.run_key

    run(defs, instance, "quarter_themes", QUARTER)
    assert evaluated() == []


def test_data_versions_are_content_hashes(
    defs: dg.Definitions, instance: dg.DagsterInstance, loaded: list[str], database: Database
) -> None:
    run(defs, instance, "firm_quarter", firm_quarter_key("ACME-7", QUARTER))
    with database.transaction() as connection:
        stored = connection.scalar(sa.select(t.Stage.content_hash).where(t.Stage.stage == "firm_topics"))
    event = instance.get_latest_materialization_event(dg.AssetKey("firm_topics"))
    assert event is not None and event.asset_materialization is not None
    assert (event.asset_materialization.tags or {})["dagster/data_version"] == stored


def test_a_run_without_a_source_says_where_to_name_one(database: Database) -> None:
    with pytest.raises(NoSource, match="FTM_SOURCE"):
        ingest_quarter(database, QUARTER, TranscriptSettings())


def test_the_source_may_be_named_in_the_environment(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FTM_SOURCE", str(six_firms(tmp_path / "calls.csv")))
    assert ingest_quarter(database, QUARTER, TranscriptSettings()).counts.n_calls == 6


def test_a_date_that_is_none_is_named(database: Database, tmp_path: Path) -> None:
    config = TranscriptSettings(source=str(six_firms(tmp_path / "calls.csv")), as_of="last week")
    with pytest.raises(FtmError, match="as_of 'last week' is not a date; write it as YYYY-MM-DD"):
        ingest_quarter(database, QUARTER, config)
