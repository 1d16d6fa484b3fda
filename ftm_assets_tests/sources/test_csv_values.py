from datetime import UTC, date, datetime, time

import pytest

from ftm_assets.analysis.source_values import integer, is_nothing
from ftm_assets.sources.csv.values import (
    Dates,
    Moment,
    repaired,
    shown,
    small_integer,
    time_of_day,
)

OCTOBER_28 = date(2021, 10, 28)


def moment(cell: str, *others: str) -> Moment:
    """What a cell means in a file that has these dates besides."""
    return Dates(lambda: [cell, *others]).moment(cell)


# --- Numbers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "number"), [(" 7 ", 7), ("-7", -7), ("001690", 1690), ("123.0", 123), ("4.000", 4), (str(2**63 - 1),) * 2]
)
def test_integers_may_look_like_pandas_floats(cell: str, number: int | str) -> None:
    assert integer(cell) == int(number)


@pytest.mark.parametrize("cell", ["", "12.5", "1.2E+08", "A1", "1_000", "٣", "9" * 19, "9" * 40])
def test_what_is_no_integer_is_told_to_be_plain_digits(cell: str) -> None:
    with pytest.raises(ValueError, match="plain digits"):
        integer(cell)


def test_a_small_integer_has_32_bits() -> None:
    assert small_integer("2147483647") == 2**31 - 1
    with pytest.raises(ValueError, match="up to 2147483647"):
        small_integer("2147483648")


@pytest.mark.parametrize("nothing", ["", " ", ".", "NaN", "NULL", "<NA>", "\\N"])
def test_what_pandas_sas_and_sql_write_for_nothing_is_nothing(nothing: str) -> None:
    assert is_nothing(nothing)
    assert not is_nothing("0")


# --- Dates and times ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cell",
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
def test_a_bare_date_however_written_has_no_time(cell: str) -> None:
    assert moment(cell) == (OCTOBER_28, None)


@pytest.mark.parametrize(
    "cell",
    [
        "2021-10-28 21:00:00",
        "2021-10-28T21:00:00",
        "2021-10-28T21:00:00Z",
        "2021-10-28 21:00:00 UTC",
        "2021-10-28 21:00:00.0",
        "2021-10-28T21:00:00.000000Z",
        "2021-10-28 21:00",
        "2021-10-28T17:00:00-04:00",
        "28OCT2021:21:00:00",
        "10/28/2021 21:00",
        "10/28/2021 9:00:00 PM",
    ],
)
def test_a_date_with_a_time_tells_when_the_call_was(cell: str) -> None:
    assert moment(cell) == (OCTOBER_28, datetime(2021, 10, 28, 21, tzinfo=UTC))


def test_the_day_is_that_of_utc() -> None:
    assert moment("2021-12-31T22:00:00-05:00") == (date(2022, 1, 1), datetime(2022, 1, 1, 3, tzinfo=UTC))


@pytest.mark.parametrize(
    "cell",
    ["soon", "", "2021-13-01", "2021-02-30", "31FEB2021", "28OKT2021", "44497", "0021-10-28", "2021-10-28 25:00"],
)
def test_what_is_no_date_is_told_to_be_year_month_day(cell: str) -> None:
    with pytest.raises(ValueError, match=r"not a date .*YYYY-MM-DD"):
        moment(cell)


def test_a_part_above_twelve_tells_for_the_whole_file_which_part_is_the_month() -> None:
    assert moment("11/3/2021", "10/28/2021").day == date(2021, 11, 3)
    assert moment("11/3/2021", "28/10/2021").day == date(2021, 3, 11)


def test_where_nothing_tells_the_month_from_the_day_the_date_cannot_be_read() -> None:
    with pytest.raises(ValueError, match=r"month cannot be told .*YYYY-MM-DD"):
        moment("11/3/2021", "2021-10-28")


def test_a_date_against_the_order_of_its_file_cannot_be_read() -> None:
    with pytest.raises(ValueError, match="YYYY-MM-DD"):
        Dates(lambda: ["10/28/2021", "28/10/2021"]).moment("28/10/2021")


@pytest.mark.parametrize(
    "cell",
    [
        "21:00:00",
        "21:00",
        " 9:00 PM",
        "17:00-04:00",
        "21:00:00+00",
        "17:00:00-04",
        "2021-10-28 21:00:00",
        "1960-01-01T21:00:00.0",
    ],
)
def test_a_time_is_that_of_the_day_in_utc(cell: str) -> None:
    assert time_of_day(cell) == time(21)


def test_midnight_is_twelve_in_the_morning() -> None:
    assert time_of_day("00:00:00") == time_of_day("12:00 AM") == time(0)
    assert time_of_day("12:00 PM") == time(12)


@pytest.mark.parametrize("cell", ["noon", "25:00", "21:60", "2021-10-28", "9"])
def test_what_is_no_time_is_told_to_be_hours_minutes_seconds(cell: str) -> None:
    with pytest.raises(ValueError, match="HH:MM:SS"):
        time_of_day(cell)


# --- Text -----------------------------------------------------------------------------------------------------------


def test_utf8_of_every_kind_needs_no_repair() -> None:
    text = "Crédit Suisse — “quotes” \u00a0 日本 😀 CrÃ©dit \ufffd"
    assert repaired(text) == (text, "")


def test_nul_is_removed() -> None:
    text, reason = repaired("Good\0 day.\0")
    assert text == "Good day."
    assert "NUL" in reason


def test_bytes_that_are_not_utf8_are_replaced() -> None:
    text, reason = repaired("Café\0".encode("windows-1252").decode(errors="surrogateescape"))
    assert text == "Caf\ufffd"
    assert "NUL" in reason
    assert "iconv -f WINDOWS-1252 -t UTF-8" in reason


def test_a_shown_value_spells_out_its_damage() -> None:
    assert shown("Caf\udce9\0") == "Caf\\xe9\\x00"


def test_a_long_value_is_shortened() -> None:
    assert shown("x" * 5000) == "x" * 199 + "…"


def test_of_a_long_value_the_place_of_its_damage_is_shown() -> None:
    assert shown("x" * 5000 + "\0here") == "x" * 100 + "\\x00here"
