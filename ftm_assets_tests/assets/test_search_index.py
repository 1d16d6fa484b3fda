from collections.abc import Iterator

import dagster as dg
import pytest

from ftm_assets.assets.search_index import throttled
from ftm_assets.assets.sensors import published_quarters
from ftm_assets.definitions import build_definitions
from ftm_assets.storage.maintain.search_index import BuildProgress, drop_search_index
from ftm_assets.storage.read.search_index import Level, search_index_ready
from ftm_assets.storage.server.database import Database
from ftm_assets_tests.fakes import HashEncoder
from ftm_assets_tests.storage.builders import firms, put_themes, themes_of
from ftm_assets_tests.storage.sql import QUARTER


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def build(database: Database, instance: dg.DagsterInstance) -> dict[str, object]:
    """Metadata of the run that builds the quarter's index."""
    job = build_definitions(database, HashEncoder()).resolve_job_def("quarter_index")
    result = job.execute_in_process(instance=instance, partition_key=QUARTER)
    [told] = result.asset_materializations_for_node("search_index")
    return {name: entry.value for name, entry in told.metadata.items()}


def asked(database: Database, instance: dg.DagsterInstance) -> list[str | None]:
    """Run keys that the sensor asks for now."""
    context = dg.build_sensor_context(
        instance=instance,
        resources={"database": database},
        repository_def=build_definitions(database, HashEncoder()).get_repository_def(),
    )
    requests = published_quarters.evaluate_tick(context).run_requests or []
    assert all(request.partition_key == QUARTER for request in requests)
    return [request.run_key for request in requests]


def test_a_run_builds_what_is_missing_and_tells_what_it_took(database: Database, instance: dg.DagsterInstance) -> None:
    firms(database, 7, 8)
    put_themes(database, themes_of(database))
    first, again = build(database, instance), build(database, instance)
    assert first["built"] == ["themes", "topics", "sentences"]
    assert first["rows"] == 2 + 4 + 12
    assert "| sentences | 12 |" in str(first["indexes"])
    assert again["built"] == [] and again["seconds"] == 0
    with database.transaction() as connection:
        assert search_index_ready(connection, QUARTER)


def test_the_sensor_asks_for_the_index_once_the_themes_are_current(
    database: Database, instance: dg.DagsterInstance
) -> None:
    firms(database, 7, 8)
    assert asked(database, instance) == []
    put_themes(database, themes_of(database))
    first = asked(database, instance)
    assert len(first) == 1
    assert asked(database, instance) == first, "Dagster starts a key once, so a build that failed is not tried for ever"

    of_a_person = instance.create_run_for_job(
        build_definitions(database, HashEncoder()).resolve_job_def("quarter_index"),
        tags={"dagster/partition": QUARTER},
        status=dg.DagsterRunStatus.STARTED,
    )
    assert asked(database, instance) == [], "one is enough"
    instance.report_run_failed(of_a_person)
    build(database, instance)
    assert asked(database, instance) == []

    with database.transaction() as connection:
        drop_search_index(connection, QUARTER)
    [again] = asked(database, instance)
    assert again not in first
    firms(database, 9)
    assert asked(database, instance) == [], "the themes come first"


def test_a_log_tells_of_each_phase_at_once_and_of_progress_now_and_then() -> None:
    said: list[str] = []
    tell = throttled(said.append, every_s=60)
    for phase, n_done in (("loading", 10), ("loading", 20), ("checking", 30)):
        tell(BuildProgress(Level.sentences, phase, n_done, 40, None))
    tell(BuildProgress(Level.sentences, "checking", 40, 40, 123))
    assert said == ["sentences: loading, 10 of 40 rows (25%)", "sentences: checking, 30 of 40 rows (75%)"]
