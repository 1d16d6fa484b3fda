import logging
import socket
from pathlib import Path

import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from ftm_assets.settings import BadSetting, Settings
from ftm_assets.storage.server.database import Database, DatabaseRefused, check_pgvector_version
from ftm_assets.storage.server.embedded import EmbeddedServer
from ftm_assets_tests.storage.sql import ask, at_once, one

PASSWORD = "hush-hush"


def at_url(url: str, dagster_url: str | None = None) -> Database:
    return Database(
        Settings(
            home=Path("/nowhere"),
            database_url=SecretStr(url),
            dagster_database_url=SecretStr(dagster_url) if dagster_url else None,
        )
    )


def drop_database(database: Database, name: str) -> None:
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'))


# Where it is


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (f"postgresql://ann:{PASSWORD}@db.example/ftm", "postgresql://ann:***@db.example/ftm"),
        (f"postgresql+psycopg://ann:{PASSWORD}@db.example/ftm", "postgresql://ann:***@db.example/ftm"),
        (f"postgres://ann:{PASSWORD}@db.example:5433/ftm", "postgresql://ann:***@db.example:5433/ftm"),
        (f"postgresql://db.example/ftm?user=ann&password={PASSWORD}", "postgresql://db.example/ftm?user=ann"),
        ("postgresql://db.example/ftm", "postgresql://db.example/ftm"),
    ],
)
def test_it_says_where_it_is_without_the_password(url: str, shown: str) -> None:
    assert at_url(url).location == shown
    assert repr(at_url(url)) == f"Database({shown})"
    assert PASSWORD not in repr(at_url(url).settings)


@pytest.mark.parametrize(
    "url",
    [
        f"ann:{PASSWORD}@db.example/ftm",
        f"mysql://ann:{PASSWORD}@db.example/ftm",
        f"postgresql://ann:@:{PASSWORD}@db.example:port/ftm",
        f"postgresql://db.example:{PASSWORD}/ftm",
        f"postgresql://ann:se@{PASSWORD}@db.example/ftm",
        f"postgresql://ann:[{PASSWORD}@db.example:port/ftm",
    ],
)
def test_what_is_no_postgres_url_is_refused_without_repeating_it(url: str) -> None:
    for use in (lambda: at_url(url).location, lambda: at_url(url).engine, at_url(url).dagster_url):
        with pytest.raises(BadSetting, match=r"FTM_DATABASE_URL .*postgresql://user:password@host:port") as refused:
            use()
        assert PASSWORD not in str(refused.value)
        assert refused.value.__context__ is None


@pytest.mark.parametrize("url", [None, ""])
def test_without_a_url_the_embedded_server_is_started_at_first_use(tmp_path: Path, url: str | None) -> None:
    database = Database(Settings(home=tmp_path, database_url=None if url is None else SecretStr(url)))
    assert repr(database) == f"Database(embedded in {tmp_path})"
    assert database.embedded == EmbeddedServer(tmp_path / "postgres")
    assert not (tmp_path / "postgres").exists()


def test_the_embedded_server_serves_both_databases(tmp_path: Path) -> None:
    database = Database(Settings(home=tmp_path))
    assert database.embedded is not None
    try:
        assert one(database, "SELECT count(*) FROM calls") == [0]
        database.engine.dispose()
        assert database.dagster_url() == database.embedded.url("dagster").replace("://", "+psycopg2://")
    finally:
        database.embedded.stop()


# Who is refused


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


def test_a_server_that_is_not_there_is_named_without_the_password() -> None:
    port = closed_port()
    database = at_url(f"postgresql://ann:{PASSWORD}@127.0.0.1:{port}/ftm")
    for use in (lambda: database.engine, database.dagster_url):
        with pytest.raises(
            DatabaseRefused, match=rf"postgresql://ann:\*\*\*@127\.0\.0\.1:{port}/.* refused: .*Check FTM_DATABASE_URL"
        ) as refused:
            use()
        assert PASSWORD not in f"{refused.value} {refused.value.__cause__}"


def test_a_host_that_nobody_knows_is_named() -> None:
    with pytest.raises(DatabaseRefused, match=r"ann:\*\*\*@nobody\.invalid/ftm refused: .*nobody\.invalid"):
        _ = at_url(f"postgresql://ann:{PASSWORD}@nobody.invalid/ftm").engine


def test_a_wrong_password_is_refused_without_repeating_it(server: EmbeddedServer) -> None:
    url = sa.make_url(server.url("postgres")).set(password=PASSWORD).render_as_string(hide_password=False)
    with pytest.raises(DatabaseRefused, match="password authentication failed") as refused:
        _ = at_url(url).engine
    assert PASSWORD not in str(refused.value)


def test_who_may_create_no_tables_is_told_so(database: Database) -> None:
    name = database.engine.url.database
    with database.transaction() as connection:
        connection.execute(sa.text(f"CREATE ROLE guest_{name} LOGIN PASSWORD '{PASSWORD}'"))
    try:
        own = sa.make_url(database.url()).set(username=f"guest_{name}", password=PASSWORD)
        with pytest.raises(DatabaseRefused, match="permission denied"):
            _ = at_url(own.set(database="postgres").render_as_string(hide_password=False)).engine
        with pytest.raises(DatabaseRefused, match="permission denied to create database"):
            _ = at_url(own.set(database="missing").render_as_string(hide_password=False)).engine
    finally:
        with database.transaction() as connection:
            connection.execute(sa.text(f"DROP ROLE guest_{name}"))


def test_a_schema_from_the_future_is_refused(database: Database) -> None:
    with database.transaction() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(DatabaseRefused, match=r"9999.*install the newest ftm_assets"):
        _ = at_url(database.url()).engine


@pytest.mark.parametrize(
    ("version", "verdict"),
    [
        (None, "the server has no pgvector"),
        ("0.7.4", "pgvector 0.7.4 lacks iterative scans; install 0.8.0 or newer"),
        ("0.8.0", "warns"),
        ("0.8.2", "warns"),
        ("0.8.3", None),
        ("0.8.5", None),
        ("0.10.0", None),
        ("1.0.0-dev", None),
    ],
)
def test_a_pgvector_that_cannot_do_it_is_refused_and_one_that_corrupts_is_warned_of(
    caplog: pytest.LogCaptureFixture, version: str | None, verdict: str | None
) -> None:
    with caplog.at_level(logging.WARNING):
        if verdict in (None, "warns"):
            check_pgvector_version(version)
        else:
            with pytest.raises(DatabaseRefused, match=verdict):
                check_pgvector_version(version)
    assert [str(version) in message for message in caplog.messages] == ([True] if verdict == "warns" else [])


# What is made when it is missing


def test_a_missing_database_is_created_and_migrated_whoever_comes_first(database: Database) -> None:
    name = f"{database.engine.url.database} new"
    url = sa.make_url(database.url()).set(database=name).render_as_string(hide_password=False)
    try:
        assert at_once(3, lambda: one(at_url(url), "SELECT count(*) FROM calls")) == [[0]] * 3
        assert one(database, f"SELECT 1 FROM pg_database WHERE datname = '{name}'") == [1]
    finally:
        drop_database(database, name)


def test_dagster_has_a_database_of_its_own_and_the_driver_it_can_use(database: Database) -> None:
    url = sa.make_url(database.url())
    named = url.set(database=f"{url.database}_dagster").render_as_string(hide_password=False)
    given = sa.make_url(at_url(database.url(), named).dagster_url())
    assert given == url.set(drivername="postgresql+psycopg2", database=f"{url.database}_dagster")
    with sa.create_engine(given, poolclass=sa.NullPool).connect() as connection:
        assert connection.scalar(sa.text("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")) == 0
    beside = sa.make_url(at_url(database.url()).dagster_url())
    try:
        assert (beside.host, beside.port, beside.database) == (url.host, url.port, "dagster")
    finally:
        drop_database(database, "dagster")


# How it is used


def test_a_transaction_is_kept_whole_or_not_at_all(database: Database) -> None:
    insert = sa.text("INSERT INTO quarters VALUES ('2021Q4'), ('2022Q1')")
    with pytest.raises(KeyError), database.transaction() as connection:
        connection.execute(insert)
        raise KeyError
    assert ask(database, "SELECT quarter FROM quarters") == []
    with database.transaction() as connection:
        connection.execute(insert)
    assert one(database, "SELECT quarter FROM quarters ORDER BY 1") == ["2021Q4", "2022Q1"]


def test_a_connection_that_was_cut_is_replaced(database: Database) -> None:
    mine = one(database, "SELECT pg_backend_pid()")
    with database.transaction() as one_connection, database.transaction() as other:
        pids = [connection.scalar(sa.text("SELECT pg_backend_pid()")) for connection in (one_connection, other)]
    assert mine[0] in pids
    killer = at_url(database.url())
    assert all(one(killer, f"SELECT pg_terminate_backend({pid}, 5000)")[0] for pid in pids)
    killer.engine.dispose()
    assert one(database, "SELECT 1") == [1]


@pytest.mark.parametrize("zone", ["America/New_York", "Asia/Kolkata"])
def test_every_connection_counts_time_in_utc(database: Database, zone: str) -> None:
    with database.transaction() as connection:
        connection.execute(sa.text(f"ALTER DATABASE {database.engine.url.database} SET timezone = '{zone}'"))
    database.engine.dispose()
    assert one(database, "SHOW timezone") == ["UTC"]
    with pytest.raises(KeyError), database.transaction():
        raise KeyError
    assert one(database, "SHOW timezone") == ["UTC"]
