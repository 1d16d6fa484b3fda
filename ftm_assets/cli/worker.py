"""The `ftm worker` command: run the GPU worker, or show what it does."""

import logging
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import typer

from ftm_assets.cli.display import Format, FormatOption, console, headings, money, show
from ftm_assets.errors import FtmError
from ftm_assets.launcher.queue import Error, LaneReport, RunQueue, Waiting, WorkerReport
from ftm_assets.settings import read_settings
from ftm_assets.storage.server.database import Database

app = typer.Typer(invoke_without_command=True, help="Run the GPU worker: one model for all runs, loaded once.")

_GIB = 1 << 30
_N_ERRORS = 5


@app.callback()
def worker(context: typer.Context) -> None:
    """Run the GPU worker: load the model once and execute the runs that Dagster launches, until SIGTERM or Ctrl-C.

    The first signal lets running jobs finish (up to FTM_GRACE seconds). The second stops at once; unfinished runs
    return to the queue.
    """
    if context.invoked_subcommand is not None:
        return
    from ftm_assets.launcher.worker import work
    from ftm_assets.operations.instance import dagster_instance

    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("ftm").setLevel(logging.INFO)
    database = Database(read_settings())
    with dagster_instance(database) as instance:
        queue = RunQueue(database.dagster_url())
        start_over = work(queue, instance, database.settings)
    if start_over:
        os.execv(sys.executable, [sys.executable, *sys.argv])  # noqa: S606 the same command again


@dataclass(frozen=True)
class LaneStatus:
    """A lane as `ftm worker status` shows it."""

    lane: int
    pid: int
    state: str
    run: str
    for_s: float
    n_runs: int
    busy_share: float
    memory_mb: int


@app.command()
def status(form: FormatOption = Format.table) -> None:
    """Show what each lane does, what waits and how long, the model, texts per second, and the last errors."""
    from ftm_assets.operations.backfill.by_daemon import differences

    settings = read_settings()
    queue = RunQueue(Database(settings).dagster_url())
    owner = queue.owner()
    report, lanes = queue.last_status()
    if form is Format.table:
        _show_waiting(queue.waiting())
    if owner is None or report is None:
        if form is Format.table:
            _show_errors(queue.errors())
        raise FtmError("no GPU worker is running; start it with: ftm worker (ftm up does, too)")
    now = datetime.now(UTC)
    if form is Format.table:
        _show_worker(report, owner, now)
        _show_errors(queue.errors())
        for difference in differences(report, settings):
            console.print(difference, markup=False)
    columns = headings(LaneStatus, "lane", "pid", "state", "run", "for_s", "n_runs", "busy_share", "memory_mb")
    show([_lane_status(lane, report.started_at, now) for lane in lanes], columns, form)


def _show_waiting(waiting: Waiting) -> None:
    console.print(f"waiting: {waiting.n_runs} runs, {waiting.n_interactive} of them interactive", markup=False)
    if waiting.n_runs:
        console.print(f"the oldest has waited for {waiting.oldest_s:.0f} s")


def _show_worker(report: WorkerReport, owner: str, now: datetime) -> None:
    up_s = (now - report.started_at).total_seconds()
    age_s = (now - report.reported_at).total_seconds()
    console.print(f"worker: {owner}, {report.phase}; up for {up_s:.0f} s, reported {age_s:.0f} s ago", markup=False)
    device = report.settings["FTM_DEVICE"]
    console.print(f"model: {report.encoder or 'not loaded'} on {device}, loaded {report.n_loads} times", markup=False)
    rate = report.n_texts / report.encoding_s if report.encoding_s else 0.0
    gpu_gib = report.gpu_bytes / _GIB
    console.print(f"texts: {report.n_texts:,} encoded, {rate:,.0f} a second; GPU memory: {gpu_gib:.1f} GiB")
    if report.model is not None:
        _show_model(report.settings["FTM_LLM_MODEL"], report.model)


def _show_model(name: str, progress: Mapping[str, Any]) -> None:
    n_unpriced = progress.get("n_unpriced", 0)  # A worker of the version before does not count them.
    unpriced = f", {n_unpriced:,} of them at an unknown price" if n_unpriced else ""
    console.print(
        f"language model: {name}, {progress['state']}; {progress['n_under_way']} questions under way, "
        f"{progress['n_replies']:,} replies{unpriced} to {progress['n_requests']:,} requests, "
        f"{progress['n_reused']:,} reused, {progress['n_unanswered']:,} unanswered; "
        f"tokens: {progress['tokens_in']:,} in, {progress['tokens_out']:,} out; ${money(progress['dollars'])}",
        markup=False,
        soft_wrap=True,
    )


def _show_errors(found: list[Error]) -> None:
    if found:
        console.print("last errors, UTC:")
    for error in found[:_N_ERRORS]:
        times = f" ({error.n_times} times)" if error.n_times > 1 else ""
        console.print(f"  {error.at.astimezone(UTC):%Y-%m-%d %H:%M:%S}{times} {error.message}", markup=False)


def _lane_status(lane: LaneReport, started_at: datetime, now: datetime) -> LaneStatus:
    for_s = (now - lane.since).total_seconds()
    busy_s = lane.busy_s + (for_s if lane.run_id else 0.0)
    state = "idle" if lane.pid else "starting"
    if lane.run_id:
        state = "busy"
    return LaneStatus(
        lane=lane.number,
        pid=lane.pid,
        state=state,
        run=lane.run_id or "",
        for_s=for_s,
        n_runs=lane.n_runs,
        busy_share=busy_s / max(1.0, (now - started_at).total_seconds()),
        memory_mb=lane.memory_bytes >> 20,
    )
