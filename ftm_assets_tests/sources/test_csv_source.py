import tracemalloc
from collections import Counter
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from ftm_assets.analysis.transcripts import Component, Reject, SourceFirm
from ftm_assets.sources.csv.columns import OPTIONAL_COLUMNS, REQUIRED_COLUMNS
from ftm_assets.sources.csv.file import SourceUnreadable
from ftm_assets.sources.csv.source import CsvSource
from ftm_assets.sources.transcript_source import NoCallsFound, quarters_of
from ftm_assets_tests.sources.small_csv import ROW, csv_text, one, rejected, repaired, rows_of, source, source_of

_ROOT = Path(__file__).parents[2]
_DATA = next((d for d in (_ROOT.parent / "shared/data", _ROOT / "shared/data") if d.is_dir()), None)
needs_real_calls = pytest.mark.skipif(_DATA is None, reason="the real calls (../shared/data) are not on this machine")


# --- What is read ----------------------------------------------------------------------------------------------------


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


def test_an_optional_value_may_be_nothing(tmp_path: Path) -> None:
    names = ["permno", "keydevid", "mostimportanttimeutc", "transcriptcreationdate_utc", "transcriptpersonid"]
    row = one(source_of(tmp_path, dict.fromkeys(names, " NaN ")))
    assert (row.permno, row.event_id, row.call_at, row.created_at, row.person_id) == (None,) * 5


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


# --- Dates and times -------------------------------------------------------------------------------------------------


def test_the_quarter_is_that_of_the_day_in_utc(tmp_path: Path) -> None:
    calls = source_of(tmp_path, {"mostimportantdateutc": "2021-12-31T22:00:00-05:00"})
    assert rows_of(calls, "2021Q4") == []
    assert one(calls, "2022Q1").call_at == datetime(2022, 1, 1, 3, tzinfo=UTC)


def test_the_dates_of_the_whole_file_tell_which_part_is_the_month(tmp_path: Path) -> None:
    american = source_of(tmp_path, {"mostimportantdateutc": "11/3/2021"}, {"mostimportantdateutc": "10/28/2021"})
    assert quarters_of(american) == {"2021Q4": 2}
    european = source_of(tmp_path, {"mostimportantdateutc": "11/3/2021"}, {"mostimportantdateutc": "28/10/2021"})
    assert quarters_of(european) == {"2021Q1": 1, "2021Q4": 1}
    assert one(european, "2021Q1").call_date == date(2021, 3, 11)
    assert "month cannot be told" in rejected(source_of(tmp_path, {"mostimportantdateutc": "11/3/2021"})).reason


@pytest.mark.parametrize(
    ("day", "clock", "expected"),
    [
        ("2021-10-28", "", None),
        ("2021-10-28 00:00:00", "", None),
        ("2021-10-28 21:00:00", "", datetime(2021, 10, 28, 21, tzinfo=UTC)),
        ("2021-10-28", "21:00:00", datetime(2021, 10, 28, 21, tzinfo=UTC)),
        ("2021-10-28", "1960-01-01T21:00:00.0", datetime(2021, 10, 28, 21, tzinfo=UTC)),
        ("2021-10-28", "00:00:00", datetime(2021, 10, 28, tzinfo=UTC)),
    ],
)
def test_midnight_is_a_time_in_a_time_column_but_not_in_a_date_column(
    tmp_path: Path, day: str, clock: str, expected: datetime | None
) -> None:
    calls = source_of(tmp_path, {"mostimportantdateutc": day, "mostimportanttimeutc": clock})
    assert one(calls).call_at == expected


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


# --- Firms and quarters ----------------------------------------------------------------------------------------------


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
    assert list(quarters_of(calls).items()) == [("2021Q4", 2), ("2022Q1", 1)]


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        (
            [{"mostimportantdateutc": "10/11/2021"}, {"mostimportantdateutc": "11/12/2021"}],
            "2 rows; row 2 cannot be used (mostimportantdateutc '10/11/2021': not a date (its month cannot be told "
            "from its day in this file); export dates as YYYY-MM-DD)",
        ),
        (
            [{"keydeveventtypename": event} for event in ("Conferences", "M&A Calls", "Conferences")],
            "3 rows; 2 of 'Conferences', 1 of 'M&A Calls' where calls are 'Earnings Calls'; export those",
        ),
        (
            [{"keydeveventtypename": "M&A Calls"}, {"companyid": "x"}],
            "2 rows; 1 of 'M&A Calls' where calls are 'Earnings Calls'; export those; row 3 cannot be used "
            "(companyid 'x': not an integer",
        ),
    ],
    ids=["dates that mean two things", "other events", "both"],
)
def test_a_file_without_any_call_that_can_be_loaded_says_what_is_in_it(
    tmp_path: Path, rows: list[dict[str, str]], why: str
) -> None:
    with pytest.raises(NoCallsFound) as told:
        quarters_of(source_of(tmp_path, *rows))
    assert f"{tmp_path / 'calls.csv'} holds no call that can be loaded: {why}" in str(told.value)


def test_broken_rows_alone_are_no_calls_either(tmp_path: Path) -> None:
    header = csv_text().strip()
    with pytest.raises(NoCallsFound, match=r"1 rows; row 2 cannot be used .* 3 fields where the header has 8"):
        quarters_of(source(tmp_path, f"{header}\na,b,c\n"))


def test_firms_leave_out_rows_that_read_would_reject(tmp_path: Path) -> None:
    calls = source_of(tmp_path, {"companyid": "x"}, {"mostimportantdateutc": "x"}, {"transcriptid": "x"})
    assert calls.firms(date.min, date.max) == []


# --- Rejects ---------------------------------------------------------------------------------------------------------


def test_a_row_without_a_readable_date_is_rejected_in_every_quarter(tmp_path: Path) -> None:
    calls = source_of(tmp_path, {"mostimportantdateutc": "soon"})
    for quarter in ("2021Q4", "1999Q1"):
        reject = rejected(calls, quarter)
        assert (reject.row_number, reject.column, reject.value) == (2, "mostimportantdateutc", "soon")
        assert reject.transcript_id == 498112719
        assert "YYYY-MM-DD" in reject.reason


@pytest.mark.parametrize(
    ("column", "value"), [("companyid", "1.2E+08"), ("transcriptid", ""), ("componentorder", "3000000000")]
)
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


def test_a_row_with_broken_quotes_is_rejected_and_no_other(tmp_path: Path) -> None:
    rows = [f'{i},Apple,2,2021-10-28,{i},a,b,"{text}"' for i, text in enumerate(["fine", 'a "b" c', "fine"])]
    calls = source(tmp_path, "\n".join([",".join(REQUIRED_COLUMNS), *rows]))
    assert [(row.row_number, type(row)) for row in rows_of(calls)] == [(2, Component), (3, Reject), (4, Component)]
    assert [firm.company_id for firm in calls.firms(date.min, date.max)] == [0, 2]


def test_columns_may_have_other_names_and_a_reject_names_them_as_the_file_does(tmp_path: Path) -> None:
    text = csv_text({"ticker": "AAPL"}, {"transcriptid": "x"})
    calls = source(tmp_path, text.replace("transcriptid", " Call Id").replace("ticker", "Symbol"))
    component, reject = rows_of(CsvSource(calls.path, {"transcriptid": "call id", "ticker": "symbol"}))
    assert isinstance(component, Component)
    assert isinstance(reject, Reject)
    assert (component.ticker, reject.column) == ("AAPL", "Call Id")


# --- Repairs ---------------------------------------------------------------------------------------------------------


def test_bytes_that_are_not_utf8_are_replaced_and_the_row_says_how_to_convert(tmp_path: Path) -> None:
    text = csv_text({"componenttext": "Café sales rose"}).encode("windows-1252")
    reject, component = repaired(source(tmp_path, text))
    assert component.text == "Caf\ufffd sales rose"
    assert (reject.column, reject.value) == ("componenttext", "Caf\\xe9 sales rose")
    assert "iconv -f WINDOWS-1252 -t UTF-8" in reject.reason


def test_nul_in_a_date_or_an_id_does_not_hide_the_row(tmp_path: Path) -> None:
    calls = source_of(tmp_path, {"mostimportantdateutc": "2021-10\0-28", "companyid": "60094\0812"})
    reject, component = repaired(calls)
    assert (component.call_date, component.company_id) == (date(2021, 10, 28), 60094812)
    assert reject.column == "companyid, mostimportantdateutc"
    assert reject.value == "60094\\x00812"
    assert calls.firms(date.min, date.max)[0].company_id == 60094812


def test_a_damaged_name_is_the_same_in_both_lists(tmp_path: Path) -> None:
    calls = source(tmp_path, csv_text({"companyname": "Nestlé"}).encode("latin-1"))
    assert repaired(calls)[1].company_name == calls.firms(date.min, date.max)[0].name == "Nestl\ufffd"


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


# --- The whole file --------------------------------------------------------------------------------------------------


def test_a_file_that_breaks_off_is_an_error_whichever_way_it_is_read(tmp_path: Path) -> None:
    calls = source(tmp_path, csv_text({}, {"componenttext": "One.\nTwo, three."}).removesuffix(' three."\r\n'))
    for read in (lambda: rows_of(calls), lambda: quarters_of(calls), lambda: calls.firms(date.min, date.max)):
        with pytest.raises(SourceUnreadable, match="never closed"):
            read()


@pytest.mark.slow
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
    n_calls = sum(quarters_of(CsvSource(path)).values())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (n_rows, n_calls) == (110 * 300 / 4, 300)
    assert peak < 6e6


# --- Real calls ------------------------------------------------------------------------------------------------------


@needs_real_calls
def test_the_small_file_holds_eight_calls_of_one_quarter() -> None:
    assert _DATA is not None
    calls = CsvSource(_DATA / "earnings_calls_small.csv.gz")
    rows = rows_of(calls)
    assert len(rows) == 475
    assert all(isinstance(row, Component) for row in rows)
    assert quarters_of(calls) == {"2021Q4": 8}
    firms = calls.firms(date(2021, 10, 1), date(2021, 12, 31))
    assert {firm.ticker for firm in firms} == {"AAPL", "AMZN", "KO", "MSFT", "NEE", "UNH", "VZ", "WFC"}


@needs_real_calls
def test_the_dev_file_comes_whole_quarter_by_quarter_without_rejects() -> None:
    assert _DATA is not None
    calls = CsvSource(_DATA / "earnings_calls_dev.csv.gz")
    found = quarters_of(calls)
    assert list(found.values()) == [30, 13, 22, 32, 22, 36, 35, 46, 19, 6]
    kinds = Counter(type(row).__name__ for quarter in found for row in calls.read(quarter))
    assert kinds == {"Component": 18_232}
    assert len(calls.firms(date.min, date.max)) == 60


def test_rows_of_nothing_but_separators_are_blank(tmp_path: Path) -> None:
    blank = ", ".join([""] * len(ROW)) + "\n"
    calls = source(tmp_path, blank + csv_text({}) + blank * 3)
    assert one(calls).row_number == 3
    assert quarters_of(calls) == {"2021Q4": 1}
