"""Search by meaning: the themes, topics and sentences whose vectors are nearest to that of a query.

Each quarter is asked by a statement of its own, because each has a vector of its own (by its encoder) and an index of
its own; what they find is merged. How a quarter is searched depends on what is asked:

- Sentences that are flagged as boilerplate are not searched.
- Within a firm, all of its rows are compared. A search along an index would end long before it meets a firm's 0.03 %.
- Across firms the index names candidates, which are ranked by their whole vectors.
- Where there is no index, or too few of its candidates meet the conditions, all rows are compared, and `Found` says so.
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
from ftm_assets.storage.maintain.search_index import MODELLED, Level, indexed, ready_levels
from ftm_assets.storage.write.stages import archived

# Candidates for each row that is wanted, and the least that an index is asked for.
_OVERSAMPLING, _FEWEST = 4, 40
_WHOLE = f"vector({DIMENSIONS})"
EF_SEARCH = 450  # Finds .98 of the ten nearest among a million sentences; see `python -m benchmarks queries`.
NO_INDEX, TOO_FEW = "no index", "too few meet the conditions"


class NoVectors(FtmError):
    """A quarter cannot be searched before its sentences are encoded."""

    def __init__(self, quarter: str) -> None:
        super().__init__(f"{quarter} has no vectors yet; make them with: ftm backfill {quarter}")


@dataclass(frozen=True)
class Where:
    """Conditions on what is found; None for any.

    A sentence meets them itself. A topic or theme meets those on role and section if one of its sentences meets both,
    and that on the firm if it is the firm's, or holds a topic of the firm.
    """

    company_id: int | None = None
    role: str | None = None
    section: str | None = None


ANYWHERE = Where()


@dataclass(frozen=True)
class Hit:
    """What was found, with the cosine of its vector to the query's; beside its text what stands above it.

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
    """A level of a quarter of which all rows were compared, though nobody asked for that."""

    quarter: str
    level: Level
    reason: str


@dataclass(frozen=True)
class Found:
    """Hits by level and nearness, where the search had to do without an index, and quarters whose sentences it left out
    because they are archived.
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
        sa.text("SELECT quarter, encoder, encoder_revision FROM quarters WHERE encoder IS NOT NULL")
    )
    found = {row.quarter: QuarterEncoder(*row) for row in rows}
    wanted = sorted(found if quarters is None else set(quarters))
    for quarter in wanted:
        if quarter not in found:
            raise NoVectors(quarter)
    return [found[quarter] for quarter in wanted]


def search(
    connection: Connection,
    vectors: Mapping[str, np.ndarray],
    levels: Sequence[Level] = tuple(Level),
    where: Where = ANYWHERE,
    limit: int = 10,
    ef_search: int = EF_SEARCH,
) -> Found:
    """The `limit` nearest of each level, over all the quarters given.

    vectors:   quarter -> (768,) float32, the query by that quarter's encoder
    ef_search: candidates that an index keeps in mind while it searches; more find more and take longer
    """
    ready = ready_levels(connection, vectors)
    without_sentences = archived(connection, vectors) if Level.sentences in levels else set()
    exact: list[ExactScan] = []
    hits: list[Hit] = []
    for level in levels:
        near: list[_Near] = []
        for quarter, vector in vectors.items():
            if level is Level.sentences and quarter in without_sentences:
                continue
            ask = _Asked(connection, quarter, vector, level, where, limit, ef_search)
            if where.company_id is not None:
                near += ask.exactly()
            elif (width := ready.get((quarter, level))) is None:
                near += ask.exactly()
                exact.append(ExactScan(quarter, level, NO_INDEX))
            else:
                found = ask.by_index(width)
                if len(found) < limit and (whole := ask.exactly()) and len(whole) > len(found):
                    found = whole
                    exact.append(ExactScan(quarter, level, TOO_FEW))
                near += found
        nearest = sorted(near, key=lambda each: (-each.cosine, each.quarter, each.key))[:limit]
        hits += _TELLERS[level](connection, nearest)
    return Found(tuple(hits), tuple(exact), tuple(sorted(without_sentences)))


@dataclass(frozen=True)
class _Asked:
    """One level of one quarter, and the two ways to search it."""

    connection: Connection
    quarter: str
    vector: np.ndarray
    level: Level
    where: Where
    limit: int
    ef_search: int

    def exactly(self) -> list[_Near]:
        """Compare all rows."""
        key, vector, source = _SOURCES[self.level]
        return self._rows(
            f"""
            SELECT {key}, 1 - ({vector}::{_WHOLE} <=> CAST(:vector AS {_WHOLE})) AS cosine
            FROM {source} WHERE {self._conditions()}
            ORDER BY {vector}::{_WHOLE} <=> CAST(:vector AS {_WHOLE}), {key} LIMIT {self.limit:d}
            """  # noqa: S608  (constants of this module, and a quarter that was checked)
        )

    def by_index(self, width: int) -> list[_Near]:
        """Let the index, of that many dimensions, name candidates, and rank them."""
        key, vector, source = _SOURCES[self.level]
        n_candidates = max(_OVERSAMPLING * self.limit, _FEWEST)
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
                SELECT {key}, {vector} AS vector FROM {source} WHERE {self._conditions()}
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
        return [_Near(self.quarter, tuple(row[:-1]), row[-1]) for row in rows]

    def _conditions(self) -> str:
        """What a row must meet. The quarter is written out: only so Postgres sees which leaf and index are meant."""
        if not re.fullmatch(r"[0-9]{4}Q[1-4]", self.quarter):
            raise ValueError(f"{self.quarter!r} is not a quarter")
        conditions = [f"quarter = '{self.quarter}'"]
        if self.level is Level.themes:
            # Themes that the current run has not found are retired.
            conditions.append(
                f"run_number = (SELECT max(run_number) FROM theme_runs WHERE quarter = '{self.quarter}')"  # noqa: S608
            )
        if self.level is Level.sentences:
            conditions.append(MODELLED)
        if self.where.company_id is not None:
            conditions.append(_OF_FIRM[self.level])
        said = " AND ".join(
            f"x.{name} = :{name}" for name in ("role", "section") if getattr(self.where, name) is not None
        )
        if said:
            conditions.append(_SAYING[self.level].format(said=said))
        return " AND ".join(conditions)


# Key, vector and table of each level.
_SOURCES = {
    Level.themes: ("theme_number", "centroid", "themes AS s"),
    Level.topics: ("company_id, topic_number", "embedding", "topic_summaries AS s"),
    Level.sentences: ("sentence_id", "embedding", "sentences AS x"),
}
_OF_FIRM = {
    Level.themes: """EXISTS (
        SELECT FROM theme_topics AS m
        WHERE (m.quarter, m.theme_number, m.company_id) = (s.quarter, s.theme_number, :company_id) OFFSET 0
    )""",
    Level.topics: "company_id = :company_id",
    Level.sentences: "company_id = :company_id",
}
# OFFSET 0 keeps Postgres from joining first and sorting after, for which it would compare every row.
_SAYING = {
    Level.themes: """EXISTS (
        SELECT FROM theme_topics AS m
        JOIN topic_sentences AS a ON (a.quarter, a.company_id, a.topic_number)
                                   = (m.quarter, m.company_id, m.live_topic_number)
        JOIN sentences AS x ON (x.quarter, x.sentence_id) = (a.quarter, a.sentence_id)
        WHERE (m.quarter, m.theme_number) = (s.quarter, s.theme_number) AND {said} OFFSET 0
    )""",
    Level.topics: """EXISTS (
        SELECT FROM topic_sentences AS a
        JOIN sentences AS x ON (x.quarter, x.sentence_id) = (a.quarter, a.sentence_id)
        WHERE (a.quarter, a.company_id, a.topic_number) = (s.quarter, s.company_id, s.topic_number) AND {said} OFFSET 0
    )""",
    Level.sentences: "{said}",
}


def _tell_themes(connection: Connection, near: Sequence[_Near]) -> list[Hit]:
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


def _tell_topics(connection: Connection, near: Sequence[_Near]) -> list[Hit]:
    rows = connection.execute(
        sa.text(
            """
            -- In two parts, because comparing the orders in which seven tables may be joined takes longer than joining.
            WITH found AS MATERIALIZED (
                SELECT place, quarter, company_id, topic_number, p.topic_id, coalesce(s.title, p.label) AS label, s.text
                FROM unnest(CAST(:quarters AS text[]), CAST(:companies AS bigint[]), CAST(:numbers AS smallint[]))
                    WITH ORDINALITY AS near (quarter, company_id, topic_number, place)
                JOIN topics AS p USING (quarter, company_id, topic_number)
                JOIN topic_summaries AS s USING (quarter, company_id, topic_number)
            )
            SELECT topic_id AS id, partition_key AS firm_key, name AS firm_name, found.label, topic_id, theme_id, text
            FROM found
            JOIN firms USING (company_id)
            JOIN firm_quarters AS f USING (quarter, company_id)
            LEFT JOIN theme_topics AS m ON (m.quarter, m.company_id, m.live_topic_number)
                                         = (found.quarter, found.company_id, found.topic_number)
            LEFT JOIN themes ON (themes.quarter, themes.theme_number) = (m.quarter, m.theme_number)
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


def _tell_sentences(connection: Connection, near: Sequence[_Near]) -> list[Hit]:
    rows = connection.execute(
        sa.text(
            """
            -- In parts, because comparing the orders in which ten tables may be joined takes longer than joining them.
            WITH spoken AS MATERIALIZED (
                SELECT place, quarter, sentence_id, company_id, call_date, person, s.role, s.section, s.text
                FROM unnest(CAST(:quarters AS text[]), CAST(:ids AS text[]))
                    WITH ORDINALITY AS near (quarter, sentence_id, place)
                JOIN sentences AS s USING (quarter, sentence_id)
                JOIN calls USING (quarter, company_id, transcript_id)
                JOIN components USING (quarter, transcript_id, component_order)
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


_TELLERS: dict[Level, Callable[[Connection, Sequence[_Near]], list[Hit]]] = {
    Level.themes: _tell_themes,
    Level.topics: _tell_topics,
    Level.sentences: _tell_sentences,
}
_OF_SOME_LEVELS = ("firm_key", "firm_name", "call_date", "person", "role", "section", "topic_id")


def _hits(level: Level, near: Sequence[_Near], rows: sa.CursorResult[Any]) -> list[Hit]:
    """Rows, in order of what was near, as hits; what a level has not is None."""
    return [
        Hit(level=level, quarter=each.quarter, cosine=each.cosine, **{**dict.fromkeys(_OF_SOME_LEVELS), **row._mapping})
        for each, row in zip(near, rows, strict=True)
    ]
