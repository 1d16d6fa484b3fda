from datetime import date

import pytest

from ftm_assets.errors import FtmError
from ftm_assets.storage.read.resolve import AmbiguousName, NotFound, find_firm, find_quarter, parse_quarter
from ftm_assets.storage.server.database import Database
from ftm_assets_tests.fakes import component
from ftm_assets_tests.storage.sql import load

FIRMS = (
    (7, "Acme Inc.", "ACME"),
    (8, "Bolt & Co, Ltd.", "NA"),
    (9, "Acme Mining", None),
    (10, "Nassau Foods", "70"),
    (70, "Twin Oil", "TWN"),
    (11, "Twin Oil", "TWN"),
)


@pytest.fixture
def loaded(database: Database) -> Database:
    """Six firms with a call in 2021Q4, of which two share name and ticker."""
    calls = [
        component(company_id=i, company_name=name, ticker=ticker, transcript_id=i * 10) for i, name, ticker in FIRMS
    ]
    load(database, *calls)
    return database


def found(database: Database, value: str) -> str:
    with database.transaction() as connection:
        return find_firm(connection, value).partition_key


def test_a_firm_goes_by_key_id_ticker_name_or_a_part_of_its_name(loaded: Database) -> None:
    for typed, key in {
        "ACME-7": "ACME-7",
        "acme-7": "ACME-7",
        " ACME-7 ": "ACME-7",
        "7": "ACME-7",
        "acme": "ACME-7",
        "Acme Mining": "ACME-MINING-9",
        "mining": "ACME-MINING-9",
        "bolt &": "NA-8",
        "twn-70": "TWN-70",
    }.items():
        assert found(loaded, typed) == key, typed


def test_a_ticker_that_looks_like_no_value_is_a_ticker(loaded: Database) -> None:
    assert found(loaded, "NA") == "NA-8", "not Nassau, and not nothing"
    assert found(loaded, "na") == "NA-8"


def test_an_id_goes_before_a_ticker_of_the_same_digits(loaded: Database) -> None:
    assert found(loaded, "70") == "TWN-70"


def test_a_name_of_several_firms_is_answered_with_their_keys(loaded: Database) -> None:
    for typed in ("TWN", "twin oil", "Twin"):
        with pytest.raises(AmbiguousName) as error:
            found(loaded, typed)
        shown = "TWN-11 (Twin Oil), TWN-70 (Twin Oil)"
        assert str(error.value) == f"{typed!r} matches 2 firms: {shown}; use the key"


def test_of_many_firms_only_a_few_are_shown(database: Database) -> None:
    load(database, *(component(company_id=i, company_name="Twin", ticker=None, transcript_id=i) for i in range(1, 21)))
    with pytest.raises(AmbiguousName, match="matches 20 firms") as error:
        found(database, "twin")
    assert str(error.value).count("(Twin)") == 8


def test_a_near_miss_is_answered_with_the_nearest_whatever_its_case(loaded: Database) -> None:
    for typed, near in {"acne": "ACME", "ACNE-7": "ACME-7", "nasau foods": "Nassau Foods", "TWM": "TWN"}.items():
        with pytest.raises(NotFound) as error:
            found(loaded, typed)
        assert str(error.value).startswith(f"unknown firm {typed!r}; did you mean {near}")


def test_what_is_near_nothing_is_not_taken_for_a_near_miss(loaded: Database) -> None:
    for typed in ("", "  ", "zzzzzzzz"):
        with pytest.raises(NotFound) as error:
            found(loaded, typed)
        assert "did you mean" not in str(error.value)
        assert str(error.value).startswith(f"unknown firm {typed!r}; there are 70-10, ACME-7, ACME-MINING-9, NA-8, ")
        assert str(error.value).endswith(" ...")


def test_an_empty_database_says_what_comes_first(database: Database) -> None:
    with database.transaction() as connection:
        with pytest.raises(NotFound, match=r"unknown firm 'ACME'; nothing is loaded yet; .* ftm ingest SOURCE"):
            find_firm(connection, "ACME")
        with pytest.raises(NotFound, match=r"unknown quarter '2021Q4'; nothing is loaded yet; .* ftm ingest SOURCE"):
            find_quarter(connection, "2021q4")


def test_a_quarter_is_found_however_it_is_typed(loaded: Database) -> None:
    with loaded.transaction() as connection:
        for typed in ("2021Q4", "2021q4", "2021-Q4", "2021_q4", "2021 Q4", " 2021Q4\n"):
            assert find_quarter(connection, typed) == "2021Q4", typed


def test_a_quarter_without_calls_is_answered_with_the_nearest_that_has_some(loaded: Database) -> None:
    load(loaded, component(transcript_id=99, call_date=date(2022, 2, 1)), quarter="2022Q1")
    with loaded.transaction() as connection, pytest.raises(NotFound) as error:
        find_quarter(connection, "2012-q4")
    assert str(error.value).startswith("unknown quarter '2012Q4'; did you mean 2021Q4")


@pytest.mark.parametrize(
    "typed",
    [
        "",
        "autumn",
        "2021",
        "2021Q5",
        "2021Q0",
        "21Q4",
        "Q4 2021",
        "2021-4",
        "2021Q44",
        "x2021Q4",
        "\uff12\uff10\uff12\uff11Q4",
    ],
)
def test_what_is_no_quarter_is_told_how_to_write_one(typed: str) -> None:
    with pytest.raises(FtmError) as error:
        parse_quarter(typed)
    assert str(error.value) == f"{typed!r} is not a quarter; write it as 2021Q4"
