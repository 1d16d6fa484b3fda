from dataclasses import replace

from ftm_assets.analysis.transcripts import Reject
from ftm_assets.storage.read.progress import quarter_status
from ftm_assets.storage.read.text_findings import NOTHING_MODELLED, TextFinding, damage_summary, left_out, text_findings
from ftm_assets.storage.read.verify import compare_source
from ftm_assets.storage.server.database import Database
from ftm_assets_tests.fakes import component
from ftm_assets_tests.storage.builders import firm, put, sentences_of
from ftm_assets_tests.storage.sql import QUARTER, ask, load, one
from ftm_assets_tests.storage.write.made_calls import call, version

GERMAN = (
    "Die Kosten der Fracht stiegen im dritten Quartal um zw\u00f6lf Prozent.",
    "Die H\u00e4lfte davon konnten wir an unsere Kunden weitergeben.",
)


def findings(database: Database) -> list[TextFinding]:
    with database.transaction() as connection:
        return text_findings(connection, QUARTER)


def test_damaged_texts_are_stored_repaired_and_counted_by_call_and_kind(database: Database) -> None:
    rows = call(70, "Bread &amp; butter sold well.", "Rolls &amp; but\xadter did not.", "Wages rose.")
    found = load(database, *rows, *call(80, "Bolts sold well.", company_id=8))
    assert one(database, "SELECT text FROM components WHERE transcript_id = 70 ORDER BY component_order") == [
        "Bread & butter sold well.",
        "Rolls & butter did not.",
        "Wages rose.",
    ]
    assert findings(database) == [
        TextFinding("ACME-7", 70, "HTML entities", 2, "turns"),
        TextFinding("ACME-7", 70, "invisible characters", 1, "turns"),
    ]
    assert damage_summary(findings(database)) == (
        "damaged text in 1 call: HTML entities (2 turns), invisible characters (1 turn)"
    )
    assert found.counts.n_repaired == 2 and found.counts.n_rejected == 0


def test_a_repaired_row_is_told_with_its_kinds_and_the_place(database: Database) -> None:
    load(database, component("Fresh bread &amp; but\xadter."))
    assert ask(database, 'SELECT row_number, "column", value, reason, kept FROM rejects') == [
        (
            2,
            "componenttext",
            "Fresh bread &amp; but\\xadter.",
            "damaged text: HTML entities, invisible characters",
            True,
        )
    ]


def test_what_cannot_be_repaired_is_told_once(database: Database) -> None:
    load(database, component("Nestl\ufffd sold well."))
    assert one(database, "SELECT reason FROM rejects") == ["damaged text: not repaired: lost characters (U+FFFD)"]


def test_names_and_headlines_are_repaired_before_they_name_the_firm(database: Database) -> None:
    load(database, component(company_name="Bread &amp; Sons", person="Ann O&#39;Hara", ticker=None))
    assert one(database, "SELECT partition_key FROM firms") == ["BREAD-SONS-7"]
    assert one(database, "SELECT name FROM firm_quarters") == ["Bread & Sons"]
    assert one(database, "SELECT person FROM components") == ["Ann O'Hara"]


def test_a_repaired_source_and_a_sound_one_are_the_same_call(database: Database) -> None:
    load(database, component("Bread &amp; butter sold well."))
    again = load(database, component("Bread & butter sold well."))
    assert again.counts.n_unchanged == 1 and again.changed_firms == ()


def test_a_damaged_source_has_the_text_that_is_stored(database: Database) -> None:
    row = component("Bread &amp; butter sold well.")
    load(database, row)
    with database.transaction() as connection:
        assert all(comparison.is_equal for comparison in compare_source(connection, QUARTER, [row]))


def test_a_row_that_the_reader_has_told_of_is_not_told_of_twice(database: Database) -> None:
    told = Reject(2, "componenttext", "Nestl\\xe9", "bytes that are not UTF-8 replaced by U+FFFD", 70, kept=True)
    assert load(database, told, component("Nestl\ufffd sold well.", row_number=2)).counts.n_repaired == 1


def test_versions_that_are_not_modelled_are_no_finding(database: Database) -> None:
    load(database, version(70, 9, "Bread &amp; butter sold well."), version(71, 12, "Bread and butter sold well."))
    assert findings(database) == []


def test_a_firm_that_does_not_speak_english_is_told_with_its_sentences(database: Database) -> None:
    where = firm(database, 7, texts=GERMAN)
    put(database, where, sentences_of(database, where))
    assert findings(database) == [TextFinding("ACME-INC-7", 70, "not English (de)", 2, "sentences")]
    assert left_out(findings(database)) == ["ACME-INC-7 (not English (de), 2 sentences of call 70)"]
    with database.transaction() as connection:
        status = quarter_status(connection, QUARTER)
    assert status.n_modelled == 0 and list(status.text_findings) == findings(database)


def test_a_call_of_which_nothing_is_modelled_is_told_unless_it_is_short(database: Database) -> None:
    for company_id, n in ((8, 9), (9, 10)):
        where = firm(database, company_id, texts=["R e v e n u e"[: 2 * n]] * n)
        found = sentences_of(database, where)
        flagged = tuple(replace(row, boilerplate="too short") for row in found.rows)
        put(database, where, replace(found, rows=flagged))
    assert findings(database) == [TextFinding("CRANE-WORKS-9", 90, NOTHING_MODELLED, 10, "sentences")]
