"""Dagster's Postgres storage on connections that stay open.

dagster-postgres opens a connection for every query, which is most of what a short run costs: a run of three assets asks
some hundred times. Each storage here keeps one connection and opens more only while threads ask at once. A connection
is tried before it is used, so that a restart of the server costs one query, not the process. A pool must not be shared
with a forked child: open a `DagsterInstance` after the fork.
"""

from collections.abc import Mapping
from typing import Any, Self

import sqlalchemy as sa
from dagster._serdes import ConfigurableClassData
from dagster_postgres import (
    DagsterPostgresStorage,
    PostgresEventLogStorage,
    PostgresRunStorage,
    PostgresScheduleStorage,
)
from dagster_postgres.utils import pg_url_from_config, set_pg_statement_timeout


class _Pooled:
    postgres_url: str
    _engine: sa.Engine

    def keep_a_connection(self) -> None:
        self._engine.dispose()
        self._engine = sa.create_engine(
            self.postgres_url, isolation_level="AUTOCOMMIT", pool_size=1, max_overflow=-1, pool_pre_ping=True
        )

    def optimize_for_webserver(self, statement_timeout: int, pool_recycle: int, max_overflow: int) -> None:
        """Also end queries after `statement_timeout` ms; the pool serves the webserver as it is."""
        self.keep_a_connection()
        sa.event.listen(
            self._engine, "connect", lambda connection, _: set_pg_statement_timeout(connection, statement_timeout)
        )

    def dispose(self) -> None:
        super().dispose()  # type: ignore[misc]
        self._engine.dispose()


class _RunStorage(_Pooled, PostgresRunStorage):
    pass


class _EventLogStorage(_Pooled, PostgresEventLogStorage):
    pass


class _ScheduleStorage(_Pooled, PostgresScheduleStorage):
    pass


class PooledPostgresStorage(DagsterPostgresStorage):
    """`DagsterPostgresStorage` with pooled connections; takes the same configuration in `dagster.yaml`."""

    def __init__(
        self, postgres_url: str, should_autocreate_tables: bool = True, inst_data: ConfigurableClassData | None = None
    ) -> None:
        super().__init__(postgres_url, should_autocreate_tables, inst_data)
        self._run_storage = _RunStorage(postgres_url, should_autocreate_tables)
        self._event_log_storage = _EventLogStorage(postgres_url, should_autocreate_tables)
        self._schedule_storage = _ScheduleStorage(postgres_url, should_autocreate_tables)
        for storage in (self._run_storage, self._event_log_storage, self._schedule_storage):
            storage.keep_a_connection()

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]) -> Self:
        """Called by Dagster with the block of `dagster.yaml`."""
        return cls(pg_url_from_config(config_value), config_value.get("should_autocreate_tables", True), inst_data)
