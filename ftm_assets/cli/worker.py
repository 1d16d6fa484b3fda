"""The `ftm worker` command: be the GPU worker, or say what it does."""

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

app = typer.Typer(invoke_without_command=True, help="Be the GPU worker: execute runs, one model for all of them.")

_GIB = 1 << 30
_N_ERRORS = 5


@app.callback()
def worker(context: typer.Context) -> None:
    """Be the GPU worker: load the model once and execute the runs that Dagster launches, until SIGTERM or Ctrl-C.

    The first of these lets runs end that were begun (FTM_GRACE), the second hands them back at once.
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
    """A lane as people want to see it."""

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
    """What each lane does, what waits and how long, the model, texts per second, and the last errors."""
    from ftm_assets.operations.backfill.by_daemon import differences

    settings = read_settings()
    queue = RunQueue(Database(settings).dagster_url())
    holder, (said, lanes) = queue.holder(), queue.said()
    if form is Format.table:
        _show_waiting(queue.waiting())
    if holder is None or said is None:
        if form is Format.table:
            _show_errors(queue.errors())
        raise FtmError("no GPU worker is running; start it with: ftm worker (ftm up does, too)")
    now = datetime.now(UTC)
    if form is Format.table:
        _show_worker(said, holder, now)
        _show_errors(queue.errors())
        for difference in differences(said, settings):
            console.print(difference, markup=False)
    columns = headings("lane pid state run for_s n_runs busy_share memory_mb")
    show([_status(lane, said.started_at, now) for lane in lanes], columns, form)


def _show_waiting(waiting: Waiting) -> None:
    console.print(f"waiting: {waiting.n_runs} runs, {waiting.n_interactive} of them clicked", markup=False)
    if waiting.n_runs:
        console.print(f"the oldest waits for {waiting.oldest_s:.0f} s")


def _show_worker(said: WorkerReport, holder: str, now: datetime) -> None:
    up_s, silent_s = ((now - at).total_seconds() for at in (said.started_at, said.said_at))
    console.print(f"worker: {holder}, {said.phase}; up for {up_s:.0f} s, said this {silent_s:.0f} s ago", markup=False)
    device = said.settings["FTM_DEVICE"]
    console.print(f"model: {said.encoder or 'not loaded'} on {device}, loaded {said.n_loads} times", markup=False)
    rate = said.n_texts / said.encoding_s if said.encoding_s else 0.0
    console.print(f"texts: {said.n_texts:,} encoded, {rate:,.0f} a second; GPU memory: {said.gpu_bytes / _GIB:.1f} GiB")
    if said.model is not None:
        _show_model(said.settings["FTM_LLM_MODEL"], said.model)


def _show_model(name: str, told: Mapping[str, Any]) -> None:
    n_unpriced = told.get("n_unpriced", 0)  # A worker of the version before does not count them.
    unpriced = f", {n_unpriced:,} of them at an unknown price" if n_unpriced else ""
    console.print(
        f"language model: {name}, {told['state']}; {told['n_under_way']} questions under way, {told['n_replies']:,} "
        f"replies{unpriced} to {told['n_requests']:,} requests, {told['n_reused']:,} reused, "
        f"{told['n_unanswered']:,} unanswered; tokens: {told['tokens_in']:,} in, {told['tokens_out']:,} out; "
        f"${money(told['dollars'])}",
        markup=False,
        soft_wrap=True,
    )


def _show_errors(found: list[Error]) -> None:
    if found:
        console.print("last errors, UTC:")
    for error in found[:_N_ERRORS]:
        times = f" ({error.n_times} times)" if error.n_times > 1 else ""
        console.print(f"  {error.at.astimezone(UTC):%Y-%m-%d %H:%M:%S}{times} {error.said}", markup=False)


def _status(lane: LaneReport, started_at: datetime, now: datetime) -> LaneStatus:
    for_s = (now - lane.since).total_seconds()
    busy_s = lane.busy_s + (for_s if lane.run_id else 0.0)
    return LaneStatus(
        lane.number,
        lane.pid,
        "busy" if lane.run_id else "idle" if lane.pid else "starting",
        lane.run_id or "",
        for_s,
        lane.n_runs,
        busy_s / max(1.0, (now - started_at).total_seconds()),
        lane.memory_bytes >> 20,
    )
