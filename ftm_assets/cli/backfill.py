"""The commands `ftm backfill` and `ftm status`: bring a quarter up to date, and show how far it is."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from ftm_assets.analysis.topic_summaries import NO_MODEL
from ftm_assets.cli.display import Format, FormatOption, console, errors, headings, join_with_more, show
from ftm_assets.cli.progress import bar, spinner, stoppable
from ftm_assets.settings import read_settings
from ftm_assets.storage.read import queries
from ftm_assets.storage.read.attrition import AttritionCounts
from ftm_assets.storage.read.llm_spending import Spending
from ftm_assets.storage.read.resolve import find_quarter
from ftm_assets.storage.read.search_index import IndexState
from ftm_assets.storage.read.text_findings import TextFinding, damage_summary, left_out
from ftm_assets.storage.read.text_sources import SummarySource
from ftm_assets.storage.server.database import Database

if TYPE_CHECKING:
    import dagster as dg

    from ftm_assets.operations.backfill.executor import BackfillExecutor, FirmRun
    from ftm_assets.operations.backfill.plan import BackfillOptions


# Decision 45.
def backfill(
    quarter: Annotated[str, typer.Argument(help="Calendar quarter of the calls, such as 2021Q4.")],
    firm: Annotated[list[str] | None, typer.Option("--firm", help="Only this firm; repeatable.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Also firms that are up to date.")] = False,
    themes: Annotated[bool, typer.Option("--themes", help="Make themes even while firms are missing.")] = False,
    reencode: Annotated[bool, typer.Option("--reencode", help="Drop the quarter's vectors and make new ones.")] = False,
    upgrade: Annotated[
        bool,
        typer.Option("--upgrade-summaries", help="Only let the language model rewrite summaries made of keywords."),
    ] = False,
    cancel: Annotated[bool, typer.Option("--cancel", help="Cancel the backfill that Dagster carries out.")] = False,
) -> None:
    """Bring a quarter up to date: firms that are missing, failed or stale, then its themes, then its search index.

    While `ftm up` is running, Dagster carries the backfill out and this command shows its progress: Ctrl-C stops only
    the command. Otherwise this process runs one firm after another. To continue in either case, repeat the command.
    """
    from ftm_assets.operations.backfill.by_daemon import cancel as cancel_backfill
    from ftm_assets.operations.backfill.plan import BackfillOptions
    from ftm_assets.operations.backfill.state import resolve

    asked = BackfillOptions(
        quarter=quarter,
        firms=tuple(firm or ()),
        all_firms=every,
        allow_incomplete=themes,
        reencode=reencode,
        upgrade=upgrade,
    )
    database = Database(read_settings())
    options = resolve(database, asked)
    with open_instance(database) as (instance, defs):
        if cancel:
            cancel_backfill(instance, options.quarter)
            console.print(f"Dagster cancels the backfill of {options.quarter}; what is done stays")
            return
        failed = _bring_up_to_date(defs, instance, database, options)
    show_status(database, [options.quarter], Format.table)
    if failed:
        raise typer.Exit(1)


def _bring_up_to_date(
    defs: "dg.Definitions", instance: "dg.DagsterInstance", database: Database, options: "BackfillOptions"
) -> bool:
    """Carry the backfill out; returns whether a firm failed."""
    from ftm_assets.operations.backfill.by_daemon import ByDaemon
    from ftm_assets.operations.backfill.executor import check_model
    from ftm_assets.operations.backfill.in_process import InProcess
    from ftm_assets.operations.instance import daemon_is_up
    from ftm_assets.operations.runs import exclusive

    if options.upgrade:
        check_model(defs, database.settings)
    way = ByDaemon if daemon_is_up(instance) else InProcess  # Decision 45.
    executor = way(defs, instance, database)
    command = f"backfill {options.quarter}"
    with exclusive(instance, database, command), stoppable(f"ftm {command}", executor.when_stopped):
        failed = _run_firms(executor, options)
        for run in failed:
            message = f"failed: {run.firm_key} (run {run.run_id}): {run.error}"
            errors.print(message, markup=False, style="red", soft_wrap=True)
        _make_themes_and_index(executor, options)
    return bool(failed)


def _run_firms(executor: "BackfillExecutor", options: "BackfillOptions") -> "list[FirmRun]":
    """The firms' runs that failed, after all have ended."""
    for warning in executor.warnings():
        errors.print(warning, markup=False, soft_wrap=True)
    with spinner(f"{options.quarter}: {executor.preparing}"):
        plan = executor.prepare(options)
    started = executor.start(plan)
    if started.notice:
        console.print(started.notice)
    if started.warning:
        errors.print(started.warning)
    with bar(started.n_firms, f"{plan.quarter} firms") as advance:
        for n_ended in executor.ended(plan):
            advance(n_ended)
    return executor.failures()


def _make_themes_and_index(executor: "BackfillExecutor", options: "BackfillOptions") -> None:
    from ftm_assets.operations.backfill.plan import plan_backfill
    from ftm_assets.operations.backfill.state import read_state

    quarter = options.quarter
    state = read_state(executor.instance, executor.database, quarter)
    if waiting_for := plan_backfill(options, state).waiting_for:
        console.print(f"themes wait for {len(waiting_for)} firms; go on with: ftm backfill {quarter}")
        return
    with spinner(f"{quarter} themes"):
        executor.make_themes(options, state)
    # Last: themes and all queries except search are there without it.
    with spinner(f"{quarter} search index"):
        executor.make_index(options, state)


def status(
    quarter: Annotated[
        str | None,
        typer.Argument(help="One quarter, by utterance type and with its firms to do; default: all quarters."),
    ] = None,
    form: FormatOption = Format.table,
) -> None:
    """Show how far each quarter is: firms, calls, sentences, topics, outliers, themes, and what is left to do."""
    database = Database(read_settings())
    with database.transaction() as connection:
        known = queries.quarters_with_calls(connection)
        chosen = find_quarter(connection, quarter) if quarter else None
    if chosen:
        show_detail(database, chosen, form)
    elif known:
        show_status(database, known, form)
    else:
        console.print("nothing is loaded yet: ftm ingest SOURCE")


def show_status(database: Database, quarters: list[str], form: Format) -> None:
    """Print how far quarters are; in a table also what is stale and why."""
    with database.transaction() as connection:
        _show([queries.quarter_status(connection, quarter) for quarter in quarters], form)


def show_detail(database: Database, quarter: str, form: Format) -> None:
    """Print how far a quarter is and what became of its sentences; in a table also its firms to do."""
    with database.transaction() as connection:
        detail = queries.quarter_detail(connection, quarter)
        unknown_types = queries.unknown_types(connection, quarter)
    _show([detail], form)
    if form is not Format.table:
        return
    for warning in unknown_types:
        console.print(warning)
    columns = headings(
        AttritionCounts,
        "utterance_type",
        "n_sentences",
        "n_modelled",
        "modelled_share",
        "n_in_topics",
        "topic_share",
        "n_in_themes",
        "theme_share",
    )
    title = "sentences by utterance type; modelled of all, in topics and themes of the modelled"
    show(detail.attrition.rows, columns, form, title)
    if detail.sources:
        columns = headings(SummarySource, "what", "n", "source", "model", "reason")
        show(detail.sources, columns, form, "summaries of topics, descriptions of themes")
    if detail.spending:
        columns = headings(
            Spending,
            "model",
            "prompt",
            "n_requests",
            "n_of_no_use",
            "tokens_in",
            "tokens_cached",
            "tokens_out",
            "dollars",
            "n_price_unknown",
        )
        show(detail.spending, columns, form, "language model: what the quarter has paid for")
    for knowing in detail.look_ahead:
        console.print(f"look-ahead bias: {knowing}")
    if detail.themes.run_number is not None and not detail.indexed:
        title = f"search index: search compares all rows without it; build it with: ftm backfill {quarter}"
        show(detail.indexes, headings(IndexState, "level", "state", "n_bytes", "progress"), form, title)
    if detail.text_findings:
        columns = headings(TextFinding, "firm_key", "transcript_id", "finding", "n", "of")
        show(detail.text_findings, columns, form, "calls with damaged text, or of which nothing is modelled")
    if to_do := [firm for firm in detail.firms if not firm.complete]:
        show(to_do, headings(queries.FirmProgress, "firm_key", "missing", "stale"), form)


def _show(found: Sequence[queries.QuarterStatus], form: Format) -> None:
    columns = headings(
        queries.QuarterStatus,
        "quarter",
        "n_expected",
        "n_complete",
        "n_calls",
        "n_sentences",
        "n_modelled",
        "n_topics",
        "outlier_share",
        "n_themes",
        "n_topics_in_themes",
        "indexed",
    )
    show(found, columns, form)
    if form is not Format.table:
        return
    for state in found:
        if state.n_configurations > 1:
            console.print(
                f"{state.quarter}: firms were made by {state.n_configurations} different versions or settings; make"
            )
            console.print(f"  them alike with: ftm backfill {state.quarter} --all")
        if state.archived_at:
            console.print(f"{state.quarter}: archived on {state.archived_at:%Y-%m-%d}; its sentences have no vectors")
        if damage := damage_summary(state.text_findings):
            console.print(f"{state.quarter}: {damage}")
        if calls := left_out(state.text_findings):
            console.print(f"{state.quarter}: calls that are not modelled: {join_with_more(calls)}", soft_wrap=True)
        if sources := _sources(state):
            console.print(f"{state.quarter}: {sources}")
        if state.themes.changed_firms:
            changed = join_with_more(state.themes.changed_firms)
            console.print(f"{state.quarter}: firms changed since the themes: {changed}")


def _sources(state: queries.QuarterStatus) -> str:
    """How many summaries are by a language model, and why others are not; empty if no model was ever asked."""
    reasons = {s.reason: s.n for s in state.sources if s.what == "topics" and s.reason}
    n = sum(s.n for s in state.sources if s.what == "topics")
    n_by_keywords = sum(reasons.values())
    if not n_by_keywords or reasons == {NO_MODEL: n}:
        return ""
    why = ", ".join(f"{count:,} ({reason})" for reason, count in reasons.items())
    return (
        f"{n - n_by_keywords:,} of {n:,} summaries are by a language model; by keywords: {why}; "
        f"write these again with: ftm backfill {state.quarter} --upgrade-summaries"
    )


@contextmanager
def open_instance(database: Database) -> Iterator[tuple["dg.DagsterInstance", "dg.Definitions"]]:
    """Dagster's instance on the database, and the graph."""
    from ftm_assets.definitions import defs
    from ftm_assets.operations.instance import dagster_instance

    with dagster_instance(database) as instance:
        yield instance, defs
