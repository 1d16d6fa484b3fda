"""A file of a table as numbered records, or the reason why it cannot be read."""

import bz2
import csv
import gzip
import io
import lzma
import stat
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain, count
from pathlib import Path
from typing import BinaryIO, TextIO, cast

from ftm_assets.analysis.transcripts import Reject
from ftm_assets.errors import FtmError
from ftm_assets.sources.csv.typed_files import DAMAGE, json_lines, parquet, stata

Record = tuple[int, list[str] | Reject]

_LONGEST_FIELD = 16 * 2**20  # Ten times the longest call; what is longer is an unclosed quote that swallows the file.
_LONGEST_HEADER = 2**20
_DELIMITERS = ",\t;|"
_PACKED: dict[bytes, Callable[[BinaryIO], BinaryIO]] = {
    b"\x1f\x8b": lambda raw: cast(BinaryIO, gzip.GzipFile(fileobj=raw)),
    **{b"BZh%d1AY&SY" % level: lambda raw: cast(BinaryIO, bz2.BZ2File(raw)) for level in range(1, 10)},
    b"\xfd7zXZ\0": lambda raw: cast(BinaryIO, lzma.LZMAFile(raw)),  # noqa: SIM115  (closed with the file)
}
_BROKEN_OFF = (EOFError, OSError, UnicodeDecodeError, lzma.LZMAError, zlib.error)
_SAVE_SHEET = "save the sheet as 'CSV UTF-8'"
_R_DATA = "an R data file; write it as CSV (write.csv) or Parquet (arrow)"
_ONE_JSON = 'JSON in one piece; write one object a line (pandas: frame.to_json(..., orient="records", lines=True))'
# The first bytes of what we do not read. Nothing is ever unpickled: a pickle may run any code.
_NOT_READ = {
    b"PK\x03\x04": f"a zip archive or an Excel workbook; unpack it, or {_SAVE_SHEET}",
    b"\xd0\xcf\x11\xe0": f"an old Excel workbook; {_SAVE_SHEET}",
    b"\x28\xb5\x2f\xfd": "compressed by zstandard; unpack it with zstd -d",
    b"7z\xbc\xaf": "a 7-Zip archive; unpack it",
    b"Rar!\x1a": "a RAR archive; unpack it",
    **{
        b"\x80" + bytes([protocol]): "a Python pickle, which is never opened because it may run any code; write it as "
        "Parquet where it was made (pandas: frame.to_parquet(...))"
        for protocol in range(2, 6)
    },
    b"ARROW1": "a Feather file; write it as Parquet",
    b"Obj\x01": "an Avro file; write it as Parquet",
    b"\x89HDF": "an HDF5 file; write it as Parquet",
    b"$FL2": "an SPSS file; write it as CSV",
    b"$FL3": "an SPSS file; write it as CSV",
    b"\0" * 12 + b"\xc2\xea\x81\x60": "a SAS table; write it as CSV (PROC EXPORT)",
    b"RDX2\n": _R_DATA,
    b"RDX3\n": _R_DATA,
    b"%PDF-": "a PDF; transcripts are needed as a table",
    b"SQLite format 3": "an SQLite database; export the table as CSV",
    b"version https://git-lfs": "the pointer of a file in Git LFS, not the file; run: git lfs pull",
    b"<": "a web page or XML, perhaps a sign-in page; download the file again",
    b"[{": _ONE_JSON,
    b"[\n": _ONE_JSON,
    b"[\r": _ONE_JSON,
    b"[ ": _ONE_JSON,
}


class SourceUnreadable(FtmError):
    """A transcript file is missing, is of no kind that is read, or breaks off; nothing of it should be kept."""


@contextmanager
def open_table(path: Path, name: str = "") -> Iterator[tuple[list[str], Iterator[Record]]]:
    """Header of a table, and the records below it: a Reject where one cannot be read.

    The content tells what it is, not the name: CSV (fields separated by comma, tab, semicolon or |; UTF-8, or UTF-16
    with its mark), JSON lines, each also packed by gzip, bzip2 or xz; Parquet; Stata.

    Records of a CSV are numbered from 1, the header and blank ones included. Those of other files are numbered from 1.
    Blank ones, without a character in any field, are left out.

    name:   what messages call the file; without, its path
    raises: SourceUnreadable, also while records are taken, and after the last where the file has none or breaks off
    """
    name = name or str(path)
    with _open(path, name) as raw:
        start = raw.peek(32)[:32]
        unpack = next((unpack for magic, unpack in _PACKED.items() if start.startswith(magic)), None)
        if unpack is None and start.startswith(b"PAR1"):
            yield _typed(name, lambda: parquet(raw))
            return
        if unpack is None and _is_stata(start):
            yield _typed(name, lambda: stata(raw))
            return
        stream = io.BufferedReader(cast(io.RawIOBase, unpack(raw))) if unpack else raw
        try:
            start = stream.peek(32)[:32]
        except _BROKEN_OFF as error:
            raise _broken_off(name, 0, error) from error
        first = start.removeprefix(b"\xef\xbb\xbf").lstrip(b" \t\r\n") or start
        _refuse_what_is_not_read(name, first)
        if first.startswith(b"{"):
            yield _typed(name, lambda: json_lines(stream))
            return
        # Bytes that are not UTF-8 come through as lone surrogates, so that the row can say it was repaired.
        text = io.TextIOWrapper(stream, encoding=_encoding(start), errors="surrogateescape", newline="")
        try:
            delimiter = _delimiter(text.readline(_LONGEST_HEADER))
            text.seek(0)
        except _BROKEN_OFF as error:
            raise _broken_off(name, 0, error) from error
        records = _records(name, text, delimiter)
        number, header = next(records)
        if isinstance(header, Reject):
            raise SourceUnreadable(f"{name}: the header (row {number}) cannot be read: {header.reason}")
        yield header, records


def _open(path: Path, name: str) -> io.BufferedReader:
    try:
        if path.exists() and not (path.is_file() or path.is_dir()) and not stat.S_ISBLK(path.stat().st_mode):
            raise SourceUnreadable(
                f"{name} is a pipe, which can be read only once, and a load reads its file several times; write it to "
                "a file and give its path"
            )
        return path.open("rb")
    except OSError as error:
        raise SourceUnreadable(
            f"{path.absolute()} cannot be opened ({error.strerror}); give the path of a CSV, Parquet, Stata or JSON "
            "lines file"
        ) from error


def _is_stata(start: bytes) -> bool:
    # Since Stata 13 with a tag; before, its version, the order of bytes and a 1.
    return start.startswith(b"<stata_dta>") or (
        start[:1] in b"\x6c\x6f\x71\x72\x73" and start[1:3] in (b"\1\1", b"\2\1")
    )


def _refuse_what_is_not_read(name: str, start: bytes) -> None:
    if start.startswith(b"PAR1") or _is_stata(start):
        raise SourceUnreadable(f"{name} is a packed Parquet or Stata file; unpack it")
    for magic, what in _NOT_READ.items():
        if start.startswith(magic):
            raise SourceUnreadable(f"{name} is {what}")


def _encoding(start: bytes) -> str:
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "utf-16"
    if len(start) >= 8 and start[:8].count(0) == 4 and not any(start[1:8:2]):
        return "utf-16-le"
    if len(start) >= 8 and start[:8].count(0) == 4 and not any(start[:8:2]):
        return "utf-16-be"
    return "utf-8-sig"


def _delimiter(header: str) -> str:
    """What separates most fields of the header; a comma if nothing does."""
    with suppress(csv.Error):  # `_records` says what is wrong with the header.
        return max(_DELIMITERS, key=lambda delimiter: len(next(csv.reader([header], delimiter=delimiter), [])))
    return ","


def _typed(name: str, read: Callable[[], tuple[list[str], Iterator[Record]]]) -> tuple[list[str], Iterator[Record]]:
    """Header and records of a file, with one error for whatever its library says of a damaged one.

    raises: SourceUnreadable, also where there is no record
    """
    try:
        header, records = read()
    except DAMAGE as error:
        raise _broken_off(name, 0, error) from error

    def until_it_breaks_off() -> Iterator[Record]:
        number = 0
        try:
            for number, row in records:
                if not _is_blank(row):
                    yield number, row
        except DAMAGE as error:
            raise _broken_off(name, number, error) from error

    filled = until_it_breaks_off()
    first = next(filled, None)
    if first is None:
        raise _without_rows(name)
    return header, chain([first], filled)


def _broken_off(name: str, number: int, error: Exception) -> SourceUnreadable:
    said = " ".join(str(error).split())[:200] or type(error).__name__
    return SourceUnreadable(
        f"{name} breaks off after row {number} ({said}); copy, download or upload it again, nothing of it was used"
    )


def _without_rows(name: str) -> SourceUnreadable:
    return SourceUnreadable(f"{name} has no rows; export the transcripts again, header and rows")


def _is_blank(row: list[str] | Reject) -> bool:
    # A spreadsheet writes rows of nothing but separators for cells that were emptied.
    return isinstance(row, list) and not any(map(str.strip, row))


def _records(name: str, text: TextIO, delimiter: str) -> Iterator[Record]:
    csv.field_size_limit(max(_LONGEST_FIELD, csv.field_size_limit()))
    # Strict: without it a stray quote alters the text silently, and an unclosed one swallows the rest of the file.
    reader = csv.reader(text, delimiter=delimiter, strict=True)
    n_filled = 0
    for number in count(1):
        line = reader.line_num + 1
        row: list[str] | Reject
        try:
            row = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            where = f"lines {line}-{reader.line_num} of the file"
            if "expected after" not in str(error):
                raise SourceUnreadable(
                    f"{name}: row {number} ({where}) does not end ({error}); the file is cut off or a quote is never "
                    "closed: double each quote inside a quoted field, or export it again. Nothing of it was used"
                ) from error
            reason = f"quotes do not match in {where} ({error}); double each quote inside a quoted field"
            row = Reject(number, "", "", reason)
        except _BROKEN_OFF as error:
            raise _broken_off(name, number - 1, error) from error
        if not _is_blank(row):
            n_filled += 1
            yield number, row
    if n_filled < 2:
        raise _without_rows(name)
