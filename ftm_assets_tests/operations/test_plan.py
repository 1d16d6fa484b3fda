from dataclasses import replace

import pytest

from ftm_assets.errors import FtmError
from ftm_assets.operations.backfill.plan import (
    SUMMARIES_ONLY,
    WHOLE_FIRMS,
    BackfillOptions,
    BackfillPlan,
    BackfillState,
    NoCalls,
    OtherBackfill,
    RunningBackfill,
    plan_backfill,
)

# Three firms, of which one is up to date.
STATE = BackfillState(
    expected=("A-1", "B-2", "C-3"),
    missing_or_stale=frozenset({"B-2"}),
    failed=frozenset({"C-3"}),
    by_keywords=("A-1", "C-3"),
)
DONE = replace(STATE, missing_or_stale=frozenset(), failed=frozenset(), themes_current=True, index_ready=True)


def plan(state: BackfillState = STATE, /, **options: object) -> BackfillPlan:
    return plan_backfill(BackfillOptions(quarter="2021Q4", **options), state)  # type: ignore[arg-type]


def running(*firms: str, whole: tuple[str, ...] | None = None) -> BackfillState:
    """The state while Dagster makes summaries of these firms and, unless others are named, all their assets."""
    backfill = RunningBackfill(
        backfill_id="abc", firms=frozenset(firms), whole_firms=frozenset(firms if whole is None else whole)
    )
    return replace(STATE, running=backfill)


def test_firms_that_are_behind_failed_or_unrecorded_are_run_and_the_themes_wait_for_them() -> None:
    found = plan(replace(STATE, unrecorded=frozenset({"A-1"})))
    assert found.firms == found.waiting_for == ("A-1", "B-2", "C-3")
    assert (found.work, found.drop_index, found.joins) == (WHOLE_FIRMS, True, None)
    assert (found.make_themes, found.make_index) == (False, False)


def test_a_quarter_that_is_up_to_date_has_nothing_to_do() -> None:
    found = plan(DONE)
    assert (found.firms, found.has_runs, found.drop_index) == ((), False, False)
    assert (found.waiting_for, found.make_themes, found.make_index) == ((), False, False)


@pytest.mark.parametrize(
    ("options", "firms"),
    [
        ({}, ("B-2", "C-3")),
        ({"all_firms": True}, ("A-1", "B-2", "C-3")),
        ({"firms": ("A-1", "B-2")}, ("B-2",)),
        ({"firms": ("A-1", "B-2"), "all_firms": True}, ("A-1", "B-2")),
        ({"upgrade": True}, ("A-1", "C-3")),
        ({"upgrade": True, "firms": ("A-1",)}, ("A-1",)),
    ],
)
def test_options_choose_the_firms(options: dict[str, object], firms: tuple[str, ...]) -> None:
    assert plan(**options).firms == firms


def test_an_upgrade_makes_summaries_alone_and_leaves_the_index() -> None:
    found = plan(upgrade=True)
    assert (found.work, found.drop_index) == (SUMMARIES_ONLY, False)
    assert SUMMARIES_ONLY.job == "firm_summaries"
    assert [asset.to_user_string() for asset in SUMMARIES_ONLY.assets] == ["topic_summaries"]


@pytest.mark.parametrize(
    ("options", "facts", "makes"),
    [
        ({}, {}, False),
        ({}, {"themes_current": False}, True),
        ({"all_firms": True}, {}, True),
        ({"allow_incomplete": True}, {}, True),
        ({"allow_incomplete": True}, {"themes_just_made": True}, False),
        ({"all_firms": True}, {"themes_just_made": True, "themes_current": False}, True),
        ({"upgrade": True}, {}, False),
        ({"upgrade": True}, {"themes_by_keywords": True}, True),
    ],
)
def test_themes_are_made_when_they_are_stale_or_asked_for_and_not_just_made(
    options: dict[str, object], facts: dict[str, bool], makes: bool
) -> None:
    assert plan(replace(DONE, **facts), **options).make_themes == makes  # type: ignore[arg-type]


def test_themes_that_are_asked_for_do_not_wait_for_firms() -> None:
    found = plan(allow_incomplete=True)
    assert (found.waiting_for, found.make_themes, found.make_index) == ((), True, True)


def test_an_index_that_is_missing_is_built_after_the_last_firm() -> None:
    assert plan(replace(DONE, index_ready=False)).make_index
    assert not plan(replace(STATE, index_ready=False)).make_index


def test_the_backfill_under_way_is_joined_if_it_makes_what_is_asked_for() -> None:
    found = plan(running("B-2", "C-3"))
    assert (found.joins, found.drop_index) == ("abc", False)
    assert plan(replace(running("B-2"), missing_or_stale=frozenset(), failed=frozenset())).has_runs, (
        "it is followed to its end"
    )


@pytest.mark.parametrize(
    ("state", "options", "lacks"),
    [
        (running("B-2"), {}, "hold C-3"),
        (running("B-2", "C-3", whole=()), {}, "make more than summaries of B-2"),
        (running("A-1", "B-2", "C-3"), {"reencode": True}, "begin with new vectors"),
        (running("A-1", whole=()), {"upgrade": True}, "hold C-3"),
    ],
)
def test_a_backfill_under_way_that_does_something_else_is_not_joined(
    state: BackfillState, options: dict[str, object], lacks: str
) -> None:
    with pytest.raises(OtherBackfill, match=f"backfill abc of 2021Q4, which does not {lacks}; .*--cancel"):
        plan(state, **options)


def test_an_upgrade_joins_a_backfill_of_summaries() -> None:
    assert plan(running("A-1", "C-3", whole=()), upgrade=True).joins == "abc"


def test_a_quarter_without_calls_is_refused_with_the_next_step() -> None:
    with pytest.raises(NoCalls, match="ftm ingest SOURCE --quarter 2021Q4"):
        plan(BackfillState(expected=()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reencode": True, "firms": ("A-1",)}, "leave out --firm"),
        ({"upgrade": True, "all_firms": True}, "leave out --all and --reencode"),
        ({"upgrade": True, "reencode": True}, "leave out --all and --reencode"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(FtmError, match=message):
        plan(**options)


@pytest.mark.parametrize(
    ("options", "needs"),
    [
        ({}, False),
        ({"all_firms": True}, True),
        ({"all_firms": True, "reencode": True}, False),
        ({"upgrade": True}, True),
    ],
)
def test_what_needs_vectors_cannot_be_done_in_an_archived_quarter(options: dict[str, object], needs: bool) -> None:
    assert BackfillOptions(quarter="2021Q4", **options).needs_vectors == needs  # type: ignore[arg-type]
