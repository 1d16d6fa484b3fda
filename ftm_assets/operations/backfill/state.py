"""Reads what is there of a quarter, from the rows and from Dagster's records of them."""

from dataclasses import replace

import dagster as dg

from ftm_assets.operations.backfill.plan import FIRM_ASSETS, BackfillOptions, BackfillState
from ftm_assets.operations.runs import check_quarter_in_window
from ftm_assets.partitions import firm_quarter_key
from ftm_assets.storage.read.ingested import archived
from ftm_assets.storage.read.queries import quarter_progress
from ftm_assets.storage.read.resolve import find_firm_in, find_quarter
from ftm_assets.storage.read.search_index import search_index_ready
from ftm_assets.storage.read.text_sources import firms_by_keywords, themes_by_keywords
from ftm_assets.storage.read.theme_state import theme_state
from ftm_assets.storage.server.database import Database
from ftm_assets.storage.stages.sentences import VectorsArchived
from ftm_assets.storage.write.calls import firm_keys


def resolve(database: Database, options: BackfillOptions) -> BackfillOptions:
    """The options with the quarter as it is written and firms by their keys, however the user named them.

    raises: NotFound, AmbiguousName, NoCall, VectorsArchived, QuarterOutsideWindow
    """
    with database.transaction() as connection:
        quarter = find_quarter(connection, options.quarter)
        firms = tuple(find_firm_in(connection, quarter, name).partition_key for name in options.firms)
        if options.needs_vectors and archived(connection, [quarter]):
            raise VectorsArchived(quarter)
    check_quarter_in_window(quarter)
    return replace(options, quarter=quarter, firms=firms)


def read_state(instance: dg.DagsterInstance, database: Database, quarter: str) -> BackfillState:
    """What is there of the quarter now; the caller, who follows the daemon, adds `running` and `themes_just_made`."""
    with database.transaction() as connection:
        expected = firm_keys(connection, quarter)
        behind = quarter_progress(connection, quarter).firms_to_do
        by_keywords = firms_by_keywords(connection, quarter)
    # A process killed between its commit and its event leaves rows that Dagster has no record of.
    recorded = set.intersection(*(instance.get_materialized_partitions(asset) for asset in FIRM_ASSETS))
    attempted = set().union(*(_attempted_since(instance, asset) for asset in FIRM_ASSETS))
    partitions = {key: firm_quarter_key(key, quarter) for key in expected}
    firms = BackfillState(
        expected=tuple(expected),
        missing_or_stale=frozenset(behind),
        failed=frozenset(key for key, partition in partitions.items() if partition in attempted),
        unrecorded=frozenset(key for key, partition in partitions.items() if partition not in recorded),
        by_keywords=tuple(by_keywords),
    )
    return read_themes_and_index(instance, database, quarter, firms)


def read_themes_and_index(
    instance: dg.DagsterInstance, database: Database, quarter: str, state: BackfillState
) -> BackfillState:
    """The state with the themes and the search index as they are now; firms are not read again."""
    with database.transaction() as connection:
        themes_current = theme_state(connection, quarter).current
        by_keywords = themes_by_keywords(connection, quarter) > 0
        index_ready = search_index_ready(connection, quarter)
    return replace(
        state,
        themes_current=themes_current and _is_recorded(instance, "cross_firm_themes", quarter),
        themes_by_keywords=by_keywords,
        index_ready=index_ready and _is_recorded(instance, "search_index", quarter),
    )


def _is_recorded(instance: dg.DagsterInstance, asset: str, quarter: str) -> bool:
    return quarter in instance.get_materialized_partitions(dg.AssetKey(asset))


def _attempted_since(instance: dg.DagsterInstance, asset: dg.AssetKey) -> set[str]:
    """Partitions with a run, ended or not, that came after their last materialization."""
    storage = instance.event_log_storage
    return set(storage.get_latest_asset_partition_materialization_attempts_without_materializations(asset))
