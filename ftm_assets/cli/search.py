"""The commands `ftm search`, `ftm firms` and `ftm firm`."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated

import typer
from rich.markup import escape

from ftm_assets.cli.display import Format, FormatOption, console, errors, headings, show
from ftm_assets.errors import FtmError
from ftm_assets.settings import read_settings
from ftm_assets.storage.read import queries
from ftm_assets.storage.read.resolve import find_firm, find_quarter
from ftm_assets.storage.read.search_index import Level
from ftm_assets.storage.server.database import Database


class Levels(StrEnum):
    """What is searched: one level, or all at once."""

    all = "all"
    themes = "themes"
    topics = "topics"
    sentences = "sentences"


class Role(StrEnum):
    """Speaker role that a search keeps."""

    executives = "executives"
    analysts = "analysts"
    unknown = "unknown"


class Section(StrEnum):
    """Part of the call that a search keeps."""

    prepared = "prepared"
    qa = "qa"
    unknown = "unknown"


THEME_FIRM_COLUMNS = headings(queries.ThemeFirmRow, "firm_key", "firm_name", "n_topics", "n_sentences", "similarity")
FIRM_THEME_COLUMNS = headings(queries.FirmThemeRow, "quarter", "theme_id", "label", "n_topics", "n_sentences", "share")
FIRM_QUARTER_COLUMNS = headings(
    queries.FirmQuarterRow,
    "quarter",
    "name",
    "n_calls",
    "n_sentences",
    "n_modelled",
    "n_in_topics",
    "n_in_themes",
    "n_topics",
    "n_themes",
)
_STORED_ROLE = {Role.executives: "executive", Role.analysts: "analyst", Role.unknown: "unknown"}


def search(
    text: Annotated[str, typer.Argument(help='Text to search for, such as "tariff costs".')],
    level: Annotated[Levels, typer.Option(help="Search only this level.")] = Levels.all,
    quarter: Annotated[
        list[str] | None, typer.Option("--quarter", "-q", help="Search only this quarter; repeatable.")
    ] = None,
    firm: Annotated[str | None, typer.Option(help="Search only this firm.")] = None,
    role: Annotated[Role | None, typer.Option(help="Only sentences by this speaker role.")] = None,
    section: Annotated[Section | None, typer.Option(help="Only sentences from this part of the call.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=250, help="Number of rows of each level.")] = 10,
    form: FormatOption = Format.table,
) -> None:
    """Search themes, topics and sentences by meaning. Go on with `ftm sentences ID`.

    A theme or topic passes --role and --section if one of its sentences does.
    """
    from ftm_assets.search import search_text

    database = Database(read_settings())
    with database.transaction() as connection:
        quarters = [find_quarter(connection, name) for name in quarter] if quarter else None
        company_id = find_firm(connection, firm).company_id if firm else None
    where = queries.SearchFilter(
        company_id=company_id,
        role=_STORED_ROLE[role] if role else None,
        section=section.value if section else None,
    )
    levels = tuple(Level) if level is Levels.all else (Level(level.value),)
    found = search_text(database, text, quarters, levels, where, limit)
    if form is Format.table:
        _print_hits(found.hits)
    else:
        show(found.hits, {}, form)
    for line in _notes(found):
        (console if form is Format.table else errors).print(line, markup=False, soft_wrap=True)


def _print_hits(hits: Sequence[queries.Hit]) -> None:
    """Two lines a hit: its id, firm and theme, and its text."""
    if not hits:
        console.print("nothing found")
    for hit in hits:
        facts = [hit.firm_name, hit.role, hit.section] if hit.level is Level.sentences else [hit.firm_name, hit.label]
        above = f"  ({hit.theme_id})" if hit.theme_id not in (None, hit.id) else ""
        what = ", ".join(filter(None, facts))
        console.print(f"[bold]{hit.id}[/]  {hit.cosine:.2f}  {escape(what)}{above}", markup=True, soft_wrap=True)
        console.print(f"    {hit.text}", markup=False, overflow="ellipsis", no_wrap=True)


def _notes(found: queries.SearchResult) -> list[str]:
    """What the search left out, where it compared all rows, and how to build the index that makes it faster."""
    unindexed = sorted({each.quarter for each in found.exact if each.reason == queries.NO_INDEX})
    return [
        *(f"{quarter} is archived: its sentences were not searched" for quarter in found.archived),
        *(f"{each.quarter} {each.level}: {each.reason}, so all rows were compared" for each in found.exact),
        *(f"build the search index of {quarter} with: ftm backfill {quarter}" for quarter in unindexed),
    ]


def firms(
    theme: Annotated[str, typer.Argument(help="Id of a theme, such as theme_2021Q4_001.")],
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="Number of firms to show.")] = 20,
    form: FormatOption = Format.table,
) -> None:
    """Show the firms of a theme, those with most topics in it first. Go down with `ftm topics QUARTER FIRM`."""
    with Database(read_settings()).transaction() as connection:
        rows = queries.firms_of_theme(connection, theme, limit)
    if not rows:
        raise FtmError(f"no theme {theme!r} with firms; list theme ids with: ftm themes QUARTER")
    show(rows, THEME_FIRM_COLUMNS, form, title=f"firms of {theme}")


def firm(
    name: Annotated[str, typer.Argument(metavar="FIRM", help="Key, ticker, company id, or a part of the name.")],
    themes: Annotated[bool, typer.Option("--themes", help="Show its themes in each quarter instead.")] = False,
    form: FormatOption = Format.table,
) -> None:
    """Show a firm over the quarters: its calls, sentences, topics and themes in each."""
    with Database(read_settings()).transaction() as connection:
        found = find_firm(connection, name)
        profile = queries.firm_profile(connection, found.company_id)
        in_themes = queries.firm_themes(connection, found.company_id) if themes else []
    if themes:
        show(in_themes, FIRM_THEME_COLUMNS, form, title=found.name)
    else:
        show(profile, FIRM_QUARTER_COLUMNS, form, title=f"{found.name} ({found.partition_key})")
