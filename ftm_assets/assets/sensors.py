"""What starts by itself."""

from collections.abc import Iterator

import dagster as dg

from ftm_assets.assets.jobs import quarter_themes
from ftm_assets.partitions import quarters
from ftm_assets.storage.database import Database
from ftm_assets.storage.queries import quarter_progress, quarters_with_calls


@dg.sensor(
    job=quarter_themes,
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Starts the themes of a quarter once all its expected firms are complete.",
)
def complete_quarters(database: dg.ResourceParam[Database]) -> Iterator[dg.RunRequest | dg.SkipReason]:
    """One run for each complete set of inputs: the run key is their hash, so that a failed set is not tried forever."""
    shown = set(quarters.get_partition_keys())
    with database.transaction() as connection:
        states = [quarter_progress(connection, q) for q in quarters_with_calls(connection) if q in shown]
    due = [state for state in states if not state.firms_to_do and not state.themes.current]
    for state in due:
        yield dg.RunRequest(run_key=f"{state.quarter}:{state.inputs_hash}", partition_key=state.quarter)
    if not due:
        waiting = ", ".join(f"{s.quarter} ({len(s.firms_to_do)} firms to do)" for s in states if s.firms_to_do)
        yield dg.SkipReason(f"waiting for {waiting}" if waiting else "all themes are current")
