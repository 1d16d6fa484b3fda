"""Dagster's Postgres storage on connections that stay open, without questions whose answer is known.

dagster-postgres opens a connection for every query, which is most of what a short run costs: a run of three assets asks
some hundred times. Each storage here keeps one connection and opens more only while threads ask at once. A connection
is tried first where it may have ended, so that a restart of the server costs one query, not the process. A pool
must not be shared with a forked child: open a `DagsterInstance` after the fork.

Every other query of a run asks the catalog whether some table or column is there. What was there once stays there.

The daemon reads all runs that are queued or begun once a second. Their rows rarely change, so a row is parsed once.
"""

import time
from collections.abc import Callable, Mapping
from functools import cached_property, lru_cache, wraps
from multiprocessing.connection import wait
from typing import Any, Self

import sqlalchemy as sa
from dagster import DagsterRun, DagsterRunStatus
from dagster._serdes import ConfigurableClassData, deserialize_value
from dagster_postgres import (
    DagsterPostgresStorage,
    PostgresEventLogStorage,
    PostgresRunStorage,
    PostgresScheduleStorage,
)
from dagster_postgres.utils import pg_url_from_config, set_pg_statement_timeout

from ftm_assets.launcher.leader_lock import PATIENCE

# Decision 47: a connection in use is not tried before each query.
_SURE_S = 1.0
# A quarter that waits, with some that have begun.
# Decision 109.
_N_RUNS = 4096


class _Pooled:
    postgres_url: str
    _engine: sa.Engine

    def keep_a_connection(self) -> None:
        self._engine.dispose()
        self._engine = sa.create_engine(
            self.postgres_url, isolation_level="AUTOCOMMIT", pool_size=1, max_overflow=-1, connect_args=PATIENCE
        )
        sa.event.listen(self._engine, "checkin", _mark_used)
        sa.event.listen(self._engine, "checkout", self._try_first)

    def _try_first(self, connection: Any, record: Any, _proxy: object) -> None:
        """SQLAlchemy's `pool_pre_ping`, but for connections that were just used and are still silent.

        To ask each time would be half of all round trips; a connection that the server ends is readable. Decision 47.
        """
        unused_s = time.monotonic() - record.info.get("used_at", 0.0)
        if unused_s > _SURE_S or wait([connection], timeout=0):
            try:
                self._engine.dialect.do_ping(connection)
            except self._engine.dialect.loaded_dbapi.Error as error:
                raise sa.exc.DisconnectionError from error

    def optimize_for_webserver(self, statement_timeout: int, pool_recycle: int, max_overflow: int) -> None:
        """Also end queries after `statement_timeout` ms; the pool serves the webserver as it is."""
        self.keep_a_connection()
        sa.event.listen(
            self._engine, "connect", lambda connection, _: set_pg_statement_timeout(connection, statement_timeout)
        )

    def dispose(self) -> None:
        super().dispose()  # type: ignore[misc]
        self._engine.dispose()

    @cached_property
    def known(self) -> set[tuple[str, ...]]:
        """Questions about the catalog that were answered with yes."""
        return set()


def _mark_used(_connection: object, record: Any) -> None:
    record.info["used_at"] = time.monotonic()


def _once(question: Callable[..., bool]) -> Callable[..., bool]:
    """The same method, which asks no more after a yes. A no may change: `dagster instance migrate` adds tables."""

    @wraps(question)
    def ask(storage: _Pooled, *of: str) -> bool:
        asked = (question.__name__, *of)
        if asked not in storage.known:
            if not question(storage, *of):
                return False
            storage.known.add(asked)
        return True

    return ask


@lru_cache(maxsize=_N_RUNS)
def _run_of(body: str) -> DagsterRun:
    """A run from its serialized form. Do not change its tags: the object is shared by all callers. Decision 109."""
    return deserialize_value(body, DagsterRun)


class _RunStorage(_Pooled, PostgresRunStorage):
    def _row_to_run(self, row: Any) -> DagsterRun:
        # As the original does it: the status of the row is that of the run, whatever the body says.
        return _run_of(row["run_body"]).with_status(DagsterRunStatus(row["status"]))

    has_backfill_id_column = _once(PostgresRunStorage.has_backfill_id_column)
    has_bulk_action_job_name_column = _once(PostgresRunStorage.has_bulk_action_job_name_column)
    has_bulk_actions_selector_cols = _once(PostgresRunStorage.has_bulk_actions_selector_cols)
    has_run_stats_index_cols = _once(PostgresRunStorage.has_run_stats_index_cols)


class _EventLogStorage(_Pooled, PostgresEventLogStorage):
    has_asset_key_col = _once(PostgresEventLogStorage.has_asset_key_col)
    has_table = _once(PostgresEventLogStorage.has_table)


class _ScheduleStorage(_Pooled, PostgresScheduleStorage):
    pass


class PooledPostgresStorage(DagsterPostgresStorage):
    """`DagsterPostgresStorage` with pooled connections; takes the same configuration in `dagster.yaml`."""

    def __init__(
        self, postgres_url: str, should_autocreate_tables: bool = True, inst_data: ConfigurableClassData | None = None
    ) -> None:
        self.postgres_url = postgres_url
        self.should_autocreate_tables = should_autocreate_tables
        self._inst_data = inst_data
        self._run_storage = _RunStorage(postgres_url, should_autocreate_tables)
        self._event_log_storage = _EventLogStorage(postgres_url, should_autocreate_tables)
        self._schedule_storage = _ScheduleStorage(postgres_url, should_autocreate_tables)
        for storage in (self._run_storage, self._event_log_storage, self._schedule_storage):
            storage.keep_a_connection()
        # Its own would open three storages without a pool.
        super(DagsterPostgresStorage, self).__init__()  # type: ignore[no-untyped-call]

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]) -> Self:
        """Called by Dagster with the block of `dagster.yaml`."""
        return cls(pg_url_from_config(config_value), config_value.get("should_autocreate_tables", True), inst_data)
