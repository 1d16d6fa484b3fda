"""Values that come out of data frames: missing is missing, whole is whole, and what cannot be read is named."""

import random
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ftm_assets.analysis.source_values import NotARow, checked_firm, checked_rows
from ftm_assets.analysis.transcripts import Component, Reject, SourceFirm
from ftm_assets.errors import FtmError
from ftm_assets.storage.server.database import Database
from ftm_assets_tests.fakes import component
from ftm_assets_tests.storage.sql import ask, load_all

NOTHING = [None, float("nan"), np.float64("nan"), np.float32("nan"), pd.NA, pd.NaT, np.datetime64("NaT"), np.ma.masked]
NOTHING.append(Decimal("NaN"))
NAMES = [repr(nothing) + type(nothing).__name__ for nothing in NOTHING]
MOMENT = datetime(2021, 11, 1, 21, 30, tzinfo=UTC)


def read(**changes: Any) -> list[Component | Reject]:
    return list(checked_rows([component(**changes)]))


def value_of(name: str, value: object) -> object:
    """What the field of a row becomes that is loaded without a word."""
    [row] = read(**{name: value})
    assert isinstance(row, Component)
    return getattr(row, name)


def test_a_row_of_plain_values_stays_the_same_object() -> None:
    row = component(call_at=MOMENT, permno=3)
    [same] = checked_rows([row])
    assert same is row


@pytest.mark.parametrize("nothing", NOTHING, ids=NAMES)
def test_missing_means_missing(nothing: Any) -> None:
    for name in ("ticker", "gvkey", "permno", "event_id", "event_type", "call_at", "created_at", "person_id"):
        assert value_of(name, nothing) is None
    for name in ("company_name", "type_name", "speaker_type", "person", "text", "headline", "source"):
        assert value_of(name, nothing) == ""
    assert value_of("row_number", nothing) == 1


@pytest.mark.parametrize("nothing", NOTHING, ids=NAMES)
@pytest.mark.parametrize("name", ["company_id", "transcript_id", "component_order", "call_date"])
def test_a_row_without_what_it_needs_is_a_reject_that_names_row_and_field(name: str, nothing: Any) -> None:
    [row] = read(row_number=5, **{name: nothing})
    assert isinstance(row, Reject)
    assert (row.row_number, row.column, row.kept, row.reason[:8]) == (5, name, False, "missing;")


@pytest.mark.parametrize("whole", [7, 7.0, np.int64(7), np.uint8(7), np.float32(7), Decimal("7.0"), "7", " 7.0 "])
def test_a_whole_number_is_an_integer(whole: object) -> None:
    for name in ("company_id", "transcript_id", "component_order", "permno", "row_number"):
        found = value_of(name, whole)
        assert (found, type(found)) == (7, int)


@pytest.mark.parametrize(
    "odd",
    [
        7.5,
        True,
        np.True_,
        "seven",
        "1.2E+08",
        2.0**53,
        2**63,
        -(2**63),
        float("inf"),
        [7],
        {},
        b"7",
        pytest.param(10**5000, id="huge"),
    ],
)
def test_what_is_no_integer_is_a_reject_where_it_is_needed_and_empty_where_it_is_not(odd: Any) -> None:
    [reject] = read(transcript_id=odd)
    assert isinstance(reject, Reject)
    assert (reject.column, reject.transcript_id, reject.kept) == ("transcript_id", None, False)
    note, row = read(permno=odd)
    assert isinstance(note, Reject)
    assert isinstance(row, Component)
    assert (note.column, note.transcript_id, note.kept, row.permno) == ("permno", 70, True, None)
    assert note.reason.startswith("left empty: ")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1690, "1690"),
        (1690.0, "1690"),
        (np.int64(1690), "1690"),
        ("001690", "001690"),
        (b"A\xc3\xa9", "Aé"),
        (np.str_("A"), "A"),
        (1.5, "1.5"),
        ("nan", "nan"),
        ("", ""),
    ],
)
def test_numbers_and_bytes_become_text(value: object, text: str) -> None:
    for name in ("gvkey", "text"):
        found = value_of(name, value)
        assert (found, type(found)) == (text, str)


@pytest.mark.parametrize("odd", [b"\xff", True, ["A"], {"a": 1}, date(2021, 11, 1), pd.Timestamp(0), object()])
def test_what_is_no_text_is_a_reject_where_it_is_needed_and_empty_where_it_is_not(odd: object) -> None:
    [reject] = read(text=odd)
    assert isinstance(reject, Reject)
    assert (reject.column, reject.kept) == ("text", False)
    note, row = read(ticker=odd)
    assert isinstance(note, Reject)
    assert isinstance(row, Component)
    assert (note.kept, row.ticker) == (True, None)


@pytest.mark.parametrize(
    "day",
    [
        date(2021, 11, 1),
        datetime(2021, 11, 1, 23),
        MOMENT,
        pd.Timestamp("2021-11-01 09:00:00.000000001"),
        np.datetime64("2021-11-01"),
        np.datetime64("2021-11-01T09:00:00.5", "ns"),
        "2021-11-01",
        "2021-11-01T09:00",
        datetime(2021, 10, 31, 22, tzinfo=timezone(timedelta(hours=-5))),
    ],
)
def test_the_day_of_a_call_is_that_in_utc(day: object) -> None:
    found = value_of("call_date", day)
    assert (found, type(found)) == (date(2021, 11, 1), date)


@pytest.mark.parametrize("odd", [20211101, 1.6e18, "01.11.2021", date(48, 1, 1), datetime(9999, 1, 1), [], object()])
def test_what_is_no_day_is_a_reject(odd: object) -> None:
    [reject] = read(call_date=odd)
    assert isinstance(reject, Reject)
    assert (reject.column, reject.transcript_id) == ("call_date", 70)


@pytest.mark.parametrize(
    "moment", [MOMENT, MOMENT.replace(tzinfo=None), pd.Timestamp(MOMENT), np.datetime64("2021-11-01T21:30")]
)
def test_times_without_a_time_zone_are_utc(moment: object) -> None:
    for name in ("call_at", "created_at"):
        found = value_of(name, moment)
        assert (found, type(found)) == (MOMENT, datetime)


def test_a_day_is_when_a_version_was_made_but_not_when_a_call_was() -> None:
    assert value_of("created_at", date(2021, 11, 1)) == datetime(2021, 11, 1, tzinfo=UTC)
    note, row = read(call_at=date(2021, 11, 1))
    assert isinstance(note, Reject)
    assert (note.column, note.reason) == ("call_at", "left empty: a day, not a time")
    assert isinstance(row, Component)
    assert row.call_at is None


def test_a_row_says_once_what_was_left_empty() -> None:
    note, _ = read(row_number=9, permno="x", call_at="y", gvkey=b"\xff")
    assert isinstance(note, Reject)
    assert (note.row_number, note.column, note.value) == (9, "gvkey, permno, call_at", r"b'\xff'")


def test_rejects_of_a_source_may_hold_anything() -> None:
    [reject] = checked_rows([Reject(2.0, "x", None, "why", np.nan)])  # type: ignore[arg-type]
    assert reject == Reject(2, "x", "", "why", None)
    assert type(reject.row_number) is int


@pytest.mark.parametrize("row", [{"text": "Good day."}, ("a", "b"), None, "text"])
def test_what_is_no_row_is_one_clear_error(row: object) -> None:
    with pytest.raises(NotARow, match="where a Component or a Reject is expected"):
        list(checked_rows([row]))
    with pytest.raises(NotARow, match="where a SourceFirm is expected"):
        checked_firm(row)


def test_a_firm_of_a_data_frame_is_a_firm() -> None:
    days = (pd.Timestamp("2021-11-02"), pd.NaT, "2021-11-01", pd.Timestamp("2021-11-02 10:00"))
    found = checked_firm(SourceFirm(np.int64(7), "Acme Inc.", np.nan, days))  # type: ignore[arg-type]
    assert found == SourceFirm(7, "Acme Inc.", None, (date(2021, 11, 1), date(2021, 11, 2)))
    with pytest.raises(FtmError, match="names a firm that cannot be read"):
        checked_firm(SourceFirm(np.nan, "Acme Inc.", None, days))  # type: ignore[arg-type]


ODD = [
    *NOTHING,
    0,
    -1,
    7.0,
    7.5,
    2**70,
    1e300,
    float("inf"),
    True,
    "",
    "x",
    "7",
    "\0",
    "\ud83d",
    "é" * 500,
    b"\xff",
    [],
]
ODD += [np.int8(7), np.float16(1), np.str_("a"), np.void(b"a"), Decimal("sNaN"), Decimal("1E+400"), complex(1, 1)]
ODD += [pd.Timestamp.max, pd.Timedelta(1), pd.Period("2021Q4"), date.min, date.max, datetime.max, np.array([1, 2]), {}]
ODD += [
    np.datetime64("48113-01-01"),
    pd.Timestamp("2021-11-01", tz="Asia/Tokyo"),
    pd.Interval(0, 1),
    object(),
    range(3),
]


def test_whatever_the_values_are_rows_are_loaded_or_rejected(database: Database) -> None:
    chance = random.Random(7)
    names = [name for name in Component.__slots__ if name != "source"]
    rows = []
    for order in range(300):
        changes = {name: chance.choice(ODD) for name in chance.sample(names, chance.randint(1, 4))}
        rows.append(component(**{"component_order": order, "row_number": order, **changes}))
    counts = load_all(database, rows).counts
    assert counts.n_rows == 300
    assert counts.n_rejected + counts.n_duplicates + counts.n_components + counts.n_superseded_components == 300
    assert min(counts.n_rejected, counts.n_components) > 50
    named = ask(database, 'SELECT DISTINCT "column" FROM rejects WHERE NOT kept')
    assert {"company_id", "transcript_id", "call_date", "component_order", "text"} <= {name for (name,) in named}
