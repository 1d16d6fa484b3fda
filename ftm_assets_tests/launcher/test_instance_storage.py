import os

import dagster as dg
import psycopg
import sqlalchemy as sa

from ftm_assets.storage.server.database import Database


def each_connection(database: Database, what: str) -> list[tuple[object, ...]]:
    """`what` of each server process that serves Dagster's database."""
    name = sa.make_url(os.environ["FTM_DAGSTER_URL"]).database
    with psycopg.connect(database.url()) as connection:
        return connection.execute(f"SELECT {what} FROM pg_stat_activity WHERE datname = '{name}'").fetchall()


def test_many_questions_take_one_connection_each_of_runs_and_events(
    instance: dg.DagsterInstance, database: Database
) -> None:
    for _ in range(20):
        instance.get_runs_count()
        instance.get_materialized_partitions(dg.AssetKey("transcripts"))
    assert len(each_connection(database, "pid")) == 2


def test_a_server_that_ends_all_connections_is_asked_again(instance: dg.DagsterInstance, database: Database) -> None:
    instance.add_run(dg.DagsterRun(job_name="job"))
    assert each_connection(database, "pg_terminate_backend(pid)") == [(True,)]
    assert instance.get_runs_count() == 1


def test_the_webserver_keeps_its_limit_on_a_query(instance: dg.DagsterInstance) -> None:
    instance.optimize_for_webserver(statement_timeout=4321, pool_recycle=3600, max_overflow=20)
    with instance.run_storage.connect() as connection:  # type: ignore[attr-defined]
        assert connection.execute(sa.text("SHOW statement_timeout")).scalar() == "4321ms"


def test_an_instance_that_is_closed_holds_no_connection(instance: dg.DagsterInstance, database: Database) -> None:
    with dg.DagsterInstance.get() as other:
        other.get_runs_count()
        other.get_materialized_partitions(dg.AssetKey("transcripts"))
    assert each_connection(database, "pid") == []


def test_what_is_known_of_the_catalog_is_not_asked_again_and_a_connection_in_use_not_tried(
    instance: dg.DagsterInstance,
) -> None:
    instance.add_run(dg.DagsterRun(job_name="job"))
    instance.add_dynamic_partitions("firm", ["ACME-7"])
    with dg.DagsterInstance.get() as fresh:
        asked: list[str] = []
        for storage in (fresh.run_storage, fresh.event_log_storage):
            engine = storage._engine  # type: ignore[union-attr]
            sa.event.listen(
                engine,
                "before_cursor_execute",
                lambda _connection, _cursor, statement, *_: asked.append(statement),
            )

        def ask() -> list[str]:
            asked.clear()
            assert fresh.has_dynamic_partition("firm", "ACME-7")
            assert len(fresh.get_runs()) == 1
            return list(asked)

        assert any("pg_catalog" in statement for statement in ask())
        assert len(ask()) == 2, "the two questions themselves"


def test_a_run_is_parsed_once_and_again_after_each_change(instance: dg.DagsterInstance) -> None:
    run_id = instance.add_run(dg.DagsterRun(job_name="job", status=dg.DagsterRunStatus.STARTED)).run_id

    def read() -> dg.DagsterRun:
        run = instance.get_run_by_id(run_id)
        assert run is not None
        return run

    first = read()
    assert first.tags is read().tags
    instance.add_run_tags(run_id, {"colour": "red"})
    assert read().tags == {"colour": "red"}
    assert first.tags == {}
    instance.report_run_canceled(read())
    assert read().status is dg.DagsterRunStatus.CANCELED
    assert first.status is dg.DagsterRunStatus.STARTED
