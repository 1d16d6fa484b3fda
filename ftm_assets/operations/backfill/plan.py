"""What a backfill does: a pure function of what was asked for and what is there. Decision 116."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import dagster as dg

from ftm_assets.assets.jobs import ONLY_MISSING, firm_quarter, firm_summaries
from ftm_assets.errors import FtmError
from ftm_assets.storage.stages import STAGES, SUMMARIES

FIRM_ASSETS = tuple(dg.AssetKey(stage.name) for stage in STAGES)
SUMMARY_ASSETS = (dg.AssetKey(SUMMARIES.name),)


class NoCalls(FtmError):
    """A quarter without calls has nothing to run."""

    def __init__(self, quarter: str) -> None:
        super().__init__(f"no calls in {quarter}; load some first: ftm ingest SOURCE --quarter {quarter}")


class OtherBackfill(FtmError):
    """A backfill is under way that does not do what was asked for."""

    def __init__(self, quarter: str, backfill_id: str, lacks: str) -> None:
        super().__init__(
            f"Dagster carries out backfill {backfill_id} of {quarter}, which does not {lacks}; "
            f"wait for its end, or end it with: ftm backfill {quarter} --cancel"
        )


@dataclass(frozen=True, kw_only=True)
class BackfillOptions:
    """What a backfill is asked for.

    firms:            only these; empty: all that have a call
    all_firms:        also firms that are up to date
    allow_incomplete: make themes even while firms are missing
    reencode:         drop the quarter's vectors first, so that new ones are made
    upgrade:          only summaries that are made of keywords, by the language model
    raises:           FtmError if options contradict each other
    """

    quarter: str
    firms: tuple[str, ...] = ()
    all_firms: bool = False
    allow_incomplete: bool = False
    reencode: bool = False
    upgrade: bool = False

    def __post_init__(self) -> None:
        if self.reencode and self.firms:
            raise FtmError("--reencode makes all vectors of a quarter again; leave out --firm")
        if self.upgrade and (self.all_firms or self.reencode):
            raise FtmError("--upgrade-summaries makes summaries alone; leave out --all and --reencode")

    @property
    def needs_vectors(self) -> bool:
        """Whether it reads the vectors of sentences, which an archived quarter no longer has."""
        return (self.all_firms or self.allow_incomplete or self.upgrade) and not self.reencode


@dataclass(frozen=True)
class FirmWork:
    """What is made of each firm: by a job in this process, by a selection of assets in a backfill of Dagster's."""

    job: str
    assets: tuple[dg.AssetKey, ...]
    config: Mapping[str, Any] | None = field(default=None, hash=False)


WHOLE_FIRMS = FirmWork(firm_quarter.name, FIRM_ASSETS)
SUMMARIES_ONLY = FirmWork(firm_summaries.name, SUMMARY_ASSETS, ONLY_MISSING)


@dataclass(frozen=True, kw_only=True)
class RunningBackfill:
    """The quarter's backfill that Dagster carries out.

    firms:       those whose summaries it makes, which are part of every backfill
    whole_firms: those of which it makes all assets
    """

    backfill_id: str
    firms: frozenset[str]
    whole_firms: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class BackfillState:
    """What is there of a quarter at one moment.

    expected:           keys of the firms with a call, in order
    missing_or_stale:   those with a stage that is not there, or was made from rows that have changed
    failed:             those whose last run failed or did not end
    unrecorded:         those with rows that Dagster has no record of
    by_keywords:        those with a summary made of keywords, in order
    themes_current:     the published themes rest on exactly the summaries that are there
    themes_by_keywords: a current theme has a description made of keywords
    themes_just_made:   a run of the themes has just ended
    running:            the backfill that Dagster carries out; None if this process executes the runs
    """

    expected: tuple[str, ...]
    missing_or_stale: frozenset[str] = frozenset()
    failed: frozenset[str] = frozenset()
    unrecorded: frozenset[str] = frozenset()
    by_keywords: tuple[str, ...] = ()
    themes_current: bool = False
    themes_by_keywords: bool = False
    themes_just_made: bool = False
    index_ready: bool = False
    running: RunningBackfill | None = None

    @property
    def to_do(self) -> tuple[str, ...]:
        """Keys of the firms that are not up to date."""
        return tuple(key for key in self.expected if key in self.missing_or_stale | self.failed | self.unrecorded)


@dataclass(frozen=True, kw_only=True)
class BackfillPlan:
    """What a backfill does next. It holds for the state that it was made from: plan again after each step.

    reencode:    drop the vectors, and plan again, before anything else
    firms:       run these, `work` of each
    drop_index:  drop the search index first if the firms are many enough
    joins:       id of the backfill under way that makes these firms already
    waiting_for: firms that the themes wait for; with any, neither themes nor index are made
    """

    quarter: str
    reencode: bool
    firms: tuple[str, ...]
    work: FirmWork
    drop_index: bool
    joins: str | None
    waiting_for: tuple[str, ...]
    make_themes: bool
    make_index: bool

    @property
    def has_runs(self) -> bool:
        """Whether there is a firm to run, or a backfill to follow."""
        return bool(self.firms) or self.joins is not None


def plan_backfill(options: BackfillOptions, state: BackfillState) -> BackfillPlan:
    """What to do for these options in this state.

    raises: NoCalls, OtherBackfill if the backfill under way does not do what is asked for
    """
    if not state.expected:
        raise NoCalls(options.quarter)
    firms = _firms(options, state)
    if state.running is not None:
        _check_joinable(options, firms, state.running)
    waiting_for = () if options.allow_incomplete else state.to_do
    return BackfillPlan(
        quarter=options.quarter,
        reencode=options.reencode,
        firms=firms,
        work=SUMMARIES_ONLY if options.upgrade else WHOLE_FIRMS,
        # An upgrade writes summaries alone, a small part of the index.
        drop_index=bool(firms) and not options.upgrade and state.running is None,
        joins=state.running.backfill_id if state.running else None,
        waiting_for=waiting_for,
        make_themes=not waiting_for and _needs_themes(options, state),
        make_index=not waiting_for and not state.index_ready,
    )


def _firms(options: BackfillOptions, state: BackfillState) -> tuple[str, ...]:
    if options.upgrade:
        candidates = state.by_keywords
    elif options.all_firms:
        candidates = state.expected
    else:
        candidates = state.to_do
    return tuple(key for key in candidates if not options.firms or key in options.firms)


def _check_joinable(options: BackfillOptions, firms: tuple[str, ...], running: RunningBackfill) -> None:
    lacks = ""
    if options.reencode:
        lacks = "begin with new vectors"
    elif missing := set(firms) - running.firms:
        lacks = f"hold {min(missing)}"
    elif not options.upgrade and (missing := set(firms) - running.whole_firms):
        lacks = f"make more than summaries of {min(missing)}"
    if lacks:
        raise OtherBackfill(options.quarter, running.backfill_id, lacks)


def _needs_themes(options: BackfillOptions, state: BackfillState) -> bool:
    """Whether themes are missing or stale, or asked for although they are not."""
    if not state.themes_current:
        return True
    asked_for = options.allow_incomplete or options.all_firms or (options.upgrade and state.themes_by_keywords)
    return asked_for and not state.themes_just_made
