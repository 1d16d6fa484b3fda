"""The whole thing as a person has it: separate processes, the real encoder, a killed backfill, the UI in a browser."""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path

import psycopg
import pytest
from playwright.sync_api import Page, expect

from devtools import processes as live
from devtools.processes import browsing, digests, free_port, worker_child
from ftm_assets.settings import with_database
from ftm_assets_tests.conftest import SAMPLE

pytestmark = [pytest.mark.slow, pytest.mark.alone]

FTM = str(Path(sys.executable).parent / "ftm")
QUARTER = "2024Q1"
wait_for = partial(live.wait_for, look_every_s=0.5)
# What differs between two runs of the same calls is left out.
MADE = {table: f"SELECT * FROM {table}" for table in ("sentences", "topics", "topic_sentences", "topic_summaries")}
ROWS = {
    **MADE,
    "calls": "SELECT transcript_id, content_hash FROM calls",
    "components": "SELECT * FROM components",
    "themes": "SELECT * FROM themes",
    "theme_topics": "SELECT * FROM theme_topics",
    "stages": "SELECT quarter, company_id, stage, content_hash, input_hash, provenance FROM materializations",
}


class Home:
    """A home of its own with its embedded server, and the `ftm` command in it."""

    def __init__(self, path: Path) -> None:
        self.environment = {**os.environ, "FTM_HOME": str(path), "FTM_METRICS_PORT": "0", "FTM_LANES": "1"}

    def run(self, *arguments: str) -> str:
        done = subprocess.run([FTM, *arguments], env=self.environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([FTM, *arguments], env=self.environment, stdout=subprocess.DEVNULL)

    @contextmanager
    def showing(self, quarters: str) -> Iterator[None]:
        """Commands of the block have that window of quarters."""
        self.environment["FTM_QUARTERS"] = quarters
        try:
            yield
        finally:
            del self.environment["FTM_QUARTERS"]

    @cached_property
    def url(self) -> str:
        return self.run("db").strip()

    def query(self, sql: str) -> list[tuple[object, ...]]:
        with psycopg.connect(self.url) as connection:
            return connection.execute(sql).fetchall()

    def runs(self, *statuses: str) -> list[str]:
        """Runs of backfills in one of these states, the newest first."""
        with psycopg.connect(with_database(self.url, "dagster")) as connection:
            found = connection.execute(
                "SELECT run_id FROM runs JOIN run_tags USING (run_id) WHERE key = 'dagster/backfill' "
                "AND status = ANY(%s) ORDER BY runs.id DESC",
                [list(statuses)],
            )
            return [row[0] for row in found]

    def n_succeeded(self) -> int:
        """Runs of firms that went well, of backfills or not."""
        with psycopg.connect(with_database(self.url, "dagster")) as connection:
            counted = "SELECT count(*) FROM runs JOIN run_tags USING (run_id) WHERE key = 'dagster/partition/firm' AND"
            [n] = connection.execute(f"{counted} status = 'SUCCESS'").fetchone() or [0]
        return int(n)

    def firm_of(self, run_id: str) -> str:
        """The firm that a run is about."""
        with psycopg.connect(with_database(self.url, "dagster")) as connection:
            named = "SELECT value FROM run_tags WHERE run_id = %s AND key = 'dagster/partition/firm'"
            [firm] = connection.execute(named, [run_id]).fetchone() or [""]
        return str(firm)

    def worker(self, what: str) -> int:
        """A number that the worker says of itself."""
        with psycopg.connect(with_database(self.url, "dagster")) as connection:
            found = connection.execute(f"SELECT {what} FROM ftm_launcher.workers").fetchone()
        assert found is not None
        return int(found[0])

    def kill_worker_child(self, kind: str) -> None:
        """SIGKILL to the `parent` of the lanes, or to the `encoder` process."""
        with psycopg.connect(with_database(self.url, "dagster")) as connection:
            [owner] = connection.execute("SELECT owner FROM ftm_launcher.workers").fetchone() or [""]
        pid = worker_child(int(re.findall(r"process (\d+) ", owner)[0]), kind)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)

    @contextmanager
    def lanes_held(self) -> Iterator[None]:
        """Lanes stand still, so that a person has the time to press a button while runs wait."""

        def lanes() -> list[int]:
            with psycopg.connect(with_database(self.url, "dagster")) as connection:
                return [row[0] for row in connection.execute("SELECT pid FROM ftm_launcher.lanes WHERE pid > 0")]

        wait_for(lanes, 60, "lane")
        pids = lanes()
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)

    def digests(self, rows: Mapping[str, str] = ROWS) -> dict[str, object]:
        return digests(self.url, rows)

    def status(self, quarter: str) -> dict[str, object]:
        [status] = json.loads(self.run("status", quarter, "--format", "json"))
        assert isinstance(status, dict)
        return status


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """The sample, its first quarter brought up to date."""
    home = Home(tmp_path_factory.mktemp("home with spaces") / ".ftm")
    home.run("ingest", str(SAMPLE))
    home.run("backfill", QUARTER)
    yield home
    home.run("down")


def test_a_killed_backfill_goes_on_where_it_was(home: Home, tmp_path: Path) -> None:
    other = Home(tmp_path / ".ftm")
    other.run("ingest", str(SAMPLE))
    backfill = other.start("backfill", QUARTER)
    done = "SELECT count(*) FROM materializations WHERE stage = 'topic_summaries'"
    try:
        wait_for(lambda: other.query(done)[0][0] in range(3, 15), 120, "third firm")
    finally:
        backfill.send_signal(signal.SIGKILL)
        backfill.wait()
    written = other.query(
        "SELECT company_id, written_at FROM materializations WHERE stage = 'topic_summaries' ORDER BY 1"
    )
    assert 0 < len(written) < 18

    other.run("backfill", QUARTER)

    again = other.query(
        "SELECT company_id, written_at FROM materializations WHERE stage = 'topic_summaries' ORDER BY 1"
    )
    assert set(written) <= set(again), "finished firms were left alone"
    assert len(again) == 18
    assert other.digests() == home.digests(), "nothing lost, nothing twice"
    with psycopg.connect(with_database(other.url, "dagster")) as connection:
        statuses: dict[str, int] = dict(connection.execute("SELECT status, count(*) FROM runs GROUP BY 1").fetchall())
    # The kill may also have come between two runs, then none of them failed.
    assert set(statuses) <= {"SUCCESS", "FAILURE"}, "the killed run is not left hanging"
    assert statuses.get("FAILURE", 0) <= 1
    other.run("down")


def test_a_quarter_outside_the_window_is_not_lost_and_comes_back_as_it_was(home: Home) -> None:
    def done() -> list[tuple[object, ...]]:
        with psycopg.connect(with_database(home.url, "dagster")) as connection:
            return list(connection.execute("SELECT count(*) FROM runs").fetchall())

    before, runs = home.status(QUARTER), done()
    with home.showing("2025Q1:2025Q4"):
        assert home.status(QUARTER) == before
        assert f"theme_{QUARTER}_001" in home.run("themes", QUARTER)
        refused = subprocess.run([FTM, "backfill", QUARTER], env=home.environment, capture_output=True, text=True)
        assert "2024Q1 is outside FTM_QUARTERS=2025Q1:2025Q4; widen it" in refused.stderr
    home.run("backfill", QUARTER)
    assert home.status(QUARTER) == before
    assert done() == runs, "Dagster still knows that all of it is materialized"


@pytest.fixture(scope="module")
def ui(home: Home) -> Iterator[str]:
    """The address of `ftm up`, which is stopped by SIGINT as by Ctrl-C, and leaves no process behind."""
    port = free_port()
    up = home.start("up", "--port", str(port))
    address = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        assert up.poll() is None, "ftm up has ended"
        try:
            return bool(urllib.request.urlopen(f"{address}/server_info", timeout=2).read())
        except OSError:
            return False

    wait_for(answers, 120, "webserver")
    yield address
    up.send_signal(signal.SIGINT)
    assert up.wait(60) == 0
    with pytest.raises(OSError):
        urllib.request.urlopen(f"{address}/server_info", timeout=2)


@pytest.fixture(scope="module")
def page(ui: str) -> Iterator[Page]:
    with browsing(ui, timeout_s=30) as page:
        yield page


def test_the_lineage_shows_the_five_assets(page: Page) -> None:
    page.goto("/asset-groups")
    for asset in ("transcripts", "firm_sentences", "firm_topics", "topic_summaries", "cross_firm_themes"):
        expect(page.get_by_text(asset, exact=True).first).to_be_visible()


CLICKED = {"BWUC-810001": "every_sentence_embedded", "WXCT-812330": "no call in"}


@pytest.mark.parametrize(("firm", "shown"), CLICKED.items())
def test_a_firm_is_materialized_by_clicking_and_tells_what_it_found(page: Page, firm: str, shown: str) -> None:
    page.goto(f"/assets/firm_sentences?view=partitions&partition={firm}%7C2024Q2")
    page.get_by_role("button", name="Materialize").first.click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_text("1 partition", exact=True)).to_be_visible()
    dialog.get_by_role("button", name="Launch 1 run").click()
    expect(dialog).to_be_hidden()

    def materialized() -> bool:
        page.goto(f"/assets/firm_sentences?view=partitions&partition={firm}%7C2024Q2")
        page.wait_for_timeout(3000)
        return page.get_by_text("n_sentences").count() > 0

    wait_for(materialized, 120, "materialization")
    if shown.startswith("no call"):
        expect(page.get_by_text(re.compile(shown)).first).to_be_visible()
    else:
        expect(page.get_by_text("all-MiniLM-L6-v2", exact=False).first).to_be_visible()


def launch_backfill(page: Page, *, only_missing: bool) -> None:
    """All firms of 2024Q2, as a person does it in the dialog of the job."""
    page.goto("/locations/ftm_assets/jobs/firm_quarter")
    page.get_by_role("button", name="Materialize all").click()
    dialog = page.locator(".dagster-dialog")

    def all_firms() -> bool:
        """Clicked before the firms have come, "All" selects none."""
        dialog.get_by_text("All", exact=True).first.click()
        page.wait_for_timeout(500)
        return dialog.get_by_text("18 partitions selected").count() > 0

    wait_for(all_firms, 30, "selection of all firms")
    dialog.get_by_text("Select a partition or create one").last.click()
    page.keyboard.type("2024Q2")
    page.locator(".dagster-popover").get_by_text("Select all (1)").click()
    page.keyboard.press("Escape")
    if only_missing:
        dialog.get_by_text("Backfill only failed and missing partitions within selection").click()
    dialog.get_by_role("button", name=re.compile("Launch")).click()
    expect(dialog).to_be_hidden()


def test_a_quarter_is_backfilled_one_run_terminated_and_only_that_one_done_again(
    page: Page, home: Home, tmp_path: Path
) -> None:
    launch_backfill(page, only_missing=False)
    with home.lanes_held():
        wait_for(lambda: len(home.runs("STARTING", "STARTED", "SUCCESS")) == 18, 120, "launch of each firm")
        # One of whose assets none is there yet.
        unlucky = next(run for run in home.runs("STARTING") if home.firm_of(run) not in CLICKED)
        page.goto(f"/runs/{unlucky}")
        page.get_by_role("button", name="Terminate").click()
        dialog = page.locator(".dagster-dialog")
        button = dialog.get_by_role("button", name=re.compile("terminat", re.IGNORECASE)).last
        expect(button).to_be_visible(timeout=30_000)
        # It waits for a lane, which is *Starting* to Dagster: such a run can only be forced, by a tick or without one.
        force = dialog.get_by_text("Force termination immediately")
        if force.count():
            force.click()
        page.screenshot(path=tmp_path / "terminate.png")
        button.click()
        wait_for(lambda: home.runs("CANCELED") == [unlucky], 60, "canceled run")
    wait_for(lambda: len(home.runs("SUCCESS")) == 17, 180, "run of each other firm")

    before = home.n_succeeded()
    launch_backfill(page, only_missing=True)

    # Of a single firm the dialog makes a run, not a backfill.
    wait_for(lambda: home.n_succeeded() == before + 1, 120, "run of the one that was terminated")
    assert home.status("2024Q2")["n_complete"] == 17, "all firms with a call; Wexcombe holds none"
    page.goto("/assets/topic_summaries?view=partitions")
    expect(page.get_by_text(re.compile(r"Failed \(0\)"))).to_be_visible(timeout=30_000)
    expect(page.get_by_text(re.compile(r"Materialized \([1-9]\d*\)"))).to_be_visible()
    page.screenshot(path=tmp_path / "partitions.png")


def test_ftm_backfill_becomes_one_of_dagsters_and_survives_its_own_ctrl_c(home: Home, ui: str) -> None:
    before = len(home.runs("SUCCESS"))
    command = [FTM, "backfill", "2024Q2", "--all"]
    looking = subprocess.Popen(command, env=home.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert home.runs("QUEUED", "STARTING", "STARTED") == []
    wait_for(lambda: len(home.runs("QUEUED", "STARTING", "STARTED")) > 5, 120, "begun backfill")
    looking.send_signal(signal.SIGINT)
    said = looking.communicate(timeout=60)[0].decode()
    assert looking.returncode == 130 and "go on with: ftm backfill 2024Q2" in said

    said = home.run("backfill", "2024Q2")

    assert "Dagster carries out backfill" in said
    assert len(home.runs("SUCCESS")) == before + 17
    assert home.run("worker", "status").startswith("waiting: 0 runs")


def test_kills_in_mid_backfill_change_no_row_of_what_a_command_makes_in_its_own_process(
    home: Home, ui: str, tmp_path: Path
) -> None:
    alone = Home(tmp_path / ".ftm")
    alone.run("ingest", str(SAMPLE), "--quarter", "2024Q2")
    alone.run("backfill", "2024Q2")
    home.run("drop", "2024Q2", "--yes")
    home.run("ingest", str(SAMPLE), "--quarter", "2024Q2")
    loads = home.worker("n_loads")
    n_done = "SELECT count(*) FROM materializations WHERE stage = 'topic_summaries' AND quarter = '2024Q2'"
    backfill = home.start("backfill", "2024Q2")
    try:
        wait_for(lambda: home.query(n_done)[0][0] in range(2, 10), 120, "second firm")
        home.kill_worker_child("encoder")
        wait_for(lambda: home.query(n_done)[0][0] in range(5, 15), 120, "fifth firm")
        home.kill_worker_child("parent")
        assert backfill.wait(240) == 0
    finally:
        backfill.kill()
    of_quarter = {table: f"{query} WHERE quarter = '2024Q2'" for table, query in MADE.items()}
    assert home.digests(of_quarter) == alone.digests(of_quarter)
    assert home.worker("n_loads") == loads + 1
    alone.run("down")


def test_a_check_asks_for_the_quarter(page: Page) -> None:
    page.goto("/assets/cross_firm_themes?view=checks")
    expect(page.get_by_text("themes_current").first).to_be_visible()
    expect(page.get_by_text("quarter_coverage").first).to_be_visible()


def test_a_second_up_in_the_same_home_is_refused(home: Home, ui: str) -> None:
    said = subprocess.run([FTM, "up", "--port", "1"], env=home.environment, capture_output=True, text=True)
    assert said.returncode == 1
    assert "ftm up is running already: process" in said.stderr
