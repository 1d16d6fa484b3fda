import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from ftm_assets.cli.report import NotWritable
from ftm_assets.storage.read.report import NoThemes
from ftm_assets.storage.read.resolve import NotFound
from ftm_assets_tests.cli.test_main import ftm
from ftm_assets_tests.six_firms import six_firms


@pytest.fixture
def loaded(defs: dg.Definitions, instance: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, and six firms ingested."""
    ftm("ingest", six_firms(tmp_path / "calls.csv"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_report_lies_where_one_is_or_where_it_is_told_and_replaces_the_one_before(loaded: Path) -> None:
    ftm("backfill", "2021Q4")
    (loaded / "report_2021Q4.html").write_text("old")

    assert "wrote report_2021Q4.html" in ftm("report", "2021q4")
    ftm("report", "2021Q4", "--output", "elsewhere.html")

    page = (loaded / "report_2021Q4.html").read_text()
    assert "Themes of 2021Q4" in page and page.rstrip().endswith("</html>")
    assert (loaded / "elsewhere.html").read_text() == page


def test_stages_of_a_backfill_are_measured(loaded: Path) -> None:
    ftm("backfill", "2021Q4")
    ftm("report", "2021Q4")
    made = (loaded / "report_2021Q4.html").read_text().partition("How it was made")[2]
    assert '<td>firm_topics</td><td class="number">6</td><td class="number">6</td>' in made
    assert "not measured" not in made


def test_what_stands_in_the_way_of_a_report_is_one_clear_error(loaded: Path) -> None:
    with pytest.raises(NotFound, match="unknown quarter '2021Q3'; did you mean 2021Q4"):
        ftm("report", "2021Q3")
    with pytest.raises(NoThemes, match="ftm backfill 2021Q4"):
        ftm("report", "2021Q4")
    ftm("backfill", "2021Q4")
    for path, reason in (("nowhere/report.html", "No such file or directory"), (".", "Is a directory")):
        with pytest.raises(NotWritable, match=f"cannot write {path}: {reason}; name another file with --output"):
            ftm("report", "2021Q4", "-o", path)
    assert not list(loaded.glob("*.html"))


def test_the_command_loads_without_what_only_a_report_needs() -> None:
    loaded = "import sys, ftm_assets.cli.main; print('plotly' in sys.modules, 'ftm_assets.report' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True).stdout
    assert said.split() == ["False", "False"]
