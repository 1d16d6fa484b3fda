"""Transcripts in objects of S3: CSVs as they would be on a disk, one by one or all below a prefix."""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import date

from ftm_assets.analysis.transcripts import EARNINGS_CALLS, Component, Reject, SourceFirm
from ftm_assets.errors import FtmError
from ftm_assets.sources.csv.source import CsvSource, Survey
from ftm_assets.sources.s3.bucket import S3Object, connect, find_objects

_N_TOLD = 3
_ADDRESS = re.compile(r"s3://(?P<bucket>[^/]+)(?:/(?P<key>.*))?", re.DOTALL)

# Which quarters an object speaks of, by what is read of it. `ftm ingest` reads all objects to find the quarters, and
# then each quarter from its own; an object that was written since has another ETag.
_surveys: dict[tuple[object, ...], Survey] = {}


class BadAddress(FtmError):
    """An address of S3 that names no bucket."""

    def __init__(self, address: str) -> None:
        super().__init__(f"{address!r} names no bucket; write s3://bucket/prefix or s3://bucket/key.csv.gz")


# Decision 80.
@dataclass(frozen=True)
class S3Source:
    """CSV objects of S3: one, or all below a prefix, in order of their keys.

    Each method lists the objects and streams them one after another; memory is that of a CsvSource. Rows are numbered
    in their object, and name it. A version of an object is read from its start to its end, or the method fails.

    address:     s3://bucket/key or s3://bucket/prefix, see `find_objects`
    columns, event_types: as of a CsvSource, for all of them
    reads:       `firms` reads every object once. `read` reads those once that may have rows of the quarter, which is
                 known of those that `firms` of this process has read, and else assumed. Where dates are such as
                 10/28/2021, each begins with a look for the first date that tells the month.
    raises:      BadAddress at once; SourceUnreadable, BadColumns while it is read
    """

    address: str
    columns: Mapping[str, str] = field(default_factory=dict)
    event_types: Collection[str] = (EARNINGS_CALLS,)

    def __post_init__(self) -> None:
        self._place()

    @property
    def name(self) -> str:
        """The address, as it was written."""
        return self.address

    def firms(self, start: date, end: date) -> list[SourceFirm]:
        """See `TranscriptSource`. Name and ticker are those of the firm's latest call in the range."""
        found = Survey()
        for each in self._objects():
            survey = self._csv(each).survey()
            if each.etag:
                _surveys[self._reading(each)] = replace(survey, calls={})
            found.add(survey)
        return found.firms(start, end)

    # Decision 81: a process remembers which quarters an object holds.
    def read(self, quarter: str, firms: Collection[int] | None = None) -> Iterator[Component | Reject]:
        """See `TranscriptSource`. In the order of the objects' keys."""
        for each in self._objects():
            known = _surveys.get(self._reading(each))
            if known is None or known.speaks_of(quarter):
                yield from self._csv(each).read(quarter, firms)

    def why_no_calls(self) -> str:
        """What there is instead of calls in the first objects."""
        return "; ".join(f"{each}: {self._csv(each).why_no_calls()}" for each in self._objects()[:_N_TOLD])

    def _objects(self) -> list[S3Object]:
        return find_objects(connect(self.address), *self._place())

    def _csv(self, of: S3Object) -> CsvSource:
        return CsvSource(of, self.columns, self.event_types, is_part=True)

    def _reading(self, of: S3Object) -> tuple[object, ...]:
        """What tells one reading from another: the object's version, and what of it counts."""
        return of, tuple(sorted(self.columns.items())), tuple(self.event_types)

    def _place(self) -> tuple[str, str]:
        found = _ADDRESS.fullmatch(self.address)
        if found is None:
            raise BadAddress(self.address)
        return found["bucket"], found["key"] or ""
