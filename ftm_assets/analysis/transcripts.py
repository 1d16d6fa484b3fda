"""Rows of a transcript source as calls, and the rules that choose the modelled version of a call."""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from functools import cached_property

from ftm_assets.analysis.content_hash import content_hash
from ftm_assets.analysis.text_repair import repair_name, repair_text

EARNINGS_CALLS = "Earnings Calls"

_SAME_TEXT = 0.8  # Versions of a call share nearly all three-word sequences; two calls of one day do not.


@dataclass(frozen=True, slots=True)
class Component:
    """One row of a source: a speaker's turn, with the data of its call. Times have a time zone.

    source: the file that `row_number` counts in, if the source has several; else empty
    repairs: kinds of damage in its texts, see `text_repair`; ingest fills it in, a source leaves it empty
    """

    row_number: int
    company_id: int
    company_name: str
    transcript_id: int
    call_date: date
    component_order: int
    type_name: str
    speaker_type: str
    person: str
    text: str
    headline: str = ""
    ticker: str | None = None
    gvkey: str | None = None
    permno: int | None = None
    event_id: int | None = None
    event_type: str | None = None
    call_at: datetime | None = None
    collection_type: str | None = None
    presentation_type: str | None = None
    created_at: datetime | None = None
    component_id: int | None = None
    person_id: int | None = None
    source: str = ""
    repairs: Sequence[str] = ()

    def repaired(self) -> "Component":
        """The component with its texts as they were said, and the kinds of damage; itself if they are sound."""
        text, kinds = repair_text(self.text)
        company_name, of_company = repair_name(self.company_name)
        person, of_person = repair_name(self.person)
        headline, of_headline = repair_name(self.headline)
        repairs = tuple(dict.fromkeys((*kinds, *of_company, *of_person, *of_headline)))
        if not repairs:
            return self
        return replace(self, text=text, company_name=company_name, person=person, headline=headline, repairs=repairs)


@dataclass(frozen=True, slots=True)
class Reject:
    """A row of a source that could not be loaded as it is, and why.

    kept:   True if the row was loaded after a repair, which `reason` names
    source: as in `Component`
    """

    row_number: int
    column: str
    value: str
    reason: str
    transcript_id: int | None = None
    kept: bool = False
    source: str = ""


@dataclass(frozen=True, slots=True)
class SourceFirm:
    """A firm as a source names it, with the dates of its calls."""

    company_id: int
    name: str
    ticker: str | None
    call_dates: tuple[date, ...]


@dataclass(frozen=True)
class Call:
    """One version of one call, its components in order."""

    components: tuple[Component, ...]

    @property
    def head(self) -> Component:
        """Its first component, the source of the call's date, headline and identifiers."""
        return self.components[0]

    @property
    def transcript_id(self) -> int:
        """Identifier of this version."""
        return self.head.transcript_id

    @property
    def available_at(self) -> datetime | None:
        """When this version became available: the later of its creation and the time of the call.

        A creation that has no time of day counts from the start of its day, which may be before the call.
        """
        return max(filter(None, (self.head.created_at, self.head.call_at)), default=None)

    @property
    def repairs(self) -> dict[str, int]:
        """Kind of damage -> in how many of its turns it was; what was repaired is not part of any hash."""
        return dict(sorted(Counter(kind for component in self.components for kind in component.repairs).items()))

    @cached_property
    def text_hash(self) -> str:
        """Hash of the input of sentences: each turn's text, speaker and part of the call."""
        return content_hash(
            self.head.company_id,
            self.head.company_name,
            [(c.component_order, c.type_name, c.speaker_type, c.person, c.text) for c in self.components],
        )

    @cached_property
    def content_hash(self) -> str:
        """Hash of all stored columns of the call; row numbers of the source are not stored."""
        head = self.head
        return content_hash(
            self.text_hash,
            (head.ticker, head.gvkey, head.permno, head.call_date, head.call_at, head.headline),
            (head.event_id, head.event_type, head.collection_type, head.presentation_type, head.created_at),
            [(c.component_id, c.person_id) for c in self.components],
        )


@dataclass(frozen=True)
class CallVersion:
    """The data that decides which version of a call is modelled."""

    transcript_id: int
    event_id: int | None
    call_date: date
    available_at: datetime | None
    shingles: frozenset[int]


def calendar_quarter(day: date) -> str:
    """The calendar quarter of a day, such as `2021Q4`."""
    return f"{day.year}Q{(day.month + 2) // 3}"


def quarter_dates(quarter: str) -> tuple[date, date]:
    """First and last day of a quarter such as `2021Q4`, both inclusive."""
    year, number = int(quarter[:4]), int(quarter[5])
    following = date(year + number // 4, number % 4 * 3 + 1, 1)
    return date(year, number * 3 - 2, 1), date.fromordinal(following.toordinal() - 1)


_QUARTER = r"\b(?:Q(?P<after>[1-4])|(?P<before>[1-4])Q|(?P<word>first|second|third|fourth)[\s-]+quarter)\b"
_YEAR = r"\b(?:fiscal\s+)?(?:year\s+)?(?:FY\s*)?(?P<year>(?:19|20)\d\d)\b"
_AND_MORE = r"(?:\s+(?:and|&)\s+(?:full|fiscal|first)[\s-]+(?:year|half))?"
_FISCAL = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (rf"{_QUARTER}{_AND_MORE}[\s,]+(?:of\s+)?{_YEAR}", rf"{_YEAR}[\s,]+{_QUARTER}")
)
_ORDINALS = {"first": 1, "second": 2, "third": 3, "fourth": 4}


def fiscal_period(headline: str) -> tuple[int, int] | None:
    """Fiscal year and quarter that a headline names, or None."""
    for pattern in _FISCAL:
        if match := pattern.search(headline):
            word = match["word"]
            return int(match["year"]), _ORDINALS[word.lower()] if word else int(match["after"] or match["before"])
    return None


def firm_key(company_id: int, name: str, ticker: str | None) -> str:
    """The firm's partition key, `AAPL-60094812`: ticker (or slug of the name), then company id.

    Only letters, digits and single hyphens, because `|`, `,` and brackets have a meaning in Dagster.
    """
    # Decision 3.
    slug = re.sub(r"[^A-Z0-9]+", "-", (ticker or name).upper()).strip("-")[:24].strip("-")
    return f"{slug or 'FIRM'}-{company_id}"


def shingles(texts: Iterable[str]) -> frozenset[int]:
    """Hashes of all three-word sequences of a call, case and punctuation aside."""
    words = re.findall(r"\w+", " ".join(texts).lower())
    # hash() of a str differs between processes; these sets are compared within one process only.
    return frozenset(hash(tuple(words[i : i + 3])) for i in range(max(1, len(words) - 2)))


def superseded_versions(versions: Sequence[CallVersion], as_of: date | None = None) -> dict[int, int]:
    """The versions of one firm's calls that are not modelled: transcript id -> the id that is modelled instead.

    Versions belong to one event if they share the event id or, if either has none, the date and nearly all of their
    text. Of each event the latest version is modelled that was known on `as_of` (None: the latest of all). If no
    version was known by then, none is modelled, and each maps to itself.
    """
    replaced: dict[int, int] = {}
    for group in _events(versions):
        known = [version for version in group if as_of is None or _known_from(version) <= as_of]
        if known:
            winner = max(known, key=_age)
            replaced |= {v.transcript_id: winner.transcript_id for v in group if v is not winner}
        else:
            replaced |= {v.transcript_id: v.transcript_id for v in group}
    return replaced


def _known_from(version: CallVersion) -> date:
    # A call is not known before it is held, even if its source has an earlier time or none.
    return max(version.call_date, version.available_at.date()) if version.available_at else version.call_date


def _age(version: CallVersion) -> tuple[float, int]:
    return (version.available_at.timestamp() if version.available_at else 0.0, version.transcript_id)


def _events(versions: Sequence[CallVersion]) -> list[list[CallVersion]]:
    groups: list[list[CallVersion]] = []
    # Versions with an event id first: a version without one joins the event whose text it shares.
    for version in sorted(versions, key=lambda v: (v.event_id is None, v.transcript_id)):
        for group in groups:
            if any(_same_event(member, version) for member in group):
                group.append(version)
                break
        else:
            groups.append([version])
    return groups


def _same_event(one: CallVersion, other: CallVersion) -> bool:
    if one.event_id is not None and other.event_id is not None:
        return one.event_id == other.event_id
    if one.call_date != other.call_date:
        return False
    shared = len(one.shingles & other.shingles)
    return shared >= _SAME_TEXT * min(len(one.shingles), len(other.shingles))


def is_earnings_call(event_type: str | None, modelled: Collection[str] = (EARNINGS_CALLS,)) -> bool:
    """Whether an event of this type is modelled; a source without event types holds earnings calls only."""
    return event_type is None or event_type in modelled
