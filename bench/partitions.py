"""How the UI bears firms times quarters: seconds until its pages are there, in Chromium.

    python -m bench.partitions [--firms 3000] [--quarters 5 20 33 52]

One firm-quarter is really made; its events are copied for three quarters of all others, so that the event log has what
it would have, metadata included. Then webserver and daemon are started over each window of quarters (FTM_QUARTERS), and
a browser opens the pages, the first time and five times more. The last row is the ratio of the largest window to the
smallest.
"""

import argparse
import os
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
from playwright.sync_api import Page, expect
from rich.console import Console
from rich.table import Table

from bench.launcher import FTM, write_calls
from ftm_assets.partitions import FIRM
from ftm_assets.settings import with_database
from ftm_assets_tests.processes_of_tests import browsing, free_port

FIRST_YEAR = 2015
SHARE = 0.75
N_AGAIN = 5
TIMEOUT_S = 180.0
# Of the firm-quarter that was made, with other names in their place.
COPY_EVENTS = """
    INSERT INTO event_logs (run_id, event, dagster_event_type, timestamp, step_key, asset_key, partition)
    SELECT e.run_id, replace(replace(e.event, %(made_firm)s, firm), %(made_quarter)s, quarter), e.dagster_event_type,
           e.timestamp, e.step_key, e.asset_key, firm || '|' || quarter
    FROM event_logs AS e,
         unnest(%(firms)s::text[]) WITH ORDINALITY AS f (firm, number), unnest(%(quarters)s::text[]) AS quarter
    WHERE e.dagster_event_type = 'ASSET_MATERIALIZATION' AND e.partition = %(made_firm)s || '|' || %(made_quarter)s
    AND f.number <= %(share)s * array_length(%(firms)s::text[], 1)
    AND (firm, quarter) <> (%(made_firm)s, %(made_quarter)s)
"""
COPY_TAGS = """
    INSERT INTO asset_event_tags (event_id, asset_key, key, value, event_timestamp)
    SELECT e.id, t.asset_key, t.key, replace(replace(t.value, %(made_firm)s, split_part(e.partition, '|', 1)),
           %(made_quarter)s, split_part(e.partition, '|', 2)), t.event_timestamp
    FROM event_logs AS e
    JOIN event_logs AS made ON made.asset_key = e.asset_key AND made.dagster_event_type = e.dagster_event_type
         AND made.partition = %(made_firm)s || '|' || %(made_quarter)s AND made.id < e.id
    JOIN asset_event_tags AS t ON t.event_id = made.id
    WHERE e.dagster_event_type = 'ASSET_MATERIALIZATION'
"""


@dataclass(frozen=True)
class Opened:
    """Seconds until a page was there: the first time, and the median of the times after that."""

    first_s: float
    again_s: float


def quarter_keys(n: int) -> list[str]:
    """The first n quarters."""
    return [f"{FIRST_YEAR + number // 4}Q{number % 4 + 1}" for number in range(n)]


class Home:
    """A home with one firm-quarter made and the events of all."""

    def __init__(self, path: Path, n_firms: int, n_quarters: int) -> None:
        self.quarters = quarter_keys(n_quarters)
        self.environment = {
            **os.environ,
            "FTM_HOME": str(path),
            "FTM_QUARTERS": self.window(n_quarters),
        }
        calls = path.with_suffix(".csv")
        write_calls(calls, 1, 450, day=f"{FIRST_YEAR}-02-01")
        self.ftm("ingest", str(calls))
        self.ftm("backfill", self.quarters[0])
        self.url = with_database(self.ftm("db").strip(), "dagster")
        made = "FIRM-1-1"
        firms = [made, *(f"FIRM-{number}-{number}" for number in range(2, n_firms + 1))]
        told = {
            "made_firm": made,
            "made_quarter": self.quarters[0],
            "firms": firms,
            "quarters": self.quarters,
            "share": SHARE,
        }
        with psycopg.connect(self.url) as connection:
            register = "INSERT INTO dynamic_partitions (partitions_def_name, partition) SELECT %s, unnest(%s::text[])"
            connection.execute(register, [FIRM, firms[1:]])
            connection.execute(COPY_EVENTS, told)
            connection.execute(COPY_TAGS, told)
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute("ANALYZE")
            size = "SELECT count(*), pg_total_relation_size('event_logs') FROM event_logs"
            self.n_events, self.event_bytes = connection.execute(size).fetchone() or (0, 0)

    def window(self, n_quarters: int) -> str:
        """The first quarters, as the setting wants them."""
        return f"{self.quarters[0]}:{self.quarters[n_quarters - 1]}"

    def ftm(self, *arguments: str) -> str:
        """Output of a command. raises: CalledProcessError"""
        command = [FTM, *arguments]
        return subprocess.run(command, env=self.environment, check=True, stdout=subprocess.PIPE, text=True).stdout

    @contextmanager
    def showing(self, n_quarters: int) -> Iterator[str]:
        """The address of a UI over the first quarters, started for it."""
        environment = {**self.environment, "FTM_QUARTERS": self.window(n_quarters)}
        port = free_port()
        command = [FTM, "up", "--no-worker", "--port", str(port)]
        up = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        try:
            assert up.stdout is not None
            assert any(f":{port}" in line for line in up.stdout), "ftm up has ended"
            yield f"http://127.0.0.1:{port}"
        finally:
            up.send_signal(signal.SIGINT)
            up.wait()


def lineage(page: Page) -> None:
    """The graph, with how many partitions of its firms are there."""
    page.goto("/asset-groups")
    expect(page.get_by_text("cross_firm_themes", exact=True).first).to_be_visible()


def partitions(page: Page) -> None:
    """The partitions of an asset, by firm and by quarter."""
    page.goto("/assets/firm_topics?view=partitions")
    expect(page.get_by_text(f"{FIRST_YEAR}Q1").first).to_be_visible()


def dialog(page: Page) -> None:
    """From the button to the dialog in which firms and quarters are chosen."""
    page.goto("/locations/ftm_assets/jobs/firm_quarter")
    page.get_by_role("button", name="Materialize all").click()
    expect(page.locator(".dagster-dialog").get_by_text("All", exact=True).first).to_be_visible()


PAGES: dict[str, Callable[[Page], None]] = {"lineage": lineage, "partitions": partitions, "dialog": dialog}


def opened(page: Page, open_page: Callable[[Page], None]) -> Opened:
    """How long a page takes."""
    took = []
    for _ in range(1 + N_AGAIN):
        started = time.monotonic()
        open_page(page)
        took.append(time.monotonic() - started)
    return Opened(took[0], statistics.median(took[1:]))


def look(address: str, shots: Path | None, n_quarters: int) -> list[Opened]:
    """All pages in one browser."""
    found = []
    with browsing(address, TIMEOUT_S) as page:
        for name, open_page in PAGES.items():
            found.append(opened(page, open_page))
            if shots is not None:
                page.wait_for_timeout(2000)
                page.screenshot(path=shots / f"{name}-{n_quarters}.png")
    return found


def parser() -> argparse.ArgumentParser:
    """What may be said on the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--firms", type=int, default=3000)
    parser.add_argument("--quarters", type=int, nargs="+", default=[5, 20, 33, 52], help="windows to try")
    parser.add_argument("--screenshots", type=Path, help="a folder for a picture of each page")
    return parser


def main() -> None:
    """Measure and print the table."""
    chosen = parser().parse_args()
    expect.set_options(timeout=1000 * TIMEOUT_S)
    windows = sorted(chosen.quarters)
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder) / "home", chosen.firms, windows[-1])
        try:
            rows = {}
            for n in windows:
                with home.showing(n) as address:
                    rows[n] = look(address, chosen.screenshots, n)
        finally:
            home.ftm("down")
    table = Table(
        title=f"{chosen.firms:,} firms, {home.n_events:,} events of {home.event_bytes / 2**30:.1f} GB, seconds"
    )
    for heading in ("quarters", "partitions", *(f"{name} {when}" for name in PAGES for when in ("first", "again"))):
        table.add_column(heading, justify="right")
    for n, found in rows.items():
        table.add_row(str(n), f"{n * chosen.firms:,}", *_figures(found))
    small, large = rows[windows[0]], rows[windows[-1]]
    ratios = [Opened(b.first_s / a.first_s, b.again_s / a.again_s) for a, b in zip(small, large, strict=True)]
    table.add_row("ratio", "", *(f"{figure}x" for figure in _figures(ratios)))
    Console(width=max(Console().width, 120)).print(table)


def _figures(found: Sequence[Opened]) -> list[str]:
    return [f"{seconds:.1f}" for each in found for seconds in (each.first_s, each.again_s)]


if __name__ == "__main__":
    main()
