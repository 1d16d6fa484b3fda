"""CSV files of a few rows, and what a source reads from them."""

import csv
import io
from pathlib import Path

from ftm_assets.analysis.transcripts import Component, Reject
from ftm_assets.sources.csv.source import CsvSource
from ftm_assets.sources.transcript_source import TranscriptSource

ROW = {
    "companyid": "60094812",
    "companyname": "Apple Inc.",
    "transcriptid": "498112719",
    "mostimportantdateutc": "2021-10-28",
    "componentorder": "0",
    "transcriptcomponenttypename": "Presenter Speech",
    "speakertypename": "Executives",
    "componenttext": "Good day.",
}


def csv_text(*rows: dict[str, str]) -> str:
    """Rows as CSV; each is ROW with these values instead."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(dict.fromkeys([*ROW, *(name for row in rows for name in row)])))
    writer.writeheader()
    writer.writerows({**ROW, **row} for row in rows)
    return out.getvalue()


def source(folder: Path, content: str | bytes, name: str = "calls.csv") -> CsvSource:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return CsvSource(path)


def source_of(folder: Path, *rows: dict[str, str]) -> CsvSource:
    return source(folder, csv_text(*rows))


def rows_of(calls: TranscriptSource, quarter: str = "2021Q4") -> list[Component | Reject]:
    return list(calls.read(quarter))


def one(calls: TranscriptSource, quarter: str = "2021Q4") -> Component:
    (row,) = rows_of(calls, quarter)
    assert isinstance(row, Component)
    return row


def rejected(calls: TranscriptSource, quarter: str = "2021Q4") -> Reject:
    (row,) = rows_of(calls, quarter)
    assert isinstance(row, Reject)
    assert not row.kept
    return row


def repaired(calls: TranscriptSource) -> tuple[Reject, Component]:
    reject, component = rows_of(calls)
    assert isinstance(reject, Reject)
    assert isinstance(component, Component)
    assert reject.kept
    assert (reject.row_number, reject.transcript_id) == (component.row_number, component.transcript_id)
    return reject, component
