"""What Postgres believes of a quarter before autovacuum comes by: with too little, it reads all of it for each firm."""

from collections.abc import Iterator
from datetime import date

import pytest
import sqlalchemy as sa

from ftm_assets.analysis.transcripts import Component
from ftm_assets.storage.read.quarter_topics import analyze_topic_tables
from ftm_assets.storage.schema.tables import Call
from ftm_assets.storage.server.database import Database
from ftm_assets.storage.server.table_stats import analyze
from ftm_assets_tests.fakes import component
from ftm_assets_tests.storage.builders import firms, put_themes, themes_of
from ftm_assets_tests.storage.sql import ask, load_all, one

N_FIRMS, N_TURNS = 60, 5
NEXT_QUARTER = "2022Q1"


def calls(day: date) -> Iterator[Component]:
    for firm in range(1, N_FIRMS + 1):
        for order in range(N_TURNS):
            yield component(
                company_id=firm,
                company_name=f"Firm {firm}",
                ticker=None,
                transcript_id=1000 * day.month + firm,
                component_order=order,
                call_date=day,
                row_number=firm * N_TURNS + order,
            )


def believed(database: Database, table: str, quarter: str) -> int:
    """How many rows Postgres expects to find."""
    with database.transaction() as connection:
        plan = connection.execute(sa.text(f"EXPLAIN (FORMAT JSON) SELECT FROM {table} WHERE quarter = '{quarter}'"))
        n: int = plan.scalar_one()[0]["Plan"]["Plan Rows"]
        return n


def test_a_second_quarter_is_known_as_soon_as_it_is_loaded(database: Database) -> None:
    load_all(database, calls(date(2021, 11, 2)))
    load_all(database, calls(date(2022, 2, 1)), NEXT_QUARTER)
    expected = {"firm_quarters": N_FIRMS, "calls": N_FIRMS, "components": N_FIRMS * N_TURNS}
    assert {table: believed(database, table, NEXT_QUARTER) for table in expected} == pytest.approx(expected, rel=0.2)


def test_what_themes_are_made_from_and_they_themselves_are_known_at_once(database: Database) -> None:
    firms(database, 7, 8)
    with database.transaction() as connection:
        analyze_topic_tables(connection)
    put_themes(database, themes_of(database))
    tables = [
        "materializations",
        "topics",
        "topic_summaries",
        "topic_sentences",
        "themes",
        "theme_topics",
        "theme_inputs",
    ]
    known = "SELECT relname, reltuples::int FROM pg_class WHERE relkind = 'r'"
    there = " UNION ALL ".join(f"SELECT '{table}', count(*) FROM {table}" for table in tables)
    assert set(ask(database, there)) <= set(ask(database, known))


def test_a_table_that_is_in_other_hands_is_not_waited_for(database: Database) -> None:
    with database.engine.connect() as other, database.transaction() as connection:
        other.execute(sa.text("LOCK TABLE calls IN SHARE UPDATE EXCLUSIVE MODE"))  # As whoever builds an index does.
        connection.execute(sa.text("SET LOCAL lock_timeout = '1s'"))
        analyze(connection, Call)


def test_autovacuum_keeps_up_with_a_quarter_among_many(database: Database) -> None:
    tables = one(database, "SELECT relname FROM pg_class WHERE 'autovacuum_analyze_scale_factor=0' = ANY(reloptions)")
    by_firm = {
        "firm_quarters",
        "calls",
        "components",
        "materializations",
        "topics",
        "topic_summaries",
        "topic_sentences",
    }
    assert set(tables) == by_firm
