"""Search by meaning: the themes, topics and sentences whose vectors are nearest to that of a query.

Each quarter has its own statement, because each has its own query vector (by its encoder) and its own index. The
results are merged. How a quarter is searched depends on the filter:

- Sentences that are flagged as boilerplate are not searched.
- Within a firm, all of its rows are compared. A search along an index would end long before it meets a firm's 0.03 %.
- Across firms the index finds candidates, which are ranked by their whole vectors.
- If there is no index, or too few of its candidates pass the filter, all rows are compared, and `SearchResult` says so.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ftm_assets.analysis.vectors import DIMENSIONS
from ftm_assets.errors import FtmError
from ftm_assets.storage.read.ingested import archived
from ftm_assets.storage.read.search_index import MODELLED, Level, indexed, ready_levels
from ftm_assets.storage.schema.rows import rows_as

_CANDIDATES_A_ROW, _MIN_CANDIDATES = 4, 40  # Decision 74.
_WHOLE = f"vector({DIMENSIONS})"
EF_SEARCH = 450  # Finds .98 of the ten nearest among a million sentences (`python -m benchmarks queries`). Decision 74.
NO_INDEX, TOO_FEW = "no index", "too few meet the conditions"


class NoVectors(FtmError):
    """A quarter cannot be searched before its sentences are encoded."""

    def __init__(self, quarter: str) -> None:
        super().__init__(f"{quarter} has no vectors yet; make them with: ftm backfill {quarter}")


@dataclass(frozen=True)
class SearchFilter:
    """Which hits to keep; None for any.

    A topic or theme passes `role` and `section` if one of its sentences passes both. A theme passes `company_id` if it
    has a topic of the firm.
    """

    company_id: int | None = None
    role: str | None = None
    section: str | None = None


NO_FILTER = SearchFilter()


@dataclass(frozen=True)
class Hit:
    """A theme, topic or sentence, with the cosine of its vector to the query's, and its firm, call, topic and theme.

    id:    of the theme, topic or sentence; the way on is `queries.sentences_of`
    label: of the theme (its title, where a model wrote one) or the topic, or of a sentence's topic
    """

    level: Level
    quarter: str
    id: str
    cosine: float
    firm_key: str | None
    firm_name: str | None
    call_date: date | None
    person: str | None
    role: str | None
    section: str | None
    label: str | None
    topic_id: str | None
    theme_id: str | None
    text: str


@dataclass(frozen=True)
class ExactScan:
    """A level of a quarter in which all rows were compared because the index could not be used, and why."""

    quarter: str
    level: Level
    reason: str


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    hits:     by level, nearest first
    exact:    levels that were searched without an index
    archived: quarters whose sentences were not searched, because they have no vectors any more
    """

    hits: tuple[Hit, ...]
    exact: tuple[ExactScan, ...]
    archived: tuple[str, ...] = ()


@dataclass(frozen=True)
class QuarterEncoder:
    """The encoder that a quarter's vectors were made with."""

    quarter: str
    name: str
    revision: str


@dataclass(frozen=True)
class _Near:
    quarter: str
    key: tuple[Any, ...]
    cosine: float


def encoders_of(connection: Connection, quarters: Collection[str] | None = None) -> list[QuarterEncoder]:
    """The encoder of each of these quarters, or of all that have one, in order of quarters.

    raises: NoVectors for a quarter that has none
    """
    rows = connection.execute(
        sa.text("SELECT quarter, encoder AS name, encoder_revision AS revision FROM quarters WHERE encoder IS NOT NULL")
    )
    found = {each.quarter: each for each in rows_as(QuarterEncoder, rows)}
    wanted = sorted(found if quarters is None else set(quarters))
    for quarter in wanted:
        if quarter not in found:
            raise NoVectors(quarter)
    return [found[quarter] for quarter in wanted]


def search(
    connection: Connection,
    vectors: Mapping[str, np.ndarray],
    levels: Sequence[Level] = tuple(Level),
    where: SearchFilter = NO_FILTER,
    limit: int = 10,
    ef_search: int = EF_SEARCH,
) -> SearchResult:
    """The `limit` nearest of each level, over all the quarters given.

    vectors:   quarter -> (768,) float32, the query by that quarter's encoder
    ef_search: how many candidates the index keeps while it searches; more find more and take longer
    """
    ready = ready_levels(connection, vectors)
    without_sentences = archived(connection, vectors) if Level.sentences in levels else set()
    exact: list[ExactScan] = []
    hits: list[Hit] = []
    for level in levels:
        near: list[_Near] = []
        # Decision 73: each quarter is asked by a statement of its own.
        for quarter, vector in vectors.items():
            if level is Level.sentences and quarter in without_sentences:
                continue
            query = _LevelQuery(
                connection=connection,
                quarter=quarter,
                vector=vector,
                level=level,
                where=where,
                limit=limit,
                ef_search=ef_search,
            )
            if where.company_id is not None:
                near += query.exact_scan()
            elif (width := ready.get((quarter, level))) is None:
                near += query.exact_scan()
                exact.append(ExactScan(quarter, level, NO_INDEX))
            else:
                found = query.index_scan(width)
                every = query.exact_scan() if len(found) < limit else []
                if len(every) > len(found):
                    exact.append(ExactScan(quarter, level, TOO_FEW))
                    found = every
                near += found
        nearest = sorted(near, key=lambda each: (-each.cosine, each.quarter, each.key))[:limit]
        hits += _HIT_LOADERS[level](connection, nearest)
    return SearchResult(tuple(hits), tuple(exact), tuple(sorted(without_sentences)))


@dataclass(frozen=True)
class _LevelQuery:
    """One level of one quarter, and the two ways to search it."""

    connection: Connection
    quarter: str
    vector: np.ndarray
    level: Level
    where: SearchFilter
    limit: int
    ef_search: int

    def exact_scan(self) -> list[_Near]:
        """Compare all rows."""
        source = _SOURCES[self.level]
        key, vector = ", ".join(source.key), source.vector
        return self._rows(
            f"""
            SELECT {key}, 1 - ({vector}::{_WHOLE} <=> CAST(:vector AS {_WHOLE})) AS cosine
            FROM {source.table} WHERE {self._conditions()}
            ORDER BY {vector}::{_WHOLE} <=> CAST(:vector AS {_WHOLE}), {key} LIMIT {self.limit:d}
            """  # noqa: S608  (constants of this module, and a quarter that was checked)
        )

    def index_scan(self, width: int) -> list[_Near]:
        """Let the index, which has so many dimensions, find candidates, and rank them by their whole vectors."""
        source = _SOURCES[self.level]
        key, vector = ", ".join(source.key), source.vector
        n_candidates = max(_CANDIDATES_A_ROW * self.limit, _MIN_CANDIDATES)
        self.connection.execute(
            sa.text(
                """
                SELECT set_config('hnsw.iterative_scan', 'relaxed_order', true),
                       set_config('hnsw.ef_search', :ef_search, true)
                """
            ),
            {"ef_search": str(min(1000, max(self.ef_search, n_candidates)))},
        )
        return self._rows(
            f"""
            WITH candidates AS MATERIALIZED (
                SELECT {key}, {vector} AS vector FROM {source.table} WHERE {self._conditions()}
                ORDER BY {indexed(vector, width)} <=> {indexed(f"CAST(:vector AS {_WHOLE})", width)}
                LIMIT {n_candidates:d}
            )
            SELECT {key}, 1 - (vector::{_WHOLE} <=> CAST(:vector AS {_WHOLE})) AS cosine
            FROM candidates ORDER BY cosine DESC, {key} LIMIT {self.limit:d}
            """  # noqa: S608  (as above)
        )

    def _rows(self, statement: str) -> list[_Near]:
        values = {
            "vector": self.vector,
            "company_id": self.where.company_id,
            "role": self.where.role,
            "section": self.where.section,
        }
        bound = sa.text(statement)
        rows = self.connection.execute(bound, {name: values[name] for name in bound._bindparams})
        columns = _SOURCES[self.level].key
        return [_Near(self.quarter, tuple(row._mapping[name] for name in columns), row.cosine) for row in rows]

    def _conditions(self) -> str:
        """What a row must meet. The quarter is written out, because only then Postgres sees which partition to use."""
        if not re.fullmatch(r"[0-9]{4}Q[1-4]", self.quarter):
            raise ValueError(f"{self.quarter!r} is not a quarter")
        conditions = [f"quarter = '{self.quarter}'"]  # Decision 73.
        if self.level is Level.themes:
            # Themes that the current run did not find are retired. Not from `current_themes`, which has no vectors.
            conditions.append(
                f"run_number = (SELECT max(run_number) FROM theme_runs WHERE quarter = '{self.quarter}')"  # noqa: S608
            )
        if self.level is Level.sentences:
            conditions.append(MODELLED)
        if self.where.company_id is not None:
            conditions.append(_FIRM_FILTER[self.level])
        by_speaker = " AND ".join(
            f"x.{name} = :{name}" for name in ("role", "section") if getattr(self.where, name) is not None
        )
        if by_speaker:
            conditions.append(_SPEAKER_FILTER[self.level].format(condition=by_speaker))
        return " AND ".join(conditions)


@dataclass(frozen=True)
class _Source:
    """Where the rows of a level are, and by which columns they are named and compared."""

    table: str
    key: tuple[str, ...]
    vector: str


_SOURCES = {
    Level.themes: _Source(table="themes AS s", key=("theme_number",), vector="centroid"),
    Level.topics: _Source(table="topic_summaries AS s", key=("company_id", "topic_number"), vector="embedding"),
    Level.sentences: _Source(table="sentences AS x", key=("sentence_id",), vector="embedding"),
}
_FIRM_FILTER = {
    Level.themes: """EXISTS (
        SELECT FROM theme_topics AS m
        WHERE (m.quarter, m.theme_number, m.company_id) = (s.quarter, s.theme_number, :company_id) OFFSET 0
    )""",
    Level.topics: "company_id = :company_id",
    Level.sentences: "company_id = :company_id",
}
# OFFSET 0 keeps Postgres from joining first and sorting after, for which it would compare every row.
_SPEAKER_FILTER = {
    Level.themes: """EXISTS (
        SELECT FROM theme_topics AS m
        JOIN topic_sentences AS a ON (a.quarter, a.company_id, a.topic_number)
                                   = (m.quarter, m.company_id, m.live_topic_number)
        JOIN sentences AS x ON (x.quarter, x.sentence_id) = (a.quarter, a.sentence_id)
        WHERE (m.quarter, m.theme_number) = (s.quarter, s.theme_number) AND {condition} OFFSET 0
    )""",
    Level.topics: """EXISTS (
        SELECT FROM topic_sentences AS a
        JOIN sentences AS x ON (x.quarter, x.sentence_id) = (a.quarter, a.sentence_id)
        WHERE (a.quarter, a.company_id, a.topic_number) = (s.quarter, s.company_id, s.topic_number)
          AND {condition} OFFSET 0
    )""",
    Level.sentences: "{condition}",
}


def _load_theme_hits(connection: Connection, near: Sequence[_Near]) -> list[Hit]:
    rows = connection.execute(
        sa.text(
            """
            SELECT theme_id AS id, coalesce(title, label) AS label, theme_id,
                   coalesce(description, array_to_string(keywords, ', ')) AS text
            FROM unnest(CAST(:quarters AS text[]), CAST(:numbers AS int[]))
                WITH ORDINALITY AS near (quarter, theme_number, place)
            JOIN themes USING (quarter, theme_number) ORDER BY place
            """
        ),
        {"quarters": [each.quarter for each in near], "numbers": [each.key[0] for each in near]},
    )
    return _hits(Level.themes, near, rows)


def _load_topic_hits(connection: Connection, near: Sequence[_Near]) -> list[Hit]:
    rows = connection.execute(
        sa.text(
            """
            SELECT topic_id AS id, firm_key, firm_name, coalesce(topic_title, topic_label) AS label, topic_id, theme_id,
                   summary AS text
            FROM unnest(CAST(:quarters AS text[]), CAST(:companies AS bigint[]), CAST(:numbers AS smallint[]))
                WITH ORDINALITY AS near (quarter, company_id, topic_number, place)
            JOIN topic_context USING (quarter, company_id, topic_number)
            ORDER BY place
            """
        ),
        {
            "quarters": [each.quarter for each in near],
            "companies": [each.key[0] for each in near],
            "numbers": [each.key[1] for each in near],
        },
    )
    return _hits(Level.topics, near, rows)


def _load_sentence_hits(connection: Connection, near: Sequence[_Near]) -> list[Hit]:
    rows = connection.execute(
        sa.text(
            """
            -- Not from `sentence_context`: joined to a list, its nine tables are read whole, which takes a second
            -- instead of 2 ms. In parts, because planning a join of ten tables takes longer than joining them.
            WITH spoken AS MATERIALIZED (
                SELECT place, quarter, sentence_id, company_id, call_date, person, s.role, s.section, s.text
                FROM unnest(CAST(:quarters AS text[]), CAST(:ids AS text[]))
                    WITH ORDINALITY AS near (quarter, sentence_id, place)
                JOIN sentences AS s USING (quarter, sentence_id)
                JOIN calls USING (quarter, company_id, transcript_id)
                JOIN components USING (quarter, transcript_id, company_id, component_order)
            ), named AS MATERIALIZED (
                SELECT spoken.*, partition_key, name
                FROM spoken JOIN firms USING (company_id) JOIN firm_quarters USING (quarter, company_id)
            )
            SELECT x.sentence_id AS id, x.partition_key AS firm_key, x.name AS firm_name, x.call_date, x.person,
                   x.role, x.section, p.label, p.topic_id, themes.theme_id, x.text
            FROM named AS x
            LEFT JOIN topic_sentences AS a USING (quarter, sentence_id)
            LEFT JOIN topics AS p ON (p.quarter, p.company_id, p.topic_number)
                                   = (a.quarter, a.company_id, a.topic_number)
            LEFT JOIN theme_topics AS m ON (m.quarter, m.company_id, m.live_topic_number)
                                         = (a.quarter, a.company_id, a.topic_number)
            LEFT JOIN themes ON (themes.quarter, themes.theme_number) = (m.quarter, m.theme_number)
            ORDER BY place
            """
        ),
        {"quarters": [each.quarter for each in near], "ids": [each.key[0] for each in near]},
    )
    return _hits(Level.sentences, near, rows)


_HIT_LOADERS: dict[Level, Callable[[Connection, Sequence[_Near]], list[Hit]]] = {
    Level.themes: _load_theme_hits,
    Level.topics: _load_topic_hits,
    Level.sentences: _load_sentence_hits,
}
_OPTIONAL_FIELDS = ("firm_key", "firm_name", "call_date", "person", "role", "section", "topic_id")


def _hits(level: Level, near: Sequence[_Near], rows: sa.CursorResult[Any]) -> list[Hit]:
    """Rows, in order of nearness, as hits; fields that a level does not have are None."""
    return [
        Hit(
            level=level, quarter=each.quarter, cosine=each.cosine, **{**dict.fromkeys(_OPTIONAL_FIELDS), **row._mapping}
        )
        for each, row in zip(near, rows, strict=True)
    ]
