"""What becomes of each version of a firm's calls when a source is loaded: a pure plan, and its counts."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from ftm_assets.analysis.transcripts import Call


@dataclass(frozen=True)
class IngestCounts:
    """What became of a source's rows for a quarter; the counts of rows and of calls each add up.

    rows:  n_rows = n_components + n_superseded_components + n_duplicates + n_rejected
    calls: n_calls = n_new + n_changed + n_unchanged; among them n_superseded are not modelled, and of these n_not_known
           because no version of their event was known by `as_of`. n_joint_calls are transcripts of several firms, each
           of which has the call.
    """

    n_rows: int = 0
    n_components: int = 0
    n_superseded_components: int = 0
    n_duplicates: int = 0
    n_rejected: int = 0
    n_repaired: int = 0
    n_calls: int = 0
    n_new: int = 0
    n_changed: int = 0
    n_unchanged: int = 0
    n_superseded: int = 0
    n_not_known: int = 0
    n_joint_calls: int = 0

    def __add__(self, other: "IngestCounts") -> "IngestCounts":
        return IngestCounts(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(IngestCounts)})


@dataclass(frozen=True)
class UpsertPlan:
    """What becomes of one version of a call.

    call:          as the source has it, None where only the database holds it
    before:        its row of `calls`, None where it is new
    superseded_by: the version that is modelled instead; itself where none is; None where this one is
    """

    quarter: str
    transcript_id: int
    call: Call | None
    before: Any | None
    superseded_by: int | None

    @property
    def changes(self) -> bool:
        """Whether there is something to write."""
        if self.before is None:
            return True
        content_hash = self.call.content_hash if self.call else self.before.content_hash
        return bool((content_hash, self.superseded_by) != (self.before.content_hash, self.before.superseded_by))

    @property
    def modelled_before(self) -> str | None:
        """Hash of its text if that was modelled."""
        return self.before.text_hash if self.before and self.before.superseded_by is None else None

    @property
    def modelled_now(self) -> str | None:
        """Hash of its text if that is to be modelled."""
        if self.superseded_by is not None:
            return None
        return self.call.text_hash if self.call else self.modelled_before


def plan_upserts(
    quarter: str, stored: Mapping[int, Any], incoming: Mapping[int, Call], replaced: Mapping[int, int]
) -> list[UpsertPlan]:
    """What becomes of every version of a firm's calls: first those of the source, in its order, then the others.

    stored:   rows of `calls` by transcript id: those of the quarter, and those of other quarters that share an event
    incoming: calls of the source by transcript id, none of them stored in another quarter
    replaced: see `superseded_versions`
    """
    of_source = [
        UpsertPlan(quarter=quarter, transcript_id=i, call=call, before=stored.get(i), superseded_by=replaced.get(i))
        for i, call in incoming.items()
    ]
    others = []
    for i, row in stored.items():
        if i in incoming:
            continue
        if row.superseded_by is None:
            # Only another version replaces it: that none was known on a day is a fact about the source's calls alone.
            winner = replaced.get(i) if replaced.get(i) != i else None
        else:
            winner = replaced.get(row.superseded_by, row.superseded_by)
        others.append(UpsertPlan(quarter=row.quarter, transcript_id=i, call=None, before=row, superseded_by=winner))
    return of_source + others


def count_calls(plans: Iterable[UpsertPlan]) -> IngestCounts:
    """The source's calls and their components by what becomes of them."""
    counts = IngestCounts()
    for plan in plans:
        if plan.call is None:
            continue
        superseded, n_components = plan.superseded_by is not None, len(plan.call.components)
        counts += IngestCounts(
            n_calls=1,
            n_new=int(plan.before is None),
            n_changed=int(plan.before is not None and plan.changes),
            n_unchanged=int(not plan.changes),
            n_superseded=int(superseded),
            n_not_known=int(plan.superseded_by == plan.transcript_id),
            n_components=0 if superseded else n_components,
            n_superseded_components=n_components if superseded else 0,
        )
    return counts
