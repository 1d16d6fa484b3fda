"""Where transcripts come from: tables in Capital IQ's columns on this machine or in S3, or a source of your own."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from traceback import extract_tb
from typing import Protocol, cast

from ftm_assets.analysis.source_values import checked_firm
from ftm_assets.analysis.transcripts import EARNINGS_CALLS, Component, Reject, SourceFirm, calendar_quarter
from ftm_assets.errors import FtmError
from ftm_assets.plugins import is_import_path, load_plugin
from ftm_assets.sources.csv.source import CsvSource
from ftm_assets.sources.s3.source import S3Source

_NO_FIRM = "its `firms` names no firm with a call"


class NoSuchSource(FtmError):
    """No transcript source goes by this name."""


class TranscriptSource(Protocol):
    """Anything that knows which firms held calls, and can hand out the calls of a quarter.

    A source may also have `why_no_calls() -> str`, which says what it holds instead of calls.
    """

    @property
    def name(self) -> str:
        """Where the calls come from, as it is recorded with them."""
        ...

    def firms(self, start: date, end: date) -> list[SourceFirm]:
        """Firms with a call from `start` to `end`, both inclusive, by company id; with the dates of those calls."""
        ...

    def read(self, quarter: str, firms: Collection[int] | None = None) -> Iterator[Component | Reject]:
        """The rows of a calendar quarter in any order, of all firms or of those named, in one pass."""
        ...


class NoCallsFound(FtmError):
    """A transcript source holds nothing that could be loaded."""

    def __init__(self, source: TranscriptSource) -> None:
        explain = getattr(source, "why_no_calls", lambda: _NO_FIRM)
        super().__init__(f"{source.name} holds no call that can be loaded: {explain()}")


def open_source(
    spec: str, columns: Mapping[str, str] | None = None, event_types: Collection[str] = (EARNINGS_CALLS,)
) -> TranscriptSource:
    """The transcript source that a word names.

    spec:    path of a file, s3://bucket/prefix, or `package.module:attribute`: a TranscriptSource, or what returns one
             when called bare
    columns, event_types: for CSVs; a source of your own decides for itself
    raises:  NoSuchSource, BadAddress. A CSV is not opened before it is read; a source of your own raises SourceFailed
             then.
    """
    if not spec.strip():
        raise NoSuchSource(
            "no transcript source is named; give the path of a file, s3://bucket/prefix, or package.module:attribute"
        )
    if spec.startswith("s3://"):
        return S3Source(spec, columns or {}, event_types)
    if "://" in spec:
        raise NoSuchSource(
            f"transcript source {spec!r} is neither a file of this machine nor in S3; copy it here and give its path, "
            "or write a TranscriptSource and name it as package.module:attribute"
        )
    if not is_import_path(spec):
        return CsvSource(Path(spec).expanduser(), columns or {}, event_types)
    if columns:
        raise NoSuchSource(f"a column map is for CSV files; {spec!r} knows its own columns, so leave the map out")
    found = load_plugin(spec, "transcript source", TranscriptSource, NoSuchSource)
    return _OwnSource(spec, cast(TranscriptSource, found))


class SourceFailed(FtmError):
    """The code of a source of one's own raised an error."""

    def __init__(self, spec: str, member: str, error: Exception) -> None:
        # The first step is ours, the second in the source.
        step = extract_tb(error.__traceback__)[:2][-1]
        super().__init__(
            f"transcript source {spec!r} fails in `{member}` ({step.filename}, line {step.lineno}: {step.line}): "
            f"{type(error).__name__}: {error}; mend it there, nothing was loaded"
        )


@dataclass(frozen=True)
class _OwnSource:
    """A source that others wrote: its firms have plain values, and its errors say where they arise.

    The values of rows are checked where the rows of all sources are, see `checked_rows`.
    """

    spec: str
    source: TranscriptSource

    @property
    def name(self) -> str:
        return str(self.source.name)

    def firms(self, start: date, end: date) -> list[SourceFirm]:
        try:
            return [checked_firm(firm) for firm in self.source.firms(start, end)]
        except FtmError:
            raise
        except Exception as error:  # Code of others may raise anything.
            raise SourceFailed(self.spec, "firms", error) from error

    def read(self, quarter: str, firms: Collection[int] | None = None) -> Iterator[Component | Reject]:
        try:
            yield from self.source.read(quarter, firms)
        except FtmError:
            raise
        except Exception as error:  # Code of others may raise anything.
            raise SourceFailed(self.spec, "read", error) from error

    def why_no_calls(self) -> str:
        explain = getattr(self.source, "why_no_calls", lambda: _NO_FIRM)
        return str(explain())


def quarters_of(source: TranscriptSource) -> dict[str, int]:
    """Calendar quarters that have calls, in order, with how many; a firm's transcripts of one day count once.

    raises: NoCallsFound, and whatever reading the source raises
    """
    days = [day for firm in source.firms(date.min, date.max) for day in firm.call_dates]
    if not days:
        raise NoCallsFound(source)
    return dict(sorted(Counter(map(calendar_quarter, days)).items()))
