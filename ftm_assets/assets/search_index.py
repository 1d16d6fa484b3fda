"""Asset `search_index`: the vector indexes of a quarter's themes, topics and sentences."""

from collections.abc import Callable, Sequence
from time import monotonic

import dagster as dg

from ftm_assets.assets.cross_firm_themes import cross_firm_themes
from ftm_assets.assets.metadata import OWNERS, Materialized, Metadata, markdown_table
from ftm_assets.partitions import quarters
from ftm_assets.storage.maintain.search_index import BuildProgress, LevelIndex, build_search_index
from ftm_assets.storage.read.search_index import SearchIndexSettings
from ftm_assets.storage.server.database import Database

LOG_EVERY_S = 10.0


class SearchIndexConfig(SearchIndexSettings, dg.Config):
    """Launchpad form of `SearchIndexSettings`."""


@dg.asset(
    partitions_def=quarters,
    # Decision 71: an asset after the themes, so that nothing waits for it.
    deps=[cross_firm_themes],
    owners=OWNERS,
    kinds={"postgres"},
    code_version="1",
)
def search_index(
    context: dg.AssetExecutionContext, config: SearchIndexConfig, database: dg.ResourceParam[Database]
) -> Materialized:
    """Vector indexes of the quarter: HNSW, one for themes, one for topics, one for sentences.

    They hold no data of their own, and Postgres updates them when rows change. An index that is valid and was built
    with these settings is left alone. Search works without indexes, but slower.
    """
    built = build_search_index(database, context.partition_key, config, throttled(context.log.info))
    for index in built:
        for notice in index.notices:
            context.log.warning(f"{index.level}: {notice}")
    return dg.MaterializeResult(metadata=index_metadata(built))


def throttled(log: Callable[[str], None], every_s: float = LOG_EVERY_S) -> Callable[[BuildProgress], None]:
    """Logs a new phase at once, and progress within a phase at most every `every_s` seconds."""
    last_phase: tuple[str, str] | None = None
    last_s = 0.0

    def log_progress(progress: BuildProgress) -> None:
        nonlocal last_phase, last_s
        phase, now = (progress.level, progress.phase), monotonic()
        if phase != last_phase or now - last_s >= every_s:
            last_phase, last_s = phase, now
            log(str(progress))

    return log_progress


def index_metadata(built: Sequence[LevelIndex]) -> Metadata:
    """The indexes that were built, the seconds of each phase, and the sizes."""
    return {
        "built": [str(index.level) for index in built if index.built],
        "rows": sum(index.n_rows for index in built),
        "MB": round(sum(index.n_bytes for index in built) / 2**20, 1),
        "seconds": round(sum(index.total_s for index in built), 1),
        "notices": [notice for index in built for notice in index.notices],
        "indexes": markdown_table(
            ["level", "rows", "MB", "seconds", "phases", "memory for the build, MB", "helping processes"],
            [
                (
                    index.level,
                    index.n_rows,
                    round(index.n_bytes / 2**20, 1),
                    round(index.total_s, 1),
                    "; ".join(f"{phase} {seconds:.1f} s" for phase, seconds in index.seconds.items()),
                    index.memory_mb if index.built else "existed already",
                    index.n_workers if index.built else "",
                )
                for index in built
            ],
        ),
    }
