"""The commands `ftm backfill` and `ftm status`: bring a quarter up to date, and say how far it is."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from ftm_assets.analysis.topic_summaries import NO_MODEL
from ftm_assets.cli.display import Format, FormatOption, console, errors, headings, join_with_more, show
from ftm_assets.cli.progress import bar, spinner, stoppable, tracked
from ftm_assets.errors import FtmError
from ftm_assets.launcher.queue import RunQueue
from ftm_assets.settings import read_settings
from ftm_assets.storage.maintain.search_index import IndexState, drop_index_for_bulk_write
from ftm_assets.storage.read import queries
from ftm_assets.storage.read.attrition import AttritionCounts
from ftm_assets.storage.read.ingested import archived
from ftm_assets.storage.read.llm_spending import Spending
from ftm_assets.storage.read.resolve import find_firm_in, find_quarter
from ftm_assets.storage.read.text_sources import SummarySource
from ftm_assets.storage.server.database import Database
from ftm_assets.storage.stages.sentences import VectorsArchived

if TYPE_CHECKING:
    import dagster as dg

    from ftm_assets.operations import in_process as runs


# Decision 45.
def backfill(
    quarter: Annotated[str, typer.Argument(help="Calendar quarter of the calls, such as 2021Q4.")],
    firm: Annotated[list[str] | None, typer.Option("--firm", help="Only this firm; repeatable.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Also firms that are up to date.")] = False,
    themes: Annotated[bool, typer.Option("--themes", help="Make themes even while firms are missing.")] = False,
    reencode: Annotated[bool, typer.Option("--reencode", help="Drop the quarter's vectors; make new ones.")] = False,
    upgrade: Annotated[
        bool,
        typer.Option("--upgrade-summaries", help="Only summaries made of keywords, anew by the language model."),
    ] = False,
    cancel: Annotated[bool, typer.Option("--cancel", help="End the backfill that Dagster carries out.")] = False,
) -> None:
    """Bring a quarter up to date: firms that are missing, failed or stale, then its themes, then its search index.

    While `ftm up` runs, Dagster carries it out and this command looks on: Ctrl-C ends only the looking. Without, firms
    are done one after another in this process. The same command goes on where it was in both cases.
    """
    from ftm_assets.operations import by_daemon as backfills
    from ftm_assets.operations import in_process as runs

    if reencode and firm:
        raise FtmError("--reencode makes a whole quarter's vectors anew; leave out --firm")
    if upgrade and (every or reencode):
        raise FtmError("--upgrade-summaries makes summaries alone; leave out --all and --reencode")
    database = Database(read_settings())
    with database.transaction() as connection:
        quarter = find_quarter(connection, quarter)
        chosen = [find_firm_in(connection, quarter, name).partition_key for name in firm or []]
        if (every or themes or upgrade) and not reencode and archived(connection, [quarter]):
            raise VectorsArchived(quarter)
    runs.check_is_shown(quarter)
    with open_instance(database) as (instance, defs):
        if cancel:
            backfills.cancel(instance, quarter)
            console.print(f"Dagster ends the backfill of {quarter}; what is done stays")
            return
        if upgrade:
            runs.check_model(defs, database.settings)
        by_daemon = backfills.daemon_is_up(instance)
        with (
            runs.alone(instance, database, f"backfill {quarter}"),
            stoppable(f"ftm backfill {quarter}", "Dagster goes on without this command" if by_daemon else "stopped"),
        ):
            carry_out = _by_daemon if by_daemon else _in_process
            failed = carry_out(defs, instance, database, Wanted(quarter, tuple(chosen), every, reencode, upgrade))
            for run in failed:
                errors.print(
                    f"failed: {run.firm_key} (run {run.run_id}): {run.error}", markup=False, style="red", soft_wrap=True
                )
            left = runs.firms_to_do(instance, database, quarter)
            if left and not themes:
                console.print(f"themes wait for {len(left)} firms; go on with: ftm backfill {quarter}")
            else:
                with spinner(f"{quarter} themes"):
                    made_now = backfills.wait_for_themes(instance, quarter)
                    again = themes or every or (upgrade and runs.themes_to_upgrade(database, quarter))
                    if runs.themes_to_do(instance, database, quarter) or (again and not made_now):
                        runs.run_themes(defs, instance, quarter)
                # Last: themes and all queries but search are there without it.
                with spinner(f"{quarter} search index"):
                    backfills.wait_for_index(instance, quarter)
                    if runs.index_to_do(instance, database, quarter):
                        runs.run_index(defs, instance, quarter)
    show_status(database, [quarter], Format.table)
    if failed:
        raise typer.Exit(1)


@dataclass(frozen=True)
class Wanted:
    """What a backfill is asked for: some firms or, with none named, all expected ones.

    upgrade: only summaries, and of firms that have some made of keywords
    """

    quarter: str
    chosen: tuple[str, ...]
    every: bool
    reencode: bool
    upgrade: bool = False

    def keys(self, instance: "dg.DagsterInstance", database: Database) -> list[str]:
        """Keys of the firms that are to do."""
        from ftm_assets.operations import in_process as runs

        if self.upgrade:
            return runs.firms_to_upgrade(database, self.quarter, self.chosen)
        return runs.firms_to_run(instance, database, self.quarter, self.chosen, every=self.every)

    def drop_index_for_bulk_write(self, database: Database, keys: Sequence[str]) -> None:
        """Drop the quarter's search index where it would hold up writing these firms; it is built anew at the end."""
        if not self.upgrade:
            drop_index_for_bulk_write(database, self.quarter, len(keys))


def _in_process(
    defs: "dg.Definitions", instance: "dg.DagsterInstance", database: Database, wanted: Wanted
) -> "list[runs.FirmRun]":
    """The firms' runs that failed, after all were executed here."""
    from ftm_assets.operations import in_process as runs

    quarter = wanted.quarter
    if wanted.reencode:
        runs.reencode(database, quarter, runs.encoder_of(defs))
    keys = wanted.keys(instance, database)
    if keys:
        runs.check_encoder(defs, database, quarter)
        wanted.drop_index_for_bulk_write(database, keys)
    job = "firm_summaries" if wanted.upgrade else "firm_quarter"
    done = tracked(runs.run_firms(defs, instance, quarter, keys, job), len(keys), f"{quarter} firms")
    return [run for run in done if run.error]


def _by_daemon(
    defs: "dg.Definitions", instance: "dg.DagsterInstance", database: Database, wanted: Wanted
) -> "list[runs.FirmRun]":
    """The firms' runs that failed, after Dagster has executed all: of the backfill under way, or else of a new one."""
    from ftm_assets.assets.jobs import ONLY_MISSING
    from ftm_assets.operations import by_daemon as backfills
    from ftm_assets.operations import in_process as runs

    quarter, queue = wanted.quarter, RunQueue(database.dagster_url())
    said = queue.said()[0] if queue.holder() else None
    backfills.check_worker(said, database.settings)
    for difference in backfills.differences(said, database.settings):
        errors.print(f"of the GPU worker: {difference}", markup=False, soft_wrap=True)
    with spinner(f"{quarter}: Dagster ends a backfill before this one"):
        backfills.wait_for_canceled(instance, quarter)
    backfill_id = backfills.under_way(instance, quarter)
    if wanted.reencode:
        if backfill_id is not None:
            raise backfills.OtherBackfill(quarter, backfill_id, "begin with new vectors")
        runs.reencode(database, quarter, backfills.encoder_of(said) or runs.encoder_of(defs))
    keys, assets = wanted.keys(instance, database), runs.SUMMARY_ASSETS if wanted.upgrade else runs.FIRM_ASSETS
    config = ONLY_MISSING if wanted.upgrade else None
    if backfill_id is None:
        if not keys:
            return []
        backfills.check_encoder(database, quarter, said)
        wanted.drop_index_for_bulk_write(database, keys)
        backfill_id = backfills.begin(defs, instance, quarter, keys, assets, config)
    elif missing := set(keys) - backfills.firms_of(instance, backfill_id):
        raise backfills.OtherBackfill(quarter, backfill_id, f"hold {min(missing)}")
    elif missing := set(keys) - backfills.firms_of(instance, backfill_id, assets):
        raise backfills.OtherBackfill(quarter, backfill_id, f"make more than summaries of {min(missing)}")
    console.print(f"Dagster carries out backfill {backfill_id}; Ctrl-C ends the looking on, not the backfill")
    if said is None:
        errors.print("no GPU worker is running, and the runs wait for one; start it with: ftm worker")
    n_ended = 0
    with bar(backfills.n_firms(instance, backfill_id), f"{quarter} firms") as advance:
        for progress in backfills.watch(instance, backfill_id, quarter):
            advance(progress.n_ended - n_ended)
            n_ended = progress.n_ended
    return backfills.failures(instance, backfill_id)


def status(
    quarter: Annotated[
        str | None, typer.Argument(help="One quarter, by utterance type and with its firms to do; without, all.")
    ] = None,
    form: FormatOption = Format.table,
) -> None:
    """How far each quarter is: firms, calls, sentences, topics, outliers, themes, and what is left to do."""
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
    _show([detail], form)
    if form is not Format.table:
        return
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
        if told := _sources(state):
            console.print(f"{state.quarter}: {told}")
        if state.themes.changed_firms:
            changed = join_with_more(state.themes.changed_firms)
            console.print(f"{state.quarter}: firms changed since the themes: {changed}")


def _sources(state: queries.QuarterStatus) -> str:
    """How many summaries are by a language model, and why others are not; nothing where none was ever asked."""
    reasons = {s.reason: s.n for s in state.sources if s.what == "topics" and s.reason}
    n = sum(s.n for s in state.sources if s.what == "topics")
    n_by_keywords = sum(reasons.values())
    if not n_by_keywords or reasons == {NO_MODEL: n}:
        return ""
    why = ", ".join(f"{count:,} ({reason})" for reason, count in reasons.items())
    return (
        f"{n - n_by_keywords:,} of {n:,} summaries are by a language model; by keywords: {why}; "
        f"write these anew with: ftm backfill {state.quarter} --upgrade-summaries"
    )


@contextmanager
def open_instance(database: Database) -> Iterator[tuple["dg.DagsterInstance", "dg.Definitions"]]:
    """Dagster's instance on the database, and the graph."""
    from ftm_assets.definitions import defs
    from ftm_assets.operations.in_process import dagster_instance

    with dagster_instance(database) as instance:
        yield instance, defs
