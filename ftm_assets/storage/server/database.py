"""The connection to Postgres: an embedded server unless a URL names another, migrated before first use."""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import psycopg
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from pgvector.psycopg import register_vector
from sqlalchemy.engine import Connection, Engine

from ftm_assets.errors import FtmError
from ftm_assets.settings import Settings, parse_url, with_database
from ftm_assets.storage.server.advisory_locks import Lock, acquire, release
from ftm_assets.storage.server.embedded import EmbeddedServer

_log = logging.getLogger(__name__)
# How long a migration waits for a table that others use.
LOCK_TIMEOUT_S = 60


class DatabaseRefused(FtmError):
    """The database cannot be reached or is not one we can use."""


@dataclass(frozen=True)
class Database:
    """One Postgres database. Building it opens nothing; the first use starts, creates and migrates what is missing."""

    settings: Settings

    def __repr__(self) -> str:
        return f"Database({self.location})"

    @property
    def embedded(self) -> EmbeddedServer | None:
        """The server below `FTM_HOME`, or None where `FTM_DATABASE_URL` names another."""
        return None if self.settings.database_url else EmbeddedServer(self.settings.home / "postgres")

    @property
    def location(self) -> str:
        """Where it is, without the password."""
        if not self.settings.database_url:
            return f"embedded in {self.settings.home}"
        return _shown(self.settings.database_url.get_secret_value())

    def url(self) -> str:
        """`postgresql://user:password@host:port/database`; a secret. Starts the embedded server if need be."""
        if self.settings.database_url:
            return self.settings.database_url.get_secret_value()
        server = EmbeddedServer(self.settings.home / "postgres")
        server.start()
        return server.url("ftm")

    def keep_up(self) -> None:
        """Start the embedded server again if it has died. Does nothing for a server that `FTM_DATABASE_URL` names."""
        if self.embedded is not None:
            self.embedded.start()

    def dagster_url(self) -> str:
        """The URL of Dagster's own database, in the form that dagster-postgres reads; created if missing."""
        named = self.settings.dagster_database_url
        url = named.get_secret_value() if named else with_database(self.url(), "dagster")
        _create_database(url)
        return parse_url(url).set(drivername="postgresql+psycopg2").render_as_string(hide_password=False)

    @cached_property
    def engine(self) -> Engine:
        """An engine on the migrated database. Each process has its own; a fork must not inherit it."""
        url = self.url()
        _create_database(url)
        engine = sa.create_engine(_with_driver(url), pool_pre_ping=True, pool_size=2)
        try:
            with engine.connect() as connection:
                migrate(connection)
        except (sa.exc.OperationalError, sa.exc.ProgrammingError) as error:
            raise _refused(url, error) from error
        engine.dispose()
        sa.event.listen(engine, "connect", _prepare)
        return engine

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """A connection whose work is committed at the end of the block, or undone if the block raises."""
        with self.engine.begin() as connection:
            yield connection


def migrate(connection: Connection) -> None:
    """Upgrade the database to the newest schema; does nothing if it has it.

    raises: DatabaseRefused if pgvector is missing or older than 0.8.0, a newer version of ours migrated further, or
            others use the tables for longer than LOCK_TIMEOUT_S
    """
    _check_server(connection)
    acquire(connection, Lock.MIGRATION)
    try:
        # Who waits for a table makes everyone after it wait, too.
        connection.execute(sa.text(f"SET lock_timeout = '{LOCK_TIMEOUT_S}s'"))
        connection.commit()
        config = Config()
        config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        connection.commit()
    except CommandError as error:
        raise DatabaseRefused(f"the schema is not one of ours ({error}); install the newest ftm_assets") from error
    except sa.exc.OperationalError as error:
        if isinstance(error.orig, psycopg.errors.LockNotAvailable):
            raise DatabaseRefused(
                "its schema is of an older version and others are using the tables; stop `ftm up`, workers and open "
                "transactions, then repeat the command"
            ) from error
        raise
    finally:
        connection.rollback()
        connection.execute(sa.text("RESET lock_timeout"))
        release(connection, Lock.MIGRATION)
        connection.commit()


def _check_server(connection: Connection) -> None:
    number: int = connection.execute(sa.text("SELECT current_setting('server_version_num')::int")).scalar_one()
    if number < 150_000:
        raise DatabaseRefused(f"PostgreSQL {number // 10_000} is too old; use 15 or newer, or the embedded server")
    version = connection.scalar(
        sa.text(
            "SELECT coalesce(installed_version, default_version) FROM pg_available_extensions WHERE name = 'vector'"
        )
    )
    check_pgvector_version(version)


def check_pgvector_version(version: str | None) -> None:
    """Refuse a server without pgvector or with one before 0.8.0; warn about the releases that corrupt indexes.

    raises: DatabaseRefused
    """
    if version is None:
        raise DatabaseRefused("the server has no pgvector; install the package postgresql-NN-pgvector (0.8.0 or newer)")
    found = tuple(int(part) for part in re.findall(r"\d+", version))
    # Decision 24: 0.8.0 brings iterative scans.
    if found < (0, 8, 0):
        raise DatabaseRefused(
            f"pgvector {version} lacks iterative scans; install 0.8.0 or newer, then run ALTER EXTENSION vector UPDATE"
        )
    if found < (0, 8, 3):
        _log.warning(
            "pgvector %s can overflow a buffer in parallel index builds and corrupt an index; "
            "update to 0.8.3 or newer before building vector indexes.",
            version,
        )


def _prepare(driver: Any, _: object) -> None:
    register_vector(driver)
    # Days are counted, and times are hashed, as UTC, whatever the server's own zone is.
    driver.execute("SET TIME ZONE 'UTC'")
    driver.commit()


def _create_database(url: str) -> None:
    target = _with_driver(url)
    try:
        with sa.create_engine(target, poolclass=sa.NullPool).connect():
            return
    except sa.exc.OperationalError as error:
        if "does not exist" not in str(error) or target.database is None:
            raise _refused(url, error) from error
    admin = sa.create_engine(
        _with_driver(with_database(url, "postgres")), poolclass=sa.NullPool, isolation_level="AUTOCOMMIT"
    )
    try:
        with admin.connect() as connection:
            name = connection.dialect.identifier_preparer.quote(target.database)
            connection.execute(sa.text(f"CREATE DATABASE {name}"))
    except sa.exc.DBAPIError as error:
        # Two processes may create it at once; the second finds it there.
        if "already exists" not in str(error):
            raise _refused(url, error) from error


def _with_driver(url: str) -> sa.URL:
    return parse_url(url).set(drivername="postgresql+psycopg")


def _shown(url: str) -> str:
    shown = parse_url(url).set(drivername="postgresql").difference_update_query(["password", "sslpassword"])
    return shown.render_as_string(hide_password=True)


def _refused(url: str, error: sa.exc.DBAPIError) -> DatabaseRefused:
    reason = str(error.orig).strip().split("\n")[0]
    return DatabaseRefused(
        f"{_shown(url)} refused: {reason}. Check FTM_DATABASE_URL, or unset it to use the embedded server."
    )
