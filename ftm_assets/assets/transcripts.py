"""Asset `transcripts`: the calls of a quarter, loaded from a transcript source."""

from dataclasses import asdict
from datetime import date

import dagster as dg
import sqlalchemy as sa
from pydantic import BaseModel, Field
from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_exponential

from ftm_assets.analysis.transcripts import EARNINGS_CALLS
from ftm_assets.assets.metadata import OWNERS, Materialized, column_schema, markdown_table
from ftm_assets.errors import FtmError
from ftm_assets.partitions import FIRM, quarters
from ftm_assets.settings import read_settings
from ftm_assets.sources.transcript_source import open_source
from ftm_assets.storage.maintain.search_index import drop_index_for_bulk_write
from ftm_assets.storage.schema import tables
from ftm_assets.storage.server.database import Database
from ftm_assets.storage.write.calls import Ingested, create_quarter, ingest

N_REJECTS_SHOWN = 20


class NoSource(FtmError):
    """No transcript source is set."""

    def __init__(self) -> None:
        super().__init__(
            "no transcript source: set `source` in the launchpad or FTM_SOURCE in the environment, or use: ftm ingest"
        )


class TranscriptSettings(BaseModel, frozen=True):
    """The source of the calls, and which versions are modelled."""

    source: str | None = Field(None, description="CSV file, s3://bucket/prefix, or module:attribute of your own source")
    columns: dict[str, str] = Field({}, description="our column name -> the name in the file, if they differ")
    event_types: list[str] = Field([EARNINGS_CALLS], description="values of keydeveventtypename that are modelled")
    as_of: str | None = Field(
        None, description="YYYY-MM-DD: model the versions known on that day; later calls are left out"
    )


class TranscriptsConfig(TranscriptSettings, dg.Config):
    """Launchpad form of `TranscriptSettings`."""


@dg.asset(
    partitions_def=quarters,
    io_manager_key="pgvector",
    owners=OWNERS,
    kinds={"csv", "postgres"},
    code_version="2",
    metadata={"dagster/column_schema": column_schema(tables.Component)},
)
def transcripts(
    context: dg.AssetExecutionContext, config: TranscriptsConfig, database: dg.ResourceParam[Database]
) -> Materialized:
    """Calls of the quarter, by calendar date, one row for each speaker's turn; registers the firms of the calls.

    Loading a source again replaces only calls that changed. Calls that are missing in the source are kept.
    """
    ingested = load_quarter(database, context.partition_key, config)
    # All keys, not only new ones: a run that died after its commit is completed by the next.
    context.instance.add_dynamic_partitions(FIRM, list(ingested.firm_keys))
    return dg.MaterializeResult(
        data_version=dg.DataVersion(ingested.content_hash),
        metadata={
            "n_firms": len(ingested.firm_keys),
            "n_firms_changed": len(ingested.changed_firms),
            **asdict(ingested.counts),
            "warnings": dg.MetadataValue.json(list(ingested.warnings)),
            "rejects": markdown_table(
                ["row", "column", "value", "reason", "kept"],
                [(r.row_number, r.column, r.value, r.reason, r.kept) for r in ingested.rejects[:N_REJECTS_SHOWN]],
            ),
        },
    )


def load_quarter(database: Database, quarter: str, config: TranscriptSettings) -> Ingested:
    """Load a quarter from the configured source, all of it or nothing. raises: FtmError, which says what to fix"""
    spec = config.source or read_settings().source
    if spec is None:
        raise NoSource
    source = open_source(spec, columns=config.columns, event_types=config.event_types)
    as_of = _day(config.as_of)
    _create_quarter(database, quarter)
    # Decision 13: it writes by itself, because a quarter does not fit through a return value.
    with database.transaction() as connection:
        ingested = ingest(connection, quarter, source.read(quarter), source.name, as_of)
    drop_index_for_bulk_write(database, quarter, len(ingested.changed_firms))
    return ingested


def _day(as_of: str | None) -> date | None:
    try:
        return date.fromisoformat(as_of) if as_of else None
    except ValueError as error:
        raise FtmError(f"as_of {as_of!r} is not a date; write it as YYYY-MM-DD") from error


@retry(
    retry=retry_if_exception_type(sa.exc.OperationalError),
    wait=wait_exponential(max=30),
    stop=stop_after_attempt(6),
    reraise=True,
)
def _create_quarter(database: Database, quarter: str) -> None:
    with database.transaction() as connection:
        create_quarter(connection, quarter)
