import csv
import gzip
import io
import tracemalloc
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from ftm_assets.analysis.transcripts import Component, Reject, SourceFirm
from ftm_assets.errors import FtmError
from ftm_assets.resources.transcripts import (
    OPTIONAL_COLUMNS,
    REQUIRED_COLUMNS,
    BadColumns,
    CsvSource,
    NoSuchSource,
    SourceUnreadable,
    TranscriptSource,
    open_source,
)

ROW = {
    "companyid": "60094812",
    "companyname": "Apple Inc.",
    "transcriptid": "498112719",
    "mostimportantdateutc": "2021-10-28",
    "componentorder": "0",
    "transcriptcomponenttypename": "Presenter Speech",
    "speakertypename": "Executives",
    "componenttext": "Good day.",
}
_ROOT = Path(__file__).parents[2]
_DATA = next((d for d in (_ROOT.parent / "shared/data", _ROOT / "shared/data") if d.is_dir()), None)
needs_real_calls = pytest.mark.skipif(_DATA is None, reason="the real calls (../shared/data) are not on this machine")


def csv_text(*rows: dict[str, str], columns: Iterable[str] | None = None) -> str:
    """Rows as CSV; each is ROW with these values instead."""
    names = list(columns or dict.fromkeys([*ROW, *(name for row in rows for name in row)]))
    out = io.StringIO()
    writer = csv.DictWriter(out, names, extrasaction="ignore")
    writer.writeheader()
    writer.writerows({**ROW, **row} for row in rows)
    return out.getvalue()


def source(folder: Path, content: str | bytes, name: str = "calls.csv") -> CsvSource:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return CsvSource(path)


def source_of(folder: Path, *rows: dict[str, str]) -> CsvSource:
    return source(folder, csv_text(*rows))


def rows_of(calls: TranscriptSource, quarter: str = "2021Q4") -> list[Component | Reject]:
    return list(calls.read(quarter))


def one(calls: TranscriptSource, quarter: str = "2021Q4") -> Component:
    (row,) = rows_of(calls, quarter)
    assert isinstance(row, Component)
    return row


def rejected(calls: TranscriptSource, quarter: str = "2021Q4") -> Reject:
    (row,) = rows_of(calls, quarter)
    assert isinstance(row, Reject)
    assert not row.kept
    return row


def repaired(calls: TranscriptSource) -> tuple[Reject, Component]:
    reject, component = rows_of(calls)
    assert isinstance(reject, Reject)
    assert isinstance(component, Component)
    assert reject.kept
    assert (reject.row_number, reject.transcript_id) == (component.row_number, component.transcript_id)
    return reject, component


# --- What is read ---------------------------------------------------------------------------------------------------


def test_a_row_becomes_a_component_with_everything_the_file_tells(tmp_path: Path) -> None:
    row = {
        "headline": "Apple Inc., Q4 2021 Earnings Call, Oct 28, 2021",
        "ticker": "AAPL",
        "gvkey": "001690",
        "permno": "14593",
        "keydevid": "7",
        "keydeveventtypename": "Earnings Calls",
        "mostimportanttimeutc": "21:00:00",
        "transcriptcollectiontypename": "Edited Copy",
        "transcriptpresentationtypename": "Final",
        "transcriptcreationdate_utc": "2021-10-29",
        "transcriptcreationtime_utc": "03:30:00",
        "transcriptcomponentid": "8",
        "transcriptpersonid": "9",
        "transcriptpersonname": "Tim Cook",
    }
    assert set(row) == set(OPTIONAL_COLUMNS)
    assert one(source_of(tmp_path, row)) == Component(
        row_number=2,
        company_id=60094812,
        company_name="Apple Inc.",
        transcript_id=498112719,
        call_date=date(2021, 10, 28),
        component_order=0,
        type_name="Presenter Speech",
        speaker_type="Executives",
        person="Tim Cook",
        text="Good day.",
        headline="Apple Inc., Q4 2021 Earnings Call, Oct 28, 2021",
        ticker="AAPL",
        gvkey="001690",
        permno=14593,
        event_id=7,
        event_type="Earnings Calls",
        call_at=datetime(2021, 10, 28, 21, tzinfo=UTC),
        collection_type="Edited Copy",
        presentation_type="Final",
        created_at=datetime(2021, 10, 29, 3, 30, tzinfo=UTC),
        component_id=8,
        person_id=9,
    )


def test_the_required_columns_are_enough(tmp_path: Path) -> None:
    row = one(source_of(tmp_path, {}))
    assert (row.text, row.person, row.headline, row.ticker, row.permno) == ("Good day.", "", "", None, None)
    assert (row.call_at, row.created_at, row.event_type) == (None, None, None)


def test_a_quarter_holds_its_first_and_its_last_day(tmp_path: Path) -> None:
    days = ["2021-09-30", "2021-10-01", "2021-12-31", "2022-01-01"]
    calls = source_of(tmp_path, *({"mostimportantdateutc": day} for day in days))
    assert [row.row_number for row in rows_of(calls)] == [3, 4]


def test_only_the_firms_asked_for_are_read(tmp_path: Path) -> None:
    calls = source_of(tmp_path, {"companyid": "1"}, {"companyid": "2"}, {"companyid": "3"})
    assert [row.row_number for row in calls.read("2021Q4", firms={1, 3})] == [2, 4]
    assert list(calls.read("2021Q4", firms=[])) == []


def test_a_source_can_be_read_twice(tmp_path: Path) -> None:
    calls = source_of(tmp_path, {}, {"componentorder": "1"})
    assert rows_of(calls) == rows_of(calls)


@pytest.mark.parametrize("name", ["calls.csv", "calls.csv.gz", "calls"])
def test_gzip_is_told_by_its_content_not_its_name(tmp_path: Path, name: str) -> None:
    text = csv_text({})
    plain, packed = source(tmp_path, text, name), source(tmp_path, gzip.compress(text.encode()), f"packed-{name}")
    assert rows_of(plain) == rows_of(packed)


def test_gzip_files_put_one_after_the_other_are_one_file(tmp_path: Path) -> None:
    head, body = csv_text({}).encode().split(b"\r\n", 1)
    packed = gzip.compress(head + b"\r\n") + gzip.compress(body) + gzip.compress(body)
    assert len(rows_of(source(tmp_path, packed))) == 2


def test_a_turn_of_two_megabytes_is_read_whole(tmp_path: Path) -> None:
    text = "word, " * 350_000
    assert one(source_of(tmp_path, {"componenttext": text})).text == text


def test_newlines_commas_and_quotes_inside_a_field_stay(tmp_path: Path) -> None:
    text = 'One.\nTwo, "three".\r\n\r\n  four  '
    assert one(source_of(tmp_path, {"componenttext": text})).text == text


def test_empty_text_is_text(tmp_path: Path) -> None:
    assert one(source_of(tmp_path, {"componenttext": ""})).text == ""


@pytest.mark.parametrize(
    "name", ['Joe\'s "Best" Foods, Inc.', "A|B", "[X] (Holdings)", "CULLEN/FROST", "Crédit  é NA", "NA"]
)
def test_names_pass_through_unchanged(tmp_path: Path, name: str) -> None:
    calls = source_of(tmp_path, {"companyname": name, "transcriptpersonname": name})
    row = one(calls)
    assert (row.company_name, row.person) == (name, name)
    assert calls.firms(date.min, date.max)[0].name == name


def test_a_ticker_may_be_na_and_a_gvkey_keeps_its_zeros(tmp_path: Path) -> None:
    row = one(source_of(tmp_path, {"ticker": "NA", "gvkey": "001690", "permno": "14593.0"}))
    assert (row.ticker, row.gvkey, row.permno) == ("NA", "001690", 14593)


@pytest.mark.parametrize("nothing", ["", " ", ".", "NaN", "NULL", "<NA>", "\\N"])
def test_what_pandas_sas_and_sql_write_for_nothing_is_nothing(tmp_path: Path, nothing: str) -> None:
    names = ["permno", "keydevid", "mostimportanttimeutc", "transcriptcreationdate_utc", "transcriptpersonid"]
    row = one(source_of(tmp_path, dict.fromkeys(names, nothing)))
    assert (row.permno, row.event_id, row.call_at, row.created_at, row.person_id) == (None,) * 5


def test_integers_may_look_like_pandas_floats(tmp_path: Path) -> None:
    row = one(source_of(tmp_path, {"companyid": "123.0", "transcriptid": " 7 ", "componentorder": "4.000"}))
    assert (row.company_id, row.transcript_id, row.component_order) == (123, 7, 4)


def test_other_events_are_passed_over_but_an_untold_event_is_a_call(tmp_path: Path) -> None:
    types = ["Earnings Calls", "Conferences", "", "Shareholder/Analyst Calls"]
    calls = source_of(tmp_path, *({"keydeveventtypename": kind, "companyid": str(i)} for i, kind in enumerate(types)))
    assert [row.row_number for row in rows_of(calls)] == [2, 4]
    assert [firm.company_id for firm in calls.firms(date.min, date.max)] == [0, 2]
    conferences = CsvSource(calls.path, event_types=["Conferences"])
    assert [row.row_number for row in rows_of(conferences)] == [3, 4]


def test_an_unreadable_row_of_another_event_is_passed_over(tmp_path: Path) -> None:
    row = {"keydeveventtypename": "Conferences", "mostimportantdateutc": "soon", "transcriptid": "?"}
    assert rows_of(source_of(tmp_path, row)) == []


def test_blank_rows_are_no_rows_but_are_counted_as_a_spreadsheet_does(tmp_path: Path) -> None:
    head, body = csv_text({}).split("\r\n", 1)
    assert one(source(tmp_path, f"{head}\r\n\r\n\r\n{body}\r\n\r\n")).row_number == 4


# --- Dates and times ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "written",
    [
        "2021-10-28",
        " 2021-10-28 ",
        "2021/10/28",
        "20211028",
        "28OCT2021",
        "28-Oct-2021",
        "2021-10-28 00:00:00",
        "2021-10-28T00:00:00Z",
        "2021-10-28 00:00:00.0",
        "2021-10-28 00:00:00+00:00",
        "10/28/2021",
        "10/28/2021 0:00",
        "28/10/2021",
    ],
)
def test_a_bare_date_however_written_has_no_time(tmp_path: Path, written: str) -> None:
    row = one(source_of(tmp_path, {"mostimportantdateutc": written}))
    assert (row.call_date, row.call_at) == (date(2021, 10, 28), None)


@pytest.mark.parametrize(
    "written",
    [
        "2021-10-28 21:00:00",
        "2021-10-28T21:00:00",
        "2021-10-28T21:00:00Z",
        "2021-10-28 21:00:00.0",
        "2021-10-28T21:00:00.000000Z",
        "2021-10-28 21:00",
        "2021-10-28T17:00:00-04:00",
        "28OCT2021:21:00:00",
        "10/28/2021 21:00",
        "10/28/2021 9:00:00 PM",
    ],
)
def test_a_date_with_a_time_tells_when_the_call_was(tmp_path: Path, written: str) -> None:
    row = one(source_of(tmp_path, {"mostimportantdateutc": written}))
    assert (row.call_date, row.call_at) == (date(2021, 10, 28), datetime(2021, 10, 28, 21, tzinfo=UTC))


def test_the_quarter_is_that_of_the_day_in_utc(tmp_path: Path) -> None:
    calls = source_of(tmp_path, {"mostimportantdateutc": "2021-12-31T22:00:00-05:00"})
    assert rows_of(calls, "2021Q4") == []
    assert one(calls, "2022Q1").call_at == datetime(2022, 1, 1, 3, tzinfo=UTC)


@pytest.mark.parametrize("written", ["21:00:00", "21:00", "9:00 PM", "2021-10-28 21:00:00", "1960-01-01T21:00:00.0"])
def test_a_time_column_gives_the_time_of_day(tmp_path: Path, written: str) -> None:
    row = one(source_of(tmp_path, {"mostimportanttimeutc": written}))
    assert row.call_at == datetime(2021, 10, 28, 21, tzinfo=UTC)


def test_midnight_in_a_time_column_is_a_time_but_not_in_a_timestamp(tmp_path: Path) -> None:
    assert one(source_of(tmp_path, {"mostimportanttimeutc": "00:00:00"})).call_at == datetime(2021, 10, 28, tzinfo=UTC)
    assert one(source_of(tmp_path, {"mostimportanttimeutc": "2021-10-28 00:00:00"})).call_at is None


@pytest.mark.parametrize(
    ("day", "clock", "expected"),
    [
        ("2021-10-29", "", datetime(2021, 10, 29, tzinfo=UTC)),
        ("2021-10-29", "03:30:00", datetime(2021, 10, 29, 3, 30, tzinfo=UTC)),
        ("2021-10-29 03:30:00.0", "", datetime(2021, 10, 29, 3, 30, tzinfo=UTC)),
        ("", "03:30:00", None),
    ],
)
def test_a_bare_creation_date_counts_as_the_start_of_its_day(
    tmp_path: Path, day: str, clock: str, expected: datetime | None
) -> None:
    calls = source_of(tmp_path, {"transcriptcreationdate_utc": day, "transcriptcreationtime_utc": clock})
    assert one(calls).created_at == expected


def test_a_part_above_twelve_tells_for_the_whole_file_which_part_is_the_month(tmp_path: Path) -> None:
    american = source_of(tmp_path, {"mostimportantdateutc": "11/3/2021"}, {"mostimportantdateutc": "10/28/2021"})
    assert american.quarters() == {"2021Q4": 2}
    european = source_of(tmp_path, {"mostimportantdateutc": "11/3/2021"}, {"mostimportantdateutc": "28/10/2021"})
    assert european.quarters() == {"2021Q1": 1, "2021Q4": 1}
    assert one(european, "2021Q1").call_date == date(2021, 3, 11)


def test_where_nothing_tells_the_month_from_the_day_the_row_is_rejected(tmp_path: Path) -> None:
    reject = rejected(source_of(tmp_path, {"mostimportantdateutc": "11/3/2021"}))
    assert (reject.column, reject.value) == ("mostimportantdateutc", "11/3/2021")
    assert "month cannot be told" in reject.reason
    assert "YYYY-MM-DD" in reject.reason


def test_a_date_against_the_order_of_its_file_is_rejected(tmp_path: Path) -> None:
    calls = source_of(tmp_path, {"mostimportantdateutc": "10/28/2021"}, {"mostimportantdateutc": "28/10/2021"})
    component, reject = rows_of(calls)
    assert isinstance(component, Component)
    assert isinstance(reject, Reject)
    assert reject.value == "28/10/2021"


# --- Firms and quarters ---------------------------------------------------------------------------------------------


def test_firms_come_by_id_with_the_dates_of_their_calls_in_range(tmp_path: Path) -> None:
    calls = source_of(
        tmp_path,
        {"companyid": "2", "ticker": "", "companyname": "Two", "mostimportantdateutc": "2021-10-01"},
        {"companyid": "1", "ticker": "ONE", "mostimportantdateutc": "2021-12-31", "componentorder": "1"},
        {"companyid": "1", "ticker": "ONE", "mostimportantdateutc": "2021-12-31", "componentorder": "2"},
        {"companyid": "1", "ticker": "ONE", "mostimportantdateutc": "2021-11-02"},
        {"companyid": "3", "ticker": "LATE", "mostimportantdateutc": "2022-01-01"},
    )
    assert calls.firms(date(2021, 10, 1), date(2021, 12, 31)) == [
        SourceFirm(1, "Apple Inc.", "ONE", (date(2021, 11, 2), date(2021, 12, 31))),
        SourceFirm(2, "Two", None, (date(2021, 10, 1),)),
    ]
    assert calls.firms(date(2023, 1, 1), date(2023, 3, 31)) == []


def test_a_firm_is_called_what_its_latest_call_in_range_calls_it(tmp_path: Path) -> None:
    calls = source_of(
        tmp_path,
        {"companyname": "Meta", "ticker": "META", "mostimportantdateutc": "2021-12-01"},
        {"companyname": "Facebook", "ticker": "FB", "mostimportantdateutc": "2021-10-25"},
    )
    assert calls.firms(date.min, date.max)[0].name == "Meta"
    assert calls.firms(date.min, date(2021, 11, 1))[0].ticker == "FB"


def test_quarters_come_in_order_and_versions_of_a_call_count_once(tmp_path: Path) -> None:
    calls = source_of(
        tmp_path,
        {"mostimportantdateutc": "2022-01-27"},
        {"mostimportantdateutc": "2021-10-28", "transcriptid": "1"},
        {"mostimportantdateutc": "2021-10-28", "transcriptid": "2"},
        {"mostimportantdateutc": "2021-10-28", "transcriptid": "3", "companyid": "5"},
    )
    assert list(calls.quarters().items()) == [("2021Q4", 2), ("2022Q1", 1)]


def test_firms_leave_out_rows_that_read_would_reject(tmp_path: Path) -> None:
    calls = source_of(tmp_path, {"companyid": "x"}, {"mostimportantdateutc": "x"}, {"transcriptid": "x"})
    assert calls.firms(date.min, date.max) == []


# --- Rejects --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["soon", "", "2021-13-01", "2021-02-30", "44497", "0021-10-28", "2021-10-28 25:00"])
def test_a_row_without_a_readable_date_is_rejected_in_every_quarter(tmp_path: Path, value: str) -> None:
    calls = source_of(tmp_path, {"mostimportantdateutc": value})
    for quarter in ("2021Q4", "1999Q1"):
        reject = rejected(calls, quarter)
        assert (reject.row_number, reject.column, reject.value) == (2, "mostimportantdateutc", value)
        assert reject.transcript_id == 498112719
        assert "YYYY-MM-DD" in reject.reason


@pytest.mark.parametrize("column", ["companyid", "transcriptid", "componentorder"])
@pytest.mark.parametrize("value", ["", "12.5", "1.2E+08", "A1", "1_000", "٣", "9" * 19, "9" * 40])
def test_a_row_with_a_broken_id_is_rejected(tmp_path: Path, column: str, value: str) -> None:
    reject = rejected(source_of(tmp_path, {column: value}))
    assert (reject.row_number, reject.column, reject.value) == (2, column, value)
    assert reject.transcript_id == (None if column == "transcriptid" else 498112719)
    assert "plain digits" in reject.reason


def test_a_broken_id_of_another_quarter_is_not_our_business(tmp_path: Path) -> None:
    assert rows_of(source_of(tmp_path, {"companyid": "x"}), "2020Q1") == []


def test_a_row_is_rejected_once_however_much_is_wrong_with_it(tmp_path: Path) -> None:
    assert rejected(source_of(tmp_path, {"mostimportantdateutc": "?", "transcriptid": "?", "permno": "?"}))


def test_a_broken_row_of_a_firm_not_asked_for_is_passed_over(tmp_path: Path) -> None:
    calls = source_of(tmp_path, {"transcriptid": "x"}, {"companyid": "x"})
    assert [row.row_number for row in calls.read("2021Q4", firms={1})] == [3]


@pytest.mark.parametrize("line", ["1,Apple, Inc.,2,2021-10-28,0,a,b,c", "1,Apple", "the end"])
def test_a_row_with_too_many_or_too_few_fields_is_rejected(tmp_path: Path, line: str) -> None:
    reject = rejected(source(tmp_path, ",".join(REQUIRED_COLUMNS) + f"\n{line}\n"))
    assert (reject.row_number, reject.column, reject.value) == (2, "", line)
    assert f"{line.count(',') + 1} fields where the header has 8" in reject.reason
    assert "quote" in reject.reason


def test_a_row_with_too_many_fields_whose_date_is_in_place_belongs_to_its_quarter(tmp_path: Path) -> None:
    calls = source(tmp_path, ",".join(REQUIRED_COLUMNS) + "\n1,Apple,2,2021-10-28,0,a,b,well, hello\n")
    assert "9 fields" in rejected(calls).reason
    assert rows_of(calls, "2020Q1") == []


def test_long_values_are_shortened(tmp_path: Path) -> None:
    reject = rejected(source_of(tmp_path, {"transcriptid": "x" * 5000}))
    assert reject.value == "x" * 199 + "…"


def test_broken_quotes_cost_the_row_they_are_in_and_no_other(tmp_path: Path) -> None:
    head = ",".join(REQUIRED_COLUMNS)
    good = "1,Apple,2,2021-10-28,{},a,b,{}"
    lines = [head, good.format(0, '"fine"'), good.format(1, '"he said "hello" to us"'), good.format(2, '"fine"')]
    first, reject, last = rows_of(source(tmp_path, "\n".join(lines)))
    assert isinstance(first, Component)
    assert isinstance(last, Component)
    assert (first.text, last.text, last.row_number) == ("fine", "fine", 4)
    assert isinstance(reject, Reject)
    assert (reject.row_number, reject.kept) == (3, False)
    assert "line 3" in reject.reason
    assert "double each quote" in reject.reason


def test_an_unclosed_quote_in_the_middle_does_not_swallow_the_file(tmp_path: Path) -> None:
    head = ",".join(REQUIRED_COLUMNS)
    lines = [f'1,Apple,2,2021-10-28,{i},a,b,"text {i}"' for i in range(10)]
    lines[3] = lines[3].removesuffix('"')
    rows = rows_of(source(tmp_path, "\n".join([head, *lines])))
    assert [row.component_order for row in rows if isinstance(row, Component)] == [0, 1, 2, 5, 6, 7, 8, 9]
    (reject,) = [row for row in rows if isinstance(row, Reject)]
    assert "lines 5-6" in reject.reason


# --- Repairs --------------------------------------------------------------------------------------------------------


def test_nul_characters_are_removed_and_the_row_says_so(tmp_path: Path) -> None:
    reject, component = repaired(source_of(tmp_path, {"componenttext": "Good\0 day.\0"}))
    assert component.text == "Good day."
    assert (reject.column, reject.value) == ("componenttext", "Good\\x00 day.\\x00")
    assert "NUL" in reject.reason


def test_nul_in_a_date_or_an_id_does_not_hide_the_row(tmp_path: Path) -> None:
    calls = source_of(tmp_path, {"mostimportantdateutc": "2021-10\0-28", "companyid": "60094\0812"})
    reject, component = repaired(calls)
    assert (component.call_date, component.company_id) == (date(2021, 10, 28), 60094812)
    assert reject.column == "companyid, mostimportantdateutc"
    assert reject.value == "60094\\x00812"
    assert calls.firms(date.min, date.max)[0].company_id == 60094812


def test_bytes_that_are_not_utf8_are_replaced_and_the_row_says_how_to_convert(tmp_path: Path) -> None:
    text = csv_text({"componenttext": "Café sales rose"}).encode("windows-1252")
    reject, component = repaired(source(tmp_path, text))
    assert component.text == "Caf\ufffd sales rose"
    assert (reject.column, reject.value) == ("componenttext", "Caf\\xe9 sales rose")
    assert "iconv -f WINDOWS-1252 -t UTF-8" in reject.reason


def test_a_damaged_name_is_the_same_in_both_lists(tmp_path: Path) -> None:
    calls = source(tmp_path, csv_text({"companyname": "Nestlé"}).encode("latin-1"))
    assert repaired(calls)[1].company_name == calls.firms(date.min, date.max)[0].name == "Nestl\ufffd"


def test_the_value_of_a_repair_shows_the_place_in_a_long_text(tmp_path: Path) -> None:
    reject, _ = repaired(source_of(tmp_path, {"componenttext": "x" * 5000 + "\0here"}))
    assert "\\x00here" in reject.value
    assert len(reject.value) <= 200


def test_utf8_of_every_kind_needs_no_repair(tmp_path: Path) -> None:
    text = "Crédit Suisse — “quotes” \u00a0 日本 😀 CrÃ©dit \ufffd"
    assert one(source_of(tmp_path, {"componenttext": text})).text == text


def test_damage_in_another_quarter_or_in_a_column_nobody_reads_is_not_mentioned(tmp_path: Path) -> None:
    assert rows_of(source_of(tmp_path, {"componenttext": "a\0b"}), "2020Q1") == []
    assert one(source_of(tmp_path, {"comment": "a\0b"})).text == "Good day."


def test_an_optional_value_that_cannot_be_read_is_left_empty_and_the_row_says_so(tmp_path: Path) -> None:
    bad = {"permno": "AAPL", "mostimportanttimeutc": "noon", "transcriptcreationdate_utc": "soon"}
    reject, component = repaired(source_of(tmp_path, bad))
    assert (component.permno, component.call_at, component.created_at) == (None, None, None)
    assert set(reject.column.split(", ")) == set(bad)
    assert all(word in reject.reason for word in ("integer", "HH:MM:SS", "YYYY-MM-DD", "left empty"))


def test_a_row_that_is_rejected_is_not_also_repaired(tmp_path: Path) -> None:
    assert rejected(source_of(tmp_path, {"transcriptid": "x\0", "componenttext": "a\0b"})).value == "x\\x00"


# --- The header -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_header_names_may_differ_in_case_and_blanks_and_follow_a_byte_order_mark(tmp_path: Path, mark: str) -> None:
    head, body = csv_text({"ticker": "AAPL"}).split("\r\n", 1)
    head = head.replace("companyid", '" CompanyId "').replace("ticker", " TICKER\t")
    row = one(source(tmp_path, f"{mark}{head}\r\n{body}"))
    assert (row.company_id, row.ticker) == (60094812, "AAPL")


@pytest.mark.parametrize("column", REQUIRED_COLUMNS)
def test_a_missing_column_is_named_with_what_was_found_and_what_to_do(tmp_path: Path, column: str) -> None:
    calls = source(tmp_path, csv_text({}).replace(column, f"my_{column}", 1))
    with pytest.raises(BadColumns) as error:
        rows_of(calls)
    message = str(error.value)
    assert str(calls.path) in message
    assert f"no column {column!r} (nearest: 'my_{column}')" in message
    assert all(name in message for name in REQUIRED_COLUMNS)
    assert "column map" in message


def test_all_missing_columns_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(BadColumns, match=r"'companyid'.*'componenttext'"):
        source(tmp_path, "a,b\n1,2\n").quarters()


@pytest.mark.parametrize(("delimiter", "word"), [(";", "semicolons"), ("\t", "tabs")])
def test_another_delimiter_is_recognized(tmp_path: Path, delimiter: str, word: str) -> None:
    with pytest.raises(BadColumns, match=rf"separated by {word}.*commas"):
        rows_of(source(tmp_path, delimiter.join(REQUIRED_COLUMNS) + "\n"))


def test_a_column_map_reads_a_column_by_the_name_it_has_here(tmp_path: Path) -> None:
    calls = source(tmp_path, csv_text({"ticker": "AAPL"}).replace("componenttext", "Words").replace("ticker", "Symbol"))
    mapped = CsvSource(calls.path, {"componenttext": "words", "ticker": " Symbol"})
    assert (one(mapped).text, one(mapped).ticker) == ("Good day.", "AAPL")


def test_a_mapped_column_wins_over_one_that_has_our_name(tmp_path: Path) -> None:
    calls = source_of(tmp_path, {"ticker": "old", "symbol": "new"})
    assert one(CsvSource(calls.path, {"ticker": "symbol"})).ticker == "new"


def test_a_reject_names_the_column_as_the_file_does(tmp_path: Path) -> None:
    calls = source(tmp_path, csv_text({"transcriptid": "x"}).replace("transcriptid", "Call Id"))
    assert rejected(CsvSource(calls.path, {"transcriptid": "call id"})).column == "Call Id"


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"ticker": "simbol"}, "'ticker' from 'simbol', which .* does not have \\(nearest: 'symbol'\\)"),
        ({"tickr": "symbol"}, "names 'tickr' \\(nearest: 'ticker'\\)"),
    ],
)
def test_a_column_map_that_does_not_fit_is_an_error(tmp_path: Path, columns: dict[str, str], message: str) -> None:
    calls = source_of(tmp_path, {"symbol": "AAPL"})
    with pytest.raises(BadColumns, match=message):
        rows_of(CsvSource(calls.path, columns))


def test_a_column_that_stands_twice_in_the_header_is_an_error_if_it_is_one_of_ours(tmp_path: Path) -> None:
    text = csv_text({"x": "1", "y": "2"})
    assert one(source(tmp_path, text.replace(",x,y", ",x,x"))).text == "Good day."
    with pytest.raises(BadColumns, match="2 columns 'componenttext'"):
        rows_of(source(tmp_path, text.replace(",x,y", ",x,componenttext")))


# --- The file -------------------------------------------------------------------------------------------------------


def failure(calls: CsvSource) -> str:
    """What all three ways to read say of a file that cannot be read."""
    messages = set()
    for read in (lambda: rows_of(calls), calls.quarters, lambda: calls.firms(date.min, date.max)):
        with pytest.raises(SourceUnreadable) as error:
            read()
        assert isinstance(error.value, FtmError)
        messages.add(str(error.value))
    (message,) = messages
    assert str(calls.path) in message
    return message


def test_a_missing_file_suggests_the_nearest_name(tmp_path: Path) -> None:
    source_of(tmp_path, {})
    assert "nearest: 'calls.csv'" in failure(CsvSource(tmp_path / "cals.csv"))
    assert "check the path" in failure(CsvSource(tmp_path / "zzz"))
    assert f"folder {tmp_path / 'none'}" in failure(CsvSource(tmp_path / "none" / "calls.csv"))


def test_a_file_taken_for_a_folder_is_an_error(tmp_path: Path) -> None:
    calls = source_of(tmp_path, {})
    assert "check path" in failure(CsvSource(calls.path / "more.csv"))


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf", gzip.compress(b"")])
def test_an_empty_file_is_an_error(tmp_path: Path, content: bytes) -> None:
    assert "is empty; export" in failure(source(tmp_path, content))


def test_a_header_without_rows_is_an_error(tmp_path: Path) -> None:
    assert "a header but no rows; export" in failure(source(tmp_path, csv_text() + "\n\n"))


def test_a_folder_is_an_error_that_names_the_files_in_it(tmp_path: Path) -> None:
    source(tmp_path, b"", "calls.csv.gz")
    assert "one CSV file, such as calls.csv.gz" in failure(CsvSource(tmp_path))


def test_a_gzip_that_breaks_off_tells_the_row_and_nothing_is_half_done(tmp_path: Path) -> None:
    text = csv_text(*({"componentorder": str(i), "componenttext": str(i * i)} for i in range(20_000)))
    packed = gzip.compress(text.encode())
    calls = source(tmp_path, packed[: len(packed) // 2])
    assert "breaks off after row 1 (" not in failure(calls)
    n_rows = 0
    with pytest.raises(SourceUnreadable) as error:
        for _ in calls.read("2021Q4"):
            n_rows += 1
    assert 1_000 < n_rows < 20_000
    assert f"after row {n_rows + 1} (" in str(error.value)
    assert "download it again" in str(error.value)


def test_a_gzip_with_damage_inside_is_an_error(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(csv_text({}).encode()))
    packed[-6] ^= 0xFF
    assert "CRC" in failure(source(tmp_path, bytes(packed)))
    assert "breaks off after row 0" in failure(source(tmp_path, bytes(packed[:5])))


@pytest.mark.parametrize(
    ("start", "what"),
    [
        (b"PK\x03\x04", "zip archive or an Excel workbook; unpack"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1", "save the sheet as"),
        (b"PAR1", "Parquet.*to_csv"),
        (b"BZh9", "bzip2; unpack"),
        ("companyid".encode("utf-16"), "iconv -f UTF-16 -t UTF-8"),
    ],
)
def test_what_is_no_csv_is_called_by_its_name(tmp_path: Path, start: bytes, what: str) -> None:
    with pytest.raises(SourceUnreadable, match=what):
        rows_of(source(tmp_path, start + b"\0" * 50))


def test_a_file_cut_off_inside_a_quoted_field_is_an_error(tmp_path: Path) -> None:
    text = csv_text({}, {"componenttext": "One.\nTwo, three."})
    message = failure(source(tmp_path, text.removesuffix(' three."\r\n')))
    assert "row 3, lines 3-4" in message
    assert "never closed" in message


def test_a_field_longer_than_any_call_is_an_unclosed_quote(tmp_path: Path) -> None:
    assert "a quote is never closed" in failure(source(tmp_path, csv_text({"componenttext": "x" * 17 * 2**20})))


def test_a_header_with_broken_quotes_is_an_error(tmp_path: Path) -> None:
    assert "header (row 1)" in failure(source(tmp_path, 'companyid,"company"name"\n1,2\n'))


def test_sixty_megabytes_pass_through_a_few_and_all_is_counted(tmp_path: Path) -> None:
    block = "".join(
        f'{i},Firm {i},{i},2021-{1 + i % 12:02}-15,0,Answer,Executives,"{"some words, " * 150}"\n' for i in range(300)
    )
    path = tmp_path / "big.csv"
    with path.open("w") as file:
        file.write(",".join(REQUIRED_COLUMNS) + "\n")
        for _ in range(110):
            file.write(block)
    assert path.stat().st_size > 60e6
    tracemalloc.start()
    n_rows = sum(1 for _ in CsvSource(path).read("2021Q4"))
    n_calls = sum(CsvSource(path).quarters().values())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (n_rows, n_calls) == (110 * 300 / 4, 300)
    assert peak < 6e6


# --- Sources by name ------------------------------------------------------------------------------------------------

OWN = """
from datetime import date

class Own:
    def __init__(self, name="own"):
        self.name = name
    def firms(self, start, end):
        return []
    def quarters(self):
        return {}
    def read(self, quarter, firms=None):
        return iter(())

class Shy:
    name = "shy"
    def read(self, quarter, firms=None):
        return iter(())

instance = Own("instance")
shy = Shy()
number = 42

def make():
    return Own("made")

def greedy(url):
    return Own(url)
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_transcripts.py").write_text(OWN)
    (tmp_path / "broken_transcripts.py").write_text("import no_such_library")
    monkeypatch.syspath_prepend(str(tmp_path))
    return "own_transcripts"


def test_a_path_is_a_csv(tmp_path: Path) -> None:
    calls = source_of(tmp_path, {"symbol": "AAPL", "keydeveventtypename": "Conferences"})
    opened = open_source(str(calls.path), {"ticker": "symbol"}, ["Conferences"])
    assert one(opened).ticker == "AAPL"
    assert opened.name == str(calls.path.resolve())


def test_provenance_is_the_full_path_behind_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = source_of(tmp_path, {})
    (tmp_path / "latest.csv").symlink_to(calls.path)
    monkeypatch.chdir(tmp_path)
    assert open_source("latest.csv").name == str(calls.path.resolve())


def test_a_file_may_have_a_colon_in_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source(tmp_path, csv_text({}), "calls:q4")
    monkeypatch.chdir(tmp_path)
    assert one(open_source("calls:q4")).text == "Good day."


@pytest.mark.parametrize(("attribute", "name"), [("instance", "instance"), ("make", "made"), ("Own", "own")])
def test_an_import_path_names_a_source_or_what_makes_one(own: str, attribute: str, name: str) -> None:
    assert open_source(f"{own}:{attribute}").name == name


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("own_transcripts:instanc", "has no 'instanc' \\(nearest: 'instance'\\)"),
        ("own_transcripts:shy", "is a Shy without firms, quarters"),
        ("own_transcripts:number", "is a int without name, firms, quarters, read"),
        ("own_transcripts:greedy", "calling it without arguments failed \\(TypeError.*needs no arguments"),
        ("no.such_module:thing", "cannot be imported \\(ModuleNotFoundError.*PYTHONPATH"),
        ("broken_transcripts:thing", "cannot be imported .*no_such_library"),
        ("s3://bucket/calls.csv", "s3 sources are not available yet; .*package.module:attribute"),
        ("", "no transcript source is named"),
    ],
)
@pytest.mark.usefixtures("own")
def test_a_name_that_leads_nowhere_says_why_and_what_to_do(spec: str, message: str) -> None:
    with pytest.raises(NoSuchSource, match=message):
        open_source(spec)


def test_a_column_map_for_a_source_of_ones_own_is_refused(own: str) -> None:
    with pytest.raises(NoSuchSource, match="leave the map out"):
        open_source(f"{own}:instance", {"ticker": "symbol"})


# --- Real calls -----------------------------------------------------------------------------------------------------


@needs_real_calls
def test_the_small_file_holds_eight_calls_of_one_quarter() -> None:
    assert _DATA is not None
    calls = CsvSource(_DATA / "earnings_calls_small.csv.gz")
    rows = rows_of(calls)
    assert len(rows) == 475
    assert all(isinstance(row, Component) for row in rows)
    assert calls.quarters() == {"2021Q4": 8}
    firms = calls.firms(date(2021, 10, 1), date(2021, 12, 31))
    assert {firm.ticker for firm in firms} == {"AAPL", "AMZN", "KO", "MSFT", "NEE", "UNH", "VZ", "WFC"}


@needs_real_calls
def test_the_dev_file_comes_whole_quarter_by_quarter_without_rejects() -> None:
    assert _DATA is not None
    calls = CsvSource(_DATA / "earnings_calls_dev.csv.gz")
    found = calls.quarters()
    assert list(found.values()) == [30, 13, 22, 32, 22, 36, 35, 46, 19, 6]
    kinds = Counter(type(row).__name__ for quarter in found for row in calls.read(quarter))
    assert kinds == {"Component": 18_232}
    assert len(calls.firms(date.min, date.max)) == 60
