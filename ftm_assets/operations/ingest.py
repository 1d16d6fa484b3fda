"""Load quarters from a transcript source, each in a run of its own in this process."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import cast

import dagster as dg

from ftm_assets.operations.runs import check_quarter_in_window, exclusive, execute
from ftm_assets.storage.server.database import Database
from ftm_assets.storage.write.upsert_plan import IngestCounts


@dataclass(frozen=True, kw_only=True)
class QuarterIngest(IngestCounts):
    """The counts that `transcripts` of a quarter reported."""

    quarter: str
    n_firms: int
    n_firms_changed: int
    warnings: tuple[str, ...]


def ingest_quarters(
    defs: dg.Definitions,
    instance: dg.DagsterInstance,
    database: Database,
    quarters: Sequence[str],
    config: Mapping[str, object],
) -> Iterator[QuarterIngest]:
    """Materialize `transcripts` of each quarter; quarters done before a failure stay.

    raises: QuarterOutsideWindow before anything is loaded, AlreadyRunning, KeyboardInterrupt, and whatever the asset
            raises
    """
    for quarter in quarters:
        check_quarter_in_window(quarter)
    run_config = {
        "ops": {"transcripts": {"config": dict(config)}},
        # What the asset raises comes out of here. Dagster's console would print it before, with its own stack.
        "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
    }
    for quarter in quarters:
        command = f"ingest -q {quarter}"
        with exclusive(instance, database, command):
            result = execute(defs, instance, "ingest_quarter", quarter, command, run_config)
        metadata = result.asset_materializations_for_node("transcripts")[0].metadata
        counts = {f.name: cast(int, metadata[f.name].value) for f in fields(QuarterIngest) if f.name.startswith("n_")}
        warnings = tuple(cast(list[str], metadata["warnings"].value))
        yield QuarterIngest(quarter=quarter, warnings=warnings, **counts)
