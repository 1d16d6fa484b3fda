import gzip
from pathlib import Path

import pytest

from ftm_assets.analysis.transcripts import Reject
from ftm_assets.sources.csv.file import Record, SourceUnreadable, open_table


def written(folder: Path, content: str | bytes, name: str = "calls.csv") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def records_of(path: Path) -> list[Record]:
    with open_table(path) as (_, records):
        return list(records)


def failure(path: Path) -> str:
    with pytest.raises(SourceUnreadable) as error:
        records_of(path)
    assert str(path) in str(error.value)
    return str(error.value)


# --- What is read ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_the_header_comes_first_and_a_byte_order_mark_is_no_part_of_it(tmp_path: Path, mark: str) -> None:
    with open_table(written(tmp_path, f"{mark}a,b\n1,2\n3,4\n")) as (header, records):
        assert header == ["a", "b"]
        assert list(records) == [(2, ["1", "2"]), (3, ["3", "4"])]


@pytest.mark.parametrize("name", ["calls.csv", "calls.csv.gz", "calls"])
def test_gzip_is_told_by_its_content_not_its_name(tmp_path: Path, name: str) -> None:
    assert records_of(written(tmp_path, "a\n1\n", name)) == [(2, ["1"])]
    assert records_of(written(tmp_path, gzip.compress(b"a\n1\n"), name)) == [(2, ["1"])]


def test_gzip_files_put_one_after_the_other_are_one_file(tmp_path: Path) -> None:
    packed = gzip.compress(b"a\n") + gzip.compress(b"1\n") + gzip.compress(b"2\n")
    assert records_of(written(tmp_path, packed)) == [(2, ["1"]), (3, ["2"])]


def test_newlines_commas_and_quotes_inside_a_field_stay(tmp_path: Path) -> None:
    assert records_of(written(tmp_path, 'a\n"One.\nTwo, ""three"".\r\n\r\n  four  "\n')) == [
        (2, ['One.\nTwo, "three".\r\n\r\n  four  '])
    ]


def test_a_field_of_two_megabytes_is_read_whole(tmp_path: Path) -> None:
    text = "word, " * 350_000
    assert records_of(written(tmp_path, f'a\n"{text}"\n')) == [(2, [text])]


def test_blank_records_are_left_out_but_counted_as_a_spreadsheet_does(tmp_path: Path) -> None:
    assert records_of(written(tmp_path, "a\r\n\r\n\r\n1\r\n\r\n")) == [(4, ["1"])]


# --- Broken quotes --------------------------------------------------------------------------------------------------


def test_broken_quotes_cost_the_record_they_are_in_and_no_other(tmp_path: Path) -> None:
    first, (number, reject), last = records_of(written(tmp_path, 'a\n"fine"\n"he said "hello" to us"\n"fine"\n'))
    assert (first, last) == ((2, ["fine"]), (4, ["fine"]))
    assert isinstance(reject, Reject)
    assert (number, reject.row_number, reject.kept) == (3, 3, False)
    assert "lines 3-3 " in reject.reason
    assert "double each quote" in reject.reason


def test_an_unclosed_quote_in_the_middle_does_not_swallow_the_file(tmp_path: Path) -> None:
    lines = [f'"text {i}"' for i in range(10)]
    lines[3] = lines[3].removesuffix('"')
    rows = [row for _, row in records_of(written(tmp_path, "\n".join(["a", *lines])))]
    assert [row[0][-1] for row in rows if isinstance(row, list)] == list("01256789")
    (reject,) = [row for row in rows if isinstance(row, Reject)]
    assert "lines 5-6 " in reject.reason


def test_a_header_with_broken_quotes_is_an_error(tmp_path: Path) -> None:
    assert "header (row 1)" in failure(written(tmp_path, '"a"b",c\n1,2\n'))


def test_a_file_cut_off_inside_a_quoted_field_is_an_error(tmp_path: Path) -> None:
    message = failure(written(tmp_path, 'a\n1\n"One.\nTwo'))
    assert "row 3 (lines 3-4 " in message
    assert "never closed" in message


def test_a_field_longer_than_any_call_is_an_unclosed_quote(tmp_path: Path) -> None:
    assert "a quote is never closed" in failure(written(tmp_path, "a\n" + "x" * 17 * 2**20))


# --- Files that cannot be read --------------------------------------------------------------------------------------


def test_what_is_not_there_or_is_no_file_is_an_error(tmp_path: Path) -> None:
    file = written(tmp_path, "a\n1\n")
    assert "No such file" in failure(tmp_path / "none" / "calls.csv")
    assert "Is a directory" in failure(tmp_path)
    assert "Not a directory" in failure(file / "more.csv")


def test_a_missing_file_is_named_in_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert str(tmp_path / "calls.csv") in failure(Path("calls.csv"))


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf", gzip.compress(b"", mtime=0), b"a,b\n\n\n"])
def test_a_file_without_rows_is_an_error(tmp_path: Path, content: bytes) -> None:
    assert "has no rows; export" in failure(written(tmp_path, content))


def test_a_gzip_that_breaks_off_tells_the_row(tmp_path: Path) -> None:
    packed = gzip.compress("\n".join(str(i * i) for i in range(20_000)).encode())
    n_rows = 0
    with (
        pytest.raises(SourceUnreadable) as error,
        open_table(written(tmp_path, packed[: len(packed) // 2])) as (_, records),
    ):
        for _ in records:
            n_rows += 1
    assert 1_000 < n_rows < 20_000
    assert f"breaks off after row {n_rows + 1} (" in str(error.value)
    assert "upload it again" in str(error.value)


def test_a_gzip_with_damage_inside_is_an_error(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(b"a\n1\n"))
    packed[-6] ^= 0xFF
    assert "CRC" in failure(written(tmp_path, bytes(packed)))
    assert "breaks off after row 0" in failure(written(tmp_path, bytes(packed[:5])))


@pytest.mark.parametrize(
    ("start", "what"),
    [
        (b"PK\x03\x04", "zip archive or an Excel workbook; unpack"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1", "save the sheet as"),
    ],
)
def test_what_is_no_csv_is_called_by_its_name(tmp_path: Path, start: bytes, what: str) -> None:
    assert what in failure(written(tmp_path, start + b"\0" * 50))
