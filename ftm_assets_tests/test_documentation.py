"""Commands, queries and code in the documents are run, or at least parsed; their lists are complete."""

import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from importlib import import_module
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa
import typer.main
from dagster._config import validate_config
from dagster._core.instance.config import dagster_instance_config
from dagster_shared.yaml_utils import safe_load_yaml
from pydantic import SecretStr
from typer.core import TyperGroup
from typer.testing import CliRunner

from benchmarks.__main__ import BENCHMARKS
from ftm_assets.cli.main import app
from ftm_assets.definitions import build_definitions
from ftm_assets.operations.backfill.executor import run_index, run_themes
from ftm_assets.operations.backfill.in_process import run_firms
from ftm_assets.operations.backfill.state import read_state
from ftm_assets.operations.ingest import ingest_quarters
from ftm_assets.settings import Settings
from ftm_assets.sources.csv.columns import OPTIONAL_COLUMNS, REQUIRED_COLUMNS
from ftm_assets.sources.transcript_source import open_source, quarters_of
from ftm_assets.storage.schema.tables import Base
from ftm_assets.storage.server import embedded
from ftm_assets.storage.server.database import Database
from ftm_assets.storage.server.embedded import EmbeddedServer
from ftm_assets.storage.write.calls import create_quarter, ingest
from ftm_assets_tests.conftest import ROOT, SAMPLE
from ftm_assets_tests.fakes import HashEncoder
from ftm_assets_tests.six_firms import calls_of

README = ROOT / "README.md"
DOCS = ROOT / "docs"
PAGES = [README, *sorted(DOCS.glob("*.md"))]
QUARTER = "2024Q1"
# Enough for a theme, and the firms that the examples name.
COMPANIES = {"810960", "811097", "811234", "811782", "812330"}

READING = {
    "psql",
    "status",
    "cost",
    "search",
    "themes",
    "topics",
    "firms",
    "firm",
    "sentences",
    "calls",
    "rejects",
    "db",
}
NOT_OURS = {"aws", "cp", "curl", "dagster", "dagster-celery", "docker", "eval", "read", "source", "terraform"}


@dataclass(frozen=True)
class Block:
    """A fenced block and where it begins."""

    page: Path
    line: int
    text: str


def blocks(language: str) -> list[Any]:
    """Every block of a language, as parameters of a test."""
    found = []
    for page in PAGES:
        text = page.read_text()
        for match in re.finditer(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            line = text.count("\n", 0, match.start()) + 1
            found.append(pytest.param(Block(page, line, match[1]), id=f"{page.name}:{line}"))
    return found


def commands(block: Block) -> list[list[str]]:
    """The words of each command, those inside $(...) as commands of their own; assignments and redirections go."""
    lines = block.text.replace("\\\n", " ").splitlines()
    inner = [inside for line in lines for inside in re.findall(r"\$\(([^)]*)\)", line)]
    found = []
    for line in (*lines, *inner):
        words = shlex.split(line.partition(" > ")[0], comments=True)
        while words and re.match(r"\w+=", words[0]):
            words.pop(0)
        if words:
            found.append(words)
    return found


def table(page: Path, first_heading: str) -> list[list[str]]:
    """The cells of the table whose first column has this heading."""
    after = page.read_text().split(f"\n| {first_heading} |", 1)[1]
    rows = after.split("\n\n", 1)[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("| ").split(" | ")] for row in rows]


def names(page: Path, first_heading: str) -> list[str]:
    return [row[0].strip("`") for row in table(page, first_heading)]


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.fixture(scope="module")
def documented(server: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """A quarter of a few fictional firms, complete."""
    folder = tmp_path_factory.mktemp("documentation")
    source = calls_of(COMPANIES, SAMPLE, folder / "calls.csv")
    database = Database(Settings(home=folder, database_url=SecretStr(server.url("documentation"))))
    defs = build_definitions(database, HashEncoder())
    with dg.DagsterInstance.ephemeral() as instance:
        list(ingest_quarters(defs, instance, database, [QUARTER], {"source": str(source)}))
        keys = read_state(instance, database, QUARTER).to_do
        assert [run.error for run in run_firms(defs, instance, QUARTER, keys)] == [None] * len(COMPANIES)
        run_themes(defs, instance, QUARTER)
        run_index(defs, instance, QUARTER)
    yield database
    database.engine.dispose()


@pytest.fixture
def as_a_user(documented: Database, monkeypatch: pytest.MonkeyPatch) -> Database:
    """The documented database, which commands find in the environment."""
    monkeypatch.setenv("FTM_DATABASE_URL", documented.url())
    monkeypatch.setenv("FTM_ENCODER", "ftm_assets_tests.fakes:HashEncoder")
    return documented


@pytest.mark.parametrize("block", blocks("bash"))
def test_a_command_exists_and_what_only_reads_answers(block: Block, as_a_user: Database) -> None:
    to_run = commands(block)
    for program, *arguments in to_run:
        read_command(program, arguments)
    # Where a block also writes, the rest of it speaks of what it has written.
    if all(words[0] == "psql" or (words[0] == "ftm" and words[1] in READING) for words in to_run):
        for program, *arguments in to_run:
            assert answer(program, arguments, as_a_user).strip()


def read_command(program: str, arguments: list[str]) -> None:
    """Let the program's own reader have the arguments, and nothing else happen."""
    match program:
        case "ftm":
            name, *rest = arguments
            typer.main.get_group(app).commands[name].make_context(name, rest)
        case "make":
            makefile = (ROOT / "Makefile").read_text()
            for word in arguments:
                wanted = rf"^{word.partition('=')[0]} \?=" if "=" in word else rf"^{word}:"
                assert re.search(wanted, makefile, re.MULTILINE), f"the Makefile has no {word}"
        case "python":
            option, module, *rest = arguments
            assert option == "-m"
            name = BENCHMARKS[rest.pop(0)][0] if module == "benchmarks" else "__main__"
            import_module(f"{module}.{name}").parser().parse_args(rest)
        case script if script.startswith("scripts/"):
            text = (ROOT / script).read_text()
            assert all(f"{word})" in text for word in arguments if word.startswith("--")), script
        case "export":
            for name in (word.partition("=")[0] for word in arguments):
                assert name.removeprefix("FTM_").lower() in Settings.model_fields, f"{name} is no setting"
        case _:
            assert program in READING | NOT_OURS, f"who knows whether {program!r} is there?"


def answer(program: str, arguments: list[str], database: Database) -> str:
    if program == "psql":
        arguments = [argument.replace("$(ftm db)", database.url()) for argument in arguments]
        psql = embedded._binaries() / "psql"
        return subprocess.run([psql, *arguments], check=True, capture_output=True, text=True).stdout
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


@pytest.mark.parametrize("block", blocks("sql"))
def test_a_query_finds_rows(block: Block, documented: Database) -> None:
    with documented.transaction() as connection:
        assert connection.exec_driver_sql(block.text).all()


@pytest.mark.parametrize("block", blocks("python"))
def test_a_piece_of_python_runs(block: Block, as_a_user: Database) -> None:
    exec(compile(block.text, f"{block.page.name}:{block.line}", "exec"), {"__name__": "documentation"})


@pytest.mark.parametrize("block", blocks("yaml"))
def test_a_piece_of_yaml_is_a_valid_setting(block: Block, tmp_path: Path) -> None:
    settings = safe_load_yaml(block.text)
    if "ops" in settings:
        defs = build_definitions(Database(Settings()), HashEncoder())
        assert dg.validate_run_config(defs.resolve_job_def("firm_quarter"), settings)
        return
    (tmp_path / "dagster.yaml").write_text(block.text)
    assert dagster_instance_config(str(tmp_path))
    ours = safe_load_yaml((ROOT / "dagster.yaml").read_text())
    if block.page.name != "scale-out.md":
        assert {key: ours[key] for key in settings} == settings
        return
    assert settings.keys() == {"run_launcher"}, "nothing else has to change"
    launcher = settings["run_launcher"]
    module = pytest.importorskip(launcher["module"], reason=f"{launcher['module']} is not installed")
    of = getattr(module, launcher["class"])
    assert validate_config(of.config_type(), launcher["config"]).success


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_link_leads_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text()):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_the_example_source_can_be_loaded(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [example] = [found.values[0].text for found in blocks("python") if "class MyCalls" in found.values[0].text]
    (tmp_path / "my_calls.py").write_text(example)
    monkeypatch.syspath_prepend(tmp_path)
    source = open_source("my_calls:MyCalls")

    assert quarters_of(source) == {QUARTER: 1}
    assert [firm.company_id for firm in source.firms(date(2024, 2, 1), date(2024, 2, 1))] == [7]
    with database.transaction() as connection:
        create_quarter(connection, QUARTER)
        ingested = ingest(connection, QUARTER, source.read(QUARTER), source.name)
    assert (ingested.firm_keys, ingested.counts.n_components) == (("ACME-INC-7",), 2)


def test_the_pages_list_every_column_setting_and_command() -> None:
    assert names(DOCS / "transcripts.md", "required column") == list(REQUIRED_COLUMNS)
    assert names(DOCS / "transcripts.md", "optional column") == list(OPTIONAL_COLUMNS)
    assert sorted(names(DOCS / "settings.md", "variable")) == sorted(
        f"FTM_{name.upper()}" for name in Settings.model_fields
    )
    ours = {name: each for name, each in typer.main.get_group(app).commands.items() if not each.hidden}
    documented = {row[0].strip("`"): row[-1] for row in table(DOCS / "commands.md", "command")}
    assert {command.split()[1] for command in documented} == ours.keys()
    for command, text in documented.items():
        _, name, *rest = command.split()
        asked = ours[name]
        if isinstance(asked, TyperGroup) and rest:
            asked = asked.commands[rest[0]]
        known = {option for each in asked.params for option in (*each.opts, *each.secondary_opts)}
        assert set(re.findall(r"--[\w-]+", text)) <= known, command


def test_the_settings_are_documented_with_their_defaults() -> None:
    fields = Settings.model_fields
    for variable, default, _ in table(DOCS / "settings.md", "variable"):
        value = fields[variable.strip("`").removeprefix("FTM_").lower()].default
        assert default.strip("`") == ("empty" if value is None else str(value))


def test_every_check_is_explained() -> None:
    defs = build_definitions(Database(Settings()), HashEncoder())
    checks = {key.name for key in defs.resolve_asset_graph().asset_check_keys}
    assert set(names(DOCS / "architecture.md", "check")) == checks


def test_the_diagrams_show_every_column_with_its_keys() -> None:
    text = (DOCS / "data-flow.md").read_text()
    drawn = {
        name: dict(re.findall(r"^ +\S+ (\w+) ?(.*)$", body, re.MULTILINE))
        for name, body in re.findall(r"^    (\w+) \{\n(.*?)^    \}", text, re.MULTILINE | re.DOTALL)
    }
    assert drawn == {
        name: {column.name: keys_of(column) for column in table.columns} for name, table in Base.metadata.tables.items()
    }


def keys_of(column: sa.Column[Any]) -> str:
    """What the diagrams write behind a column, such as `PK, FK`."""
    uniques = [c for c in column.table.constraints if isinstance(c, sa.UniqueConstraint)]
    kinds = {
        "PK": column.primary_key,
        "FK": bool(column.foreign_keys),
        "UK": any(unique.columns.keys() == [column.name] for unique in uniques),
    }
    return ", ".join(kind for kind, has in kinds.items() if has)
