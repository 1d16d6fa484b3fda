"""The `ftm` command."""

import sys
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

import typer
from rich.markup import escape

from ftm_assets.cli import backfill, cost, report, search, services, simulate, unattended, verify, worker
from ftm_assets.cli.backfill import open_instance, show_status
from ftm_assets.cli.display import Format, FormatOption, console, errors, headings, parse_column_map, show
from ftm_assets.cli.progress import stoppable, tracked
from ftm_assets.errors import FtmError
from ftm_assets.settings import read_settings
from ftm_assets.storage.maintain.archive import archive as archive_quarter
from ftm_assets.storage.maintain.archive import bytes_of_sentences
from ftm_assets.storage.maintain.deletion import (
    CallToDelete,
    calls_to_delete,
    delete_calls,
    drop_quarter,
    firms_without_calls,
)
from ftm_assets.storage.read import queries
from ftm_assets.storage.read.resolve import NotFound, find_firm, find_firm_in, find_quarter, parse_quarter
from ftm_assets.storage.read.text_findings import damage_summary, text_findings
from ftm_assets.storage.read.theme_state import theme_settings
from ftm_assets.storage.server.database import Database
from ftm_assets.storage.stages import TOPICS
from ftm_assets.storage.stages.base import find_provenance

# Decision 36.
app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Turn the earnings calls of a quarter into sentences, topics of each firm, summaries and themes.\n\n"
    "Run `ftm ingest FILE`, then `ftm backfill 2021Q4`, then `ftm themes 2021Q4`. `ftm up` starts the Dagster UI. "
    "Name a firm by its key, ticker, company id, or a part of its name that no other firm has.",
)
CALL_COLUMNS = headings(
    queries.CallRow,
    "firm_key",
    "transcript_id",
    "call_date",
    "headline",
    "superseded_by",
    "n_components",
    "n_sentences",
    "n_modelled",
    "n_in_topics",
)
SENTENCE_COLUMNS = headings(
    queries.SentenceRow,
    "sentence_id",
    "firm_name",
    "call_date",
    "person",
    "role",
    "topic_label",
    "theme_id",
    "text",
)
REJECT_COLUMNS = headings(queries.RejectRow, "source", "row_number", "column", "value", "reason", "kept")
FORGOTTEN_COLUMNS = headings(CallToDelete, "quarter", "firm_key", "transcript_id", "headline")

QuarterArgument = Annotated[str, typer.Argument(help="Calendar quarter of the calls, such as 2021Q4.")]
FirmArgument = Annotated[str, typer.Argument(help="Key, ticker, company id, or an unambiguous part of the name.")]
LimitOption = Annotated[int, typer.Option("--limit", "-n", min=1, help="Number of sentences to show.")]


@app.command()
def ingest(
    source: Annotated[str, typer.Argument(help="CSV (also .gz), s3://bucket/prefix, or module:attribute of your own.")],
    quarter: Annotated[
        list[str] | None, typer.Option("--quarter", "-q", help="Load only this quarter; repeatable.")
    ] = None,
    as_of: Annotated[
        datetime | None,
        typer.Option(formats=["%Y-%m-%d"], help="Use only what was available on that day; later calls are left out."),
    ] = None,
    column: Annotated[
        list[str] | None, typer.Option(help="ours=theirs, if the file names a column differently; repeatable.")
    ] = None,
    form: FormatOption = Format.table,
) -> None:
    """Load calls. Loading again replaces only calls that changed; calls missing from the source stay."""
    from ftm_assets.operations.ingest import QuarterIngest, ingest_quarters
    from ftm_assets.sources.transcript_source import open_source, quarters_of

    columns = parse_column_map(column or [])
    in_source = quarters_of(open_source(source, columns=columns))
    wanted = [parse_quarter(name) for name in quarter or in_source]
    for name in wanted:
        if name not in in_source:
            raise NotFound("quarter of the source", name, in_source)
    config: dict[str, object] = {"source": source, "columns": columns}
    if as_of:
        config["as_of"] = as_of.date().isoformat()
    database = _database()
    with open_instance(database) as (instance, defs), stoppable("the same command; quarters that are loaded stay"):
        done = list(tracked(ingest_quarters(defs, instance, database, wanted, config), len(wanted), "quarters"))
    columns_shown = headings(
        QuarterIngest,
        "quarter",
        "n_firms",
        "n_calls",
        "n_new",
        "n_changed",
        "n_superseded",
        "n_not_known",
        "n_rows",
        "n_components",
        "n_duplicates",
        "n_rejected",
        "n_repaired",
    )
    show(done, columns_shown, form)
    for warning in dict.fromkeys(warning for each in done for warning in each.warnings):
        errors.print(f"warning: {warning}")
    with database.transaction() as connection:
        for each in done:
            if damage := damage_summary(text_findings(connection, each.quarter)):
                errors.print(f"{each.quarter}: {damage}")
    if any(each.n_rejected or each.n_repaired for each in done):
        errors.print("some rows were left out or repaired; list them with: ftm rejects")
    if n_joint := sum(each.n_joint_calls for each in done):
        errors.print(
            f"{n_joint} joint calls (one transcript, several firms) are loaded for each firm; list them: ftm rejects"
        )


app.command()(backfill.backfill)
app.command()(backfill.status)
app.command()(cost.cost)
app.command()(report.report)
app.command()(search.search)
app.command()(search.firm)
app.command()(search.firms)
app.command(hidden=True, add_help_option=False, context_settings=simulate.PASS_ON)(simulate.simulate_model)
app.command()(services.up)
app.command()(services.webserver)
app.add_typer(services.daemon_app, name="daemon")
app.command()(verify.verify)
app.command()(unattended.migrate)
app.command()(unattended.idle)
app.add_typer(worker.app, name="worker")
app.command()(services.down)


@app.command()
def themes(
    quarter: QuarterArgument,
    examples: Annotated[
        int, typer.Option("--examples", "-e", min=0, help="Number of sentences to show for each theme.")
    ] = 2,
    form: FormatOption = Format.table,
) -> None:
    """Show the themes of a quarter, those of most firms first. Go down with `ftm sentences THEME`."""
    with _database().transaction() as connection:
        quarter = find_quarter(connection, quarter)
        found, settings = queries.themes_of_quarter(connection, quarter), theme_settings(connection, quarter)
        quotes = {x.theme_id: queries.sentences_of_theme(connection, x.theme_id, examples) for x in found if examples}
    if form is not Format.table:
        show(found, {}, form)
        return
    if not found:
        console.print(f"{quarter} has no themes: run `ftm backfill {quarter}`, or no group of topics is large enough")
    for theme in found:
        facts = [f"{theme.n_firms} firms", f"{theme.n_topics} topics"]
        if theme.stability is not None:
            facts.append(
                f"{'unstable' if settings.is_unstable(theme.stability) else 'stability'} {theme.stability:.2f}"
            )
        console.print(f"[bold]{theme.theme_id}[/]  {escape(theme.label)}  ({', '.join(facts)})", markup=True)
        if theme.description:
            console.print(f"    {theme.title}: {theme.description}", markup=False, style="italic")
        for row in quotes.get(theme.theme_id, []):
            console.print(
                f"    {row.firm_name}, {row.role}: {row.text}", markup=False, overflow="ellipsis", no_wrap=True
            )


@app.command()
def topics(quarter: QuarterArgument, firm: FirmArgument, form: FormatOption = Format.table) -> None:
    """Show the topics of a firm in a quarter, each with its summary and theme."""
    with _database().transaction() as connection:
        quarter = find_quarter(connection, quarter)
        found = find_firm_in(connection, quarter, firm)
        rows = queries.topics_of_firm(connection, quarter, found.company_id)
        made = find_provenance(connection, quarter, found.company_id, TOPICS.name)
    show(rows, _topic_columns(rows), form, title=f"{found.name}, {quarter}")
    if made and (reason := made.details.get("reason")):
        errors.print(f"{found.name} has no topics in {quarter}: {reason}", markup=False)


def _topic_columns(rows: Sequence[queries.TopicRow]) -> dict[str, str]:
    title = ("title",) if any(row.title for row in rows) else ()
    return headings(queries.TopicRow, "topic_id", "firm_name", "n_sentences", "label", "theme_id", *title, "summary")


@app.command()
def calls(
    quarter: QuarterArgument,
    firm: Annotated[str | None, typer.Argument(help="Show only this firm.")] = None,
    form: FormatOption = Format.table,
) -> None:
    """Show the calls of a quarter, superseded versions included, each with its counts."""
    with _database().transaction() as connection:
        quarter = find_quarter(connection, quarter)
        company_id = find_firm_in(connection, quarter, firm).company_id if firm else None
        rows = queries.calls(connection, quarter, company_id)
    show(rows, CALL_COLUMNS, form)


@app.command()
def sentences(
    identifier: Annotated[str, typer.Argument(help="Id of a theme, a topic or a sentence.")],
    limit: LimitOption = 20,
    form: FormatOption = Format.table,
) -> None:
    """Go down from a theme or topic to its best sentences, or up from a sentence to its topic and theme."""
    with _database().transaction() as connection:
        rows = queries.sentences_of(connection, identifier, limit)
        below = queries.topics_of_theme(connection, identifier, limit) if identifier.startswith("theme_") else []
    if not rows and not below:
        raise FtmError(f"no theme, topic or sentence has the id {identifier!r}; list ids with: ftm themes, ftm topics")
    if below and form is Format.table:
        show(below, _topic_columns(below), form, title=f"topics of {identifier}")
    show(rows, SENTENCE_COLUMNS, form)


@app.command()
def rejects(
    source: Annotated[str | None, typer.Argument(help="Show only this source, as `ftm rejects` names it.")] = None,
    form: FormatOption = Format.table,
) -> None:
    """Show the source rows that were left out or repaired, and why."""
    with _database().transaction() as connection:
        rows = queries.rejects(connection, source)
    show(rows, REJECT_COLUMNS, form)


@app.command(name="forget")
def forget_calls(
    quarter: Annotated[str | None, typer.Option("--quarter", "-q", help="Calls of this quarter.")] = None,
    firm: Annotated[str | None, typer.Option("--firm", help="Calls of this firm.")] = None,
    call: Annotated[int | None, typer.Option("--call", help="The call with this transcript id.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Delete them. Without it, only show them.")] = False,
) -> None:
    """Delete the calls that match all options, and everything made from them. Without --yes it only shows them."""
    database = _database()
    with database.transaction() as connection:
        quarter = find_quarter(connection, quarter) if quarter else None
        company_id = find_firm(connection, firm).company_id if firm else None
        found = calls_to_delete(connection, quarter, company_id, call)
        if not found:
            raise FtmError("no call matches; give --quarter, --firm or --call, and list calls with: ftm calls QUARTER")
        if yes:
            delete_calls(connection, found)
    show(found, FORGOTTEN_COLUMNS, Format.table, title="forgotten" if yes else "would be forgotten")
    if yes:
        _unregister_firms_without_calls(database)
    else:
        console.print("nothing was deleted; repeat with --yes to delete them")


@app.command()
def drop(
    quarter: QuarterArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Delete it. Without it, only show it.")] = False,
) -> None:
    """Delete a whole quarter: calls, sentences, topics, summaries and themes. Without --yes it only shows them."""
    database = _database()
    with database.transaction() as connection:
        quarter = find_quarter(connection, quarter)
        n_calls = drop_quarter(connection, quarter) if yes else 0
    if yes:
        console.print(f"dropped {quarter} with {n_calls} calls")
        _unregister_firms_without_calls(database)
    else:
        show_status(database, [quarter], Format.table)
        console.print(f"nothing was deleted; repeat with --yes to drop {quarter}")


@app.command()
def archive(
    quarter: QuarterArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Drop them. Without it, only show their size.")] = False,
) -> None:
    """Drop the vectors of a quarter's sentences, which take most of its disk space.

    Without --yes it only prints how much disk space they take. Everything else stays. You can no longer search the
    sentences by meaning or make topics and themes again, until `ftm backfill QUARTER --reencode` has made new vectors.
    """
    database = _database()
    with database.transaction() as connection:
        quarter = find_quarter(connection, quarter)
        n_bytes = bytes_of_sentences(connection, quarter)
    if not yes:
        console.print(f"sentences of {quarter}, with their vectors and indexes: {n_bytes / 2**20:,.0f} MB")
        console.print(f"nothing was deleted; repeat with --yes to archive {quarter}")
        return
    freed = archive_quarter(database, quarter)
    before, after = (n / 2**20 for n in (freed.bytes_before, freed.bytes_after))
    console.print(
        f"archived {quarter}: {freed.n_vectors:,} vectors dropped; "
        f"its sentences take {after:,.0f} MB instead of {before:,.0f}"
    )


def _unregister_firms_without_calls(database: Database) -> None:
    from ftm_assets.operations.instance import dagster_instance, unregister_firms

    with database.transaction() as connection:
        gone = firms_without_calls(connection)
    with dagster_instance(database) as instance:
        unregister_firms(instance, gone)


@app.command()
def db() -> None:
    """Print the database's URL, password included, for psql or DBeaver: psql "$(ftm db)"."""
    database = _database()
    database.engine.dispose()
    typer.echo(database.url())


@app.command()
def env() -> None:
    """Print the environment variables that Dagster's own tools need, passwords included: eval "$(ftm env)"."""
    import shlex

    from ftm_assets.operations.instance import dagster_environment

    for name, value in dagster_environment(_database()).items():
        typer.echo(f"export {name}={shlex.quote(value)}")


def main() -> None:
    """Run the command. An error that you can fix is printed as one message, without a traceback; exit code 1."""
    try:
        app()
    except FtmError as error:
        errors.print(f"error: {error}", markup=False, style="red", soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def _database() -> Database:
    return Database(read_settings())
