"""Tables whose files know types: Parquet, Stata and JSON lines, as rows of the text that a CSV would have."""

import json
import re
import struct
from collections.abc import Iterable, Iterator
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any, BinaryIO

from ftm_assets.analysis.source_values import is_missing
from ftm_assets.analysis.transcripts import Reject
from ftm_assets.sources.csv.values import shown

Rows = Iterator[tuple[int, list[str] | Reject]]

_BATCH = 1_000
# Without those that stand for bytes that are not UTF-8.
_SURROGATE = re.compile("[\ud800-\udc7f\udd00-\udfff]")
# What pyarrow, pandas and json say of a damaged file. pandas reads the header of a Stata file without checking it.
DAMAGE = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    NotImplementedError,
    OSError,
    RecursionError,
    TypeError,
    ValueError,
    struct.error,
)


def parquet(stream: BinaryIO) -> tuple[list[str], Rows]:
    """Column names and rows of a Parquet file, read in batches."""
    import pyarrow.parquet as pq

    file = pq.ParquetFile(stream)

    def rows() -> Iterator[list[str]]:
        for batch in file.iter_batches(batch_size=_BATCH):
            columns = [[cell_text(value) for value in column.to_pylist()] for column in batch.columns]
            yield from map(list, zip(*columns, strict=True))

    return list(file.schema_arrow.names), _numbered(rows())


def stata(stream: BinaryIO) -> tuple[list[str], Rows]:
    """Variable names and observations of a Stata file, read in chunks; labelled values become their labels."""
    import pandas as pd

    # The names of all columns are known before the first chunk is read.
    file = pd.read_stata(stream, chunksize=_BATCH)
    header = [str(name) for name in file.variable_labels()]

    def rows() -> Iterator[list[str]]:
        for chunk in file:
            columns = [[cell_text(value) for value in chunk[name].tolist()] for name in chunk.columns]
            yield from map(list, zip(*columns, strict=True))

    return header, _numbered(rows())


def json_lines(stream: BinaryIO) -> tuple[list[str], Rows]:
    """Names of all objects, and the objects of each line; what an object does not name is empty.

    Read twice: R writes no name for what is missing, so that the first line does not tell all names.
    """
    names: dict[str, None] = {}
    for _, found in _objects(stream):
        if isinstance(found, dict):
            names.update(dict.fromkeys(found))
    stream.seek(0)

    def rows() -> Rows:
        for number, found in _objects(stream):
            if isinstance(found, dict):
                yield number, [cell_text(found.get(name)) for name in names]
            else:
                yield number, found

    return [cell_text(name) for name in names], rows()


def _objects(stream: BinaryIO) -> Iterator[tuple[int, dict[str, Any] | Reject]]:
    for number, line in enumerate(stream, start=1):
        text = line.decode("utf-8-sig" if number == 1 else "utf-8", errors="surrogateescape").strip()
        if not text:
            continue
        try:
            found = json.loads(text)
        except (ValueError, RecursionError) as error:
            reason = f"not JSON ({error}); write one object a line"
        else:
            if isinstance(found, dict):
                yield number, found
                continue
            reason = "not a JSON object; write one object a line"
        yield number, Reject(number, "", shown(text), reason)


def _numbered(rows: Iterable[list[str]]) -> Rows:
    yield from enumerate(rows, start=1)


def cell_text(value: Any) -> str:
    """A value as a CSV would have it; empty for None, NaN and NaT."""
    if is_missing(value):
        text = ""
    elif isinstance(value, str):
        text = value
    elif isinstance(value, float) and value.is_integer():
        text = str(int(value))
    elif isinstance(value, datetime | date | time):
        text = value.isoformat()
    elif isinstance(value, Decimal):
        text = format(value, "f")
    elif isinstance(value, bytes):
        text = value.decode("utf-8", "surrogateescape")
    elif isinstance(value, list | dict):
        text = json.dumps(value, ensure_ascii=False, default=str)
    else:
        text = str(value)
    # JSON can write half of a surrogate pair; the row says of it what it says of a CSV's wrong bytes.
    return text if text.isascii() else _SURROGATE.sub(_wrong_bytes, text)


def _wrong_bytes(found: re.Match[str]) -> str:
    return found[0].encode("utf-8", "surrogatepass").decode("utf-8", "surrogateescape")
