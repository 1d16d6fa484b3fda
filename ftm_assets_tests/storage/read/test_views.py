"""The views hold what the tables hold, say what they mean, and let Postgres read one quarter alone."""

import re
from dataclasses import replace
from datetime import date

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ftm_assets.storage.read import queries
from ftm_assets.storage.read.views import VIEWS, firm_status
from ftm_assets.storage.server.database import Database
from ftm_assets.storage.stages import STAGES, SUMMARIES
from ftm_assets_tests.storage.builders import TEXTS, derive, firm, firms, put, put_themes, themes_of
from ftm_assets_tests.storage.plans import plans
from ftm_assets_tests.storage.sql import QUARTER, ask, one

COMMENTS = """
    SELECT c.relname, a.attname, col_description(c.oid, a.attnum), obj_description(c.oid)
    FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid
    WHERE c.relkind = 'v' AND c.relnamespace = 'public'::regnamespace ORDER BY c.relname, a.attnum
"""
QUERIES = """
    SELECT relname, pg_get_viewdef(oid) FROM pg_class
    WHERE relkind = 'v' AND relnamespace = 'public'::regnamespace ORDER BY relname
"""


@pytest.fixture
def published(database: Database) -> Database:
    """Two firms that talk about freight and wages, in two themes, and about prices in none."""
    firms(database, 7, 8)
    put_themes(database, themes_of(database))
    return database


def rows(connection: Connection, statement: str) -> list[tuple[object, ...]]:
    return [tuple(row) for row in connection.execute(sa.text(statement))]


# --- the promise


def test_the_migrations_make_the_views_that_are_written_down(database: Database) -> None:
    with database.transaction() as connection:
        made = rows(connection, QUERIES), rows(connection, COMMENTS)
        for view in reversed(VIEWS):
            connection.execute(sa.text(f"DROP VIEW {view.name}"))
        for view in VIEWS:
            for statement in view.statements:
                connection.exec_driver_sql(statement)
        assert made == (rows(connection, QUERIES), rows(connection, COMMENTS)), "write a migration for what differs"
        connection.rollback()


def test_every_view_and_every_column_has_a_comment(database: Database) -> None:
    found = ask(database, COMMENTS)
    assert {view for view, *_ in found} == {view.name for view in VIEWS}
    assert [(view, column) for view, column, *comments in found if not all(comments)] == []


# --- what is in them


def test_a_sentence_stands_in_one_row_with_all_that_belongs_to_it(published: Database) -> None:
    with published.transaction() as connection:
        view = connection.execute(
            sa.text("SELECT * FROM sentence_context WHERE quarter = '2021Q4' ORDER BY sentence_id")
        ).all()
        by_hand = queries.sentences(connection, [row.sentence_id for row in view])
    assert len(view) == 12
    for row, wanted in zip(view, by_hand, strict=True):
        assert {name: row._mapping[name] for name in vars(wanted)} == vars(wanted)
    freight, prices = view[0], view[5]
    assert (freight.topic_id, freight.theme_label, freight.call_date) == ("7_2021Q4_0", "freight", date(2021, 11, 1))
    assert (prices.text, prices.topic_id, prices.theme_id) == (TEXTS[5], None, None)


def test_a_topic_stands_in_one_row_with_its_summary_and_theme(published: Database) -> None:
    found = ask(
        published, "SELECT topic_id, firm_name, n_sentences, summary_source, theme_id FROM topic_context ORDER BY 1"
    )
    assert found == [
        ("7_2021Q4_0", "Acme Inc.", 3, "keywords", "theme_2021Q4_001"),
        ("7_2021Q4_1", "Acme Inc.", 2, "keywords", "theme_2021Q4_002"),
        ("8_2021Q4_0", "Bolt & Co", 3, "keywords", "theme_2021Q4_001"),
        ("8_2021Q4_1", "Bolt & Co", 2, "keywords", "theme_2021Q4_002"),
    ]


def test_the_panel_has_every_firm_and_theme_zeros_included(published: Database) -> None:
    firms(published, 9, texts=("Prices fell in the autumn.", "Prices rose in the winter.", "Prices are what they are."))
    panel = """
        SELECT company_id, theme_label, call_date, n_topics, n_sentences, n_modelled, share, up_to_date
        FROM firm_theme_panel WHERE quarter = '2021Q4' ORDER BY company_id, theme_id
    """
    day = date(2021, 11, 1)
    assert ask(published, panel) == [
        (7, "freight", day, 1, 3, 6, 3 / 6, True),
        (7, "wages", day, 1, 2, 6, 2 / 6, True),
        (8, "freight", day, 1, 3, 6, 3 / 6, True),
        (8, "wages", day, 1, 2, 6, 2 / 6, True),
        (9, "freight", day, 0, 0, 3, 0.0, False),
        (9, "wages", day, 0, 0, 3, 0.0, False),
    ]


def test_zeros_of_a_firm_that_changed_are_marked(published: Database) -> None:
    firms(published, 7, texts=("Freight costs fell, to correct the record.", *TEXTS[1:]))
    found = "SELECT company_id, sum(n_sentences)::int, bool_and(up_to_date) FROM firm_theme_panel GROUP BY 1 ORDER BY 1"
    assert ask(published, found) == [(7, 0, False), (8, 5, True)]


def test_a_firm_without_a_modelled_sentence_has_no_share(published: Database) -> None:
    derive(published, firm(published, 9, texts=["Please hold."], speaker_type="Operator"))
    assert one(published, "SELECT DISTINCT share FROM firm_theme_panel WHERE company_id = 9") == [None]


def test_current_themes_leave_out_those_that_are_retired(published: Database) -> None:
    firms(published, 9, 10)
    firms(published, 7, 8, 9, 10, texts=TEXTS[:3] + TEXTS[5:])
    put_themes(published, themes_of(published))
    assert ask(published, "SELECT theme_id, run_number FROM current_themes") == [("theme_2021Q4_001", 2)]
    assert one(published, "SELECT count(*) FROM themes") == [2]


def test_the_status_of_a_firm_goes_stage_by_stage(database: Database) -> None:
    status = "SELECT stage, status FROM firm_status ORDER BY stage_order"
    where = firm(database)
    assert ask(database, status) == [(stage.name, "missing") for stage in STAGES]
    _, topics, _ = derive(database, where)
    assert ask(database, status) == [(stage.name, "current") for stage in STAGES]
    put(database, where, replace(topics, input_hash="others"))
    assert ask(database, status) == [
        ("firm_sentences", "current"),
        ("firm_topics", "stale"),
        ("topic_summaries", "current"),
    ]


def test_one_stage_more_is_missing_everywhere_until_it_is_made(published: Database) -> None:
    moods = replace(SUMMARIES, name="topic_moods", built_from=SUMMARIES.name)
    with published.transaction() as connection:
        connection.execute(sa.text("DROP VIEW firm_status"))
        for statement in firm_status((*STAGES, moods)).statements:
            connection.exec_driver_sql(statement)
        found = queries.quarter_progress(connection, QUARTER)
        connection.rollback()
    assert [firm.missing for firm in found.firms] == [("topic_moods",)] * 2
    assert (found.n_complete, found.themes.changed_firms) == (0, ("ACME-INC-7", "BOLT-CO-8"))


# --- how Postgres reads them


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM sentence_context WHERE quarter = '2021Q4' AND sentence_id = '100_1000_0003'",
        "SELECT * FROM sentence_context WHERE quarter = '2021Q4' AND theme_id = 'theme_2021Q4_001'",
        "SELECT * FROM sentence_context WHERE quarter = '2021Q4' AND firm_key = 'FIRM-100-100'",
        "SELECT theme_id, count(*) FROM sentence_context WHERE quarter = '2021Q4' GROUP BY theme_id",
    ],
)
def test_a_quarter_that_is_written_out_is_the_only_one_that_is_read(database: Database, statement: str) -> None:
    words = [chr(ord("a") + i) * 3 for i in range(20)]
    texts = ["\n".join(f"{word.capitalize()} is what number {i} of us says." for word in words for i in range(5))]
    firms(database, *range(100, 106), texts=texts)
    derive(database, firm(database, 100, texts, quarter="2022Q1", transcript_id=9, call_date=date(2022, 2, 1)))
    put_themes(database, themes_of(database))
    with database.transaction() as connection:
        connection.execute(sa.text("ANALYZE"))
        plan = plans(connection, lambda c: c.execute(sa.text(statement)))
    assert "sentences_2021q4" in plan and "sentences_2022q1" not in plan, plan
    if "sentence_id =" in statement:
        assert not re.search(r"Seq Scan on (sentences|topic_sentences)", plan), plan
