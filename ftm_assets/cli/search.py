"""The commands `ftm search`, `ftm firms` and `ftm firm`: by meaning, the firms of a theme, a firm over quarters."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated

import typer
from rich.markup import escape

from ftm_assets.cli.display import Format, FormatOption, console, errors, headings, show
from ftm_assets.errors import FtmError
from ftm_assets.settings import read_settings
from ftm_assets.storage.maintain.search_index import Level
from ftm_assets.storage.read import queries
from ftm_assets.storage.read.resolve import find_firm, find_quarter
from ftm_assets.storage.server.database import Database


class Levels(StrEnum):
    """What is searched: one level, or all at once."""

    all = "all"
    themes = "themes"
    topics = "topics"
    sentences = "sentences"


class Role(StrEnum):
    """Whose sentences count."""

    executives = "executives"
    analysts = "analysts"
    unknown = "unknown"


class Section(StrEnum):
    """Where in a call sentences count."""

    prepared = "prepared"
    qa = "qa"
    unknown = "unknown"


_STORED_ROLE = {Role.executives: "executive", Role.analysts: "analyst", Role.unknown: "unknown"}


def search(
    text: Annotated[str, typer.Argument(help='What it should mean, in words: "tariff costs".')],
    level: Annotated[Levels, typer.Option(help="What to search.")] = Levels.all,
    quarter: Annotated[
        list[str] | None, typer.Option("--quarter", "-q", help="Only this quarter; repeatable. Without, all.")
    ] = None,
    firm: Annotated[str | None, typer.Option(help="Only this firm.")] = None,
    role: Annotated[Role | None, typer.Option(help="Only what these say.")] = None,
    section: Annotated[Section | None, typer.Option(help="Only what is said there.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=250, help="Most rows of each level.")] = 10,
    form: FormatOption = Format.table,
) -> None:
    """Themes, topics and sentences that are nearest in meaning to a text. Go on with `ftm sentences ID`.

    A theme or topic meets --role and --section if one of its sentences does.
    """
    from ftm_assets.search import search_text

    database = Database(read_settings())
    with database.transaction() as connection:
        quarters = [find_quarter(connection, name) for name in quarter] if quarter else None
        company_id = find_firm(connection, firm).company_id if firm else None
    where = queries.Where(company_id, _STORED_ROLE[role] if role else None, section.value if section else None)
    levels = tuple(Level) if level is Levels.all else (Level(level.value),)
    found = search_text(database, text, quarters, levels, where, limit)
    if form is Format.table:
        _tell(found.hits)
    else:
        show(found.hits, {}, form)
    for line in _notes(found):
        (console if form is Format.table else errors).print(line, markup=False, soft_wrap=True)


def _tell(hits: Sequence[queries.Hit]) -> None:
    """Two lines a hit: what it is, and what it says."""
    if not hits:
        console.print("nothing found")
    for hit in hits:
        said_by = [hit.firm_name, hit.role, hit.section] if hit.level is Level.sentences else [hit.firm_name, hit.label]
        above = f"  ({hit.theme_id})" if hit.theme_id not in (None, hit.id) else ""
        what = ", ".join(filter(None, said_by))
        console.print(f"[bold]{hit.id}[/]  {hit.cosine:.2f}  {escape(what)}{above}", markup=True, soft_wrap=True)
        console.print(f"    {hit.text}", markup=False, overflow="ellipsis", no_wrap=True)


def _notes(found: queries.Found) -> list[str]:
    """What the search left out, where it had to compare all rows, and what would spare it that."""
    unindexed = sorted({each.quarter for each in found.exact if each.reason == queries.NO_INDEX})
    return [
        *(f"{quarter} is archived: its sentences were not searched" for quarter in found.archived),
        *(f"{each.quarter} {each.level}: {each.reason}, so all rows were compared" for each in found.exact),
        *(f"build the search index of {quarter} with: ftm backfill {quarter}" for quarter in unindexed),
    ]


def firms(
    theme: Annotated[str, typer.Argument(help="Id of a theme, such as theme_2021Q4_001.")],
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="Most firms to show.")] = 20,
    form: FormatOption = Format.table,
) -> None:
    """Firms of a theme, those with most topics in it first. Go down with `ftm topics QUARTER FIRM`."""
    with Database(read_settings()).transaction() as connection:
        rows = queries.firms_of_theme(connection, theme, limit)
    if not rows:
        raise FtmError(f"{theme!r} is no theme with firms; ids are shown by: ftm themes QUARTER")
    show(rows, headings("firm_key firm_name n_topics n_sentences similarity"), form, title=f"firms of {theme}")


def firm(
    name: Annotated[str, typer.Argument(metavar="FIRM", help="Key, ticker, company id, or a part of the name.")],
    themes: Annotated[bool, typer.Option("--themes", help="Its themes, quarter by quarter, instead.")] = False,
    form: FormatOption = Format.table,
) -> None:
    """A firm over the quarters: its calls, sentences, topics and themes in each."""
    with Database(read_settings()).transaction() as connection:
        found = find_firm(connection, name)
        profile = queries.firm_profile(connection, found.company_id)
        in_themes = queries.firm_themes(connection, found.company_id) if themes else []
    if themes:
        show(in_themes, headings("quarter theme_id label n_topics n_sentences share"), form, title=found.name)
    else:
        counts = "n_calls n_sentences n_modelled n_in_topics n_in_themes n_topics n_themes"
        show(profile, headings(f"quarter name {counts}"), form, title=f"{found.name} ({found.partition_key})")
