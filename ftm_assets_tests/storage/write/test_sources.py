import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from ftm_assets.analysis.transcripts import Component, Reject
from ftm_assets.storage.server.database import Database
from ftm_assets.storage.write import staging
from ftm_assets.storage.write.staging import TooManyRejects
from ftm_assets_tests.fakes import component
from ftm_assets_tests.storage.sql import all_rows, ask, derive, load, load_all, one
from ftm_assets_tests.storage.write.made_calls import call, corrected, two_firms, unusable

# Sources that are not what they should be


def other_texts(n: int) -> list[Component]:
    return [component(f"Text {row}.", row_number=row) for row in range(n + 1)]


@pytest.mark.parametrize("rows", [unusable, other_texts])
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
    same = replace(early, source="calls/c.csv")
    found = load(database, same, late, early, source="calls")
    assert one(database, "SELECT text FROM components") == ["Early."]
    assert found.counts.n_duplicates == 1
    reasons = {"row 9 of calls/B.csv has the same component with another text": "calls/a.csv"}
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
