"""What a firm's run costs beside its work: the GPU worker against a process for each run.

    python -m bench.launcher [--firms 300] [--processes 6] [--sentences 40]

Real daemon, webserver and Postgres, the packaged encoder, one backfill each. The firms are made up and small, so that
what is measured is mostly Dagster and starting up. The few runs of DefaultRunLauncher stand for as many as the others.
"""

import argparse
import csv
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import psycopg
from dagster_shared.yaml_utils import safe_load_yaml
from rich.console import Console
from rich.table import Table

from ftm_assets.services import processes_of

ROOT = Path(__file__).parents[1]
FTM = str(Path(sys.executable).parent / "ftm")
ALIVE = "SELECT 1 FROM daemon_heartbeats WHERE daemon_type = 'BACKFILL'"
LANES = "SELECT 1 FROM ftm_launcher.lanes WHERE pid > 0"
RUNS = """
    SELECT count(*), min(start_time), max(end_time), sum(end_time - start_time) FROM runs JOIN run_tags USING (run_id)
    WHERE run_tags.key = 'dagster/backfill' AND status = 'SUCCESS'
"""
WORKER = "SELECT n_loads, (SELECT count(*) FROM ftm_launcher.lanes) FROM ftm_launcher.workers"
QUARTER = "2024Q1"
SUBJECTS = {
    "freight": "containers shipping rates vessels ports fuel lanes carriers",
    "wages": "overtime hiring turnover nurses drivers unions pay benefits",
    "rent": "leases offices floors landlords square feet vacancies tenants",
    "chips": "wafers foundry lead times inventory substrates controllers yield",
}
HEADER = (
    "companyid companyname transcriptid mostimportantdateutc componentorder transcriptcomponenttypename "
    "speakertypename componenttext"
).split()


@dataclass(frozen=True)
class Cost:
    """What the runs of one way to launch took.

    elapsed_s: from the first start to the last end
    first_s:   from `ftm backfill` to the first start: the backfill daemon looks every 30 s
    cpu_s:     of webserver, daemon, code servers, worker, run processes and Postgres, in that time and first_s
    n_loads:   of the model
    idle:      share of the lanes' time without a run, between first start and last end
    """

    way: str
    n_runs: int
    first_s: float
    elapsed_s: float
    cpu_s: float
    n_loads: int
    idle: float | None


def write_calls(path: Path, n_firms: int, n_sentences: int) -> None:
    """A CSV of made-up calls, one a firm, each sentence about one of four subjects; the same every time."""
    draw = random.Random(1)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(HEADER)
        for firm in range(1, n_firms + 1):
            for order in range(n_sentences):
                name, words = draw.choice(list(SUBJECTS.items()))
                said = " ".join(draw.sample(words.split(), 4))
                text = f"The {name} of our {said} rose by {draw.randint(2, 40)} percent in the period."
                call = (firm, f"Firm {firm}", firm, "2024-02-01", order, "Presenter Speech", "Executives", text)
                writer.writerow(call)


def instance_folder(folder: Path, *, with_worker: bool) -> Path:
    """A folder with the project's `dagster.yaml`, or the same without our launcher, and `workspace.yaml`."""
    settings = safe_load_yaml((ROOT / "dagster.yaml").read_text())
    if not with_worker:
        del settings["run_launcher"], settings["run_coordinator"]
        settings["run_monitoring"]["max_resume_run_attempts"] = 0
        settings["concurrency"]["runs"]["max_concurrent_runs"] = os.cpu_count()
    folder.mkdir()
    (folder / "dagster.yaml").write_text(json.dumps(settings))  # JSON is YAML.
    (folder / "workspace.yaml").write_text((ROOT / "workspace.yaml").read_text())
    return folder


def cpu_seconds(pids: list[int]) -> float:
    """Of living processes and of all their children that have ended."""
    ticks = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        ticks += sum(int(field) for field in fields[11:15])
    return ticks / os.sysconf("SC_CLK_TCK")


def postgres_processes(home: Path) -> list[int]:
    """The postmaster of the home and its children."""
    postmaster = int((home / "postgres" / "data" / "postmaster.pid").read_text().split()[0])
    return [postmaster, *map(int, Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split())]


def wait_for(what: str, condition: Callable[[], object], timeout_s: float) -> None:
    """Return when the condition holds. raises: TimeoutError"""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"no {what} within {timeout_s:.0f} s")
        time.sleep(0.5)


def measure(folder: Path, n_firms: int, n_sentences: int, *, with_worker: bool) -> Cost:
    """Load calls of so many firms into a home of its own, backfill them through a real daemon, and count."""
    home = folder / ("worker" if with_worker else "processes")
    settings = {
        "FTM_HOME": str(home),
        "DAGSTER_HOME": str(instance_folder(home.with_suffix(".dagster"), with_worker=with_worker)),
        "FTM_METRICS_PORT": "0",
    }
    calls = home.with_suffix(".csv")
    write_calls(calls, n_firms, n_sentences)
    ftm(settings, "ingest", str(calls))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = ["up", "--port", str(port), *([] if with_worker else ["--no-worker"])]
    up = subprocess.Popen([FTM, *arguments], env={**os.environ, **settings}, stdout=subprocess.DEVNULL)
    try:
        url = ftm(settings, "db").strip()
        with psycopg.connect(url.rpartition("/")[0] + "/dagster", autocommit=True) as dagster:
            wait_for("daemon", lambda: dagster.execute(ALIVE).fetchone(), 120)
            if with_worker:
                wait_for("lane", lambda: dagster.execute(LANES).fetchone(), 120)
            cpu_s = cpu_seconds([*processes_of(home), *postgres_processes(home)])
            asked_at = time.time()
            ftm(settings, "backfill", QUARTER, "--themes")
            cpu_s = cpu_seconds([*processes_of(home), *postgres_processes(home)]) - cpu_s
            n_runs, first, last, busy_s = dagster.execute(RUNS).fetchone() or (0, 0.0, 0.0, 0.0)
            n_loads, idle = n_runs, None
            if with_worker:
                n_loads, n_lanes = dagster.execute(WORKER).fetchone() or (0, 1)
                idle = 1 - busy_s / (n_lanes * (last - first))
        return Cost(
            "GPU worker" if with_worker else "DefaultRunLauncher",
            n_runs,
            first - asked_at,
            last - first,
            cpu_s,
            n_loads,
            idle,
        )
    finally:
        up.send_signal(signal.SIGINT)
        up.wait()
        ftm(settings, "down")


def ftm(settings: Mapping[str, str], *arguments: str) -> str:
    """Output of a command. raises: CalledProcessError"""
    command = [FTM, *arguments]
    return subprocess.run(command, env={**os.environ, **settings}, check=True, stdout=subprocess.PIPE, text=True).stdout


def main() -> None:
    """Measure both ways and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--firms", type=int, default=300, help="runs through the worker")
    parser.add_argument("--processes", type=int, default=8, help="runs with a process each")
    parser.add_argument("--sentences", type=int, default=40, help="sentences a firm")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        costs = [
            measure(Path(folder), chosen.processes, chosen.sentences, with_worker=False),
            measure(Path(folder), chosen.firms, chosen.sentences, with_worker=True),
        ]
    table = Table(title=f"{chosen.sentences} sentences a firm, {os.cpu_count()} cores")
    for heading in (
        "",
        "runs",
        "first start s",
        "s a run",
        "CPU s a run",
        "model loads",
        "lanes idle",
        "3,000 runs, min",
    ):
        table.add_column(heading, justify="right" if heading else "left")
    for cost in costs:
        per_run = cost.elapsed_s / cost.n_runs
        table.add_row(
            cost.way,
            str(cost.n_runs),
            f"{cost.first_s:.1f}",
            f"{per_run:.2f}",
            f"{cost.cpu_s / cost.n_runs:.2f}",
            str(cost.n_loads),
            "" if cost.idle is None else f"{cost.idle:.0%}",
            f"{per_run * 50:.0f}",
        )
    ratios = [
        costs[0].elapsed_s / costs[0].n_runs * costs[1].n_runs / costs[1].elapsed_s,
        costs[0].cpu_s / costs[0].n_runs * costs[1].n_runs / costs[1].cpu_s,
    ]
    table.add_row("ratio", "", "", *(f"{ratio:.1f}x" for ratio in ratios))
    Console().print(table)
    if chosen.json:
        chosen.json.write_text(json.dumps([asdict(cost) for cost in costs], indent=2))


if __name__ == "__main__":
    main()
