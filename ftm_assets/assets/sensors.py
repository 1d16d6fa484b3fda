"""Sensors: they start a quarter's themes once all firms are complete, and its search index after the themes."""

from collections.abc import Iterator

import dagster as dg

from ftm_assets.analysis.themes import input_hash
from ftm_assets.assets.cross_firm_themes import cross_firm_themes
from ftm_assets.assets.jobs import index_in_work, quarter_index, quarter_themes, themes_in_work
from ftm_assets.assets.search_index import search_index
from ftm_assets.partitions import quarters
from ftm_assets.settings import Settings, read_settings
from ftm_assets.storage.read.search_index import search_index_ready
from ftm_assets.storage.read.theme_state import current_summaries, theme_counts
from ftm_assets.storage.server.database import Database


def default_status(settings: Settings) -> dg.DefaultSensorStatus:
    """Running, unless a language model describes the themes: only a person may start what costs money."""
    return dg.DefaultSensorStatus.STOPPED if settings.llm_model else dg.DefaultSensorStatus.RUNNING


@dg.sensor(
    job=quarter_themes,
    minimum_interval_seconds=30,
    default_status=default_status(read_settings()),
    description="Starts the themes of a quarter once all its expected firms are complete.",
)
def complete_quarters(
    context: dg.SensorEvaluationContext, database: dg.ResourceParam[Database]
) -> Iterator[dg.RunRequest | dg.SkipReason]:
    """One run for each complete set of inputs, so that a set that fails is not tried again and again.

    Dagster never starts a run key twice. The key names the inputs and the materialization before them. So a set that
    comes back after another one, or after the quarter was dropped, is new; a set that waits or has failed is not.
    """
    shown = set(quarters.get_partition_keys())
    with database.transaction() as connection:
        counts = [each for each in theme_counts(connection) if each.quarter in shown]
        due = {
            each.quarter: input_hash(current_summaries(connection, each.quarter))
            for each in counts
            if each.due and not themes_in_work(context.instance, each.quarter)
        }
    for quarter, inputs in due.items():
        # Decision 5: the hash alone would leave themes stale when a correction is taken back.
        run_key = f"{quarter}:{inputs}:{_last_materialization(context.instance, cross_firm_themes, quarter)}"
        yield dg.RunRequest(run_key=run_key, partition_key=quarter)
    if not due:
        waiting = ", ".join(f"{each.quarter} ({each.n_to_do} firms to do)" for each in counts if each.n_to_do)
        yield dg.SkipReason(f"waiting for {waiting}" if waiting else "all themes are current or being made")


@dg.sensor(
    job=quarter_index,
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Builds the search index of a quarter once its themes rest on all of its firms.",
)
def published_quarters(
    context: dg.SensorEvaluationContext, database: dg.ResourceParam[Database]
) -> Iterator[dg.RunRequest | dg.SkipReason]:
    """One run for each materialization of themes or index, so that a failed build is not tried again and again."""
    shown = set(quarters.get_partition_keys())
    with database.transaction() as connection:
        due = [
            each.quarter
            for each in theme_counts(connection)
            if each.quarter in shown and each.current and not search_index_ready(connection, each.quarter)
        ]
    for quarter in due:
        if not index_in_work(context.instance, quarter):
            made = [
                _last_materialization(context.instance, asset, quarter) for asset in (cross_firm_themes, search_index)
            ]
            yield dg.RunRequest(run_key=f"{quarter}:{made[0]}:{made[1]}", partition_key=quarter)
    if not due:
        yield dg.SkipReason("every quarter with current themes has its search index")


def _last_materialization(instance: dg.DagsterInstance, asset: dg.AssetsDefinition, quarter: str) -> int:
    """Number of the event of the asset's last materialization in the quarter, 0 before the first."""
    wanted = dg.AssetRecordsFilter(asset_key=asset.key, asset_partitions=[quarter])
    found = instance.fetch_materializations(wanted, limit=1).records
    return found[0].storage_id if found else 0
