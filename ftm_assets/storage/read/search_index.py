"""The state of a quarter's search index: which of its levels have an index that queries can use."""

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum

import sqlalchemy as sa
from pydantic import BaseModel, Field
from sqlalchemy.engine import Connection

from ftm_assets.analysis.vectors import DIMENSIONS
from ftm_assets.storage.read.ingested import archived
from ftm_assets.storage.schema.tables import SEARCH_INDEX_PREFIX

# Sentences that are searched. Boilerplate is said by thousands in the same words: it would take a quarter of an index,
# and so many equal vectors fill each other's neighbourhoods, so that searches miss what they look for.
MODELLED = "boilerplate IS NULL"


class Level(StrEnum):
    """What is searched."""

    themes = "themes"
    topics = "topics"
    sentences = "sentences"


class State(StrEnum):
    """State of an index: `other` was built with other settings, `broken` was left by a build that did not finish."""

    ready = "ready"
    building = "building"
    missing = "missing"
    other = "other"
    broken = "broken"


class SearchIndexSettings(BaseModel, frozen=True):
    """How the graph of an index is built; an index with another m or ef_construction is built again."""

    m: int = Field(
        16,
        ge=2,
        le=100,
        description="neighbours of a vector in the graph; more of them improve recall and take more memory",
    )
    ef_construction: int = Field(
        64, ge=4, le=1000, description="candidates from which its neighbours are chosen, at least twice m"
    )


@dataclass(frozen=True)
class IndexState:
    """The index of a level: its state, its size, and the progress of its build."""

    quarter: str
    level: Level
    name: str
    state: State
    n_bytes: int
    progress: str | None = None


def index_name(level: Level, quarter: str) -> str:
    """The name of a quarter's index, `hnsw_sentences_2021q4`."""
    return f"{SEARCH_INDEX_PREFIX}{level}_{quarter.lower()}"


def levels_of(connection: Connection, quarter: str) -> list[Level]:
    """What can be searched of a quarter: all levels, except the sentences of an archived one."""
    gone = {Level.sentences} if archived(connection, [quarter]) else set()
    return [level for level in Level if level not in gone]


def indexed(vector: str, width: int) -> str:
    """The expression that an index of that width holds; queries find the index by it alone."""
    part = vector if width == DIMENSIONS else f"subvector({vector}, 1, {width})"
    return f"{part}::halfvec({width})"


def ready_levels(connection: Connection, quarters: Collection[str]) -> dict[tuple[str, Level], int]:
    """Of these quarters, each level with an index that queries can use -> the dimensions that the index holds."""
    names = {index_name(level, quarter): (quarter, level) for quarter in quarters for level in Level}
    found = connection.execute(
        sa.text(
            """
            SELECT name, atttypmod FROM unnest(CAST(:names AS text[])) AS wanted (name)
            JOIN pg_index ON indexrelid = to_regclass(name)
            JOIN pg_attribute ON (attrelid, attnum) = (indexrelid, 1) WHERE indisvalid
            """
        ),
        {"names": list(names)},
    )
    return {names[name]: width for name, width in found}


def index_states(connection: Connection, quarter: str, settings: SearchIndexSettings | None = None) -> list[IndexState]:
    """State of the indexes of a quarter, in order of levels.

    settings: what they should be built with; None for any
    """
    names = {index_name(level, quarter): level for level in levels_of(connection, quarter)}
    rows = connection.execute(
        sa.text(
            """
            SELECT name, i.indisvalid, i.indpred IS NOT NULL AS is_partial, c.reloptions,
                   coalesce(pg_relation_size(i.indexrelid), 0) AS n_bytes,
                   p.phase, p.tuples_done
            FROM unnest(CAST(:names AS text[])) WITH ORDINALITY AS wanted (name, place)
            LEFT JOIN pg_index AS i ON i.indexrelid = to_regclass(name)
            LEFT JOIN pg_class AS c ON c.oid = i.indexrelid
            LEFT JOIN pg_stat_progress_create_index AS p ON p.index_relid = i.indexrelid
            ORDER BY place
            """
        ),
        {"names": list(names)},
    )
    found = []
    for row in rows:
        if row.phase is not None:
            state = State.building
        elif row.indisvalid is None:
            state = State.missing
        elif not row.indisvalid:
            state = State.broken
        else:
            # An index of an earlier version, over all sentences: queries can use it all the same.
            is_former = names[row.name] is Level.sentences and not row.is_partial
            built_so = settings is None or (_built_with(row.reloptions, settings) and not is_former)
            state = State.ready if built_so else State.other
        progress = f"{row.phase}, {row.tuples_done:,} rows" if row.phase else None
        found.append(IndexState(quarter, names[row.name], row.name, state, row.n_bytes, progress))
    return found


def search_index_ready(connection: Connection, quarter: str) -> bool:
    """Whether every level of the quarter that can be searched has an index that queries can use."""
    return {(quarter, level) for level in levels_of(connection, quarter)} <= ready_levels(connection, [quarter]).keys()


def _built_with(reloptions: list[str] | None, settings: SearchIndexSettings) -> bool:
    """Whether an index has these settings, which Postgres keeps as `m=16`, `ef_construction=64`."""
    wanted = {"m": settings.m, "ef_construction": settings.ef_construction}
    return {option.partition("=")[0]: int(option.partition("=")[2]) for option in reloptions or []} == wanted
