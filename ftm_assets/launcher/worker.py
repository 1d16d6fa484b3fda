"""The GPU worker: takes runs from the queue, gives them to lanes, and keeps lanes and encoder running.

    queue in Postgres --> Worker -+-- encoder process: owns the device, loads the model once
                                  +-- client process of the language model, if there is one: limits, breaker, pool
                                  +-- warm parent
                                        +-- forks lane 1 ... lane n, one run at a time each

The worker itself loads no model and executes no run, so that no error in one can stop it (Decision 41). What it has to
write about a run is kept until the database has taken it.
"""

import hashlib
import logging
import os
import signal
import socket
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import wait
from pathlib import Path
from tempfile import TemporaryDirectory

import sqlalchemy as sa
from dagster import DagsterInstance, DagsterRunStatus, RunsFilter
from dagster._core.storage.tags import MAX_RETRIES_TAG
from dagster_postgres.utils import DagsterPostgresException

import ftm_assets
from ftm_assets.host import cores_and_memory
from ftm_assets.launcher import queue as q
from ftm_assets.launcher.encoder_supervisor import EncoderProcess
from ftm_assets.launcher.event_log_pruning import prune
from ftm_assets.launcher.lane_pool import Lanes, RunReturned, fitting_lanes
from ftm_assets.launcher.leader_lock import AlreadyHeld
from ftm_assets.launcher.metrics import Report, serving
from ftm_assets.launcher.single_gpu import SingleGpuRunLauncher
from ftm_assets.llm.client_supervisor import ModelProcess
from ftm_assets.llm.prices import read_prices
from ftm_assets.llm.shared_client import socket_of
from ftm_assets.processes.supervised_process import SpawnedProcess
from ftm_assets.settings import MODEL_KEYS, Settings
from ftm_assets.text_safety import storable

# Decision 44.
MAX_ATTEMPTS = 3
# Decision 43: the launcher sets a flag, the worker interrupts the lane.
CANCEL_TIMEOUT_S = 20.0
_TICK_S = 0.1
_HOUSEKEEPING_S = 1.0
_DATABASE_RETRY_S = 1.0
_DATABASE_AWAY = (sa.exc.OperationalError, sa.exc.InterfaceError, DagsterPostgresException)
_N_ERRORS = 20
_ERROR_LENGTH = 500
_RELAUNCH_S = 10.0
_PRUNE_S = 3600.0
# The module that lanes are forked with, under the name that it had before.
_OLD_PRELOAD = "ftm_assets.warm"
_PRELOAD = "ftm_assets.preload"

log = logging.getLogger("ftm.worker")


# Decision 41.
class Worker:
    """One worker from its lock to its end. Not to be used twice. raises: AlreadyHeld if there is one already"""

    def __init__(self, queue: q.RunQueue, instance: DagsterInstance, settings: Settings, folder: Path) -> None:
        self.queue = queue
        self.instance = instance
        self.settings = settings
        self.owner = f"process {os.getpid()} on {socket.gethostname()}"
        self.lock = queue.lock(self.owner)
        self.started_at = datetime.now(UTC)
        self.encoder = EncoderProcess(str(folder / "encoder"), settings.encoder, settings.device, settings.precision)
        # In the home, processes other than lanes find the language model's client, too.
        self.model = ModelProcess(socket_of(settings.home) or str(folder / "model")) if settings.llm_model else None
        self.supervised: list[SpawnedProcess] = [self.encoder]
        if self.model is not None:
            self.supervised.append(self.model)
        self.lanes = self._start_lanes(folder)
        self.returned: deque[RunReturned] = deque()
        self.errors: deque[tuple[str, datetime]] = deque(maxlen=_N_ERRORS)
        self.error_at: datetime | None = None
        self.stop_at: float | None = None
        self.code = self._fingerprint()
        self.is_outdated = False
        self.report: Report | None = None
        self.relaunch_at = 0.0
        self.prune_at = 0.0

    def _start_lanes(self, folder: Path) -> Lanes:
        settings = self.settings
        variables = {"FTM_ENCODER_ADDRESS": self.encoder.address}
        if self.model is not None:
            # A lane asks the client process, so it needs no key.
            variables |= {"FTM_LLM_ADDRESS": self.model.address, **dict.fromkeys(MODEL_KEYS, "")}
        n_cores, memory_bytes = cores_and_memory()
        n_lanes, lane_bytes = fitting_lanes(
            settings.lanes, settings.lane_memory, n_cores, memory_bytes, waits=self.model is not None
        )
        return Lanes(folder, n_lanes, preload_module(settings.preload), settings.lane_runs, lane_bytes, variables)

    def run(self) -> None:
        """Work until asked to stop, or until the code has changed; runs in lanes may end."""
        taken_over = self.queue.give_back()
        if taken_over:
            log.info("%s runs of a worker before this one go on", len(taken_over))
        database_at, housekeeping_at = 0.0, 0.0
        while not self._is_finished():
            self._collect()
            now = time.monotonic()
            if now < database_at:
                continue
            try:
                if now >= housekeeping_at or self.lock.is_in_doubt():
                    self._keep_lock()
                self._settle()
                self._dispatch()
                if now >= housekeeping_at:
                    self._keep_house()
                    housekeeping_at = now + _HOUSEKEEPING_S
            except _DATABASE_AWAY as error:
                self._log_error(f"database: {_first_line(error)}")
                database_at = now + _DATABASE_RETRY_S

    def _collect(self) -> None:
        """Wait a moment for lanes and supervised processes, and take what they return."""
        waitables = self.lanes.waitables()
        for process in self.supervised:
            waitables += process.waitables()
        wait(waitables, timeout=_TICK_S)
        self.returned.extend(self.lanes.collect())
        for process in self.supervised:
            for error in process.collect():
                self._log_error(error)
        while self.lanes.errors:
            self._log_error(self.lanes.errors.popleft())

    def stop(self) -> None:
        """Begin no run; end when those in lanes have ended, or after the grace time. Asked twice: end at once."""
        self.stop_at = time.monotonic() + (self.settings.grace if self.stop_at is None else 0.0)

    @property
    def is_stopping(self) -> bool:
        """Whether no further run is begun."""
        return self.stop_at is not None or self.is_outdated

    def _is_finished(self) -> bool:
        if self.stop_at is not None and time.monotonic() >= self.stop_at:
            return True
        return self.is_stopping and not self.returned and all(lane.launch is None for lane in self.lanes.lanes)

    def _settle(self) -> None:
        """Write what became of returned runs; one that has not ended goes on in another lane."""
        while self.returned:
            returned = self.returned[0]
            if returned.reason and not self._has_ended(returned):
                self.queue.give_back([returned.launch.run_id], counts=not self.is_stopping)
            else:
                self.queue.remove([returned.launch.run_id])
            self.returned.popleft()

    def _has_ended(self, returned: RunReturned) -> bool:
        """Whether a returned run is at its end; if it is not, its log gets what comes next."""
        run = self.instance.get_run_by_id(returned.launch.run_id)
        if run is None or run.is_finished:
            return True
        if run.status is DagsterRunStatus.CANCELING:
            self.instance.report_run_canceled(run, returned.reason)
            return True
        self._log_error(f"run {run.run_id}: {returned.reason}")
        if returned.launch.attempts >= MAX_ATTEMPTS and not self.is_stopping:
            # A retry would end the same way. Decision 44.
            self.instance.add_run_tags(run.run_id, {MAX_RETRIES_TAG: "0"})
            self.instance.report_run_failed(run, f"{returned.reason} This was attempt {MAX_ATTEMPTS}, the last.")
            return True
        self.instance.report_engine_event(f"{returned.reason} The run goes on in another lane.", run, cls=type(self))
        return False

    def _dispatch(self) -> None:
        for lane in self.lanes.lanes:
            if lane.is_idle and not self.is_stopping:
                launch = self.queue.take(lane.number)
                if launch is None:
                    return
                holding = self.lanes.of_run(launch.run_id)
                if holding is not None:
                    self.queue.hold(launch.run_id, holding.number)
                elif launch.attempts > MAX_ATTEMPTS:
                    # A run that crashes the whole worker again and again must end, too.
                    self.returned.append(RunReturned(launch, "Its worker ended."))
                else:
                    self.lanes.give(lane, launch)

    def _keep_house(self) -> None:
        if time.monotonic() >= self.relaunch_at:
            self._launch_again()
        for run_id in self.queue.to_cancel():
            self._interrupt(run_id)
        self.lanes.measure()
        if not self.is_outdated and self._fingerprint() != self.code:
            log.info("the code has changed: the worker starts over once the runs in lanes have ended")
            self.is_outdated = True
        if self.settings.event_days and time.monotonic() >= self.prune_at:
            self.prune_at = time.monotonic() + _PRUNE_S
            threading.Thread(target=self._prune, daemon=True).start()
        while self.errors:
            message, at = self.errors[0]
            self.queue.log_error(message, at)
            self.errors.popleft()
        self.report = self._status()
        self.queue.report_status(self.report.worker, self.report.lanes)

    def _keep_lock(self) -> None:
        if self.lock.keep():
            # The server was restarted. Meanwhile others saw no worker, and may have freed the runs in lanes.
            for lane in self.lanes.lanes:
                if lane.launch is not None:
                    self.queue.hold(lane.launch.run_id, lane.number)

    def _launch_again(self) -> None:
        launcher, long_ago = self.instance.run_launcher, datetime.now(UTC) - timedelta(seconds=_RELAUNCH_S)
        if isinstance(launcher, SingleGpuRunLauncher):
            starting = RunsFilter(statuses=[DagsterRunStatus.STARTING], updated_before=long_ago)
            launcher.launch_again(self.instance.get_runs(starting))
        self.relaunch_at = time.monotonic() + _RELAUNCH_S

    def _interrupt(self, run_id: str) -> None:
        lane = self.lanes.of_run(run_id)
        if lane is None:
            return
        if lane.interrupted_at is not None and time.monotonic() - lane.interrupted_at > CANCEL_TIMEOUT_S:
            self.lanes.kill(lane, f"It did not end within {CANCEL_TIMEOUT_S:.0f} s, so its lane was killed.")
        else:
            self.lanes.interrupt(lane)

    def _log_error(self, error: str) -> None:
        log.warning(error)
        self.error_at = datetime.now(UTC)
        message = storable(error)[:_ERROR_LENGTH]
        if self.errors and self.errors[-1][0] == message:
            self.errors.pop()
        self.errors.append((message, self.error_at))

    def _status(self) -> Report:
        now, monotonic = datetime.now(UTC), time.monotonic()
        encoder, progress = self.encoder.loaded, self.encoder.progress
        worker = q.WorkerReport(
            owner=self.owner,
            phase="stopping" if self.is_stopping else "working",
            started_at=self.started_at,
            reported_at=now,
            settings=self.settings.of_worker(),
            encoder=f"{encoder.name}@{encoder.revision}" if encoder else None,
            n_loads=self.encoder.n_loads,
            n_texts=progress.n_texts,
            encoding_s=progress.encoding_s,
            gpu_bytes=progress.gpu_bytes,
            error_at=self.error_at,
            model=self._model_report(),
        )
        lanes = [
            q.LaneReport(
                number=lane.number,
                pid=lane.pid if lane.connection is not None else 0,
                run_id=lane.launch.run_id if lane.launch else None,
                since=now - timedelta(seconds=monotonic - lane.since),
                n_runs=lane.n_runs,
                busy_s=lane.busy_s,
                memory_bytes=lane.memory_bytes,
            )
            for lane in self.lanes.lanes
        ]
        return Report(worker, lanes, self.queue.waiting())

    def _model_report(self) -> dict[str, str | int | float] | None:
        """The model's progress as JSON; None without a model."""
        return asdict(self.model.progress) if self.model else None

    def _prune(self) -> None:
        try:
            n_deleted = prune(self.queue.url, self.settings.event_days)
        except sa.exc.DBAPIError as error:  # An hour later it is tried again.
            log.warning("the event log was not pruned: %s", error)
        else:
            log.info("%s old events deleted", n_deleted)

    def _fingerprint(self) -> str:
        """Changes with the code of the package, with `dagster.yaml` and with the lists of prices."""
        digest = hashlib.sha256()
        package = Path(ftm_assets.__file__).parent
        code = sorted(file for kind in ("*.py", "*.toml") for file in package.rglob(kind))
        prices = [self.settings.llm_prices] if self.settings.llm_prices else []
        for file in [*code, *prices, Path(os.environ["DAGSTER_HOME"]) / "dagster.yaml"]:
            with suppress(FileNotFoundError):  # A file that is just being replaced.
                status = file.stat()
                digest.update(f"{file} {status.st_mtime_ns} {status.st_size}".encode())
        return digest.hexdigest()

    def close(self) -> None:
        """End all processes, hand back the runs that are still in lanes, and let another worker come."""
        self.lanes.close()
        for process in self.supervised:
            process.close()
        for lane in self.lanes.lanes:
            if lane.launch is not None:
                self.returned.append(RunReturned(lane.launch, "The worker stopped before the run had ended."))
        try:
            self._keep_lock()
            self._settle()
            self.lock.release()
        except (AlreadyHeld, *_DATABASE_AWAY) as error:
            log.warning("the next worker takes over the runs that were in lanes: %s", error)


def preload_module(name: str) -> str:
    """The module that lanes are forked with; the name that it had before is still understood."""
    if name != _OLD_PRELOAD:
        return name
    log.warning("FTM_PRELOAD=%s is now called %s; change or unset it", _OLD_PRELOAD, _PRELOAD)
    return _PRELOAD


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def work(queue: q.RunQueue, instance: DagsterInstance, settings: Settings) -> bool:
    """Run as the worker until SIGTERM or SIGINT; returns whether to start over, because the code has changed.

    SIGTERM is the notice that a spot machine goes.
    raises: AlreadyHeld, PortTaken, BadPrices
    """
    read_prices(settings.llm_prices)  # An error here is better than a process that crashes over it.
    with TemporaryDirectory(prefix="ftm-worker-") as folder:
        worker = Worker(queue, instance, settings, Path(folder))
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: worker.stop())
        try:
            with serving(settings.metrics_port, lambda: worker.report):
                worker.run()
        finally:
            worker.close()
    return worker.is_outdated and worker.stop_at is None
