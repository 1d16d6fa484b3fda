import threading
from collections.abc import Iterator
from dataclasses import asdict, replace
from datetime import UTC, date, datetime

import pytest

from ftm_assets.analysis.transcripts import Component, Reject
from ftm_assets.storage.server.database import Database
from ftm_assets.storage.write import staging
from ftm_assets.storage.write.upsert_plan import IngestCounts
from ftm_assets_tests.fakes import at, component
from ftm_assets_tests.storage.sql import QUARTER, all_rows, ask, at_once, derive, load, load_all, one, publish_theme
from ftm_assets_tests.storage.write.made_calls import (
    DERIVED,
    NEXT_QUARTER,
    call,
    changes,
    corrected,
    two_firms,
    unusable,
    version,
)

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
        *call(70, "Theirs too.", company_id=8),
        *call(80, "Demand for bolts was strong.", company_id=8),
    )
    assert found.counts == IngestCounts(
        n_rows=9,
        n_components=3,
        n_superseded_components=3,
        n_duplicates=1,
        n_rejected=2,
        n_repaired=1,
        n_calls=4,
        n_new=4,
        n_superseded=1,
        n_joint_calls=1,
    )
    assert 9 == 3 + 3 + 1 + 2


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


def test_rows_of_other_quarters_are_sound_and_do_not_count_against_a_source(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "MAX_REJECTS", 3)
    others = [component(transcript_id=n, call_date=date(2022, 1, n), row_number=n) for n in range(10, 20)]
    found = load(database, component(), *others)
    assert (found.counts.n_components, found.counts.n_rejected) == (1, 10)
    assert [reject.row_number for reject in found.rejects] == [10, 11, 12], "the first ones tell what they are"


@pytest.mark.parametrize("day", [date(2021, 10, 1), date(2021, 12, 31)])
def test_both_ends_of_the_quarter_belong_to_it(database: Database, day: date) -> None:
    assert load(database, component(call_date=day)).counts.n_components == 1


# What is to be looked at although every row is loaded


def test_type_ids_in_place_of_type_names_are_said_once(database: Database) -> None:
    rows = [
        component(type_name=kind, speaker_type=speaker, component_order=order)
        for order, (kind, speaker) in enumerate([("2", "1"), ("3", "3"), ("3", "3"), ("", "Unknown")])
    ]
    component_types, speaker_types = load(database, *rows).warnings
    assert component_types.startswith("2021Q4 has component types that are not known: '3' in 2 rows, '2' in 1 rows;")
    assert "'Presenter Speech', 'Question' or 'Answer'" in component_types
    assert speaker_types.startswith("2021Q4 has speaker types that are not known: '3' in 2 rows, '1' in 1 rows;")


@pytest.mark.parametrize("speaker", ["Executives", "", "Unknown", "Attendees"])
def test_type_names_are_no_reason_to_warn(database: Database, speaker: str) -> None:
    assert load(database, component(), component(speaker_type=speaker, component_order=1)).warnings == ()


def test_a_column_without_a_name_that_is_known_is_said(database: Database) -> None:
    [said] = load(database, component(speaker_type="Chair")).warnings
    assert "speaker types that are not known: 'Chair' in 1 rows" in said


def test_texts_that_all_end_at_one_length_are_said(database: Database) -> None:
    cut = [component(f"{n}" * 120, component_order=n) for n in range(5)]
    [said] = load(database, *cut).warnings
    assert said.startswith("2021Q4: 5 different texts end at 120 characters, and none is longer: they are probably cut")
    longer, same = replace(cut[0], component_order=9, text="x" * 121), [replace(row, text="x" * 120) for row in cut]
    assert load(database, *cut, longer).warnings == load(database, *same).warnings == ()


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
