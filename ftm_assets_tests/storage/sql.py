"""Small quarters in a real database, and every row that is there afterwards."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from typing import TypeVar

import sqlalchemy as sa

from ftm_assets.analysis.sentences import Sentences, split_turns
from ftm_assets.analysis.themes import Theme, Themes, ThemeTopic
from ftm_assets.analysis.topic_summaries import Summaries, TopicSummary
from ftm_assets.analysis.topics import Topic, Topics, TopicSentence
from ftm_assets.analysis.transcripts import Component, Reject
from ftm_assets.storage.read.theme_state import current_summaries, n_expected
from ftm_assets.storage.server.database import Database
from ftm_assets.storage.stages.base import Provenance, find_firm_quarter
from ftm_assets.storage.stages.transcripts import read_turns
from ftm_assets.storage.write.calls import Ingested, create_quarter, ingest
from ftm_assets.storage.write.stages import write
from ftm_assets.storage.write.themes import publish
from ftm_assets_tests.fakes import HashEncoder

QUARTER = "2021Q4"
Result = TypeVar("Result")


def load(
    database: Database,
    *rows: Component | Reject,
    quarter: str = QUARTER,
    source: str = "calls.csv",
    as_of: date | None = None,
) -> Ingested:
    """Load the rows as one source."""
    return load_all(database, rows, quarter, source, as_of)


def load_all(
    database: Database,
    rows: Iterable[Component | Reject],
    quarter: str = QUARTER,
    source: str = "calls.csv",
    as_of: date | None = None,
) -> Ingested:
    """Load whatever the iterable yields as one source."""
    with database.transaction() as connection:
        create_quarter(connection, quarter)
    with database.transaction() as connection:
        return ingest(connection, quarter, rows, source, as_of)


def derive(database: Database, *firm_keys: str, quarter: str = QUARTER) -> None:
    """The firms' sentences, one topic that holds them all, and its summary."""
    encoder = HashEncoder()
    for firm_key in firm_keys:
        with database.transaction() as connection:
            where = find_firm_quarter(connection, quarter, firm_key)
            turns = read_turns(connection, where)
            rows = split_turns(turns.company_id, turns.turns)
            vectors = encoder.encode([row.text for row in rows])
            sentences = Sentences.from_turns(turns, rows, vectors, (encoder.name, encoder.revision))
            topics = Topics(
                (Topic(0, "freight", ("freight", "costs"), len(rows)),),
                tuple(TopicSentence(row.sentence_id, 0, 0, 1.0, rank) for rank, row in enumerate(rows, 1)),
                encoder.encode(["freight"]),
                sentences.content_hash,
            )
            summary = TopicSummary(0, "Freight costs rose.", "keywords", None, (rows[0].sentence_id,))
            summaries = Summaries((summary,), encoder.encode([summary.text]), topics.content_hash, sentences.encoder)
            for stage in (sentences, topics, summaries):
                write(connection, where, stage, Provenance.of(stage))


def publish_theme(database: Database, *company_ids: int, quarter: str = QUARTER) -> None:
    """One theme that holds the topic of each firm."""
    with database.transaction() as connection:
        n = len(company_ids)
        themes = Themes(
            quarter=quarter,
            themes=(Theme(1, "freight", ("freight",), n, n, 1 / n, 1 / n, None),),
            members=tuple(ThemeTopic(company_id, 0, "freight", 1, 0.9) for company_id in company_ids),
            centroids=HashEncoder().encode(["freight"]),
            rejected={},
            n_noise=0,
            firm_hashes=current_summaries(connection, quarter),
            n_expected=n_expected(connection, quarter),
            n_topics=n,
        )
        publish(connection, themes, Provenance.of(themes))


def all_rows(database: Database) -> dict[str, list[str]]:
    """Every row of every table, leaves included, as text."""
    with database.transaction() as connection:
        tables = connection.scalars(sa.text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")).all()
        return {
            table: list(connection.scalars(sa.text(f'SELECT x::text FROM "{table}" AS x ORDER BY 1')))
            for table in sorted(tables)
        }


def ask(database: Database, query: str) -> list[tuple[object, ...]]:
    """The rows of a query."""
    with database.transaction() as connection:
        return [tuple(row) for row in connection.execute(sa.text(query))]


def one(database: Database, query: str) -> list[object]:
    """The first column of a query."""
    return [row[0] for row in ask(database, query)]


def at_once(n: int, work: Callable[[], Result]) -> list[Result]:
    """What each of n threads has made of the same work. raises: whatever one of them raises"""
    with ThreadPoolExecutor(n) as threads:
        return [done.result() for done in [threads.submit(work) for _ in range(n)]]
