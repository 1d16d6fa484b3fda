"""What a firm's run costs beside its work: the GPU worker against a process for each run.

    python -m benchmarks launcher [--firms 300] [--processes 8] [--sentences 40] [--json FILE]
    python -m benchmarks launcher --light [--firms 3000]
    python -m benchmarks launcher --words [--firms 100 3000] [--sentences 450]
    python -m benchmarks launcher --latency 8 --lanes 4 20 --firms 80 [--sentences 60]

Real daemon, webserver and Postgres, one backfill and some clicks each, on firms that are made up and small. The few
runs of DefaultRunLauncher stand for as many as the others. The work is what the same firms take in one warm process
without Dagster and Postgres; what a run costs above it is the overhead. `--light` leaves the work out: its encoder and
topic model take no time, so that thousands of runs show how fast Dagster makes, launches and ends them; then there is
nothing to compare, and DefaultRunLauncher is left out. `--latency` is light, too, and asks a simulated language model
that takes so many seconds for a reply, with each number of lanes: how many requests a minute are that? `--words` leaves
only the encoder out, in whose place the mean of random vectors of words stands: everything else is done, for each
number of firms in a database of its own, so that the cost of a firm can be compared between few and many.
"""

import argparse
import csv
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import psycopg
from dagster_shared.yaml_utils import safe_load_yaml
from rich.console import Console
from rich.table import Table

from benchmarks.language import counts, served
from devtools.fake_openai.behaviour import MODEL, Behaviour
from devtools.processes import answers, ask, free_port, read_proc, wait_for
from ftm_assets.analysis.sentences import Sentences, SentenceSettings, split_turns
from ftm_assets.analysis.topic_summaries import evidence_of, keyword_summary
from ftm_assets.analysis.topics import TopicSettings, fit_topics
from ftm_assets.encoder import open_encoder
from ftm_assets.operations.services import processes_of
from ftm_assets.settings import Settings, with_database
from ftm_assets.storage.server.database import Database
from ftm_assets.storage.stages import STAGES
from ftm_assets.storage.stages.base import find_firm_quarter
from ftm_assets.storage.stages.transcripts import read_turns

ROOT = Path(__file__).parents[1]
FTM = str(Path(sys.executable).parent / "ftm")
QUARTER = "2024Q1"
QUARTERS = f"{QUARTER}:{QUARTER}"
N_CLICKS = 7
SENTENCES_A_TURN = 10
Work = Literal["all", "words", "none"]
LOOK_S = 0.2  # Rarely, because whoever looks takes time of what is measured.
N_DONE = "SELECT count(*) FROM runs JOIN run_tags USING (run_id) WHERE key = 'dagster/backfill' AND status = 'SUCCESS'"
ALIVE = "SELECT 1 FROM daemon_heartbeats WHERE daemon_type = 'BACKFILL'"
READY_LANES = "SELECT 1 FROM ftm_launcher.lanes WHERE pid > 0"
BEGUN = "SELECT 1 FROM runs WHERE start_time IS NOT NULL AND status IN ('STARTED', 'SUCCESS')"
RUNS = """
    SELECT count(*) AS n, min(start_time) AS first, max(end_time) AS last, sum(end_time - start_time) AS busy_s,
           extract(epoch FROM min(create_timestamp)) AS made_first,
           extract(epoch FROM max(create_timestamp)) AS made_last
    FROM runs JOIN run_tags USING (run_id) WHERE run_tags.key = 'dagster/backfill' AND status = 'SUCCESS'
"""
WORKER = "SELECT n_loads, (SELECT count(*) FROM ftm_launcher.lanes) FROM ftm_launcher.workers"
EVENTS = """
    SELECT count(*), pg_total_relation_size('event_logs') FROM event_logs
    WHERE run_id IN (SELECT run_id FROM run_tags WHERE key = 'dagster/backfill')
"""
BACKFILL = """
    mutation($p: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $p) { __typename
    ... on PythonError { message } } }
"""
CLICK = """
    mutation($p: ExecutionParams!) { launchRun(executionParams: $p) { __typename
    ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }
"""
# A word of the command line; a run's own process is a child of a code server.
PARTS = {
    "dagster-daemon": "daemon",
    "dagster-webserver": "webserver",
    "api grpc": "code servers",
    "ftm worker": "worker",
    "ftm up": "ftm up",
}
SUBJECTS = {
    "freight": "containers shipping rates vessels ports fuel lanes carriers",
    "wages": "overtime hiring turnover nurses drivers unions pay benefits",
    "rent": "leases offices floors landlords square feet vacancies tenants",
    "chips": "wafers foundry lead times inventory substrates controllers yield",
}
HEADER = (
    "companyid",
    "companyname",
    "transcriptid",
    "mostimportantdateutc",
    "componentorder",
    "transcriptcomponenttypename",
    "speakertypename",
    "componenttext",
)


@dataclass(frozen=True)
class Cost:
    """What the runs of one way to launch took.

    first_s:   from `ftm backfill` to the first start: the backfill daemon looks every 30 s
    made_s:    from the first run that Dagster made to the last
    elapsed_s: from the first start to the last end
    cpu_s:     in that time, by part
    n_loads:   of the model
    idle:      share of the lanes' time without a run, in that time
    click_s:   from a click on one firm to its end, each of some clicks
    n_events:  rows of the event log, with their bytes
    peak_bytes: by part, the most memory of one of its processes that live at the end, what it shares included
    ingest_s:  that it took to load the calls before
    """

    way: str
    n_runs: int
    first_s: float
    made_s: float
    elapsed_s: float
    cpu_s: dict[str, float]
    n_loads: int
    idle: float | None
    click_s: list[float]
    n_events: int
    event_bytes: int
    peak_bytes: dict[str, int]
    ingest_s: float

    @property
    def per_run_s(self) -> float:
        """Seconds from one end to the next."""
        return self.elapsed_s / self.n_runs

    @property
    def cpu_per_run_s(self) -> float:
        """CPU seconds a run, all parts together."""
        return sum(self.cpu_s.values()) / self.n_runs


class Home:
    """The calls of a file in a home of their own, and `ftm up` over it."""

    def __init__(
        self,
        path: Path,
        calls: Path,
        *,
        with_worker: bool = True,
        work: Work = "all",
        quarters: str = QUARTERS,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.path = path
        self.with_worker = with_worker
        self.location = "benchmarks.light_graph" if work == "none" else "ftm_assets.definitions"
        self.settings = {
            "FTM_HOME": str(path),
            "DAGSTER_HOME": str(self._instance_folder()),
            "FTM_METRICS_PORT": "0",
            "FTM_QUARTERS": quarters,
            **(settings or {}),
        }
        if work == "none":
            self.settings |= {
                "FTM_ENCODER": "benchmarks.light_encoder:LightEncoder",
                "FTM_PRELOAD": "benchmarks.light_graph",
            }
        if work == "words":
            self.settings["FTM_ENCODER"] = "benchmarks.light_encoder:WordEncoder"
        if work != "all":
            self.settings |= {"PYTHONPATH": str(ROOT)}
        started = time.monotonic()
        self.ftm("ingest", str(calls))
        self.ingest_s = time.monotonic() - started
        self.url = self.ftm("db").strip()
        self.port = free_port()

    def _instance_folder(self) -> Path:
        """A folder with the project's `dagster.yaml`, or the same without our launcher, and a `workspace.yaml`."""
        folder = self.path.with_suffix(".dagster")
        settings = safe_load_yaml((ROOT / "dagster.yaml").read_text())
        if not self.with_worker:
            del settings["run_launcher"], settings["run_coordinator"]
            settings["run_monitoring"]["max_resume_run_attempts"] = 0
            settings["concurrency"]["runs"] = {"max_concurrent_runs": os.cpu_count()}
        workspace = {"load_from": [{"python_module": {"module_name": self.location, "location_name": "bench"}}]}
        folder.mkdir()
        (folder / "dagster.yaml").write_text(json.dumps(settings))  # JSON is YAML.
        (folder / "workspace.yaml").write_text(json.dumps(workspace))
        return folder

    def ftm(self, *arguments: str) -> str:
        """Output of a command. raises: CalledProcessError"""
        command = [FTM, *arguments]
        environment = {**os.environ, **self.settings}
        return subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout

    @contextmanager
    def up(self) -> Iterator["psycopg.Connection[Any]"]:
        """Daemon, webserver and, if there is to be one, a worker with lanes; Dagster's database."""
        arguments = ["up", "--port", str(self.port), *([] if self.with_worker else ["--no-worker"])]
        up = subprocess.Popen([FTM, *arguments], env={**os.environ, **self.settings}, stdout=subprocess.DEVNULL)
        try:
            with psycopg.connect(with_database(self.url, "dagster"), autocommit=True) as dagster:
                wait_for(lambda: dagster.execute(ALIVE).fetchone(), 120, "daemon", LOOK_S)
                wait_for(lambda: answers(self.port), 120, "webserver", LOOK_S)
                if self.with_worker:
                    wait_for(lambda: dagster.execute(READY_LANES).fetchone(), 120, "lane", LOOK_S)
                yield dagster
        finally:
            up.send_signal(signal.SIGTERM)  # The other one is ignored by what runs in the background.
            up.wait()
            self.ftm("down")

    def backfill(self, n_firms: int) -> None:
        """Materialize all firms as the dialog of their job does."""
        parameters = {
            "assetSelection": [{"path": [stage.name]} for stage in STAGES],
            "partitionNames": [f"{firm_key(number)}|{QUARTER}" for number in range(1, n_firms + 1)],
        }
        launched = ask(self.port, BACKFILL, p=parameters)["launchPartitionBackfill"]
        assert launched["__typename"] == "LaunchBackfillSuccess", launched

    def click(self, dagster: "psycopg.Connection[Any]", number: int) -> float:
        """Materialize a firm as the dialog of its job does; seconds until Dagster says that it is done."""
        firm = firm_key(number)
        tags = {
            "dagster/partition": f"{firm}|{QUARTER}",
            "dagster/partition/firm": firm,
            "dagster/partition/quarter": QUARTER,
        }
        selector = {"repositoryLocationName": "bench", "repositoryName": "__repository__", "jobName": "firm_quarter"}
        parameters = {
            "selector": selector,
            "executionMetadata": {"tags": [{"key": key, "value": value} for key, value in tags.items()]},
            "runConfigData": "{}",
        }
        started = time.monotonic()
        run_id = ask(self.port, CLICK, p=parameters)["launchRun"]["run"]["runId"]
        done = "SELECT 1 FROM runs WHERE run_id = %s AND status = 'SUCCESS'"
        wait_for(lambda: dagster.execute(done, [run_id]).fetchone(), 120, "end of a click", look_every_s=0.02)
        return time.monotonic() - started


def write_calls(path: Path, n_firms: int, n_sentences: int, day: str = "2024-02-01", sentences_a_turn: int = 1) -> None:
    """A CSV of made-up calls, one a firm, each sentence about one of four subjects; the same every time."""
    draw = random.Random(1)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(HEADER)
        for firm in range(1, n_firms + 1):
            sentences = [_made_up(draw) for _ in range(n_sentences)]
            for order, start in enumerate(range(0, n_sentences, sentences_a_turn)):
                text = " ".join(sentences[start : start + sentences_a_turn])
                call = (firm, f"Firm {firm}", firm, day, order, "Presenter Speech", "Executives", text)
                writer.writerow(call)


def _made_up(draw: random.Random) -> str:
    name, words = draw.choice(list(SUBJECTS.items()))
    said = " ".join(draw.sample(words.split(), 4))
    return f"The {name} of our {said} rose by {draw.randint(2, 40)} percent in the period."


def firm_key(number: int) -> str:
    """The partition key of a made-up firm."""
    return f"FIRM-{number}-{number}"


def cpu_seconds(home: Path) -> dict[str, float]:
    """By part, of the home's living processes and of all their children that have ended."""
    parts: defaultdict[str, float] = defaultdict(float)
    for pid in processes_of(home):
        parts[part_of(pid)] += _cpu_seconds(pid)
    parts["Postgres"] = postgres_cpu_seconds(home)
    return parts


def postgres_cpu_seconds(home: Path) -> float:
    """Of the home's server and of all its processes, ended ones included."""
    postmaster = int((home / "postgres" / "data" / "postmaster.pid").read_text().split()[0])
    servers = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
    return sum(map(_cpu_seconds, [postmaster, *map(int, servers)]))


def part_of(pid: int) -> str:
    """What a process of the home is for."""
    with suppress(OSError):
        line = Path(f"/proc/{pid}/cmdline").read_bytes().decode().replace("\0", " ")
        if b"FTM_ENCODER_ADDRESS=" in Path(f"/proc/{pid}/environ").read_bytes():
            return "lanes"
        if "spawn_main" in line:
            parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]
            return "encoder" if b"worker" in Path(f"/proc/{parent}/cmdline").read_bytes() else "run processes"
        return next((part for sign, part in PARTS.items() if sign in line), "other")
    return "other"


def peak_bytes(home: Path) -> dict[str, int]:
    """By part, the most memory that one of its living processes has held, shared pages included."""
    peaks: defaultdict[str, int] = defaultdict(int)
    for pid in processes_of(home):
        lines = read_proc(pid, "status").decode().splitlines()
        held = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)
        part = part_of(pid)
        peaks[part] = max(peaks[part], held)
    return dict(peaks)


def _cpu_seconds(pid: int) -> float:
    with suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return sum(int(field) for field in fields[11:15]) / os.sysconf("SC_CLK_TCK")
    return 0.0


def measure(home: Home, n_firms: int) -> Cost:
    """Backfill all firms of a home through its daemon, click on some, and count."""
    with home.up() as dagster:
        asked_at = time.time()
        home.backfill(n_firms)
        wait_for(lambda: dagster.execute(BEGUN).fetchone(), 180, "first run", LOOK_S)
        before = cpu_seconds(home.path)
        wait_for(lambda: dagster.execute(N_DONE).fetchone() == (n_firms,), 7200, "last run", LOOK_S)
        cpu_s = {part: total - before.get(part, 0.0) for part, total in cpu_seconds(home.path).items()}
        with dagster.cursor(row_factory=psycopg.rows.dict_row) as cursor:
            runs = cursor.execute(RUNS).fetchone()
        assert runs is not None
        n_events, event_bytes = dagster.execute(EVENTS).fetchone() or (0, 0)
        n_loads, idle = n_firms, None
        if home.with_worker:
            n_loads, n_lanes = dagster.execute(WORKER).fetchone() or (0, 1)
            idle = 1 - runs["busy_s"] / (n_lanes * (runs["last"] - runs["first"]))
        n_clicks = N_CLICKS if home.with_worker else 2
        return Cost(
            way="GPU worker" if home.with_worker else "DefaultRunLauncher",
            n_runs=n_firms,
            first_s=runs["first"] - asked_at,
            made_s=float(runs["made_last"] - runs["made_first"]),
            elapsed_s=runs["last"] - runs["first"],
            cpu_s=cpu_s,
            n_loads=n_loads,
            idle=idle,
            click_s=[home.click(dagster, number) for number in range(1, n_clicks + 1)],
            n_events=n_events,
            event_bytes=event_bytes,
            peak_bytes=peak_bytes(home.path),
            ingest_s=home.ingest_s,
        )


@dataclass(frozen=True)
class Waited:
    """What lanes made of a language model that takes its time.

    lane_mb:       that a lane has for itself, on average, half-way
    n_connections: to Postgres, of all, half-way
    by_model:      topics that the model has put into words, and all topics
    """

    n_lanes: int
    elapsed_s: float
    counts: dict[str, Any]
    lane_mb: float
    n_connections: int
    by_model: tuple[int, int]


def wait_for_replies(folder: Path, n_lanes: int, n_firms: int, n_sentences: int, latency_s: float) -> Waited:
    """Backfill made-up firms whose summaries a simulated model writes, as slowly as real ones do."""
    with served(Behaviour(latency_s=latency_s)) as port:
        settings = {
            "FTM_LANES": str(n_lanes),
            "FTM_LLM_MODEL": MODEL,
            "FTM_LLM_BASE_URL": f"http://127.0.0.1:{port}/v1",
            "FTM_LLM_RPM": "0",
        }
        calls = folder / "calls.csv"
        write_calls(calls, n_firms, n_sentences)
        home = Home(folder / f"lanes{n_lanes}", calls, work="none", settings=settings)
        with home.up() as dagster:
            home.backfill(n_firms)
            wait_for(lambda: (dagster.execute(N_DONE).fetchone() or [0])[0] >= n_firms // 2, 3600, "half", LOOK_S)
            lanes = dagster.execute("SELECT pid FROM ftm_launcher.lanes WHERE pid > 0").fetchall()
            lane_mb = statistics.mean(private_mb(pid) for (pid,) in lanes)
            (n_connections,) = dagster.execute("SELECT count(*) FROM pg_stat_activity").fetchone() or (0,)
            wait_for(lambda: dagster.execute(N_DONE).fetchone() == (n_firms,), 3600, "last run", LOOK_S)
            runs = dagster.cursor(row_factory=psycopg.rows.dict_row).execute(RUNS).fetchone()
            assert runs is not None
            with psycopg.connect(home.url) as ftm:
                by_model = "SELECT count(*) FILTER (WHERE source = 'model'), count(*) FROM topic_summaries"
                written = ftm.execute(by_model).fetchone() or (0, 0)
            return Waited(n_lanes, runs["last"] - runs["first"], counts(port), lane_mb, n_connections, written)


def private_mb(pid: int) -> float:
    """Memory of a process that it shares with no other."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024


def table_of_waits(waits: Sequence[Waited], n_firms: int, latency_s: float) -> Table:
    """One row for each number of lanes."""
    table = Table(title=f"{n_firms} firms, {latency_s:g} s until a reply, {os.cpu_count()} cores")
    headings = ("lanes", "s", "s a firm", "requests", "a minute", "most at once", "most in a minute")
    for heading in (*headings, "MB of a lane", "connections", "topics by model"):
        table.add_column(heading, justify="right")
    for each in waits:
        n_requests = each.counts["n_requests"]
        table.add_row(
            str(each.n_lanes),
            f"{each.elapsed_s:.0f}",
            f"{each.elapsed_s / n_firms:.2f}",
            str(n_requests),
            f"{60 * n_requests / each.elapsed_s:.0f}",
            str(each.counts["most_at_once"]),
            str(each.counts["most_requests"]),
            f"{each.lane_mb:.0f}",
            str(each.n_connections),
            f"{each.by_model[0]} of {each.by_model[1]}",
        )
    return table


def work(home: Home, n_firms: int) -> tuple[float, float]:
    """Wall and CPU seconds of a firm's work in one warm process: split, encode, cluster, summarize; nothing else."""
    database = Database(Settings(home=home.path))
    with database.transaction() as connection:
        places = [find_firm_quarter(connection, QUARTER, firm_key(n)) for n in range(1, n_firms + 1)]
        firms = [read_turns(connection, place) for place in places]
    encoder = open_encoder("all-MiniLM-L6-v2", "auto")
    took: list[tuple[float, float]] = []
    for turns in (firms[0], *firms):  # The first one loads and compiles.
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        rows = split_turns(turns.company_id, turns.turns, SentenceSettings())
        vectors = encoder.encode([row.text for row in rows])
        sentences = Sentences.from_turns(turns, rows, vectors, (encoder.name, encoder.revision), SentenceSettings())
        topics = fit_topics(sentences, TopicSettings())
        encoder.encode([keyword_summary(topic).text for topic in evidence_of(topics, sentences)])
        took.append((time.perf_counter() - wall_s, time.process_time() - cpu_s))
    return statistics.median(wall for wall, _ in took[1:]), statistics.median(cpu for _, cpu in took[1:])


def table_of_costs(costs: Sequence[Cost], title: str) -> Table:
    """One row for each way."""
    table = Table(title=title)
    for heading in ("", "runs", "s a run", "CPU s a run", "model loads", "lanes idle", "click s", "3,000 runs, min"):
        table.add_column(heading, justify="right" if heading else "left")
    for cost in costs:
        table.add_row(
            cost.way,
            f"{cost.n_runs:,}",
            f"{cost.per_run_s:.2f}",
            f"{cost.cpu_per_run_s:.2f}",
            str(cost.n_loads),
            "" if cost.idle is None else f"{cost.idle:.0%}",
            f"{statistics.median(cost.click_s):.2f} (max {max(cost.click_s):.2f})",
            f"{cost.per_run_s * 50:.0f}" + ("" if cost.n_runs >= 3000 else " (extrapolated)"),
        )
    return table


def table_of_parts(cost: Cost) -> Table:
    """Where a run's CPU time goes, and how fast Dagster makes runs."""
    table = Table(title=f"{cost.way}, {cost.n_runs:,} runs, CPU ms a run")
    parts = sorted(cost.cpu_s.items(), key=lambda part: -part[1])
    for part, _ in parts:
        table.add_column(part, justify="right")
    table.add_row(*(f"{1000 * seconds / cost.n_runs:.0f}" for _, seconds in parts))
    return table


def _overhead(costs: Sequence[Cost], wall_s: float, cpu_s: float) -> str:
    """What runs cost above their work, compared. Lanes work side by side, so only CPU time can be told apart."""
    processes, worker = (cost.cpu_per_run_s - cpu_s for cost in costs)
    return (
        f"A firm's work takes {wall_s:.2f} s, {cpu_s:.2f} CPU s, in one warm process. Above that a run costs "
        f"{processes:.2f} CPU s with a process of its own and {worker:.2f} CPU s in a lane: "
        f"{processes / worker:.0f} times less. "
        f"From one end to the next: {costs[0].per_run_s / costs[1].per_run_s:.0f} times less, work included."
    )


def _pace(cost: Cost) -> str:
    """How fast Dagster makes runs, and what it writes about them."""
    return (
        f"Dagster made {cost.n_runs:,} runs in {cost.made_s:.0f} s; the first began {cost.first_s:.0f} s after it was "
        f"asked for. A run has {cost.n_events / cost.n_runs:.0f} events; "
        f"the event log with its indexes takes {cost.event_bytes / cost.n_runs / 1024:.0f} KB a run."
    )


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--firms", type=int, nargs="+", default=[300], help="runs through the worker")
    parser.add_argument("--processes", type=int, default=8, help="runs with a process each")
    parser.add_argument("--sentences", type=int, default=40, help="sentences a firm")
    work = parser.add_mutually_exclusive_group()
    work.add_argument("--light", action="store_true", help="no work, and the worker alone")
    work.add_argument("--words", action="store_true", help="all work but that of the encoder, and the worker alone")
    work.add_argument("--latency", type=float, help="seconds until a simulated language model replies")
    parser.add_argument("--lanes", type=int, nargs="+", default=[4, 20], help="with --latency: how many, one by one")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    return parser


def main() -> None:
    """Measure and print."""
    chosen = parser().parse_args()
    console = Console(width=max(Console().width, 120))
    if chosen.latency is not None:
        with tempfile.TemporaryDirectory() as folder:
            waits = [
                wait_for_replies(Path(folder), n_lanes, chosen.firms[-1], chosen.sentences, chosen.latency)
                for n_lanes in chosen.lanes
            ]
        console.print(table_of_waits(waits, chosen.firms[-1], chosen.latency))
        return
    costs, work_s = [], None
    what: Work = "none" if chosen.light else "words" if chosen.words else "all"
    with tempfile.TemporaryDirectory() as folder:
        calls = Path(folder) / "calls.csv"
        if what == "all":
            write_calls(calls, chosen.processes, chosen.sentences)
            processes = Home(Path(folder) / "processes", calls, with_worker=False)
            costs.append(measure(processes, chosen.processes))
            work_s = work(processes, chosen.processes)
            processes.ftm("down")
        for n_firms in chosen.firms:
            write_calls(calls, n_firms, chosen.sentences, sentences_a_turn=1 if what == "all" else SENTENCES_A_TURN)
            worker = Home(Path(folder) / f"worker{n_firms}", calls, work=what)
            costs.append(measure(worker, n_firms))
    console.print(table_of_costs(costs, f"{chosen.sentences} sentences a firm, {os.cpu_count()} cores"))
    for cost in costs:
        console.print(table_of_parts(cost))
        peaks = ", ".join(f"{part} {n / 1e6:,.0f}" for part, n in sorted(cost.peak_bytes.items()))
        console.print(f"Peak memory of a process, MB: {peaks}")
    console.print(_pace(costs[-1]))
    if work_s is not None:
        console.print(_overhead(costs, *work_s))
    if chosen.json:
        chosen.json.write_text(json.dumps([asdict(cost) for cost in costs], indent=2))
