from collections.abc import Callable

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ftm_assets.storage.maintain.deletion import (
    CallToDelete,
    calls_to_delete,
    delete_calls,
    drop_quarter,
    firms_without_calls,
)
from ftm_assets.storage.read.queries import firms
from ftm_assets.storage.read.theme_state import ThemeState, theme_state
from ftm_assets.storage.server.database import Database
from ftm_assets.storage.write import calls as transcripts
from ftm_assets.storage.write.calls import QuarterInUse
from ftm_assets_tests.fakes import at, component
from ftm_assets_tests.storage.sql import QUARTER, all_rows, ask, derive, load, one, publish_theme

NEXT_QUARTER = "2022Q1"
ACME, BOLT = "ACME-7", "BOLT-8"

ACMES = (component(), component("They rose again.", transcript_id=71, call_date=at(20).date()))
BOLTS = component("Demand was strong.", transcript_id=80, company_id=8, company_name="Bolt AG", ticker="BOLT")
NEXT = component("They fell at last.", transcript_id=75, call_date=at(1).date().replace(year=2022, month=2))


@pytest.fixture
def quarters(database: Database) -> Database:
    """Acme with two calls and Bolt with one in 2021Q4, Acme with one in 2022Q1; all derived, both with themes."""
    load(database, *ACMES, BOLTS)
    load(database, NEXT, quarter=NEXT_QUARTER)
    derive(database, ACME, BOLT)
    derive(database, ACME, quarter=NEXT_QUARTER)
    publish_theme(database, 7, 8)
    publish_theme(database, 7, quarter=NEXT_QUARTER)
    return database


def chosen(
    database: Database, quarter: str | None = None, firm: int | None = None, call: int | None = None
) -> list[int]:
    with database.transaction() as connection:
        return [found.transcript_id for found in calls_to_delete(connection, quarter, firm, call)]


def forget_calls(
    database: Database, quarter: str | None = None, firm: int | None = None, call: int | None = None
) -> list[str]:
    with database.transaction() as connection:
        delete_calls(connection, calls_to_delete(connection, quarter, firm, call))
        return firms_without_calls(connection)


def forget_quarter(connection: Connection, quarter: str) -> None:
    delete_calls(connection, calls_to_delete(connection, quarter))


def rows_of(database: Database, condition: str) -> dict[str, list[object]]:
    """Rows that meet a condition on quarter or company_id, of all tables that have both."""
    tables = (
        "firm_quarters materializations calls sentences topics topic_sentences topic_summaries theme_inputs "
        "theme_topics"
    )
    return {
        table: one(database, f"SELECT x::text FROM {table} AS x WHERE {condition} ORDER BY 1")
        for table in tables.split()
    }


def test_calls_are_chosen_by_every_condition_given(quarters: Database) -> None:
    assert chosen(quarters) == []
    assert chosen(quarters, QUARTER) == [70, 71, 80]
    assert chosen(quarters, firm=7) == [70, 71, 75]
    assert chosen(quarters, call=80) == [80]
    assert chosen(quarters, QUARTER, firm=7) == [70, 71]
    assert chosen(quarters, firm=7, call=80) == []
    assert chosen(quarters, "1999Q1") == []
    assert chosen(quarters, call=0) == []


def test_a_chosen_call_says_which_it_is(quarters: Database) -> None:
    with quarters.transaction() as connection:
        assert calls_to_delete(connection, transcript_id=80) == [
            CallToDelete(QUARTER, 8, BOLT, 80, "Acme Inc., Q3 2021 Earnings Call, Nov 01, 2021")
        ]


def test_forgetting_one_of_two_calls_costs_the_firm_quarter_its_derived_rows_and_nobody_else(
    quarters: Database,
) -> None:
    others = rows_of(quarters, f"(quarter, company_id) <> ('{QUARTER}', 7)")
    assert forget_calls(quarters, call=71) == []
    assert rows_of(quarters, f"(quarter, company_id) <> ('{QUARTER}', 7)") == others
    mine = f"(quarter, company_id) = ('{QUARTER}', 7)"
    assert one(quarters, f"SELECT transcript_id FROM calls WHERE {mine}") == [70]
    assert one(quarters, f"SELECT stage FROM materializations WHERE {mine}") == ["transcripts"]
    assert one(quarters, "SELECT text FROM components WHERE transcript_id IN (70, 71)") == [ACMES[0].text]
    assert all(rows_of(quarters, mine)[table] == [] for table in ("sentences", "topics", "topic_summaries"))


def test_what_is_left_is_as_if_the_call_had_never_come(quarters: Database) -> None:
    never = (
        "SELECT content_hash FROM materializations"
        " WHERE stage = 'transcripts' AND company_id = 7 AND quarter = '2021Q4'"
    )
    forget_calls(quarters, call=71)
    left = one(quarters, never)
    forget_calls(quarters, firm=7)
    load(quarters, ACMES[0])
    assert one(quarters, never) == left


def test_a_firm_without_a_call_leaves_the_quarter_but_is_gone_only_without_any(quarters: Database) -> None:
    assert forget_calls(quarters, QUARTER, firm=7) == []
    assert one(quarters, "SELECT quarter FROM firm_quarters WHERE company_id = 7") == [NEXT_QUARTER]
    assert forget_calls(quarters, firm=7) == [ACME]
    with quarters.transaction() as connection:
        assert [firm.partition_key for firm in firms(connection)] == [BOLT]


def test_a_forgotten_firm_that_returns_has_its_old_key(quarters: Database) -> None:
    forget_calls(quarters, firm=7)
    found = load(quarters, component(ticker="ZEN", company_name="Zenith Inc."))
    assert found.firm_keys == (ACME, BOLT)


def test_a_whole_quarter_can_be_forgotten(quarters: Database) -> None:
    other = rows_of(quarters, f"quarter = '{NEXT_QUARTER}'")
    assert forget_calls(quarters, QUARTER) == [BOLT]
    assert rows_of(quarters, f"quarter = '{NEXT_QUARTER}'") == other
    assert one(quarters, "SELECT count(*) FROM sentences_2021q4") == [0]


def test_published_themes_survive_what_they_were_made_from_and_know_it(quarters: Database) -> None:
    themes = one(quarters, "SELECT x::text FROM themes AS x")
    with quarters.transaction() as connection:
        assert theme_state(connection, QUARTER) == ThemeState(1, ())
    forget_calls(quarters, call=80)
    assert one(quarters, "SELECT x::text FROM themes AS x") == themes
    members = "SELECT company_id, topic_number, live_topic_number FROM theme_topics WHERE quarter = '2021Q4' ORDER BY 1"
    assert ask(quarters, members) == [(7, 0, 0), (8, 0, None)]
    with quarters.transaction() as connection:
        assert theme_state(connection, QUARTER) == ThemeState(1, (BOLT,))
        assert theme_state(connection, NEXT_QUARTER).current


def test_forgetting_a_version_that_gave_way_leaves_the_sentences_alone(database: Database) -> None:
    load(database, component(event_id=1, created_at=at(2)), component(transcript_id=71, event_id=1, created_at=at(3)))
    derive(database, ACME)
    before = all_rows(database)
    assert forget_calls(database, call=70) == []
    after = all_rows(database)
    assert one(database, "SELECT transcript_id FROM calls") == [71]
    assert {name for name in before if before[name] != after[name]} == {"calls"}


def test_forgetting_the_modelled_version_forgets_those_that_gave_way_to_it(database: Database) -> None:
    load(
        database,
        component(event_id=1, created_at=at(2)),
        component(transcript_id=71, event_id=1, created_at=at(3)),
        component("Another call.", transcript_id=72, event_id=2),
    )
    assert forget_calls(database, call=71) == []
    assert one(database, "SELECT transcript_id FROM calls") == [72]
    assert forget_calls(database, call=72) == [ACME]
    assert one(database, "SELECT 1 FROM calls") == []


def test_whoever_forgets_a_call_is_shown_the_versions_that_go_with_it(database: Database) -> None:
    new_year = at(1).date().replace(year=2022, month=1)
    load(database, component(event_id=1), component(transcript_id=71, event_id=1, created_at=at(3)))
    newest = component(transcript_id=72, event_id=1, created_at=at(4), call_date=new_year)
    load(database, newest, quarter=NEXT_QUARTER)
    assert chosen(database, call=70) == [70]
    assert chosen(database, call=72) == [70, 71, 72]
    assert chosen(database, NEXT_QUARTER) == [70, 71, 72]
    assert forget_calls(database, call=72) == [ACME]
    for table in ("calls", "components", "materializations", "firm_quarters"):
        assert one(database, f"SELECT 1 FROM {table}") == [], table


def test_forgetting_the_last_modelled_call_keeps_the_firm_while_it_has_others(database: Database) -> None:
    unknown = component("Not known yet.", transcript_id=71, event_id=2, created_at=at(9))
    load(database, component(event_id=1), unknown, as_of=at(1).date())
    assert forget_calls(database, call=70) == []
    assert one(database, "SELECT transcript_id FROM calls") == [71]
    assert forget_calls(database, call=71) == [ACME]


def test_forgetting_nothing_changes_nothing(quarters: Database) -> None:
    before = all_rows(quarters)
    assert forget_calls(quarters) == []
    assert all_rows(quarters) == before


# Dropping a quarter


def drop(database: Database, quarter: str) -> int:
    with database.transaction() as connection:
        return drop_quarter(connection, quarter)


def test_a_dropped_quarter_is_gone_and_the_others_are_as_they_were(quarters: Database) -> None:
    whole = (
        "quarters",
        "firm_quarters",
        "materializations",
        "calls",
        "components",
        "sentences",
        "topics",
        "topic_sentences",
    )
    tables = (*whole, "topic_summaries", "theme_runs", "theme_inputs", "themes", "theme_topics")

    def others() -> list[list[object]]:
        return [one(quarters, f"SELECT x::text FROM {t} AS x WHERE quarter <> '{QUARTER}' ORDER BY 1") for t in tables]

    before = others()
    assert drop(quarters, QUARTER) == 3
    assert others() == before
    assert [one(quarters, f"SELECT 1 FROM {table} WHERE quarter = '{QUARTER}'") for table in tables] == [[]] * len(
        tables
    )
    assert one(quarters, "SELECT tablename FROM pg_tables WHERE tablename LIKE 'sentences_%'") == ["sentences_2022q1"]
    assert one(quarters, "SELECT partition_key FROM firms ORDER BY 1") == [ACME, BOLT]


def test_a_dropped_quarter_can_be_loaded_again_and_is_the_same(quarters: Database) -> None:
    tables = ("calls", "components", "sentences", "topics", "topic_sentences", "topic_summaries", "themes")
    before = all_rows(quarters)
    drop(quarters, QUARTER)
    load(quarters, *ACMES, BOLTS)
    derive(quarters, ACME, BOLT)
    publish_theme(quarters, 7, 8)
    after = all_rows(quarters)
    assert [after[table] for table in tables] == [before[table] for table in tables]


def test_a_dropped_quarter_takes_along_versions_elsewhere_that_gave_way_to_its_own(database: Database) -> None:
    new_year = at(1).date().replace(year=2022, month=1)
    newest = component(transcript_id=72, event_id=1, created_at=at(4), call_date=new_year)
    load(database, component(event_id=1), BOLTS)
    load(database, newest, quarter=NEXT_QUARTER)
    assert drop(database, NEXT_QUARTER) == 1
    assert one(database, "SELECT transcript_id FROM calls") == [80]
    assert load(database, component(event_id=1)).counts.n_new == 1


def test_dropping_what_is_not_there_changes_nothing(quarters: Database) -> None:
    drop(quarters, QUARTER)
    before = all_rows(quarters)
    assert [drop(quarters, quarter) for quarter in (QUARTER, "1999Q1")] == [0, 0]
    assert all_rows(quarters) == before


def test_a_quarter_in_use_is_not_dropped_and_nobody_waits_long(
    quarters: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transcripts, "LOCK_TIMEOUT_MS", 100)
    before = all_rows(quarters)
    for use in ("SELECT 1 FROM sentences", "UPDATE components SET person_id = 1", "DELETE FROM topic_sentences"):
        with quarters.engine.connect() as other:
            other.execute(sa.text(use))
            with pytest.raises(QuarterInUse, match="2021Q4 cannot be dropped while others"):
                drop(quarters, QUARTER)
    assert all_rows(quarters) == before
    assert drop(quarters, QUARTER) == 3


@pytest.mark.parametrize("remove", [forget_quarter, drop_quarter])
def test_a_removal_that_is_broken_off_removes_nothing(
    quarters: Database, remove: Callable[[Connection, str], object]
) -> None:
    before = all_rows(quarters)
    with pytest.raises(KeyboardInterrupt), quarters.transaction() as connection:
        remove(connection, QUARTER)
        raise KeyboardInterrupt
    assert all_rows(quarters) == before
