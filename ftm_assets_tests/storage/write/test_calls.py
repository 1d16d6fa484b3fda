import re
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from datetime import UTC, date, datetime
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa

from ftm_assets.analysis.transcripts import Call, Component, Reject
from ftm_assets.storage.read.theme_state import theme_state
from ftm_assets.storage.server.database import Database
from ftm_assets.storage.stages.base import find_firm_quarter
from ftm_assets.storage.stages.transcripts import read_turns
from ftm_assets.storage.write import calls as transcripts
from ftm_assets.storage.write import staging
from ftm_assets.storage.write.calls import create_quarter, ingest
from ftm_assets.storage.write.staging import TooManyRejects
from ftm_assets.storage.write.upsert_plan import IngestCounts, count_calls, plan_upserts
from ftm_assets_tests.fakes import at, component
from ftm_assets_tests.storage.sql import QUARTER, all_rows, ask, at_once, derive, load, load_all, one, publish_theme

NEXT_QUARTER = "2022Q1"
DERIVED = ("sentences", "topics", "topic_sentences", "topic_summaries")


def call(transcript_id: int, *texts: str, company_id: int = 7, day: int = 1, **changes: object) -> list[Component]:
    """A call of the given firm on that day of November 2021, a component for each text."""
    names = {7: ("Acme Inc.", "ACME"), 8: ("Bolt AG", "BOLT")}
    name, ticker = names.get(company_id, (f"Firm {company_id}", None))
    facts = {"company_id": company_id, "company_name": name, "ticker": ticker, "call_date": date(2021, 11, day)}
    return [
        component(
            text,
            transcript_id=transcript_id,
            component_order=order,
            row_number=100 * transcript_id + order,
            **{**facts, **changes},
        )
        for order, text in enumerate(texts)
    ]


def version(transcript_id: int, hour: int, text: str = "Freight costs rose a lot.", **changes: object) -> Component:
    """A version of the call of 1 November, made at that hour of 2 November; event 1 unless told otherwise."""
    facts: dict[str, Any] = {"event_id": 1, "created_at": at(2, hour), **changes}
    return call(transcript_id, text, **facts)[0]


def two_firms() -> list[Component]:
    """Acme with two calls, Bolt with one."""
    return [
        *call(70, "Freight costs rose a lot.", "Steel costs fell a bit."),
        *call(71, "Freight costs rose again.", day=20),
        *call(80, "Demand for bolts was strong.", company_id=8),
    ]


def corrected(rows: list[Component], transcript_id: int, **changes: object) -> list[Component]:
    """The rows with something changed in every component of one call."""
    return [replace(row, **changes) if row.transcript_id == transcript_id else row for row in rows]  # type: ignore[arg-type]


def changes(before: dict[str, list[str]], after: dict[str, list[str]]) -> set[str]:
    """Tables whose rows differ, partitions aside."""
    return {name for name in before if before[name] != after[name] and not name.startswith("sentences_")}


# What is counted


def test_every_row_and_every_call_is_counted_once(database: Database) -> None:
    old, newer = call(70, "One.", "Two.", "Three.", event_id=1, created_at=at(2)), version(71, 12)
    found = load(
        database,
        *old[:2],
        replace(old[1], row_number=4),
        replace(old[1], row_number=5, text="Other words."),
        Reject(6, "componentorder", "x", "not an integer", 70),
        Reject(7, "componenttext", "T\\x00hree.", "NUL removed", 70, kept=True),
        replace(old[2], row_number=7),
        newer,
        *call(70, "Not ours.", company_id=8),
        *call(80, "Demand for bolts was strong.", company_id=8),
    )
    assert found.counts == IngestCounts(
        n_rows=9,
        n_components=2,
        n_superseded_components=3,
        n_duplicates=1,
        n_rejected=3,
        n_repaired=1,
        n_calls=3,
        n_new=3,
        n_superseded=1,
    )
    assert 9 == 2 + 3 + 1 + 3


def test_a_call_is_new_changed_or_unchanged(database: Database) -> None:
    rows = two_firms()
    load(database, *rows[:3])
    counts = load(database, *corrected(rows, 71, text="Freight costs fell.")).counts
    assert (counts.n_calls, counts.n_new, counts.n_changed, counts.n_unchanged) == (3, 1, 1, 1)


def test_a_source_without_rows_changes_nothing(database: Database) -> None:
    load(database, *two_firms())
    before = all_rows(database)
    found = load(database)
    assert found.counts == IngestCounts()
    assert (found.firm_keys, found.changed_firms) == (("ACME-7", "BOLT-8"), ())
    assert all_rows(database) == before


# Nothing changes when nothing changed


@pytest.mark.parametrize("order", [1, -1], ids=["as it was", "backwards"])
def test_the_same_source_twice_leaves_every_row_as_it_was(database: Database, order: int) -> None:
    rows: list[Component | Reject] = [
        *two_firms(),
        version(90, 1, company_id=9),
        version(91, 2, company_id=9),
        Reject(6, "componentorder", "x", "not an integer", 70),
        Reject(7, "componenttext", "", "NUL removed", 70, kept=True),
    ]
    first = load(database, *rows)
    derive(database, "ACME-7", "BOLT-8", "FIRM-9-9")
    publish_theme(database, 7, 8, 9)
    before = all_rows(database)
    again = load(database, *rows[::order])
    assert all_rows(database) == before
    assert again.changed_firms == ()
    assert again.content_hash == first.content_hash
    assert (again.firm_keys, again.rejects) == (first.firm_keys, first.rejects)
    assert asdict(again.counts) == asdict(first.counts) | {"n_new": 0, "n_unchanged": 5}


def test_one_corrected_call_costs_its_firm_the_derived_rows_and_nobody_else(database: Database) -> None:
    rows = two_firms()
    load(database, *rows)
    derive(database, "ACME-7", "BOLT-8")
    calls = ask(database, "SELECT * FROM calls WHERE transcript_id <> 71 ORDER BY 2")
    bolts = [
        ask(database, f"SELECT x::text FROM {name} AS x WHERE company_id = 8")
        for name in (*DERIVED, "materializations")
    ]
    found = load(database, *corrected(rows, 71, text="Freight costs fell."))
    assert found.changed_firms == ("ACME-7",)
    assert ask(database, "SELECT * FROM calls WHERE transcript_id <> 71 ORDER BY 2") == calls
    assert [
        ask(database, f"SELECT x::text FROM {name} AS x WHERE company_id = 8")
        for name in (*DERIVED, "materializations")
    ] == bolts
    assert [one(database, f"SELECT 1 FROM {name} WHERE company_id = 7") for name in DERIVED] == [[], [], [], []]
    assert one(database, "SELECT stage FROM materializations WHERE company_id = 7") == ["transcripts"]
    assert ask(database, "SELECT transcript_id, component_order, text FROM components ORDER BY 1, 2") == [
        (70, 0, "Freight costs rose a lot."),
        (70, 1, "Steel costs fell a bit."),
        (71, 0, "Freight costs fell."),
        (80, 0, "Demand for bolts was strong."),
    ]


def test_whatever_sentences_are_made_from_drops_them_when_it_changes(database: Database) -> None:
    rows = two_firms()
    load(database, *rows)
    for name in ("text", "person", "speaker_type", "type_name", "company_name"):
        derive(database, "ACME-7")
        rows = corrected(rows, 71, **{name: "Another"})
        assert load(database, *rows).changed_firms == ("ACME-7",), name
        assert one(database, "SELECT 1 FROM sentences") == []


def test_any_other_fact_is_corrected_in_place_and_keeps_the_sentences(database: Database) -> None:
    rows = two_firms()
    load(database, *rows)
    derive(database, "ACME-7", "BOLT-8")
    for name, value, tables in (
        ("headline", "Acme Inc., Q1 2022 Earnings Call", {"calls"}),
        ("ticker", "ACM", {"calls", "firm_quarters"}),
        ("gvkey", "001", {"calls", "firm_quarters"}),
        ("permno", 10, {"calls", "firm_quarters"}),
        ("event_id", 5, {"calls"}),
        ("event_type", "Earnings Calls", {"calls"}),
        ("collection_type", "Edited Copy", {"calls"}),
        ("presentation_type", "Final", {"calls"}),
        ("call_at", at(20, 15), {"calls"}),
        ("created_at", at(21), {"calls"}),
        ("call_date", date(2021, 11, 21), {"calls"}),
        ("component_id", 5, {"calls", "components"}),
        ("person_id", 5, {"calls", "components"}),
    ):
        before = all_rows(database)
        rows = corrected(rows, 71, **{name: value})
        found = load(database, *rows)
        assert (found.counts.n_changed, found.changed_firms) == (1, ()), name
        assert changes(before, all_rows(database)) == tables, name
    assert ask(database, "SELECT ticker, gvkey, permno FROM firm_quarters WHERE company_id = 7") == [("ACM", "001", 10)]
    assert ask(
        database,
        "SELECT call_date, event_id, collection_type, presentation_type, available_at, fiscal_year, component_id, "
        "person_id FROM calls JOIN components USING (quarter, transcript_id) WHERE transcript_id = 71",
    ) == [(date(2021, 11, 21), 5, "Edited Copy", "Final", at(21), 2022, 5, 5)]


def test_calls_that_change_places_make_the_sentences_stale_because_topics_depend_on_their_order(
    database: Database,
) -> None:
    rows = two_firms()
    load(database, *rows)
    derive(database, "ACME-7")
    assert load(database, *corrected(rows, 70, call_date=date(2021, 11, 30))).changed_firms == ("ACME-7",)


def test_a_call_that_lost_and_gained_components_has_those_of_the_source(database: Database) -> None:
    load(database, *call(70, "One.", "Two.", "Three."))
    derive(database, "ACME-7")
    load(database, *call(70, "One.", "Zwei."))
    assert one(database, "SELECT text FROM components ORDER BY component_order") == ["One.", "Zwei."]
    load(database, *call(70, "One.", "Zwei.", "Three."))
    assert one(database, "SELECT text FROM components ORDER BY component_order") == ["One.", "Zwei.", "Three."]


def test_a_second_call_of_a_firm_joins_the_first(database: Database) -> None:
    first, second = call(70, "Freight costs rose."), call(71, "They rose again.", day=20)
    load(database, *first)
    derive(database, "ACME-7")
    found = load(database, *second)
    assert found.changed_firms == ("ACME-7",)
    assert one(database, "SELECT 1 FROM sentences") == []
    assert one(database, "SELECT transcript_id FROM calls ORDER BY 1") == [70, 71]


def test_calls_that_the_source_does_not_hold_stay(database: Database) -> None:
    load(database, *two_firms())
    derive(database, "ACME-7", "BOLT-8")
    before = all_rows(database)
    found = load(database, *call(80, "Demand for bolts was strong.", company_id=8))
    assert all_rows(database) == before
    assert found.firm_keys == ("ACME-7", "BOLT-8")


def test_of_two_at_once_the_second_finds_nothing_to_do(database: Database) -> None:
    load(database)
    both_have_read = threading.Barrier(2)

    def rows() -> Iterator[Component | Reject]:
        yield from two_firms()
        yield from unusable(1)
        both_have_read.wait(timeout=10)

    found = at_once(2, lambda: load_all(database, rows()).counts)
    assert sorted((counts.n_new, counts.n_unchanged) for counts in found) == [(0, 3), (3, 0)]


def test_quarters_of_one_source_are_loaded_side_by_side(database: Database) -> None:
    both_have_read = threading.Barrier(2)
    quarters = iter([(QUARTER, date(2021, 11, 1), 70), (NEXT_QUARTER, date(2022, 2, 1), 71)])

    def load_one() -> int:
        quarter, day, transcript_id = next(quarters)

        def rows() -> Iterator[Component | Reject]:
            yield from unusable(50)
            yield component(call_date=day, transcript_id=transcript_id, row_number=100)
            both_have_read.wait(timeout=10)

        return load_all(database, rows(), quarter).counts.n_new

    for quarter in (QUARTER, NEXT_QUARTER):
        load(database, quarter=quarter)
    assert at_once(2, load_one) == [1, 1]
    assert one(database, "SELECT count(*) FROM rejects") == [50]


def test_a_firm_that_is_named_as_before_is_not_written(database: Database) -> None:
    load(database, *two_firms())
    written = "SELECT xmin::text FROM firm_quarters"
    before = one(database, written)
    load(database, *two_firms())
    assert one(database, written) == before
    load(database, *corrected(two_firms(), 71, ticker="ACM"))
    assert one(database, written) != before


# The order of rows


def test_transcripts_may_be_interleaved_and_rows_out_of_order(
    database: Database, request: pytest.FixtureRequest
) -> None:
    rows = [*call(71, "c", "d", day=20), *call(80, "x", "y", company_id=8), *call(70, "a", "b")]
    load(database, *rows[::2], *rows[1::2][::-1])
    assert ask(database, "SELECT transcript_id, text FROM components ORDER BY transcript_id, component_order") == [
        (70, "a"),
        (70, "b"),
        (71, "c"),
        (71, "d"),
        (80, "x"),
        (80, "y"),
    ]


def test_a_call_whose_rows_disagree_about_the_day_is_one_call_on_the_day_of_its_first(database: Database) -> None:
    first, second = call(70, "One.", "Two.")
    other = call(71, "Three.", day=2)
    counts = load(database, first, *other, replace(second, call_date=date(2021, 11, 3))).counts
    assert ask(database, "SELECT transcript_id, call_date FROM calls ORDER BY 1") == [
        (70, date(2021, 11, 1)),
        (71, date(2021, 11, 2)),
    ]
    assert one(database, "SELECT text FROM components WHERE transcript_id = 70 ORDER BY 1") == ["One.", "Two."]
    assert (counts.n_rows, counts.n_components, counts.n_calls) == (3, 3, 2)


@pytest.mark.parametrize("numbers", [(2, 3, 4), (0, 0, 0)], ids=["numbered", "by a source that numbers no rows"])
def test_of_one_component_the_first_counts(database: Database, numbers: tuple[int, int, int]) -> None:
    rows = [component(text, row_number=n) for n, text in zip(numbers, ("One.", "One.", "Two."), strict=True)]
    found = load(database, *rows)
    assert one(database, "SELECT text FROM components") == ["One."]
    assert (found.counts.n_duplicates, found.counts.n_rejected) == (1, 1)
    reason = f"row {numbers[0]} has the same component with another text"
    assert found.rejects == (Reject(numbers[2], "componentorder", "0", reason, 70),)


def test_a_row_of_another_quarter_is_rejected(database: Database) -> None:
    found = load(database, component(), component(transcript_id=71, call_date=date(2022, 1, 1), row_number=3))
    assert one(database, "SELECT transcript_id FROM calls") == [70]
    assert [(reject.row_number, reject.value) for reject in found.rejects] == [(3, "2022-01-01")]
    assert (found.counts.n_rows, found.counts.n_components, found.counts.n_rejected) == (2, 1, 1)


@pytest.mark.parametrize("day", [date(2021, 10, 1), date(2021, 12, 31)])
def test_both_ends_of_the_quarter_belong_to_it(database: Database, day: date) -> None:
    assert load(database, component(call_date=day)).counts.n_components == 1


# Transcripts that two firms claim


def test_a_transcript_belongs_to_the_firm_whose_row_came_first(database: Database) -> None:
    ours, theirs = component(row_number=2), component("Ours.", row_number=3, company_id=8, component_order=1)
    found = load(database, theirs, ours)
    assert found.firm_keys == ("ACME-7",)
    assert found.rejects == (Reject(3, "companyid", "8", "transcript 70 already belongs to firm 7", 70),)


@pytest.mark.parametrize("quarter", [QUARTER, NEXT_QUARTER])
def test_a_stored_transcript_stays_with_its_firm(database: Database, quarter: str) -> None:
    load(database, component())
    before = all_rows(database)["calls"]
    day = date(2021, 12, 1) if quarter == QUARTER else date(2022, 1, 1)
    found = load(database, component(company_id=6, call_date=day, row_number=-5), quarter=quarter)
    assert [reject.reason for reject in found.rejects] == ["transcript 70 already belongs to firm 7"]
    assert "FIRM-6" not in found.firm_keys
    assert all_rows(database)["calls"] == before


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


# Texts


def test_turns_are_kept_to_the_letter(database: Database) -> None:
    texts = ["", " ", "é\n\t\"'\\ \\N ,|{}", "💰", "x" * 1_000_000]
    assert load(database, *call(70, *texts)).counts.n_components == 5
    assert one(database, "SELECT text FROM components ORDER BY component_order") == texts


def test_what_postgres_cannot_hold_is_mended_and_the_same_again_the_next_time(database: Database) -> None:
    rows = [component("Fre\0ight \ud83d rose.", headline="Q3\0 2021", person="A\udce9")]
    load(database, *rows)
    assert ask(database, "SELECT text, person FROM components") == [("Freight \ufffd rose.", "A\ufffd")]
    assert load(database, *rows).counts.n_unchanged == 1


def test_times_are_kept_to_the_second_they_say(database: Database) -> None:
    load(database, component(call_at=at(1, 21), created_at=at(2, 3)))
    assert ask(database, "SELECT call_at, available_at, fiscal_year, fiscal_quarter FROM calls") == [
        (datetime(2021, 11, 1, 21, tzinfo=UTC), datetime(2021, 11, 2, 3, tzinfo=UTC), 2021, 3)
    ]


# Sources that are not what they should be


def unusable(n: int, first: int = 2) -> list[Reject]:
    return [Reject(row, "companyid", "x", "not an integer") for row in range(first, first + n)]


def other_texts(n: int) -> list[Component]:
    return [component(f"Text {row}.", row_number=row) for row in range(n + 1)]


def other_firms(n: int) -> list[Component]:
    return [component(company_id=8 - (row == 0), component_order=row, row_number=row) for row in range(n + 1)]


@pytest.mark.parametrize("rows", [unusable, other_texts, other_firms])
def test_a_source_with_too_many_unusable_rows_is_refused_and_nothing_is_written(
    database: Database, monkeypatch: pytest.MonkeyPatch, rows: Callable[[int], list[Component | Reject]]
) -> None:
    monkeypatch.setattr(staging, "MAX_REJECTS", 3)
    assert load(database, *rows(3)).counts.n_rejected == 3
    before = all_rows(database)
    with pytest.raises(TooManyRejects, match=r"calls\.csv: more than 3 rows cannot be used.*nothing was loaded"):
        load(database, *call(90, "Good."), *rows(4))
    assert all_rows(database) == before


def test_repairs_alone_make_no_source_unusable(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "MAX_REJECTS", 3)
    rows = [
        row
        for n in range(9)
        for row in (
            Reject(n, "componenttext", "?", "not UTF-8", kept=True),
            component(component_order=n, row_number=n),
        )
    ]
    found = load(database, *rows, *unusable(3, first=20))
    assert (found.counts.n_repaired, found.counts.n_rejected, found.counts.n_components) == (9, 3, 9)
    assert [reject.row_number for reject in found.rejects] == [0, 1, 2, 20, 21, 22]


def test_rejects_are_remembered_with_their_reason(database: Database) -> None:
    first, second = component(row_number=3), component("Other.", row_number=4)
    repair = Reject(3, "headline", "Q\\x00", "NUL removed", 70, kept=True)
    lost = Reject(2, "companyid", "x\0", "not an integer")
    found = load(database, lost, repair, first, second, repair)
    assert [reject.row_number for reject in found.rejects] == [2, 3, 3, 4]
    columns = 'source, row_number, "column", value, reason, transcript_id, kept'
    assert ask(database, f"SELECT {columns} FROM rejects ORDER BY 2") == [
        ("calls.csv", 2, "companyid", "x", "not an integer", None, False),
        ("calls.csv", 3, "headline", "Q\\x00", "NUL removed", 70, True),
        ("calls.csv", 4, "componentorder", "0", "row 3 has the same component with another text", 70, False),
    ]


def test_a_row_that_was_mended_is_no_longer_rejected(database: Database) -> None:
    load(database, *unusable(2))
    load(database, *unusable(1), source="other.csv")
    load(database, Reject(2, "companyid", "y", "still not an integer"), component(row_number=3))
    assert ask(database, "SELECT source, row_number, value FROM rejects ORDER BY 1") == [
        ("calls.csv", 2, "y"),
        ("other.csv", 2, "x"),
    ]


# Sources of several files


def test_a_call_names_the_file_it_is_from(database: Database) -> None:
    rows = [component(source="calls/b.csv"), *call(71, "Steel costs fell.", day=20)]
    load(database, *rows, source="calls")
    assert ask(database, "SELECT transcript_id, source FROM calls ORDER BY 1") == [(70, "calls/b.csv"), (71, "calls")]


def test_the_file_that_comes_first_by_name_counts(database: Database) -> None:
    late, early = component("Late.", source="calls/a.csv"), component("Early.", row_number=9, source="calls/B.csv")
    same, theirs = replace(early, source="calls/c.csv"), replace(late, company_id=8, component_order=1)
    found = load(database, theirs, same, late, early, source="calls")
    assert one(database, "SELECT text FROM components") == ["Early."]
    assert (found.counts.n_duplicates, found.firm_keys) == (1, ("ACME-7",))
    reasons = {
        "row 9 of calls/B.csv has the same component with another text": "calls/a.csv",
        "transcript 70 already belongs to firm 7": "calls/a.csv",
    }
    assert {reject.reason: reject.source for reject in found.rejects} == reasons


def test_rows_of_several_files_are_rejected_each_by_itself(database: Database) -> None:
    a, b = (replace(*unusable(1), source=f"calls/{name}.csv") for name in "ab")
    load(database, a, b, source="calls")
    load(database, replace(b, value="y"), component(row_number=b.row_number, source="calls/a.csv"), source="calls")
    assert ask(database, "SELECT source, row_number, value FROM rejects") == [("calls/b.csv", b.row_number, "y")]


def test_a_source_that_breaks_off_leaves_the_database_as_it_was(database: Database) -> None:
    def breaks_off() -> Iterator[Component | Reject]:
        yield from corrected(two_firms(), 71, text="Another text.")
        yield from unusable(1)
        raise OSError("the disk is gone")

    load(database, *two_firms())
    derive(database, "ACME-7", "BOLT-8")
    before = all_rows(database)
    with pytest.raises(OSError, match="the disk is gone"):
        load_all(database, breaks_off())
    assert all_rows(database) == before
    assert load(database, *two_firms()).counts.n_unchanged == 3


def test_a_large_source_takes_little_memory(database: Database) -> None:
    def rows() -> Iterator[Component]:
        for n in range(6_000):
            firm = n % 100
            text = f"Turn {n}. " + "So it goes. " * 400
            yield component(text, row_number=n, company_id=firm, transcript_id=firm, component_order=n // 100)

    tracemalloc.start()
    try:
        counts = load_all(database, rows()).counts
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (counts.n_rows, counts.n_components, counts.n_calls) == (6_000, 6_000, 100)
    assert peak < 10e6  # of 30 MB of text


# The quarter's table


def partition_tables(database: Database) -> list[object]:
    return one(database, "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'sentences'::regclass")


def test_a_quarter_is_created_once(database: Database) -> None:
    for _ in range(2):
        with database.transaction() as connection:
            create_quarter(connection, QUARTER)
    assert one(database, "SELECT quarter FROM quarters") == [QUARTER]
    assert partition_tables(database) == ["sentences_2021q4"]


def test_what_is_no_quarter_is_refused(database: Database) -> None:
    with pytest.raises(sa.exc.IntegrityError, match="quarter_format"), database.transaction() as connection:
        create_quarter(connection, "2021Q5")
    assert partition_tables(database) == []


def test_the_partition_is_as_the_models_say(database: Database) -> None:
    load(database, component())
    keys = "SELECT conname FROM pg_constraint WHERE conrelid = '{}'::regclass AND contype = 'f' ORDER BY 1"
    assert one(database, keys.format("sentences_2021q4")) == one(database, keys.format("sentences"))
    attached = "SELECT count(*) FROM pg_inherits JOIN pg_index ON indexrelid = inhrelid"
    assert one(database, f"{attached} WHERE indrelid = 'sentences_2021q4'::regclass") == [3]


def test_many_may_create_quarters_at_once(database: Database) -> None:
    barrier = threading.Barrier(4)
    quarters = iter([QUARTER, QUARTER, NEXT_QUARTER, NEXT_QUARTER])

    def create() -> None:
        quarter = next(quarters)
        barrier.wait()
        with database.transaction() as connection:
            create_quarter(connection, quarter)

    at_once(4, create)
    assert sorted(map(str, partition_tables(database))) == ["sentences_2021q4", "sentences_2022q1"]


def test_whoever_writes_calls_is_not_waited_for_long(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    load(database)
    monkeypatch.setattr(transcripts, "LOCK_TIMEOUT_MS", 100)
    with database.transaction() as writer:
        ingest(writer, QUARTER, [component()], "calls.csv")
        started = time.monotonic()
        with pytest.raises(sa.exc.OperationalError, match="lock timeout"), database.transaction() as connection:
            create_quarter(connection, NEXT_QUARTER)
        assert time.monotonic() - started < 3
        with database.transaction() as connection:
            create_quarter(connection, QUARTER)
    with database.transaction() as connection:
        create_quarter(connection, NEXT_QUARTER)


def test_a_forgotten_reader_keeps_nobody_from_creating_a_quarter(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(database, component())
    derive(database, "ACME-7")
    monkeypatch.setattr(transcripts, "LOCK_TIMEOUT_MS", 100)
    with database.transaction() as reader, database.transaction() as connection:
        reader.execute(sa.text("SELECT count(*) FROM sentences JOIN components USING (quarter, transcript_id)"))
        create_quarter(connection, NEXT_QUARTER)
