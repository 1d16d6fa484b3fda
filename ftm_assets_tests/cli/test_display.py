import csv
import io
import json
from dataclasses import dataclass, replace
from datetime import date

import pytest

from ftm_assets.cli.display import Format, headings, join_with_more, show


@dataclass(frozen=True)
class Inner:
    n: int


@dataclass(frozen=True)
class Row:
    call_id: int
    n_words: int
    name: str
    day: date | None
    share: float
    tags: tuple[str, ...]
    inner: tuple[Inner, ...]

    @property
    def doubled(self) -> int:
        return 2 * self.n_words


ROW = Row(5200001, 1234, 'Ann [bold] "Lee"', date(2021, 11, 2), 0.2345, ("a", "b"), (Inner(1),))
COLUMNS = {"call_id": "call", "n_words": "words", "name": "who", "day": "day", "share": "share", "doubled": "twice"}


def test_a_table_writes_counts_for_reading_and_identifiers_for_pasting(capsys: pytest.CaptureFixture[str]) -> None:
    show([ROW], COLUMNS, Format.table)
    printed = capsys.readouterr().out
    assert "5200001" in printed and "1,234" in printed and "0.23" in printed
    assert 'Ann [bold] "Lee"' in printed, "text is never taken for markup"


@pytest.mark.parametrize("name", ["Dune [Holdings]", "[/x]", "Ann [bold]", "back\\slash\\"])
def test_names_are_never_taken_for_markup_wherever_they_stand(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    show([replace(ROW, name=name, tags=(name, name))], {"name": name, "tags": "tags"}, Format.table, title=name)
    printed = capsys.readouterr().out.splitlines()
    assert [line.count(name) for line in printed if name in line] == [1, 1, 3], "title, heading, cells"


def test_json_holds_all_fields_and_all_columns(capsys: pytest.CaptureFixture[str]) -> None:
    show([ROW], COLUMNS, Format.json)
    [record] = json.loads(capsys.readouterr().out)
    assert (record["day"], record["doubled"], record["inner"]) == ("2021-11-02", 2468, [{"n": 1}])


def test_csv_leaves_out_what_does_not_fit_a_cell(capsys: pytest.CaptureFixture[str]) -> None:
    show([ROW], COLUMNS, Format.csv)
    [record] = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert (record["tags"], record["name"], record["doubled"]) == ("a; b", 'Ann [bold] "Lee"', "2468")
    assert "inner" not in record


def test_no_rows_are_a_header_in_csv_and_an_empty_list_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    show([], COLUMNS, Format.csv)
    assert capsys.readouterr().out.startswith("call_id,n_words")
    show([], COLUMNS, Format.json)
    assert json.loads(capsys.readouterr().out) == []


def test_a_heading_is_the_name_of_a_column_that_the_rows_have() -> None:
    assert headings(Row, "call_id", "n_words", "doubled") == {
        "call_id": "call id",
        "n_words": "words",
        "doubled": "doubled",
    }
    with pytest.raises(AttributeError, match="n_word"):
        headings(Row, "n_word")


def test_many_names_are_cut_and_counted() -> None:
    assert join_with_more(["a", "b"], 2) == "a, b"
    assert join_with_more(["a", "b", "c"], 2) == "a, b and 1 more"
