import pytest

from ftm_assets.sources.csv.columns import REQUIRED_COLUMNS, BadColumns, column_positions, doubled_columns

FILE = "calls.csv"


def test_header_names_may_differ_in_case_and_outer_blanks() -> None:
    header = [" CompanyId ", *REQUIRED_COLUMNS[1:], "comment", "TICKER\t"]
    positions = column_positions(FILE, header, {})
    assert list(positions) == [*REQUIRED_COLUMNS, "ticker"]
    assert (positions["companyid"], positions["ticker"]) == (0, 9)


@pytest.mark.parametrize("column", REQUIRED_COLUMNS)
def test_a_missing_column_is_named_with_what_was_found_and_what_to_do(column: str) -> None:
    header = [name if name != column else f"my_{column}" for name in REQUIRED_COLUMNS]
    with pytest.raises(BadColumns) as error:
        column_positions(FILE, header, {})
    message = str(error.value)
    assert f"{FILE} has no column {column!r} (nearest: 'my_{column}')" in message
    assert all(name in message for name in header)
    assert "column map" in message


def test_all_missing_columns_are_told_at_once() -> None:
    with pytest.raises(BadColumns, match=r"'companyid'.*'componenttext'"):
        column_positions(FILE, ["a", "b"], {})


def test_a_header_in_one_piece_is_told_which_separators_are_read() -> None:
    with pytest.raises(BadColumns, match="Separate fields by comma, tab, semicolon"):
        column_positions(FILE, [";".join(REQUIRED_COLUMNS)], {})


def test_a_column_map_reads_a_column_by_the_name_it_has_here() -> None:
    header = [*REQUIRED_COLUMNS[:-1], "Words", "Symbol"]
    positions = column_positions(FILE, header, {"ComponentText": "words", "ticker": " Symbol"})
    assert (positions["componenttext"], positions["ticker"]) == (7, 8)


def test_a_mapped_column_wins_over_one_that_has_our_name() -> None:
    assert column_positions(FILE, [*REQUIRED_COLUMNS, "ticker", "symbol"], {"ticker": "symbol"})["ticker"] == 9


def test_one_column_may_serve_twice() -> None:
    positions = column_positions(FILE, ["gvkey", *REQUIRED_COLUMNS[1:]], {"companyid": "gvkey"})
    assert positions["companyid"] == positions["gvkey"] == 0


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"ticker": "simbol"}, r"no column 'simbol' \(nearest: 'symbol'\)"),
        ({"tickr": "symbol"}, r"names 'tickr' \(nearest: 'ticker'\)"),
    ],
)
def test_a_column_map_that_does_not_fit_is_an_error(columns: dict[str, str], message: str) -> None:
    with pytest.raises(BadColumns, match=message):
        column_positions(FILE, [*REQUIRED_COLUMNS, "symbol"], columns)


def test_of_columns_of_one_name_the_first_counts_and_the_others_are_told() -> None:
    header = [*REQUIRED_COLUMNS, "x", "x", " ComponentText"]
    positions = column_positions(FILE, header, {})
    text = REQUIRED_COLUMNS.index("componenttext")
    assert positions["componenttext"] == text
    assert doubled_columns(header, positions) == [(text, len(header) - 1)]


def test_a_preview_is_never_taken_for_the_text() -> None:
    header = [*REQUIRED_COLUMNS[:-1], "ComponentTextPreview"]
    with pytest.raises(
        BadColumns, match=r"no column 'componenttext'; .*'ComponentTextPreview' holds only the beginning"
    ):
        column_positions(FILE, header, {})
    with pytest.raises(
        BadColumns, match="'componenttextpreview' holds only the beginning of each text and is not read"
    ):
        column_positions(FILE, header, {"componenttext": "ComponentTextPreview"})
    text = column_positions(FILE, [*header, "componenttext"], {})["componenttext"]
    assert text == len(header), "beside the text it does not matter"
