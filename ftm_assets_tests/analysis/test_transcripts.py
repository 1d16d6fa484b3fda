import re
from dataclasses import replace
from datetime import UTC, date, datetime
from itertools import permutations

import pytest

from ftm_assets.analysis.transcripts import (
    Call,
    CallVersion,
    calendar_quarter,
    firm_key,
    fiscal_period,
    is_earnings_call,
    quarter_dates,
    shingles,
    superseded_versions,
)
from ftm_assets_tests.fakes import at, component

# Quarters


@pytest.mark.parametrize(
    ("quarter", "first", "last"),
    [
        ("2021Q1", date(2021, 1, 1), date(2021, 3, 31)),
        ("2021Q2", date(2021, 4, 1), date(2021, 6, 30)),
        ("2021Q3", date(2021, 7, 1), date(2021, 9, 30)),
        ("2021Q4", date(2021, 10, 1), date(2021, 12, 31)),
        ("2024Q1", date(2024, 1, 1), date(2024, 3, 31)),
    ],
)
def test_a_quarter_has_its_first_and_its_last_day(quarter: str, first: date, last: date) -> None:
    assert quarter_dates(quarter) == (first, last)
    assert calendar_quarter(first) == calendar_quarter(last) == quarter


def test_every_day_of_three_years_is_in_one_quarter_and_within_its_dates() -> None:
    days = [date.fromordinal(n) for n in range(date(2020, 1, 1).toordinal(), date(2023, 1, 1).toordinal())]
    quarters = [calendar_quarter(day) for day in days]
    assert quarters == sorted(quarters)
    assert len(set(quarters)) == 12
    assert all(quarter_dates(q)[0] <= day <= quarter_dates(q)[1] for day, q in zip(days, quarters, strict=True))


@pytest.mark.parametrize(
    ("headline", "period"),
    [
        ("Acme Inc., Q3 2021 Earnings Call, Nov 01, 2021", (2021, 3)),
        ("Q2 Holdings, Inc., Q4 2021 Earnings Call, Feb 16, 2022", (2021, 4)),
        ("Acme Q1, FY 2022 results", (2022, 1)),
        ("Acme FY2022 Q1 results", (2022, 1)),
        ("Acme 2022, Q1 results", (2022, 1)),
        ("acme q4 2021 earnings call", (2021, 4)),
        ("Acme Third Quarter 2021 Results", (2021, 3)),
        ("Acme fourth-quarter of fiscal year 2021 results", (2021, 4)),
        ("Acme First Quarter, Fiscal 2022 Results", (2022, 1)),
        ("Acme Fourth Quarter and Full Year 2023 Results", (2023, 4)),
        ("Acme Fourth Quarter and Fiscal Year 2023 Results", (2023, 4)),
        ("Acme Second Quarter and First Half 2023 Results", (2023, 2)),
        ("Acme Fourth Quarter & Full-Year 2023 Results", (2023, 4)),
        ("Acme Fiscal 2023 Third Quarter Results", (2023, 3)),
        ("Acme Fiscal Year 2023, Third-Quarter Results", (2023, 3)),
        ("Acme 2023 Third Quarter Results", (2023, 3)),
        ("Acme 3Q 2021 Earnings Call", (2021, 3)),
        ("Acme 2021 3Q Earnings Call", (2021, 3)),
        ("Acme Q4 and Full Year 2021 Earnings Call", (2021, 4)),
        ("Q2 Holdings, Inc., 2021 Earnings Call", None),
        ("Acme Fourth Quarter Results, Feb 16, 2022", None),
        ("Acme Inc., 2021 Earnings Call, Nov 01, 2021", None),
        ("Acme Inc., H1 2021 Earnings Call", None),
        ("Acme Inc., Q5 2021 Earnings Call", None),
        ("Acme Inc. Presents at a Conference, Nov-01-2021", None),
        ("", None),
    ],
)
def test_a_headline_tells_the_fiscal_period_or_nothing(headline: str, period: tuple[int, int] | None) -> None:
    assert fiscal_period(headline) == period


# Firms and events


@pytest.mark.parametrize(
    ("name", "ticker", "key"),
    [
        ("Apple Inc.", "AAPL", "AAPL-7"),
        ("Apple Inc.", "aapl", "AAPL-7"),
        ("Nano AG", "NA", "NA-7"),
        ("Berkshire", "BRK.B", "BRK-B-7"),
        ("Apple Inc.", None, "APPLE-INC-7"),
        ("Apple Inc.", "", "APPLE-INC-7"),
        ("--Odd | name, [with] 'quotes' / (and more)--", None, "ODD-NAME-WITH-QUOTES-AND-7"),
        ("A Very Long Name Indeed Of A Company", None, "A-VERY-LONG-NAME-INDEED-7"),
        ("株式会社", None, "FIRM-7"),
        (" \n", None, "FIRM-7"),
    ],
)
def test_a_firm_key_is_readable_and_safe(name: str, ticker: str | None, key: str) -> None:
    assert firm_key(7, name, ticker) == key
    assert re.fullmatch(r"[A-Z0-9]+(-[A-Z0-9]+)*", key)


def test_two_firms_never_share_a_key() -> None:
    assert firm_key(7, "Acme", "A") != firm_key(8, "Acme", "A")


@pytest.mark.parametrize(
    ("event_type", "modelled"), [("Earnings Calls", True), (None, True), ("Conferences", False), ("", False)]
)
def test_only_earnings_calls_are_modelled_unless_the_source_does_not_tell(
    event_type: str | None, modelled: bool
) -> None:
    assert is_earnings_call(event_type) is modelled
    assert is_earnings_call("Conferences", ("Conferences",))


# A call


def test_the_first_component_speaks_for_the_call() -> None:
    call = Call((component(headline="First"), component(component_order=1, headline="Second")))
    assert (call.transcript_id, call.head.headline) == (70, "First")


def test_a_version_is_known_from_its_creation_else_from_the_call() -> None:
    assert Call((component(call_at=at(1, 21), created_at=at(2)),)).available_at == at(2)
    assert Call((component(call_at=at(1, 21)),)).available_at == at(1, 21)
    assert Call((component(),)).available_at is None


@pytest.mark.parametrize(
    ("name", "value", "of_text"),
    [
        ("row_number", 9, None),
        ("text", "Other words.", True),
        ("person", "Bo Ray", True),
        ("type_name", "Answer", True),
        ("speaker_type", "Analysts", True),
        ("component_order", 1, True),
        ("company_name", "Zenith", True),
        ("company_id", 8, True),
        ("headline", "Another", False),
        ("ticker", "ZEN", False),
        ("gvkey", "001", False),
        ("permno", 1, False),
        ("call_date", date(2021, 11, 2), False),
        ("call_at", at(1), False),
        ("created_at", at(1), False),
        ("event_id", 1, False),
        ("event_type", "Earnings Calls", False),
        ("collection_type", "Edited Copy", False),
        ("presentation_type", "Final", False),
        ("component_id", 1, False),
        ("person_id", 1, False),
    ],
)
def test_its_hashes_change_with_what_is_stored_and_one_only_with_what_sentences_are_made_from(
    name: str, value: object, of_text: bool | None
) -> None:
    before, after = Call((component(),)), Call((replace(component(), **{name: value}),))  # type: ignore[arg-type]
    assert (before.content_hash != after.content_hash) is (of_text is not None)
    assert (before.text_hash != after.text_hash) is bool(of_text)


# Versions of a call

LONG = "freight costs rose a lot and we expect them to stay where they are for a while".split()


def version(
    transcript_id: int, hour: int | None = None, event_id: int | None = 1, text: str = "", day: int = 1
) -> CallVersion:
    created = None if hour is None else datetime(2021, 11, 2, hour, tzinfo=UTC)
    return CallVersion(transcript_id, event_id, date(2021, 11, day), created, shingles([text or " ".join(LONG)]))


@pytest.mark.parametrize(
    ("versions", "replaced"),
    [
        ([], {}),
        ([version(70)], {}),
        ([version(70, 1), version(71, 2)], {70: 71}),
        ([version(70, 2), version(71, 1)], {71: 70}),
        ([version(70, 1), version(71, 1)], {70: 71}),
        ([version(71), version(70)], {70: 71}),
        ([version(71), version(70, 1)], {71: 70}),
        ([version(70, 1), version(71, 3), version(72, 2)], {70: 71, 72: 71}),
        ([version(70, 1), version(71, 2, text="Something else.")], {70: 71}),
        ([version(70, 1), version(71, 2, day=3)], {70: 71}),
        ([version(70, 1), version(71, 2, event_id=2)], {}),
        ([version(70, 1, None), version(71, 2, None)], {70: 71}),
        ([version(70, 1, None), version(71, 2)], {70: 71}),
        ([version(70, 1, None), version(71, 2, None, day=2)], {}),
        ([version(70, 1, None), version(71, 2, None, "We sold bolts and nuts to all our friends.")], {}),
        ([version(70, 1, None), version(71, 2, None, " ".join([*LONG[:15], "bit"]))], {70: 71}),
        ([version(70, 1, None), version(71, 2, None, " ".join([*LONG[:8], *reversed(LONG[8:])]))], {}),
    ],
    ids=[
        "nothing",
        "one",
        "the later",
        "the later, whatever its id",
        "the higher id of two made at once",
        "the higher id where no time is known",
        "a known time over none",
        "three",
        "one event, other words",
        "one event, another day",
        "two events",
        "no event, the same words",
        "one without event, the same words",
        "no event, another day",
        "no event, other words",
        "no event, nearly the same words",
        "no event, half the words",
    ],
)
def test_the_latest_version_of_an_event_replaces_the_others(
    versions: list[CallVersion], replaced: dict[int, int]
) -> None:
    for order in permutations(versions):
        assert superseded_versions(order) == replaced


def test_whoever_names_no_event_joins_that_of_the_words_it_shares_in_any_order() -> None:
    versions = [version(70, 1, None), version(71, 2), version(72, 3, text="Something else.")]
    for order in permutations(versions):
        assert superseded_versions(order) == {70: 72, 71: 72}


@pytest.mark.parametrize(
    ("as_of", "replaced"),
    [
        (date(2021, 11, 1), {70: 70, 71: 71, 72: 72}),
        (date(2021, 11, 2), {70: 71, 72: 71}),
        (date(2021, 11, 3), {70: 72, 71: 72}),
        (None, {70: 72, 71: 72}),
    ],
    ids=["none known yet, so none is modelled", "inclusive", "all known", "now"],
)
def test_as_of_a_day_the_latest_version_known_then_replaces_the_others(
    as_of: date | None, replaced: dict[int, int]
) -> None:
    late = replace(version(72), available_at=datetime(2021, 11, 3, 23, tzinfo=UTC))
    for order in permutations([version(70, 1), version(71, 23), late]):
        assert superseded_versions(order, as_of) == replaced


def test_a_version_without_a_time_counts_as_known_from_the_day_of_its_call() -> None:
    assert superseded_versions([version(70), version(71, 1)], date(2021, 11, 1)) == {71: 70}
    assert superseded_versions([version(70)], date(2021, 10, 31)) == {70: 70}


def test_a_version_is_not_known_before_the_day_of_its_call() -> None:
    early = replace(version(70, day=5), available_at=datetime(2021, 11, 2, tzinfo=UTC))
    assert superseded_versions([early], date(2021, 11, 4)) == {70: 70}
    assert superseded_versions([early], date(2021, 11, 5)) == {}


def test_an_event_that_nobody_knows_yet_leaves_the_others_alone() -> None:
    versions = [version(70, 1, event_id=1), version(71, 1, event_id=2, day=9)]
    assert superseded_versions(versions, date(2021, 11, 2)) == {71: 71}


def test_words_alone_make_the_shingles_not_their_case_or_where_a_turn_ends() -> None:
    assert shingles(["Freight costs, rose!", "A lot."]) == shingles(["freight COSTS rose a", "lot"])
    assert len(shingles(["one two three four"])) == 2
    assert len(shingles(["one"])) == len(shingles([])) == 1
