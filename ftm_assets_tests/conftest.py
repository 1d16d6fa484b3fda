"""One real Postgres for the whole run; each test that asks for `database` gets a migrated one of its own."""

import itertools
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import psycopg
import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from ftm_assets.analysis.communities import CommunityModel
from ftm_assets.definitions import build_definitions
from ftm_assets.operations.instance import dagster_environment
from ftm_assets.settings import Settings, read_settings
from ftm_assets.storage.server.database import Database
from ftm_assets.storage.server.embedded import EmbeddedServer
from ftm_assets_tests.buckets import Bucket, Gate
from ftm_assets_tests.fakes import FirstWordModel, HashEncoder
from ftm_assets_tests.six_firms import six_firms

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "sample" / "earnings_calls.csv"
REAL_DATA = ROOT.parent / "shared" / "data"

_numbers = itertools.count()


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    of_model = ["XAI_API_KEY", *(name for name in os.environ if name.startswith("FTM_LLM_"))]
    of_aws = [name for name in os.environ if name.startswith("AWS_")]
    for name in (
        "FTM_DATABASE_URL",
        "FTM_DAGSTER_DATABASE_URL",
        "FTM_SOURCE",
        "FTM_ENCODER",
        "FTM_PRECISION",
        "DAGSTER_HOME",
        *of_model,
        *of_aws,
    ):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "no_aws_settings"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("FTM_HOME", str(tmp_path / ".ftm"))


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """A running embedded server, shared by all tests."""
    server = EmbeddedServer(tmp_path_factory.mktemp("postgres"))
    server.start()
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        # Nobody pulls the plug on a test database.
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            connection.execute(f"ALTER SYSTEM SET {setting} = off")
        # To make and to drop a database, Postgres looks through all of its buffers. Of the gigabytes that it has on a
        # big machine, that takes more than most tests.
        connection.execute("ALTER SYSTEM SET shared_buffers = '128MB'")
    server.stop()
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def template(server: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Name of a migrated database that others are copied from."""
    settings = Settings(home=tmp_path_factory.mktemp("template"), database_url=SecretStr(server.url("ftm_template")))
    Database(settings).engine.dispose()
    return "ftm_template"


@pytest.fixture
def database(request: pytest.FixtureRequest, server: EmbeddedServer, tmp_path: Path) -> Iterator[Database]:
    """A migrated database of one's own: empty, or what `done` says."""
    template = request.getfixturevalue(_template_of(request))
    name = f"test_{next(_numbers)}"
    admin = sa.create_engine(
        server.url("postgres").replace("postgresql://", "postgresql+psycopg://"),
        isolation_level="AUTOCOMMIT",
        poolclass=sa.NullPool,
    )
    with admin.connect() as connection:
        connection.execute(sa.text(copy_of(template, name)))
    database = Database(Settings(home=tmp_path / ".ftm", database_url=SecretStr(server.url(name))))
    yield database
    database.engine.dispose()
    with admin.connect() as connection:
        connection.execute(sa.text(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))
        connection.execute(sa.text(f"DROP DATABASE IF EXISTS {name}_dagster WITH (FORCE)"))


def copy_of(template: str, name: str) -> str:
    """The statement that makes a database like another one, in the way that is the fastest for small ones."""
    return f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY = FILE_COPY"


@pytest.fixture(scope="session")
def store() -> Iterator[tuple[str, int]]:
    """Address of a moto server, shared by all tests."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    yield server.get_host_and_port()
    server.stop()


@pytest.fixture
def bucket(store: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """An empty bucket behind a gate, which commands find in the environment."""
    import boto3

    gate = Gate(store)
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
    for name, value in keys.items():
        monkeypatch.setenv(name, value)
    with gate.running() as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        client = boto3.session.Session().client("s3")
        name = f"calls-{next(_numbers)}"
        client.create_bucket(Bucket=name)
        yield Bucket(gate, client, name)


@pytest.fixture
def real_calls() -> Path:
    """Eight real calls of 2021Q4; skips where they are absent."""
    return _real("earnings_calls_small.csv.gz")


def _real(name: str) -> Path:
    path = REAL_DATA / name
    if not path.exists():
        pytest.skip(f"real calls are not here: {path}")
    return path


@pytest.fixture(scope="session")
def dagster_template(server: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Name of a database with Dagster's tables that others are copied from."""
    home, name = tmp_path_factory.mktemp("dagster"), "dagster_template"
    url = SecretStr(server.url(name))
    settings = Settings(home=home, database_url=url, dagster_database_url=url)
    with pytest.MonkeyPatch.context() as patch:
        for variable, value in dagster_environment(Database(settings)).items():
            patch.setenv(variable, value)
        with dg.DagsterInstance.get() as instance:
            instance.get_runs(limit=1)
    return name


def _template_of(request: pytest.FixtureRequest) -> str:
    return "complete_template" if "done" in request.fixturenames else "template"


@pytest.fixture(scope="session")
def complete_template(
    server: EmbeddedServer, template: str, dagster_template: str, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """Name of a database with six firms ingested and their quarter brought up to date by the commands themselves.

    Dagster's is beside it, named `..._dagster`.
    """
    from ftm_assets_tests.cli.test_main import ftm

    name, home = "complete_template", tmp_path_factory.mktemp("complete")
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        connection.execute(copy_of(template, name))
        connection.execute(copy_of(dagster_template, f"{name}_dagster"))
    database = Database(Settings(home=home, database_url=SecretStr(server.url(name))))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FTM_HOME", str(home))
        patch.setattr("ftm_assets.definitions.defs", build_definitions(database, HashEncoder()))
        _cluster_by_first_word(patch)
        with _instance(server.url(name), patch):
            ftm("ingest", six_firms(home / "calls.csv"))
            ftm("backfill", "2021Q4")
    database.engine.dispose()
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        # Who is connected to a database keeps it from being copied.
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname IN (%s, %s)",
            (name, f"{name}_dagster"),
        )
    return name


@pytest.fixture
def instance(
    request: pytest.FixtureRequest,
    server: EmbeddedServer,
    database: Database,
    dagster_template: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[dg.DagsterInstance]:
    """A real Dagster instance on Postgres, beside `database`, which commands find in the environment."""
    url, origin = database.url(), _template_of(request)
    template = dagster_template if origin == "template" else f"{request.getfixturevalue(origin)}_dagster"
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        connection.execute(copy_of(template, f"{url.rsplit('/')[-1]}_dagster"))
    with _instance(url, monkeypatch) as instance:
        yield instance


@contextmanager
def _instance(url: str, patch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    patch.setenv("FTM_DATABASE_URL", url)
    patch.setenv("FTM_DAGSTER_DATABASE_URL", f"{url}_dagster")
    for name, value in dagster_environment(Database(read_settings())).items():
        patch.setenv(name, value)
    with dg.DagsterInstance.get() as instance:
        yield instance


@pytest.fixture
def done(defs: dg.Definitions, instance: dg.DagsterInstance) -> None:
    """`database` and `instance` hold six firms and their quarter, complete; copied, because making them takes long."""


@pytest.fixture
def real_defs(database: Database, monkeypatch: pytest.MonkeyPatch) -> dg.Definitions:
    """The graph on `database` with an encoder that needs no model; commands use it too."""
    defs = build_definitions(database, HashEncoder())
    monkeypatch.setattr("ftm_assets.definitions.defs", defs)
    return defs


@pytest.fixture
def defs(real_defs: dg.Definitions, monkeypatch: pytest.MonkeyPatch) -> dg.Definitions:
    """`real_defs` with clusters by first word, which take no time and can be told in one's head."""
    _cluster_by_first_word(monkeypatch)
    return real_defs


def _cluster_by_first_word(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(CommunityModel, "fit_transform", FirstWordModel(n_keywords=3).fit_transform)
