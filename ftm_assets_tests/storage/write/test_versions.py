import re
from dataclasses import replace
from datetime import UTC, date, datetime
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa

from ftm_assets.analysis.transcripts import Call, Component
from ftm_assets.storage.read.theme_state import theme_state
from ftm_assets.storage.server.database import Database
from ftm_assets.storage.stages.base import find_firm_quarter
from ftm_assets.storage.stages.transcripts import read_turns
from ftm_assets.storage.write.upsert_plan import IngestCounts, count_calls, plan_upserts
from ftm_assets_tests.fakes import at, component
from ftm_assets_tests.storage.sql import QUARTER, all_rows, ask, derive, load, one, publish_theme
from ftm_assets_tests.storage.write.made_calls import NEXT_QUARTER, call, changes, corrected, two_firms, version

# Versions of a call


def modelled(database: Database) -> list[object]:
    """Transcripts whose text is there; each of the others names one of them, or itself where there is none."""
    texts = one(database, "SELECT DISTINCT transcript_id FROM components ORDER BY 1")
    assert one(database, "SELECT transcript_id FROM calls WHERE superseded_by IS NULL ORDER BY 1") == texts
    assert set(one(database, "SELECT superseded_by FROM calls WHERE superseded_by <> transcript_id")) <= set(texts)
    return texts


LONG = "Freight costs rose a lot and we expect them to stay where they are for a while."


@pytest.mark.parametrize(
    ("rows", "kept"),
    [
        ([version(70, 1), version(71, 3, "Something else altogether."), version(72, 2)], [71]),
        ([version(70, 1), version(71, 2, event_id=2)], [70, 71]),
        ([version(70, 1, LONG, event_id=None), version(71, 2, LONG + " Yes.", event_id=None)], [71]),
        ([version(70, 1, LONG, event_id=None), version(71, 2, "Bolts were sold.", event_id=None)], [70, 71]),
        ([version(70, 1), version(71, 2, company_id=8)], [70, 71]),
    ],
    ids=["of one event", "two events of a day", "nearly the same text", "two calls of a day", "two firms"],
)
def test_of_each_event_the_latest_version_is_modelled(
    database: Database, rows: list[Component], kept: list[int]
) -> None:
    found = load(database, *rows)
    assert modelled(database) == kept
    assert found.counts.n_superseded == len(rows) - len(kept)
    assert len(one(database, "SELECT 1 FROM calls")) == len(rows)


def test_as_of_a_day_the_version_known_then_is_modelled(database: Database) -> None:
    rows = [version(70, 1), version(71, 1, created_at=at(3, 23)), version(72, 1, created_at=at(4))]
    days = [(date(2021, 11, 3), 71), (date(2021, 11, 4), 72), (date(2021, 11, 2), 70), (None, 72)]
    for as_of, kept in days:
        load(database, *rows, as_of=as_of)
        assert modelled(database) == [kept], as_of


def test_an_event_that_nobody_knew_by_then_is_counted_and_not_modelled(database: Database) -> None:
    rows = [version(70, 1), version(71, 2), *call(72, "Alone.", event_id=2, created_at=at(5), company_id=8)]
    for n_new in (3, 0):
        counts = load(database, *rows, as_of=date(2021, 11, 1)).counts
        assert (counts.n_calls, counts.n_new, counts.n_unchanged) == (3, n_new, 3 - n_new)
        assert (counts.n_superseded, counts.n_components, counts.n_superseded_components) == (3, 0, 3)
        assert modelled(database) == []
    with database.transaction() as connection:
        turns = read_turns(connection, find_firm_quarter(connection, QUARTER, "BOLT-8"))
    assert (turns.turns, turns.reason) == ((), "no call of BOLT-8 in 2021Q4 is the version to model")
    load(database, *rows)
    assert modelled(database) == [71, 72]


def test_as_of_a_day_calls_that_the_source_does_not_hold_stay(database: Database) -> None:
    load(database, *call(70, "Freight costs rose.", created_at=at(29)), *call(71, "Alone.", company_id=8))
    derive(database, "ACME-7")
    before = all_rows(database)
    load(database, *call(71, "Alone.", company_id=8), as_of=date(2021, 11, 2))
    assert all_rows(database) == before
    load(database, *call(72, "Another event.", day=2), as_of=date(2021, 11, 2))
    assert modelled(database) == [70, 71, 72]


def row(transcript_id: int, superseded_by: int | None = None, quarter: str = QUARTER) -> Any:
    """A row of `calls`, as far as plans depend on it."""
    return SimpleNamespace(quarter=quarter, superseded_by=superseded_by, content_hash="c", text_hash=str(transcript_id))


def test_versions_follow_the_one_they_gave_way_to_when_that_gives_way_itself() -> None:
    stored = {69: row(69, 71, NEXT_QUARTER), 70: row(70, 71), 71: row(71), 60: row(60)}
    newest = Call(tuple(call(72, "Freight costs rose.")))
    plans = plan_upserts(QUARTER, stored, {72: newest}, {71: 72})
    assert [(d.quarter, d.transcript_id, d.superseded_by, d.changes) for d in plans] == [
        (QUARTER, 72, None, True),
        (NEXT_QUARTER, 69, 72, True),
        (QUARTER, 70, 72, True),
        (QUARTER, 71, 72, True),
        (QUARTER, 60, None, False),
    ]
    assert [(d.modelled_before, d.modelled_now) for d in plans] == [
        (None, newest.text_hash),
        (None, None),
        (None, None),
        ("71", None),
        ("60", "60"),
    ]
    assert count_calls(plans) == IngestCounts(n_components=1, n_calls=1, n_new=1)


# Versions that are dated in two quarters


def over_new_year(transcript_id: int, hour: int, day: date, **changes: object) -> Component:
    text = f"Freight costs rose, says version {transcript_id}."
    return version(transcript_id, hour, text, call_date=day, **changes)


LAST_DAY, FIRST_DAY = date(2021, 12, 31), date(2022, 1, 1)
OLD, NEW = over_new_year(70, 1, LAST_DAY), over_new_year(71, 2, FIRST_DAY)


def load_by_quarter(database: Database, *rows: Component, as_of: date | None = None) -> list[IngestCounts]:
    """Load each row as the source of its own quarter, one after another."""
    return [
        load(database, row, quarter=QUARTER if row.call_date == LAST_DAY else NEXT_QUARTER, as_of=as_of).counts
        for row in rows
    ]


@pytest.mark.parametrize("rows", [(OLD, NEW), (NEW, OLD)], ids=["in order", "the later quarter first"])
def test_of_versions_in_two_quarters_the_latest_is_modelled_whichever_came_first(
    database: Database, rows: tuple[Component, ...]
) -> None:
    load_by_quarter(database, *rows)
    assert modelled(database) == [71]
    calls = "SELECT quarter, transcript_id, superseded_by FROM calls ORDER BY 1"
    assert ask(database, calls) == [(QUARTER, 70, 71), (NEXT_QUARTER, 71, None)]
    before = all_rows(database)
    for counts in load_by_quarter(database, *rows, *rows):
        assert counts.n_unchanged == 1
    assert all_rows(database) == before


@pytest.mark.parametrize(
    ("rows", "kept"),
    [
        ((over_new_year(70, 2, LAST_DAY), over_new_year(71, 1, FIRST_DAY)), [70]),
        ((over_new_year(70, 1, LAST_DAY, event_id=1), over_new_year(71, 2, FIRST_DAY, event_id=2)), [70, 71]),
        ((over_new_year(70, 1, LAST_DAY, company_id=8), over_new_year(71, 2, FIRST_DAY)), [70, 71]),
        ((over_new_year(70, 1, LAST_DAY, event_id=None), over_new_year(71, 2, FIRST_DAY, event_id=None)), [70, 71]),
    ],
    ids=["the earlier quarter has the latest", "two events", "two firms", "events without an id"],
)
@pytest.mark.parametrize("order", [1, -1], ids=["in order", "backwards"])
def test_only_versions_of_one_event_give_way_to_each_other_across_quarters(
    database: Database, rows: tuple[Component, ...], kept: list[int], order: int
) -> None:
    load_by_quarter(database, *rows[::order])
    assert modelled(database) == kept


def test_a_version_that_gives_way_to_one_of_another_quarter_takes_what_was_derived_from_it_along(
    database: Database,
) -> None:
    other = call(80, "Bolts were sold.", company_id=8)
    load(database, OLD, *other, *call(75, "Another call.", day=20))
    derive(database, "ACME-7", "BOLT-8")
    publish_theme(database, 7, 8)
    found = load(database, NEW, quarter=NEXT_QUARTER)
    assert (found.counts.n_new, found.counts.n_superseded, found.changed_firms) == (1, 0, ("ACME-7",))
    assert one(database, "SELECT DISTINCT company_id FROM sentences") == [8]
    assert modelled(database) == [71, 75, 80]
    derive(database, "ACME-7")
    assert one(database, "SELECT DISTINCT transcript_id FROM sentences ORDER BY 1") == [75, 80]
    with database.transaction() as connection:
        assert theme_state(connection, QUARTER).changed_firms == ("ACME-7",)


def test_as_of_decides_between_quarters_too(database: Database) -> None:
    rows = [
        over_new_year(70, 1, LAST_DAY, created_at=datetime(2021, 12, 31, 20, tzinfo=UTC)),
        over_new_year(71, 1, FIRST_DAY, created_at=datetime(2022, 1, 5, tzinfo=UTC)),
    ]
    load_by_quarter(database, *rows)
    assert modelled(database) == [71]
    for _ in range(2):
        load_by_quarter(database, *rows, as_of=LAST_DAY)
        assert modelled(database) == [70]
    load_by_quarter(database, *rows[::-1])
    assert modelled(database) == [71]


def test_a_version_that_moves_to_the_quarter_of_the_others_joins_them(database: Database) -> None:
    load_by_quarter(database, OLD, NEW)
    load(database, replace(NEW, call_date=LAST_DAY), OLD)
    assert ask(database, "SELECT quarter, transcript_id, superseded_by FROM calls ORDER BY 2") == [
        (QUARTER, 70, 71),
        (QUARTER, 71, None),
    ]
    assert one(database, "SELECT quarter FROM firm_quarters") == [QUARTER]


def test_a_version_that_comes_later_takes_the_place_of_the_stored_one(database: Database) -> None:
    load(database, version(70, 1))
    derive(database, "ACME-7")
    found = load(database, version(71, 2))
    assert (found.changed_firms, found.counts.n_new, found.counts.n_superseded) == (("ACME-7",), 1, 0)
    assert modelled(database) == [71]
    assert one(database, "SELECT 1 FROM sentences") == []
    load(database, version(72, 3))
    assert modelled(database) == [72]
    assert ask(database, "SELECT transcript_id, superseded_by FROM calls ORDER BY 1") == [
        (70, 72),
        (71, 72),
        (72, None),
    ]


def test_an_old_version_that_comes_late_leaves_the_sentences_alone(database: Database) -> None:
    load(database, version(71, 2))
    derive(database, "ACME-7")
    before = all_rows(database)
    found = load(database, version(70, 1))
    assert (found.changed_firms, found.counts.n_new, found.counts.n_superseded) == ((), 1, 1)
    assert changes(before, all_rows(database)) == {"calls"}
    assert modelled(database) == [71]


def test_a_correction_of_a_superseded_version_leaves_the_sentences_alone(database: Database) -> None:
    load(database, version(70, 1), version(71, 2))
    derive(database, "ACME-7")
    before = all_rows(database)
    found = load(database, version(70, 1, "Corrected in vain."), version(71, 2))
    assert (found.changed_firms, found.counts.n_changed) == ((), 1)
    assert changes(before, all_rows(database)) == {"calls"}


def test_as_of_brings_an_older_version_back_and_without_it_the_latest(database: Database) -> None:
    rows = [version(70, 1, "Old."), version(71, 1, "New.", created_at=at(5))]
    load(database, *rows)
    derive(database, "ACME-7")
    latest = all_rows(database)
    found = load(database, *rows, as_of=date(2021, 11, 3))
    assert (found.changed_firms, found.counts.n_changed, found.counts.n_superseded) == (("ACME-7",), 2, 1)
    assert one(database, "SELECT text FROM components") == ["Old."]
    assert modelled(database) == [70]
    load(database, *rows)
    assert all_rows(database)["components"] == latest["components"]
    assert all_rows(database)["calls"] == latest["calls"]


def test_as_of_an_older_version_alone_puts_the_stored_newer_one_aside(database: Database) -> None:
    load(database, version(71, 1, created_at=at(5)))
    load(database, version(70, 1), as_of=date(2021, 11, 3))
    assert modelled(database) == [70]


def test_a_version_that_turns_out_to_be_another_event_comes_back(database: Database) -> None:
    load(database, version(70, 1), version(71, 2))
    load(database, version(70, 1), version(71, 2, event_id=2))
    assert modelled(database) == [70, 71]


def test_an_id_of_zero_is_as_good_as_any(database: Database) -> None:
    load(database, *call(69, "Another call altogether.", day=20))
    load(database, version(0, 1), version(5, 2))
    assert modelled(database) == [5, 69]


def test_as_of_counts_days_in_utc_whatever_zone_the_server_is_in(database: Database) -> None:
    name = database.engine.url.database
    with database.transaction() as connection:
        connection.execute(sa.text(f"ALTER DATABASE {name} SET timezone = 'America/New_York'"))
    database.engine.dispose()
    # 2 November in London is still the 1st in New York.
    rows = [version(70, 0, created_at=at(1)), version(71, 2)]
    first = load(database, *rows, as_of=date(2021, 11, 1))
    assert modelled(database) == [70]
    with database.transaction() as connection:
        connection.execute(sa.text(f"ALTER DATABASE {name} SET timezone = 'Asia/Tokyo'"))
    database.engine.dispose()
    assert load(database, *rows, as_of=date(2021, 11, 1)).content_hash == first.content_hash


# Calls that move, firms that change


def test_a_call_that_moves_to_another_quarter_leaves_the_old_one(database: Database) -> None:
    rows = two_firms()
    load(database, *rows)
    derive(database, "ACME-7", "BOLT-8")
    moved = corrected(rows, 71, call_date=date(2022, 1, 3))[2]
    assert load(database, moved, quarter=NEXT_QUARTER).counts.n_new == 1
    assert ask(database, "SELECT quarter, transcript_id FROM calls ORDER BY 2") == [
        (QUARTER, 70),
        (NEXT_QUARTER, 71),
        (QUARTER, 80),
    ]
    assert one(database, "SELECT DISTINCT company_id FROM sentences") == [8]
    assert load(database, moved, quarter=NEXT_QUARTER).counts.n_unchanged == 1


def test_a_firm_whose_only_call_moves_leaves_the_old_quarter_with_all_its_versions(database: Database) -> None:
    load(database, version(70, 1), version(71, 2))
    load(database, version(71, 2, call_date=date(2022, 1, 3)), quarter=NEXT_QUARTER)
    assert ask(database, "SELECT quarter, transcript_id FROM calls") == [(NEXT_QUARTER, 71)]
    for table in ("firm_quarters", "materializations"):
        assert one(database, f"SELECT DISTINCT quarter FROM {table}") == [NEXT_QUARTER]


def test_a_firm_keeps_its_key_and_has_in_each_quarter_the_name_of_then(database: Database) -> None:
    load(database, component())
    later = component(transcript_id=71, call_date=date(2022, 2, 1), company_name="Zenith Inc.", ticker="ZEN", gvkey="9")
    assert load(database, later, quarter=NEXT_QUARTER).firm_keys == ("ACME-7",)
    assert ask(database, "SELECT quarter, name, ticker, gvkey FROM firm_quarters ORDER BY 1") == [
        (QUARTER, "Acme Inc.", "ACME", None),
        (NEXT_QUARTER, "Zenith Inc.", "ZEN", "9"),
    ]


@pytest.mark.parametrize("order", [1, -1], ids=["in order", "the later call first"])
def test_the_latest_call_of_the_quarter_names_the_firm_whichever_came_first(database: Database, order: int) -> None:
    for row in [*call(70, "a"), *call(71, "b", day=20, company_name="Zenith Inc.", ticker="ZEN")][::order]:
        load(database, row)
    assert ask(database, "SELECT name, ticker FROM firm_quarters") == [("Zenith Inc.", "ZEN")]


def test_any_name_is_kept_as_it_is_and_makes_a_safe_key(database: Database) -> None:
    names = {
        ("Acme Inc.", "NA"): "NA-0",
        ("Acme Inc.", "BRK.B"): "BRK-B-1",
        ("Acme Inc.", None): "ACME-INC-2",
        ('O\'Neil "Big", Sons | [Holdings] (UK); {x}', None): "O-NEIL-BIG-SONS-HOLDINGS-3",
        ("株式会社", None): "FIRM-4",
        ("", None): "FIRM-5",
    }
    for i, (name, ticker) in enumerate(names):
        load(database, component(company_id=i, transcript_id=i, company_name=name, ticker=ticker))
    found = ask(database, "SELECT name, ticker, partition_key FROM firm_quarters JOIN firms USING (company_id)")
    assert {(name, ticker): key for name, ticker, key in found} == names
    assert all(re.fullmatch(r"[A-Z0-9]+(-[A-Z0-9]+)*", key) for key in names.values())
