"""Transcripts in objects of S3: CSVs as they would be on a disk, one by one or all below a prefix."""

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any

from ftm_assets.analysis.transcripts import EARNINGS_CALLS, Component, Reject, SourceFirm
from ftm_assets.errors import FtmError
from ftm_assets.sources.csv.source import CsvSource, Survey
from ftm_assets.sources.s3.bucket import S3Object, connect, downloaded, find_objects

_MAX_EXPLAINED = 3
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

    Each method lists the objects, and downloads one after another to a temporary file: TMPDIR needs room for the
    largest. Memory is that of a CsvSource. Rows are numbered in their object, and name it. One version of an object is
    read, or the method fails.

    address:     s3://bucket/key or s3://bucket/prefix, see `find_objects`
    columns, event_types: as of a CsvSource, for all of them
    reads:       `firms` downloads every object. `read` downloads those that may have rows of the quarter, which is
                 known of those that `firms` of this process has read, and else assumed.
    raises:      BadAddress at once; SourceUnreadable, BadColumns while it is read
    """

    address: str
    columns: Mapping[str, str] = field(default_factory=dict)
    event_types: Collection[str] = (EARNINGS_CALLS,)

    def __post_init__(self) -> None:
        self._bucket_and_key()

    @property
    def name(self) -> str:
        """The address, as it was written."""
        return self.address

    def firms(self, start: date, end: date) -> list[SourceFirm]:
        """See `TranscriptSource`. Name and ticker are those of the firm's latest call in the range."""
        total = Survey()
        client, objects = self._find()
        for each in objects:
            with self._csv(client, each) as csv:
                survey = csv.survey()
            _surveys[self._cache_key(each)] = replace(survey, calls={})
            total.add(survey)
        return total.firms(start, end)

    # Decision 81: a process remembers which quarters an object holds.
    def read(self, quarter: str, firms: Collection[int] | None = None) -> Iterator[Component | Reject]:
        """See `TranscriptSource`. In the order of the objects' keys."""
        client, objects = self._find()
        for each in objects:
            known = _surveys.get(self._cache_key(each))
            if known is None or known.may_hold(quarter):
                with self._csv(client, each) as csv:
                    yield from csv.read(quarter, firms)

    def why_no_calls(self) -> str:
        """What there is instead of calls in the first objects."""
        client, objects = self._find()
        reasons = []
        for each in objects[:_MAX_EXPLAINED]:
            with self._csv(client, each) as csv:
                reasons.append(f"{each}: {csv.why_no_calls()}")
        return "; ".join(reasons)

    def _find(self) -> tuple[Any, list[S3Object]]:
        client = connect(self.address)
        return client, find_objects(client, *self._bucket_and_key())

    @contextmanager
    def _csv(self, client: Any, wanted: S3Object) -> Iterator[CsvSource]:
        with downloaded(client, wanted) as path:
            yield CsvSource(path, self.columns, self.event_types, copy_of=str(wanted))

    def _cache_key(self, each: S3Object) -> tuple[object, ...]:
        """What tells one reading from another: the object's version, and what of it counts."""
        return each, tuple(sorted(self.columns.items())), tuple(self.event_types)

    def _bucket_and_key(self) -> tuple[str, str]:
        parts = _ADDRESS.fullmatch(self.address)
        if parts is None:
            raise BadAddress(self.address)
        return parts["bucket"], parts["key"] or ""
