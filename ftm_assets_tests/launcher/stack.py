"""A GPU box for tests: Postgres, webserver, daemon and worker of one home, each a process that may be killed."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg
import sqlalchemy as sa
from dagster._core.events import DagsterEvent, DagsterEventType
from dagster._core.launcher import LaunchRunContext

from devtools.processes import (
    answers,
    ask,
    children,
    digests,
    free_port,
    read_proc,
    wait_for,
    worker_child,
)
from ftm_assets.definitions import build_definitions
from ftm_assets.launcher.queue import Launch, RunQueue, WorkerReport
from ftm_assets.operations.backfill.plan import FIRM_ASSETS
from ftm_assets.operations.ingest import ingest_quarters
from ftm_assets.operations.instance import dagster_environment
from ftm_assets.operations.services import MARK, processes_of
from ftm_assets.partitions import firm_quarter_key, firm_quarters
from ftm_assets.settings import Settings, with_database
from ftm_assets.storage.server.database import Database
from ftm_assets_tests.conftest import ROOT
from ftm_assets_tests.fakes import HashEncoder
from ftm_assets_tests.six_firms import COLUMNS

MODULE = "ftm_assets_tests.launcher.fault_graph"
QUARTER, MANY = "2021Q4", "2022Q1"
N_FIRMS, N_MANY = 250, 200
SUBJECTS = (
    "Freight rates that {firm} pays for containers rose again in lane {i}.",
    "Wages of the crews at {firm} are higher than ever in plant {i}.",
    "Power prices and gas hurt the margin of {firm} at mill {i}.",
)
PER_SUBJECT = 8
N_SENTENCES = PER_SUBJECT * len(SUBJECTS)
FINISHED = {dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED}
UNFINISHED = [s for s in dg.DagsterRunStatus if s not in FINISHED]
# What a quarter holds, without when it was written.
ROWS = {
    **{
        table: f"SELECT * FROM {table} WHERE quarter = %s"
        for table in ("sentences", "topics", "topic_sentences", "topic_summaries")
    },
    "stages": "SELECT quarter, company_id, stage, content_hash, input_hash, provenance FROM materializations "
    "WHERE quarter = %s AND stage <> 'transcripts'",
}


class Box:
    """Processes are started by `start` and `work`; `kill` is SIGKILL, and only what a test starts again comes back."""

    def __init__(self, path: Path) -> None:
        self.home = path
        self.orders = path / "orders"
        self.orders.mkdir(parents=True)
        self.database = Database(Settings(home=path))
        self.environment = self._environment()
        os.environ.update(self.environment)
        self.instance = dg.DagsterInstance.get()
        self.queue = RunQueue(self.database.dagster_url())
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.options: dict[str, str] = {}
        self.port = free_port()
        defs = build_definitions(self.database, HashEncoder())
        self._ingest(defs)
        self._job = defs.resolve_job_def("firm_quarter")
        self._next_firm = 0

    def _environment(self) -> dict[str, str]:
        """A DAGSTER_HOME with our `dagster.yaml` and a workspace of the test's graph."""
        folder = self.home / "dagster home"
        folder.mkdir()
        shutil.copy(ROOT / "dagster.yaml", folder)
        (folder / "workspace.yaml").write_text(
            f"load_from: [{{python_module: {{module_name: {MODULE}, location_name: faults}}}}]"
        )
        os.environ["DAGSTER_HOME"] = str(folder)
        return {
            **dagster_environment(self.database),
            "PYTHONPATH": str(ROOT),
            "FTM_ENCODER": "ftm_assets_tests.launcher.fault_encoder:encoder",
            "FTM_PRELOAD": MODULE,
            "FTM_METRICS_PORT": "0",
            "FTM_LANES": "2",
            "TMPDIR": str(self.home),  # A killed worker leaves its sockets behind.
            MARK: str(self.home.resolve()),
        }

    def _ingest(self, defs: dg.Definitions) -> None:
        file = self.home / "calls.csv"
        with file.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(COLUMNS)
            for number in range(max(N_FIRMS, N_MANY)):
                for day, n_firms in (("2021-11-02", N_FIRMS), ("2022-02-02", N_MANY)):
                    if number < n_firms:
                        writer.writerows(_call(number, day))
        for _ in ingest_quarters(defs, self.instance, self.database, [QUARTER, MANY], {"source": str(file)}):
            pass

    # Processes

    def start(self, name: str) -> None:
        """Start the `webserver` or the `daemon`, if it does not run."""
        if name in self.processes and self.processes[name].poll() is None:
            return
        workspace = str(self.home / "dagster home" / "workspace.yaml")
        commands = {
            "webserver": ["dagster-webserver", "-h", "127.0.0.1", "-p", str(self.port), "-w", workspace],
            "daemon": ["dagster-daemon", "run", "-w", workspace],
        }
        self._start(name, commands[name])

    def postmaster_pid(self) -> int:
        return int((self.home / "postgres" / "data" / "postmaster.pid").read_text().split()[0])

    def work(self, **options: str) -> None:
        """Have a worker with exactly these FTM_... options, whose lanes are ready."""
        if not self.works() or options != self.options:
            self.rest()
            self.hire(**options)
        pid = self.processes["worker"].pid

        def ready() -> object:
            assert self.works(), f"the worker ended\n{self.log('worker')}"
            worker, lanes = self.queue.last_status()
            alive = set(self.lane_pids())
            return worker and f"process {pid} " in worker.owner and alive and {lane.pid for lane in lanes} == alive

        wait_for(ready, 60, "worker with lanes")

    def hire(self, **options: str) -> None:
        """Start a worker and do not wait for it."""
        self.options = options
        self._start("worker", ["ftm", "worker"], **options)

    def works(self) -> bool:
        return "worker" in self.processes and self.processes["worker"].poll() is None

    def rest(self) -> None:
        """No worker: the spot notice, then its end."""
        if self.works():
            self.signal(signal.SIGTERM)
            self.processes["worker"].wait(60)

    def break_lock(self) -> None:
        """End the connection that holds the worker's lock, as a restart of the server does."""
        end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s"
        with psycopg.connect(with_database(self.database.url(), "dagster"), autocommit=True) as connection:
            connection.execute(end, [self.queue.owner()])
        wait_for(lambda: self.queue.owner() is None, 5, "free lock")

    def signal(self, number: int) -> None:
        """Send a signal to the worker."""
        self.processes["worker"].send_signal(number)

    def kill(self, name: str) -> None:
        """SIGKILL; webserver, daemon or worker."""
        self.processes[name].kill()
        self.processes[name].wait()

    def _start(self, name: str, command: Sequence[str], **options: str) -> None:
        file = self.home / f"{name}.log"
        with file.open("ab") as stream:
            self.processes[name] = subprocess.Popen(
                [str(Path(sys.executable).parent / command[0]), *command[1:]],
                stdout=stream,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self.environment, **options},
                cwd=self.home,
                start_new_session=True,
            )

    def log(self, name: str) -> str:
        """The last lines of a process."""
        return "\n".join((self.home / f"{name}.log").read_text(errors="replace").splitlines()[-40:])

    @property
    def said(self) -> WorkerReport:
        """What the worker last said of itself."""
        worker, _ = self.queue.last_status()
        assert worker is not None
        return worker

    def lane_pid(self, run_id: str) -> int:
        """The process that a run is in."""
        pids = [lane.pid for lane in self.queue.last_status()[1] if lane.run_id == run_id]

        def found() -> bool:
            pids[:] = [lane.pid for lane in self.queue.last_status()[1] if lane.run_id == run_id]
            return bool(pids)

        wait_for(found, 20, "lane that says it has the run")
        return pids[0]

    def lane_pids(self) -> list[int]:
        """Processes of the lanes that are alive."""
        parent = self.parent_pid()
        return children(parent) if parent else []

    def parent_pid(self) -> int | None:
        """The lanes' warm parent; None while there is none."""
        return self._child("parent")

    def encoder_pid(self) -> int | None:
        """The encoder process; None while there is none."""
        return self._child("encoder")

    def _child(self, kind: str) -> int | None:
        return worker_child(self.processes["worker"].pid, kind) if self.works() else None

    def encoder_address(self) -> str:
        """The socket of the encoder process."""
        parent = self.parent_pid()
        assert parent is not None
        variables = dict(v.split(b"=", 1) for v in read_proc(parent, "environ").split(b"\0") if b"=" in v)
        return os.fsdecode(variables[b"FTM_ENCODER_ADDRESS"])

    def n_loads(self) -> int:
        """How often a model was loaded, by all workers."""
        file = self.orders / "loads"
        return len(file.read_text().split()) if file.exists() else 0

    # Orders

    def order(self, what: str, *firms: str, where: str = "lane") -> None:
        """Let lane or encoder do something once it comes to one of the firms."""
        for firm in firms:
            (self.orders / f"{firm}.{where}").write_text(what)

    def withdraw(self, *firms: str, where: str = "lane") -> None:
        for firm in firms:
            (self.orders / f"{firm}.{where}").unlink(missing_ok=True)

    def came(self, firm: str, where: str = "lane") -> list[int]:
        """Who came to the firm, in order."""
        file = self.orders / f"{firm}.{where}.came"
        return [int(pid) for pid in file.read_text().split()] if file.exists() else []

    def wait_until_came(self, *firms: str, where: str = "lane", n: int = 1, timeout_s: float = 60) -> None:
        wait_for(lambda: all(len(self.came(f, where)) >= n for f in firms), timeout_s, f"{where} at {firms}, {n} times")

    # Runs

    def firms(self, n: int) -> list[str]:
        """Firms of QUARTER that nothing has been done with."""
        self._next_firm += n
        assert self._next_firm <= N_FIRMS
        return [f"F{number:04}" for number in range(self._next_firm - n, self._next_firm)]

    def launch(self, firms: Iterable[str], quarter: str = QUARTER, **tags: str) -> list[str]:
        """Runs of firms as a click on each makes them; their ids, while they wait in the queue."""
        run_ids = self.create(firms, quarter, **tags)
        self.submit(run_ids)
        return run_ids

    def backfill(self, firms: Iterable[str]) -> str:
        """Start a backfill as the dialog of the UI does; its id."""
        answer = self.ask(
            "mutation($p: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $p) { __typename"
            " ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }",
            p={
                "assetSelection": [{"path": asset.path} for asset in FIRM_ASSETS],
                "partitionNames": [key(firm, QUARTER) for firm in firms],
            },
        )["launchPartitionBackfill"]
        return str(answer["backfillId"])

    def backfill_status(self, backfill_id: str) -> str:
        backfill = self.instance.get_backfill(backfill_id)
        assert backfill is not None
        return backfill.status.value

    def backfill_runs(self, backfill_id: str) -> list[dg.DagsterRun]:
        return list(self.instance.get_runs(dg.RunsFilter(tags={"dagster/backfill": backfill_id})))

    def create(self, firms: Iterable[str], quarter: str = QUARTER, **tags: str) -> list[str]:
        """Runs that nobody has submitted yet."""
        run_ids, like = [], self.run_of_the_ui
        for firm in firms:
            partition = firm_quarters.get_tags_for_partition_key(key(firm, quarter))
            run = self.instance.create_run_for_job(
                self._job,
                tags={**partition, **tags},
                remote_job_origin=like.remote_job_origin,
                job_code_origin=like.job_code_origin,
            )
            run_ids.append(run.run_id)
        return run_ids

    def submit(self, run_ids: Iterable[str]) -> None:
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda run_id: self.instance.submit_run(run_id, workspace=None), run_ids))  # type: ignore[arg-type]

    def launch_at_once(self, run_ids: Sequence[str]) -> float:
        """Let the launcher launch runs as the daemon does, from several threads; the seconds that it took."""
        starting = DagsterEvent(DagsterEventType.PIPELINE_STARTING.value, "firm_quarter")
        for run_id in run_ids:
            self.instance.report_dagster_event(starting, run_id)
        runs = self.instance.get_runs(dg.RunsFilter(run_ids=list(run_ids)))
        contexts = [LaunchRunContext(run, workspace=None) for run in runs]
        started = time.monotonic()
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(self.instance.run_launcher.launch_run, contexts))
        return time.monotonic() - started

    @cached_property
    def run_of_the_ui(self) -> dg.DagsterRun:
        """A run that was launched in the UI, and has ended; others are made like it."""
        partition = firm_quarters.get_tags_for_partition_key(key(self.firms(1)[0], QUARTER))
        run_id = self.click("firm_quarter", partition)
        self.work()
        assert self.end([run_id]) == ["SUCCESS"]
        run = self.instance.get_run_by_id(run_id)
        assert run is not None
        return run

    def click(self, job: str, tags: Mapping[str, str], config: Mapping[str, object] | None = None) -> str:
        """Launch a run of a job as the UI does; its id."""
        selector = {"repositoryLocationName": "faults", "repositoryName": "__repository__", "jobName": job}
        launched = self.ask(
            "mutation($p: ExecutionParams!) { launchRun(executionParams: $p) { __typename"
            " ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }",
            p={
                "selector": selector,
                "executionMetadata": {"tags": [{"key": name, "value": value} for name, value in tags.items()]},
                "runConfigData": json.dumps(config or {}),
            },
        )["launchRun"]
        assert launched["__typename"] == "LaunchRunSuccess", launched
        return str(launched["run"]["runId"])

    def terminate(self, run_id: str) -> None:
        """Press Terminate in the UI, which marks a run as canceled that is neither queued nor started."""
        asked = self.ask("query($r: ID!) { runOrError(runId: $r) { ... on Run { canTerminate } } }", r=run_id)
        policy = "SAFE_TERMINATE" if asked["runOrError"]["canTerminate"] else "MARK_AS_CANCELED_IMMEDIATELY"
        answer = self.ask(
            "mutation($r: String!, $p: TerminateRunPolicy) { terminateRun(runId: $r, terminatePolicy: $p)"
            " { __typename ... on TerminateRunFailure { message } } }",
            r=run_id,
            p=policy,
        )["terminateRun"]
        assert answer["__typename"] == "TerminateRunSuccess", answer

    def terminate_by_launcher(self, run_id: str) -> None:
        """What others than the UI call, who know no difference between runs."""
        assert self.instance.run_coordinator is not None
        assert self.instance.run_coordinator.cancel_run(run_id)

    def ask(self, query: str, **variables: object) -> Any:
        """The webserver's answer to a query of GraphQL."""
        return ask(self.port, query, **variables)

    def status(self, run_id: str) -> str:
        run = self.instance.get_run_by_id(run_id)
        assert run is not None
        return run.status.value

    def wait_for_status(self, run_id: str, status: str, timeout_s: float = 60) -> None:
        wait_for(lambda: self.status(run_id) == status, timeout_s, f"{status} of {run_id}")

    def wait_for_claim(self, run_id: str, timeout_s: float = 60) -> Launch:
        found: list[Launch] = []

        def claimed() -> bool:
            launch = self.queue.find(run_id)
            if launch is not None and launch.lane is not None:
                found.append(launch)
            return bool(found)

        wait_for(claimed, timeout_s, f"claim of {run_id}")
        return found[0]

    def end(self, run_ids: Sequence[str], timeout_s: float = 60) -> list[str]:
        """How runs ended, in their order, once all have. Fails if one hangs."""
        deadline = time.monotonic() + timeout_s
        while run_ids and (n := self.n_unfinished(run_ids)):
            logs = self.log("worker") + self.log("daemon")
            assert time.monotonic() < deadline, f"{n} of {len(run_ids)} runs hang after {timeout_s} s\n{logs}"
            time.sleep(0.1)
        return [self.status(run_id) for run_id in run_ids]

    def n_unfinished(self, run_ids: Sequence[str]) -> int:
        """How many runs have not ended."""
        return self.instance.get_runs_count(dg.RunsFilter(run_ids=list(run_ids), statuses=UNFINISHED))

    def events(self, run_id: str) -> str:
        """All that a run's page says, an event after the other."""
        return "\n".join(_told(entry) for entry in self.instance.all_logs(run_id))

    # What rests in the tables

    def rows(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.database.url()) as connection:
            return connection.execute(sql, values).fetchall()

    def hashes(self, quarter: str) -> dict[str, object]:
        return digests(self.database.url(), ROWS, quarter)

    def materialized(self, quarter: str) -> set[str]:
        """Firms all of whose assets Dagster calls materialized."""
        keys = set.intersection(*(self.instance.get_materialized_partitions(asset) for asset in FIRM_ASSETS))
        return {k.partition("-")[0] for k in keys if k.endswith(f"|{quarter}")}

    def forget(self, quarter: str) -> None:
        """Drop all rows of a quarter's stages, as if no firm had run."""
        with self.database.transaction() as connection:
            for table in ("topic_summaries", "topic_sentences", "topics", "sentences"):
                connection.execute(sa.text(f"DELETE FROM {table} WHERE quarter = :quarter"), {"quarter": quarter})
            loaded = "DELETE FROM materializations WHERE quarter = :quarter AND stage <> 'transcripts'"
            connection.execute(sa.text(loaded), {"quarter": quarter})

    def check(self) -> None:
        """What must hold at all times when nothing runs."""
        hanging = self.instance.get_runs(dg.RunsFilter(statuses=UNFINISHED))
        assert not hanging, f"hanging: {[(run.run_id, run.status.value) for run in hanging]}\n{self.log('worker')}"
        wait_for(self.queue_is_empty, 10, "empty queue")
        for quarter in (QUARTER, MANY):
            for asset in FIRM_ASSETS:
                told = self.instance.get_materialized_partitions(asset)
                rows = self.rows(
                    "SELECT partition_key FROM materializations JOIN firms USING (company_id)"
                    " WHERE quarter = %s AND stage = %s",
                    quarter, asset.to_user_string(),
                )  # fmt: skip
                there = {firm_quarter_key(firm_key, quarter) for (firm_key,) in rows}
                missing = {k for k in told if k.endswith(f"|{quarter}")} - there
                assert not missing, f"{asset.to_user_string()} materialized without rows: {sorted(missing)[:5]}"
        counts = {
            table: self.rows(
                f"SELECT DISTINCT n FROM (SELECT count(*) AS n FROM {table} GROUP BY quarter, company_id) AS c"
            )
            for table in ("sentences", "topic_sentences", "topics", "topic_summaries")
        }
        for table, n in {"sentences": N_SENTENCES, "topic_sentences": N_SENTENCES}.items():
            assert counts[table] in ([], [(n,)]), f"{table}: {counts[table]}"
        for table in ("topics", "topic_summaries"):
            assert counts[table] in ([], [(len(SUBJECTS),)]), f"{table}: {counts[table]}"

    def queue_is_empty(self) -> bool:
        with self.queue._session() as session:
            return not session.scalars(sa.select(Launch.run_id)).all()

    def give_up(self) -> None:
        """End whatever a test that failed has left, so that the next one fails for its own reasons only."""
        for run in self.instance.get_runs(dg.RunsFilter(statuses=UNFINISHED)):
            self.instance.report_run_failed(run, "left behind by a test")
        if self.works():
            self.kill("worker")

    def clean(self) -> None:
        """No orders, and nobody came to any firm."""
        for file in self.orders.iterdir():
            if file.name != "loads":
                file.unlink()

    def close(self) -> None:
        self.queue.dispose()
        self.instance.dispose()
        self.database.engine.dispose()
        for number in (signal.SIGTERM, signal.SIGKILL):
            for pid in processes_of(self.home):
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
            deadline = time.monotonic() + 15
            while processes_of(self.home) and time.monotonic() < deadline:
                for process in self.processes.values():
                    process.poll()
                time.sleep(0.1)
        assert self.database.embedded is not None
        self.database.embedded.stop()


def key(firm: str, quarter: str) -> str:
    """The partition key of a firm in a quarter."""
    return firm_quarter_key(f"{firm}-{int(firm[1:]) + 1}", quarter)


def _told(entry: dg.EventLogEntry) -> str:
    event = entry.dagster_event
    failure = event.step_failure_data.error if event is not None and event.is_step_failure else ""
    return f"{entry.user_message} {event.message if event is not None else ''} {failure}"


def _call(number: int, day: str) -> Iterator[tuple[object, ...]]:
    firm = f"F{number:04}"
    transcript_id = (number + 1) * 10 + (day > "2022")
    head = (number + 1, f"{firm} Corp", firm, transcript_id, f"{firm} Corp, Q3 2021 Earnings Call, {day}", day)
    texts = [subject.format(firm=firm, i=i) for subject in SUBJECTS for i in range(PER_SUBJECT)]
    return ((*head, order, "Presenter Speech", "Ann Lee", "Executives", text) for order, text in enumerate(texts))


@contextmanager
def running_box(path: Path) -> Iterator[Box]:
    """A box whose webserver answers and whose daemon runs; everything is stopped at the end of the block."""
    before = dict(os.environ)
    for name in [name for name in before if name.startswith(("FTM_", "DAGSTER_"))]:
        del os.environ[name]
    box = Box(path)
    os.environ.clear()
    os.environ.update(before)
    try:
        box.start("webserver")
        box.start("daemon")
        wait_for(lambda: answers(box.port), 60, "webserver")
        assert box.run_of_the_ui
        yield box
    finally:
        box.close()
