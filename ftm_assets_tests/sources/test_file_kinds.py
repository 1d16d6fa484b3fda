"""The same table in every kind of file that people have, and files that are no table."""

import bz2
import csv
import gzip
import io
import json
import lzma
import os
import random
import zlib
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ftm_assets.analysis.transcripts import Component, Reject
from ftm_assets.errors import FtmError
from ftm_assets.sources.csv.file import SourceUnreadable, open_table
from ftm_assets.sources.csv.source import CsvSource
from ftm_assets.sources.csv.typed_files import cell_text
from ftm_assets_tests.sources.small_csv import csv_text
from ftm_assets_tests.sources.test_csv_file import failure, records_of, written

TEXTS = ("Freight costs rose; a lot.", "Steel | iron, “both”\tfell.", "")
ROWS = [{"componentorder": str(order), "componenttext": text} for order, text in enumerate(TEXTS)]
CSV = csv_text(*ROWS)


def frame() -> pd.DataFrame:
    """The rows with the types that a database would give them."""
    found = pd.DataFrame(_parsed(), columns=_header())
    for column in ("companyid", "transcriptid", "componentorder"):
        found[column] = found[column].astype("int64")
    found["mostimportantdateutc"] = pd.to_datetime(found["mostimportantdateutc"])
    return found


def _header() -> list[str]:
    return CSV.splitlines()[0].split(",")


def _parsed() -> list[list[str]]:
    return list(csv.reader(io.StringIO(CSV)))[1:]


def separated_by(delimiter: str) -> bytes:
    return bytes(frame().to_csv(index=False, sep=delimiter), "utf-8")


def json_lines() -> bytes:
    return "\n".join(json.dumps(dict(zip(_header(), line, strict=True))) for line in _parsed()).encode()


def parquet(path: Path) -> None:
    frame().to_parquet(path)


def stata(path: Path, version: int = 118) -> None:
    frame().to_stata(path, write_index=False, version=version)


KINDS: dict[str, bytes | Callable[[Path], None]] = {
    "comma": CSV.encode(),
    "tab": separated_by("\t"),
    "semicolon": separated_by(";"),
    "pipe": separated_by("|"),
    "utf-8 with a mark": CSV.encode("utf-8-sig"),
    "utf-16": CSV.encode("utf-16"),
    "utf-16-be with a mark": b"\xfe\xff" + CSV.encode("utf-16-be"),
    "utf-16-le without a mark": CSV.encode("utf-16-le"),
    "utf-16-be without a mark": CSV.encode("utf-16-be"),
    "gzip": gzip.compress(CSV.encode()),
    "bzip2": bz2.compress(CSV.encode()),
    "xz": lzma.compress(CSV.encode()),
    "JSON lines": json_lines(),
    "JSON lines with a mark": b"\xef\xbb\xbf" + json_lines(),
    "packed JSON lines": gzip.compress(json_lines()),
    "Parquet": parquet,
    "Stata 14": stata,
    "Stata 10": lambda path: (
        frame()
        .assign(componenttext=frame()["componenttext"].str.replace("“", '"').str.replace("”", '"'))
        .to_stata(path, write_index=False, version=114)
    ),
}


def file_of(kind: str, folder: Path) -> Path:
    path, content = folder / "calls", KINDS[kind]
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        content(path)
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_holds_the_same_calls(tmp_path: Path, kind: str) -> None:
    path = file_of(kind, tmp_path)
    found = list(CsvSource(path).read("2021Q4"))
    assert [row.text.replace("“", '"').replace("”", '"') for row in found if isinstance(row, Component)] == [
        text.replace("“", '"').replace("”", '"') for text in TEXTS
    ]
    assert {(row.company_id, row.transcript_id, row.call_date, row.company_name) for row in found} == {  # type: ignore[union-attr]
        (60094812, 498112719, date(2021, 10, 28), "Apple Inc.")
    }
    [firm] = CsvSource(path).firms(date(2021, 10, 1), date(2021, 12, 31))
    assert firm.call_dates == (date(2021, 10, 28),)


def test_the_delimiter_is_told_by_the_header(tmp_path: Path) -> None:
    with open_table(written(tmp_path, "a;b\n1,5;2\n")) as (header, records):
        assert header == ["a", "b"]
        assert list(records) == [(2, ["1,5", "2"])]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (float("nan"), ""),
        (pd.NaT, ""),
        (5200001.0, "5200001"),
        (1e16, "10000000000000000"),
        (0.5, "0.5"),
        (7, "7"),
        (True, "True"),
        (datetime(2021, 11, 2, 21, tzinfo=UTC), "2021-11-02T21:00:00+00:00"),
        (date(2021, 11, 2), "2021-11-02"),
        (Decimal("1E+3"), "1000"),
        (b"caf\xe9", "caf\udce9"),
        ("half \ud800", "half \udced\udca0\udc80"),
        (["a", 1], '["a", 1]'),
    ],
)
def test_a_value_is_the_text_that_a_csv_would_have(value: object, text: str) -> None:
    assert cell_text(value) == text


def test_missing_values_of_a_data_frame_are_missing(tmp_path: Path) -> None:
    table = frame().assign(ticker=None, permno=float("nan"), transcriptcreationdate_utc=pd.NaT)
    table.to_parquet(tmp_path / "calls.parquet")
    found = list(CsvSource(tmp_path / "calls.parquet").read("2021Q4"))
    assert {(row.ticker, row.permno, row.created_at) for row in found if isinstance(row, Component)} == {
        (None, None, None)
    }
    assert len(found) == 3


def test_objects_may_leave_names_out_and_lines_that_are_none_are_rejected(tmp_path: Path) -> None:
    path = written(tmp_path, '{"a": 1}\n\n{"b": "x", "a": null}\n{"a": \n["c"]\n')
    with open_table(path) as (header, records):
        assert header == ["a", "b"]
        first, second, broken, no_object = records
    assert (first, second) == ((1, ["1", ""]), (3, ["", "x"]))
    assert isinstance(broken[1], Reject) and (broken[0], broken[1].value) == (4, '{"a":')
    assert isinstance(no_object[1], Reject) and no_object[1].reason.startswith("not a JSON object")


def test_of_two_columns_of_one_name_equal_ones_are_read_and_others_rejected(tmp_path: Path) -> None:
    doubled = "\n".join(
        f"{line},{'TranscriptID' if i == 0 else '498112719'}" for i, line in enumerate(CSV.splitlines())
    )
    assert len(list(CsvSource(written(tmp_path, doubled)).read("2021Q4"))) == 3
    found = list(CsvSource(written(tmp_path, doubled.replace(",498112719\n", ",1\n", 1))).read("2021Q4"))
    assert [type(row) for row in found] == [Reject, Component, Component]
    [reject, *_] = found
    assert isinstance(reject, Reject) and (reject.column, reject.value) == ("transcriptid", "498112719 | 1")


# What is not read


@pytest.mark.parametrize(
    ("start", "what"),
    [
        (b"PK\x03\x04", "zip archive or an Excel workbook; unpack"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1", "save the sheet as"),
        (b"\x80\x05\x95", "pickle, which is never opened"),
        (b"\x28\xb5\x2f\xfd", "zstd -d"),
        (b"ARROW1\0\0", "Feather file; write it as Parquet"),
        (b"\0" * 12 + b"\xc2\xea\x81\x60", "a SAS table"),
        (gzip.compress(b"RDX3\nX\n", mtime=0), "an R data file"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
        (b"\n <!DOCTYPE html><html>", "sign-in page"),
        (b'[{"a": 1},', "one object a line"),
        (b"[\n  {", "one object a line"),
        (gzip.compress(b"PAR1", mtime=0), "packed Parquet or Stata file; unpack it"),
    ],
)
def test_what_is_not_read_is_called_by_its_name(tmp_path: Path, start: bytes, what: str) -> None:
    assert what in failure(written(tmp_path, start + b"\0" * 50 if not start.startswith(b"\x1f") else start))


def test_a_pipe_is_refused_because_it_can_be_read_only_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "is a pipe, which can be read only once" in failure(tmp_path / "pipe")


@pytest.mark.parametrize("kind", ["Parquet", "Stata 14", "xz", "bzip2"])
def test_a_file_that_breaks_off_is_one_error(tmp_path: Path, kind: str) -> None:
    path = file_of(kind, tmp_path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(SourceUnreadable, match=r"breaks off after row \d+ \(.*upload it again|does not end"):
        list(CsvSource(path).read("2021Q4"))


@pytest.mark.parametrize("content", [b"", b"\xef\xbb\xbf", b"a,b\n", b"{}", gzip.compress(b"", mtime=0)])
def test_a_file_without_rows_says_so_or_lacks_its_columns(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(FtmError, match=r"has no rows|has no column"):
        list(CsvSource(written(tmp_path, content)).read("2021Q4"))
    pq.write_table(pa.table({"a": pa.array([], pa.string())}), tmp_path / "empty")
    assert "has no rows" in failure(tmp_path / "empty")


# Whatever comes


def mangled(content: bytes, draw: random.Random) -> bytes:
    """With bytes changed, left out, doubled or put in."""
    out = bytearray(content)
    for _ in range(draw.randint(1, 6)):
        place, length = draw.randrange(len(out) + 1), draw.randint(1, 40)
        change = draw.randrange(5)
        if change == 0:
            out[place : place + length] = b""
        elif change == 1:
            out[place:place] = draw.randbytes(length)
        elif change == 2:
            out[place : place + 1] = draw.choice([b'"', b"\0", b"\n", b",", b"\xff", b"}", b"\\"])
        elif change == 3:
            out[place:place] = out[:length]
        else:
            del out[place:]
        if not out:
            break
    return bytes(out)


@pytest.mark.filterwarnings("ignore::UnicodeWarning")  # pandas says which encoding it falls back to.
@pytest.mark.parametrize("kind", KINDS)
def test_a_mangled_file_ends_in_rows_rejects_or_one_error(tmp_path: Path, kind: str) -> None:
    path = file_of(kind, tmp_path)
    content = path.read_bytes()
    draw = random.Random(zlib.crc32(kind.encode()))
    ends = set()
    for _ in range(60):
        path.write_bytes(mangled(content, draw))
        try:
            source = CsvSource(path)
            source.firms(date(2021, 1, 1), date(2021, 12, 31))
            found = list(source.read("2021Q4"))
        except FtmError as error:
            ends.add("error")
            assert len(str(error)) < 3_000
        else:
            assert all(isinstance(row, Component | Reject) for row in found)
            ends.add("rows")
    assert "error" in ends


def test_records_are_taken_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "calls.parquet"
    pq.write_table(pa.table({"a": [str(n) for n in range(2_500)]}), path)
    assert records_of(path)[-1] == (2_500, ["2499"])
