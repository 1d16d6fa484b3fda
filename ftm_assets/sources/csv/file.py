"""A CSV as numbered records, or the reason why it cannot be read."""

import csv
import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import TextIO

from ftm_assets.analysis.transcripts import Reject
from ftm_assets.errors import FtmError

Record = tuple[int, list[str] | Reject]

_LONGEST_FIELD = 16 * 2**20  # Ten times the longest call; what is longer is an unclosed quote that swallows the file.
_GZIP = b"\x1f\x8b"
_NOT_CSV = {
    b"PK": "a zip archive or an Excel workbook; unpack it, or save the sheet as 'CSV UTF-8'",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook; save the sheet as 'CSV UTF-8'",
    b"PAR1": "a Parquet file; write it as CSV (pandas.read_parquet(...).to_csv(..., index=False))",
    b"\xff\xfe": "in UTF-16; convert it with: iconv -f UTF-16 -t UTF-8",
}


class SourceUnreadable(FtmError):
    """A transcript file is missing, is no CSV, or breaks off; nothing of it should be kept."""


@contextmanager
def open_csv(path: Path, name: str = "") -> Iterator[tuple[list[str], Iterator[Record]]]:
    """Header of a CSV, plain or gzip, and the records below it: a Reject where the quotes do not match.

    Records are numbered from 1, the header and blank ones included; blank ones are left out.

    name:   what messages call the file; without, its path
    raises: SourceUnreadable, also while records are taken, and after the last where the file has none or breaks off
    """
    name = name or str(path)
    with _open(path) as raw:
        start = raw.peek(8)
        for magic, what in _NOT_CSV.items():
            if start.startswith(magic):
                raise SourceUnreadable(f"{name} is {what}")
        unpacked = gzip.GzipFile(fileobj=raw) if start.startswith(_GZIP) else raw
        # Bytes that are not UTF-8 come through as lone surrogates, so that the row can say it was repaired.
        text = io.TextIOWrapper(unpacked, encoding="utf-8-sig", errors="surrogateescape", newline="")
        records = _records(name, text)
        number, header = next(records)
        if isinstance(header, Reject):
            raise SourceUnreadable(f"{name}: the header (row {number}) cannot be read: {header.reason}")
        yield header, records


def _open(path: Path) -> io.BufferedReader:
    try:
        return path.open("rb")
    except OSError as error:
        raise SourceUnreadable(
            f"{path.absolute()} cannot be opened ({error.strerror}); give the path of a CSV file"
        ) from error


def _records(name: str, text: TextIO) -> Iterator[Record]:
    csv.field_size_limit(max(_LONGEST_FIELD, csv.field_size_limit()))
    # Strict: without it a stray quote alters the text silently, and an unclosed one swallows the rest of the file.
    reader = csv.reader(text, strict=True)
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
        except (EOFError, zlib.error, OSError) as error:
            raise SourceUnreadable(
                f"{name} breaks off after row {number - 1} ({error}); copy, download or upload it again, nothing of it "
                "was used"
            ) from error
        if row:
            n_filled += 1
            yield number, row
    if n_filled < 2:
        raise SourceUnreadable(f"{name} has no rows; export the transcripts again, header and rows")
