"""A joint call, one transcript under several company ids, is a call of each of its firms."""

from dataclasses import replace
from datetime import date

import pytest

from ftm_assets.analysis.transcripts import Component
from ftm_assets.storage.maintain.deletion import calls_to_delete, delete_calls
from ftm_assets.storage.read.hierarchy import sentences
from ftm_assets.storage.read.ingested import calls
from ftm_assets.storage.read.verify import compare_source, verify_quarter
from ftm_assets.storage.server.database import Database
from ftm_assets.storage.write import staging
from ftm_assets_tests.storage import builders
from ftm_assets_tests.storage.sql import QUARTER, all_rows, ask, derive, load, one
from ftm_assets_tests.storage.write.made_calls import call, changes

TEXTS = ("Freight costs rose a lot.", "Steel costs fell a bit.")


def joint(transcript_id: int = 70, *firms: int, **facts: object) -> list[Component]:
    """The same call once for each firm, rows numbered through."""
    rows = [row for firm in firms or (7, 8) for row in call(transcript_id, *TEXTS, company_id=firm, **facts)]  # type: ignore[arg-type]
    return [replace(row, row_number=100 * transcript_id + n) for n, row in enumerate(rows)]


def test_each_of_its_firms_has_the_call(database: Database) -> None:
    found = load(database, *joint())
    assert found.firm_keys == found.changed_firms == ("ACME-7", "BOLT-8")
    assert (found.counts.n_calls, found.counts.n_components, found.counts.n_rejected) == (2, 4, 0)
    assert ask(database, "SELECT company_id, transcript_id, component_order FROM components ORDER BY 1, 3") == [
        (7, 70, 0),
        (7, 70, 1),
        (8, 70, 0),
        (8, 70, 1),
    ]


def test_it_is_said_once_a_call(database: Database) -> None:
    found = load(database, *joint(70), *joint(71, 7, 8, 9, day=20))
    assert (found.counts.n_joint_calls, found.counts.n_repaired, found.counts.n_rejected) == (2, 0, 0)
    assert [(note.row_number, note.value, note.reason, note.kept) for note in found.rejects] == [
        (7000, "7, 8", "transcript 70 is a joint call; it is loaded for each of these firms", True),
        (7100, "7, 8, 9", "transcript 71 is a joint call; it is loaded for each of these firms", True),
    ]


def test_joint_calls_do_not_count_towards_a_source_that_cannot_be_used(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "MAX_REJECTS", 2)
    rows = [row for day in range(1, 5) for row in joint(70 + day, day=day)]
    assert load(database, *rows).counts.n_joint_calls == 4


def test_loading_it_again_changes_nothing(database: Database) -> None:
    load(database, *joint())
    derive(database, "ACME-7", "BOLT-8")
    before = all_rows(database)
    found = load(database, *joint())
    assert (found.counts.n_unchanged, found.changed_firms) == (2, ())
    assert changes(before, all_rows(database)) == set()


def test_the_second_firm_may_come_later(database: Database) -> None:
    load(database, *joint(70, 7))
    derive(database, "ACME-7")
    found = load(database, *joint(70, 8), source="more.csv")
    assert (found.counts.n_joint_calls, found.changed_firms) == (1, ("BOLT-8",))
    assert one(database, "SELECT count(*) FROM sentences") == [2], "nothing is made again of the first"


def test_a_firm_whose_text_changed_leaves_the_other_alone(database: Database) -> None:
    load(database, *joint())
    derive(database, "ACME-7", "BOLT-8")
    found = load(database, *call(70, "Other words were said.", company_id=8))
    assert found.changed_firms == ("BOLT-8",)
    assert one(database, "SELECT DISTINCT company_id FROM sentences") == [7]
    assert one(database, "SELECT count(*) FROM components WHERE company_id = 7") == [2]


def test_versions_are_chosen_firm_by_firm(database: Database) -> None:
    load(database, *joint(70, event_id=1), *joint(71, 7, event_id=1))
    assert ask(database, "SELECT company_id, transcript_id, superseded_by FROM calls ORDER BY 1, 2") == [
        (7, 70, 71),
        (7, 71, None),
        (8, 70, None),
    ]
    assert ask(database, "SELECT DISTINCT company_id, transcript_id FROM components ORDER BY 1") == [(7, 71), (8, 70)]


def test_a_corrected_date_moves_it_for_each_firm(database: Database) -> None:
    load(database, *joint())
    load(database, *joint(call_date=date(2022, 2, 1)), quarter="2022Q1")
    assert ask(database, "SELECT quarter, company_id FROM calls ORDER BY 2") == [("2022Q1", 7), ("2022Q1", 8)]


def test_a_date_corrected_for_one_firm_leaves_the_other_where_it_is(database: Database) -> None:
    load(database, *joint())
    load(database, *joint(70, 8, call_date=date(2022, 2, 1)), quarter="2022Q1")
    assert ask(database, "SELECT quarter, company_id FROM calls ORDER BY 2") == [("2021Q4", 7), ("2022Q1", 8)]


def test_it_is_deleted_for_all_firms_or_for_one(database: Database) -> None:
    load(database, *joint(70, event_id=1), *joint(71, event_id=1))
    derive(database, "ACME-7", "BOLT-8")
    with database.transaction() as connection:
        assert [x.company_id for x in calls_to_delete(connection, transcript_id=71)] == [7, 7, 8, 8]
        chosen = calls_to_delete(connection, company_id=8, transcript_id=71)
        assert [(x.company_id, x.transcript_id) for x in chosen] == [(8, 70), (8, 71)]
        delete_calls(connection, chosen)
    assert one(database, "SELECT DISTINCT company_id FROM calls") == [7]
    assert one(database, "SELECT DISTINCT company_id FROM components") == [7]
    assert one(database, "SELECT DISTINCT company_id FROM sentences") == [7]


def test_reading_gives_each_firm_its_own_sentences_once(database: Database) -> None:
    load(database, *joint())
    for firm in (7, 8):
        builders.derive(database, builders.where_is(database, firm))
    ids = [f"{firm}_70_{position:04d}" for firm in (7, 8) for position in (0, 1)]
    with database.transaction() as connection:
        assert [(row.sentence_id, row.firm_key) for row in sentences(connection, ids)] == [
            (ids[0], "ACME-7"),
            (ids[1], "ACME-7"),
            (ids[2], "BOLT-8"),
            (ids[3], "BOLT-8"),
        ]
        assert [(row.firm_key, row.n_components, row.n_sentences) for row in calls(connection, QUARTER)] == [
            ("ACME-7", 2, 2),
            ("BOLT-8", 2, 2),
        ]
        checked = [*verify_quarter(connection, QUARTER), *compare_source(connection, QUARTER, joint())]
    assert [each.check for each in checked if not each.is_equal and "themes" not in each.check] == []
    in_view = ask(database, "SELECT sentence_id, person FROM sentence_context WHERE transcript_id = 70 ORDER BY 1")
    assert in_view == [(sentence_id, "Ann Lee") for sentence_id in ids]
