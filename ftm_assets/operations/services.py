"""The processes behind the UI: webserver, daemon and GPU worker, started, kept alive and stopped together."""

import fcntl
import logging
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn, TextIO

from dagster_postgres.utils import DagsterPostgresException
from sqlalchemy.exc import SQLAlchemyError

from ftm_assets.errors import FtmError
from ftm_assets.processes.backoff import RestartBackoff

if TYPE_CHECKING:
    import dagster as dg

START_TIMEOUT_S = 120
STOP_TIMEOUT_S = 20
LOCK_TIMEOUT_S = 1
POLL_S = 0.3
TEND_S = 2.0
LOG_LINES = 15
# A run's own process needs some 20 s to begin; one that has not after this is looked at.
STUCK_S = 180.0

# Every process that we start, and every one that it starts, carries its home under this name.
MARK = "FTM_SERVICES_OF"
log = logging.getLogger("ftm.services")
# The webserver is on this machine: a proxy would look for it elsewhere.
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class ServiceFailed(FtmError):
    """A process of the UI did not start or did not stay."""

    def __init__(self, name: str, log: Path, happened: str) -> None:
        super().__init__("\n".join([f"{name} {happened}; its log is {log}", *_last_lines(log, LOG_LINES)]))


class AlreadyUp(FtmError):
    """The services of this home are running."""

    def __init__(self, home: Path, pid: int | None) -> None:
        super().__init__(f"already up in {home} (process {pid}); stop it with Ctrl-C there, or with: ftm down")


class StoppedEarly(FtmError):
    """Somebody stopped the services before they were all there."""

    def __init__(self) -> None:
        super().__init__("stopped before the webserver answered; start again with: ftm up")


class CannotListen(FtmError):
    """The UI's address is taken, or is none of this machine's."""

    def __init__(self, host: str, port: int, reason: str) -> None:
        super().__init__(f"cannot listen on {host}:{port} ({reason}); choose another with: ftm up --port PORT")


@dataclass
class Service:
    """One of the processes; `start_at` is when it is started again, None while it runs."""

    process: subprocess.Popen[bytes]
    pauses: RestartBackoff = field(default_factory=RestartBackoff)
    start_at: float | None = None


@dataclass(frozen=True)
class Running:
    """Services that have been started, and the signals that asked for their end so far."""

    services: dict[str, Service]
    asked_to_stop: list[int]


@dataclass(frozen=True)
class Services:
    """Webserver, daemon and worker of one home; `environment` may hold a password and goes to them alone.

    worker:    False on a machine without the GPU, where only UI and daemon are wanted
    grace_s:   how long the worker lets runs go on once it is told to stop
    webserver: False where it is a service of its own
    """

    home: Path
    environment: dict[str, str] = field(repr=False)
    host: str
    port: int
    worker: bool = True
    grace_s: float = 0.0
    webserver: bool = field(default=True, kw_only=True)

    @property
    def address(self) -> str:
        """Where the UI is."""
        return f"http://{self.host}:{self.port}"

    def commands(self) -> dict[str, list[str]]:
        """Name and command line of each process; a program without a folder is the one beside our Python."""
        wanted = {"webserver": self.webserver, "daemon": True, "worker": self.worker}
        commands = {
            "webserver": webserver_command(self.environment, self.host, self.port),
            "daemon": ["dagster-daemon", "run", "--log-level", "warning", "-w", _workspace(self.environment)],
            "worker": ["ftm", "worker"],
        }
        return {name: command for name, command in commands.items() if wanted[name]}

    @contextmanager
    def running(self, instance: "dg.DagsterInstance | None" = None) -> Iterator[Running]:
        """All processes, the webserver answering; they are stopped at the end of the block, and so are leftovers of
        a killed predecessor before its begin. SIGINT, SIGTERM and SIGHUP end it in order, also while it starts.

        instance: Dagster's, whose runs the killed predecessor left behind are ended too
        raises:   AlreadyUp, CannotListen, ServiceFailed, StoppedEarly
        """
        # In this order: `stop_services` may send its signal as soon as the lock is taken.
        with _noting_signals() as asked_to_stop, _alone(self.home):
            _end_leftovers(self.home)
            if self.webserver:
                _check_address(self.host, self.port)
            if instance is not None:
                end_abandoned_runs(instance)
            running = Running({}, asked_to_stop)
            try:
                for name, command in self.commands().items():
                    self._log(name).unlink(missing_ok=True)
                    running.services[name] = Service(self._start(name, command))
                if self.webserver:
                    self._wait_for_webserver(running)
                yield running
            finally:
                self._stop(running)
                if instance is not None:
                    with suppress(SQLAlchemyError, DagsterPostgresException):
                        instance.wipe_daemon_heartbeats()  # Else it seems to live for a minute more.
                _end_leftovers(self.home)  # Code servers of a webserver or daemon that was started again.

    def watch(self, running: Running, tend: Callable[[], None] = lambda: None) -> None:
        """Start again what ends, until somebody asks to stop.

        Who ends again and again is started again after ever longer pauses, and takes none of the others along.

        tend: called every TEND_S, for what else is to be kept alive; when it cannot be, that is said, once
        """
        tend_at, said = 0.0, ""
        while not running.asked_to_stop:
            for name, service in running.services.items():
                self._keep_up(name, service)
            if time.monotonic() >= tend_at:
                try:
                    tend()
                    said = ""
                except (FtmError, SQLAlchemyError, DagsterPostgresException) as error:
                    if str(error) != said:
                        log.warning("%s", error)
                    said = str(error)
                tend_at = time.monotonic() + TEND_S
            time.sleep(POLL_S)

    def _keep_up(self, name: str, service: Service) -> None:
        if service.process.poll() is None:
            return
        now = time.monotonic()
        if service.start_at is None:
            pause_s = service.pauses.ended()
            service.start_at = now + pause_s
            log.warning(
                "%s ended with code %s and is started again%s; its log is %s%s",
                name,
                service.process.returncode,
                f" in {pause_s:.0f} s" if pause_s else "",
                self._log(name),
                "".join(f"\n    {line}" for line in _last_lines(self._log(name), 1)),
            )
        if now >= service.start_at:
            service.process = self._start(name, self.commands()[name])
            service.pauses.started()
            service.start_at = None

    def _start(self, name: str, command: list[str]) -> subprocess.Popen[bytes]:
        file = self._log(name)
        file.parent.mkdir(parents=True, exist_ok=True)
        program = _program(command[0])
        with file.open("ab") as stream:
            # A group of its own: Ctrl-C reaches us, and we stop it in order, code servers included.
            return subprocess.Popen(
                [program, *command[1:]],
                stdout=stream,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self.environment, MARK: str(self.home.resolve())},
                start_new_session=True,
            )

    def _wait_for_webserver(self, running: Running) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not running.asked_to_stop:
            self._check(running)
            with suppress(urllib.error.URLError, ConnectionError, TimeoutError):
                _direct.open(f"{self.address}/server_info", timeout=2).close()
                self._check(running)
                return
            if time.monotonic() > deadline:
                raise ServiceFailed("webserver", self._log("webserver"), f"did not answer within {START_TIMEOUT_S} s")
            time.sleep(POLL_S)
        raise StoppedEarly

    def _check(self, running: Running) -> None:
        for name, service in running.services.items():
            if service.process.poll() is not None:
                raise ServiceFailed(name, self._log(name), f"ended with code {service.process.returncode}")

    def _stop(self, running: Running) -> None:
        # The worker first: it lets runs end, and until then they are in the UI and can be canceled there.
        for together, timeout_s in ((["worker"], self.grace_s), (["webserver", "daemon"], 0.0)):
            stopping = [running.services[name].process for name in together if name in running.services]
            for process in stopping:
                _signal_group(process, signal.SIGTERM)
            n_asked, deadline = len(running.asked_to_stop), time.monotonic() + timeout_s + STOP_TIMEOUT_S
            while any(process.poll() is None for process in stopping) and time.monotonic() < deadline:
                if len(running.asked_to_stop) > n_asked:
                    n_asked = len(running.asked_to_stop)
                    for process in stopping:
                        _signal_group(process, signal.SIGTERM)  # Said twice, the worker hands its runs back.
                time.sleep(POLL_S / 10)
            for process in stopping:
                _signal_group(process, signal.SIGKILL)
                process.wait()

    def _log(self, name: str) -> Path:
        return self.home / "logs" / f"{name}.log"


def webserver_command(environment: Mapping[str, str], host: str, port: int) -> list[str]:
    """The command line of Dagster's webserver; its program is the one beside our Python."""
    return ["dagster-webserver", "-h", host, "-p", str(port), "-w", _workspace(environment)]


def become_webserver(environment: Mapping[str, str], host: str, port: int) -> NoReturn:
    """Be Dagster's webserver from here on, in this process; whoever started us keeps it up."""
    command = webserver_command(environment, host, port)
    os.execve(_program(command[0]), command, {**os.environ, **environment})  # noqa: S606  (the program is Dagster's own)


def _workspace(environment: Mapping[str, str]) -> str:
    return str(Path(environment["DAGSTER_HOME"]) / "workspace.yaml")


def _program(name: str) -> str:
    return str(Path(sys.executable).parent / name)


def stop_services(home: Path, grace_s: float) -> bool:
    """Stop the services that another process keeps up or, killed, has left behind; returns False if there were none.

    grace_s: how long the worker lets runs go on
    raises:  FtmError
    """
    pid = _holder(home)
    if pid is not None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + grace_s + 5 * STOP_TIMEOUT_S
        while _holder(home) == pid:
            if time.monotonic() > deadline:
                raise FtmError(f"process {pid}, which keeps the services up, does not stop; end it with: kill -9 {pid}")
            time.sleep(POLL_S)
    if not processes_of(home):
        return pid is not None
    with _alone(home):
        _end_leftovers(home)
    return True


def processes_of(home: Path) -> list[int]:
    """The living processes that carry the mark of this home, whoever started them; none where there is no /proc."""
    mark = os.fsencode(f"{MARK}={home.resolve()}")
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # It has ended, or is somebody else's.
            if mark in (process / "environ").read_bytes().split(b"\0"):
                found.append(int(process.name))
    return found


def end_abandoned_runs(instance: "dg.DagsterInstance") -> None:
    """End runs whose processes are gone, which else would count as running for ever and keep others waiting.

    To be called while no daemon is up: then all runs that have begun in a process of their own are such.
    """
    from dagster import DagsterRunStatus, RunsFilter

    begun = [DagsterRunStatus.STARTING, DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING]
    for run in _with_processes(instance, RunsFilter(statuses=begun)):
        if run.status is DagsterRunStatus.CANCELING:
            # Dagster might run a failed one again.
            instance.report_run_canceled(run, "The process that executed this run was killed.")
        else:
            instance.report_run_failed(
                run, "The process that executed this run was killed; start it again unless Dagster does."
            )


def end_stuck_runs(instance: "dg.DagsterInstance") -> None:
    """Fail runs whose own process never began, because the code server that should have started it has gone.

    Dagster watches over runs only once they have begun.
    """
    from dagster import DagsterRunStatus, RunsFilter
    from dagster._core.launcher import WorkerStatus
    from dagster._core.storage.tags import GRPC_INFO_TAG

    long_ago = datetime.now(UTC) - timedelta(seconds=STUCK_S)
    for run in _with_processes(instance, RunsFilter(statuses=[DagsterRunStatus.STARTING], updated_before=long_ago)):
        health = instance.run_launcher.check_run_worker_health(run)
        if GRPC_INFO_TAG not in run.tags or health.status is not WorkerStatus.RUNNING:
            instance.report_run_failed(run, "The run's process never began: who should have started it has gone.")


def _with_processes(instance: "dg.DagsterInstance", wanted: "dg.RunsFilter") -> "list[dg.DagsterRun]":
    """Of the wanted runs those that a code server of ours started: none of commands, of the worker, of a cluster."""
    from ftm_assets.launcher.single_gpu import SingleGpuRunLauncher, is_of_command

    launcher = instance.run_launcher
    if not isinstance(launcher, SingleGpuRunLauncher):
        return []  # Its runs outlive us, or die as it says.
    return [run for run in instance.get_runs(wanted) if not is_of_command(run) and not launcher.needs_worker(run)]


def _check_address(host: str, port: int) -> None:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            # Like the webserver itself: connections of the one before it, still in TIME_WAIT, do not count.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise CannotListen(host, port, error.strerror or str(error)) from error


def _signal_group(process: subprocess.Popen[bytes], number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _last_lines(log: Path, n: int) -> list[str]:
    return log.read_text(errors="replace").splitlines()[-n:] if log.exists() else []


def _end_leftovers(home: Path) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in processes_of(home):
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while processes_of(home) and time.monotonic() < deadline:
            time.sleep(POLL_S)


@contextmanager
def _noting_signals() -> Iterator[list[int]]:
    """The signals that ask to stop, as they come. They interrupt nothing, so that whoever is told can end in order."""
    came: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        came.append(number)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    # Whoever says nohup means it.
    before = {n: signal.signal(n, note) for n in numbers if signal.getsignal(n) is not signal.SIG_IGN}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _alone(home: Path) -> Iterator[None]:
    """The sole right to start and end the services of a home. raises: AlreadyUp"""
    home.mkdir(parents=True, exist_ok=True)
    with (home / "up.lock").open("a+") as lock:
        deadline = time.monotonic() + LOCK_TIMEOUT_S
        # Others take it for a moment, to see whether it is free.
        while not _locked(lock, fcntl.LOCK_EX):
            if time.monotonic() > deadline:
                raise AlreadyUp(home, _noted(home))
            time.sleep(POLL_S / 10)
        lock.truncate(0)
        lock.write(f"{os.getpid()} {_born(os.getpid())}")
        lock.flush()
        yield


def _holder(home: Path) -> int | None:
    """The process that keeps the services up: whoever holds the lock, not whoever once wrote its number.

    raises: FtmError if the lock is held by nobody who says so
    """
    try:
        lock = (home / "up.lock").open("r")
    except FileNotFoundError:
        return None
    with lock:
        deadline = time.monotonic() + LOCK_TIMEOUT_S
        while not _locked(lock, fcntl.LOCK_SH):
            pid = _noted(home)
            if pid is not None:
                return pid
            if time.monotonic() > deadline:
                raise FtmError(f"{home / 'up.lock'} is held by an unknown process; find it with: fuser {lock.name}")
            time.sleep(POLL_S / 10)
    return None


def _locked(lock: TextIO, how: int) -> bool:
    try:
        fcntl.flock(lock, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _noted(home: Path) -> int | None:
    """The living process that has written its number; None if it has not yet, or is the one before, who was killed."""
    pid, _, born = (home / "up.lock").read_text().partition(" ")
    return int(pid) if pid and _born(int(pid)) == born else None


def _born(pid: int) -> str:
    """What tells a process from a later one with its number: when it started; empty if that cannot be told."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""
