"""A made-up quarter into a database, by the functions that the assets and the IO manager use."""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from devtools.synthetic_quarters.firms import Market
from ftm_assets.storage.read.quarter_topics import analyze_topic_tables, read_quarter_topics
from ftm_assets.storage.server.database import Database
from ftm_assets.storage.stages.base import Provenance, find_firm_quarter
from ftm_assets.storage.stages.transcripts import read_turns
from ftm_assets.storage.write.calls import create_quarter, ingest
from ftm_assets.storage.write.stages import write
from ftm_assets.storage.write.themes import publish


@dataclass
class Filled:
    """What went into a quarter, and how long each part took; of firms, each one's seconds."""

    n_sentences: int = 0
    n_topics: int = 0
    n_themes: int = 0
    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Add how long the block takes."""
        started = perf_counter()
        yield
        self.seconds[part].append(perf_counter() - started)


def fill(database: Database, market: Market) -> Filled:
    """Load the market's quarter into a database that does not hold it yet, from calls to themes."""
    filled = Filled()
    quarter = market.quarter
    with database.transaction() as connection:
        create_quarter(connection, quarter)
    with filled.timed("calls"), database.transaction() as connection:
        ingest(connection, quarter, (row for firm in market.firms() for row in firm.components), "made up")
    themes: dict[tuple[int, int], int] = {}
    keys = _keys(database, quarter)
    firms = market.firms()
    while True:
        with filled.timed("making firms up"):
            firm = next(firms, None)
        if firm is None:
            break
        with filled.timed("reading turns"), database.transaction() as connection:
            where = find_firm_quarter(connection, quarter, keys[firm.company_id])
            turns = read_turns(connection, where)
        with filled.timed("making firms up"):
            sentences = firm.sentences(turns)
            topics = firm.topics(sentences)
            summaries = firm.summaries(topics, sentences)
        with filled.timed("hashing"):
            _ = sentences.content_hash, topics.content_hash, summaries.content_hash
        for value in (sentences, topics, summaries):
            with filled.timed(type(value).__name__), database.transaction() as connection:
                write(connection, where, value, Provenance.of(value, code="made up"))
        filled.n_sentences += len(sentences)
        filled.n_topics += len(topics.topics)
        themes |= {(firm.company_id, number): theme for number, theme in enumerate(firm.theme_of.tolist())}
    with filled.timed("looking at topics"), database.transaction() as connection:
        analyze_topic_tables(connection)
    with filled.timed("reading topics"), database.transaction() as connection:
        of_quarter = read_quarter_topics(connection, quarter)
    found = market.themes_of(of_quarter, themes)
    with filled.timed("themes"), database.transaction() as connection:
        publish(connection, found, Provenance.of(found, code="made up"))
    filled.n_themes = len(found.themes)
    return filled


def settle(connection: Connection) -> None:
    """Vacuum and analyze all tables, as autovacuum would do in time. The connection must commit by itself."""
    connection.execute(sa.text("VACUUM (ANALYZE)"))


def _keys(database: Database, quarter: str) -> dict[int, str]:
    query = "SELECT company_id, partition_key FROM firms JOIN firm_quarters USING (company_id) WHERE quarter = :quarter"
    with database.transaction() as connection:
        return {row[0]: row[1] for row in connection.execute(sa.text(query), {"quarter": quarter})}
