"""The processes behind the UI: webserver, daemon and GPU worker, started, kept running and stopped together."""

import logging
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from dagster_postgres.utils import DagsterPostgresException
from sqlalchemy.exc import SQLAlchemyError

from ftm_assets.errors import FtmError
from ftm_assets.launcher.recovery import end_abandoned_runs
from ftm_assets.processes.pid_lock import LockHeld, PidLock
from ftm_assets.processes.supervised_process import SupervisedProcess

if TYPE_CHECKING:
    import dagster as dg

START_TIMEOUT_S = 120
STOP_TIMEOUT_S = 20
LOCK_TIMEOUT_S = 1
POLL_S = 0.3
MAINTAIN_S = 2.0
LOG_LINES = 15

# Every process that we start, and every one that it starts, has its home in this environment variable.
MARK = "FTM_SERVICES_OF"
log = logging.getLogger("ftm.services")
# The webserver is on this machine: a proxy would look for it elsewhere.
_no_proxy = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class ServiceFailed(FtmError):
    """A process of the UI did not start or did not stay."""

    def __init__(self, name: str, log: Path, happened: str) -> None:
        super().__init__("\n".join([f"{name} {happened}; its log is {log}", *_last_lines(log, LOG_LINES)]))


class AlreadyUp(FtmError):
    """The services of this home are running."""

    def __init__(self, home: Path, pid: int | None) -> None:
        super().__init__(f"already up in {home} (process {pid}); stop it with Ctrl-C there, or with: ftm down")


class StoppedEarly(FtmError):
    """The services were stopped before all of them were up."""

    def __init__(self) -> None:
        super().__init__("stopped before the webserver answered; start again with: ftm up")


class CannotListen(FtmError):
    """The UI's address is in use, or does not belong to this machine."""

    def __init__(self, host: str, port: int, reason: str) -> None:
        super().__init__(f"cannot listen on {host}:{port} ({reason}); choose another with: ftm up --port PORT")


class Service(SupervisedProcess):
    """One of the processes, in a process group of its own, with its output in a log file."""

    process: subprocess.Popen[bytes]

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self.log = log
        self._command = command
        self._environment = environment
        log.parent.mkdir(parents=True, exist_ok=True)
        log.unlink(missing_ok=True)
        super().__init__(name)

    def _start(self) -> None:
        with self.log.open("ab") as stream:
            # A group of its own: Ctrl-C reaches only us, and we stop it in order, code servers included.
            self.process = subprocess.Popen(
                [_program(self._command[0]), *self._command[1:]],
                stdout=stream,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self._environment},
                start_new_session=True,
            )

    def exit_status(self) -> int | None:
        """See `SupervisedProcess`."""
        return self.process.poll()

    def on_exit(self, status: int, pause_s: float) -> str:
        """See `SupervisedProcess`."""
        when = f" in {pause_s:.0f} s" if pause_s else ""
        message = f"{self.name} ended with code {status} and is started again{when}; its log is {self.log}"
        return "\n    ".join([message, *_last_lines(self.log, 1)])

    def check(self) -> None:
        """raises: ServiceFailed if it has ended"""
        status = self.exit_status()
        if status is not None:
            raise ServiceFailed(self.name, self.log, f"ended with code {status}")

    def signal(self, number: int) -> None:
        """Send a signal to it and to what it has started."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)


@dataclass(frozen=True)
class Running:
    """Services that have been started, and the signals that asked for their end so far."""

    services: dict[str, Service]
    asked_to_stop: list[int]


@dataclass(frozen=True)
class Services:
    """Webserver, daemon and worker of one home; `environment` may hold a password and is passed to them alone.

    worker:    False on a machine without the GPU, where only UI and daemon are wanted
    grace_s:   how long the worker lets runs go on once it is asked to stop
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
        """Name and command line of each process; a program without a folder is the one next to our Python."""
        commands = {}
        if self.webserver:
            commands["webserver"] = webserver_command(self.environment, self.host, self.port)
        commands["daemon"] = ["dagster-daemon", "run", "--log-level", "warning", "-w", _workspace(self.environment)]
        if self.worker:
            commands["worker"] = ["ftm", "worker"]
        return commands

    @contextmanager
    def running(self, instance: "dg.DagsterInstance | None" = None) -> Iterator[Running]:
        """All processes, the webserver answering; they are stopped at the end of the block.

        Before it begins, what a killed predecessor has left is ended. SIGINT, SIGTERM and SIGHUP end the block in
        order, also while the processes start.

        instance: Dagster's, whose runs the killed predecessor left behind are ended too
        raises:   AlreadyUp, CannotListen, ServiceFailed, StoppedEarly
        """
        # In this order: `stop_services` may send its signal as soon as the lock is taken.
        with _collected_signals() as asked_to_stop, _exclusive(self.home):
            _end_leftovers(self.home)
            if self.webserver:
                _check_address(self.host, self.port)
            if instance is not None:
                end_abandoned_runs(instance)
            running = Running({}, asked_to_stop)
            try:
                self._start_all(running)
                yield running
            finally:
                self._stop(running)
                if instance is not None:
                    with suppress(SQLAlchemyError, DagsterPostgresException):
                        instance.wipe_daemon_heartbeats()  # Else the daemon seems to run for a minute more.
                _end_leftovers(self.home)  # Code servers of a webserver or daemon that was started again.

    def watch(self, running: Running, maintain: Callable[[], None] = lambda: None) -> None:
        """Keep the services running until a signal asks to stop.

        A service that keeps crashing is restarted with growing back-off; the others keep running.

        maintain: called every MAINTAIN_S, for what else must be kept up; an error of it is logged once
        """
        maintain_at, last_error = 0.0, ""
        while not running.asked_to_stop:
            for service in running.services.values():
                for problem in service.collect():
                    log.warning("%s", problem)
            if time.monotonic() >= maintain_at:
                error = _error_of(maintain)
                if error and error != last_error:
                    log.warning("%s", error)
                last_error = error
                maintain_at = time.monotonic() + MAINTAIN_S
            time.sleep(POLL_S)

    def _start_all(self, running: Running) -> None:
        environment = {**self.environment, MARK: str(self.home.resolve())}
        for name, command in self.commands().items():
            running.services[name] = Service(name, command, environment, self.home / "logs" / f"{name}.log")
        if self.webserver:
            self._wait_for_webserver(running)

    def _wait_for_webserver(self, running: Running) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not running.asked_to_stop:
            for service in running.services.values():
                service.check()
            if self._answers():
                for service in running.services.values():
                    service.check()
                return
            if time.monotonic() > deadline:
                log = running.services["webserver"].log
                raise ServiceFailed("webserver", log, f"did not answer within {START_TIMEOUT_S} s")
            time.sleep(POLL_S)
        raise StoppedEarly

    def _answers(self) -> bool:
        with suppress(urllib.error.URLError, ConnectionError, TimeoutError):
            _no_proxy.open(f"{self.address}/server_info", timeout=2).close()
            return True
        return False

    def _stop(self, running: Running) -> None:
        # The worker first: it lets runs end, and until then they are in the UI and can be canceled there.
        for names, grace_s in ((["worker"], self.grace_s), (["webserver", "daemon"], 0.0)):
            services = [running.services[name] for name in names if name in running.services]
            _stop_together(services, grace_s + STOP_TIMEOUT_S, running.asked_to_stop)


def webserver_command(environment: Mapping[str, str], host: str, port: int) -> list[str]:
    """The command line of Dagster's webserver; its program is the one next to our Python."""
    return ["dagster-webserver", "-h", host, "-p", str(port), "-w", _workspace(environment)]


def become_webserver(environment: Mapping[str, str], host: str, port: int) -> NoReturn:
    """Replace this process by Dagster's webserver; a container or systemd keeps it running. Decision 82."""
    command = webserver_command(environment, host, port)
    os.execve(_program(command[0]), command, {**os.environ, **environment})  # noqa: S606  (the program is Dagster's own)


def _workspace(environment: Mapping[str, str]) -> str:
    return str(Path(environment["DAGSTER_HOME"]) / "workspace.yaml")


def _program(name: str) -> str:
    return str(Path(sys.executable).parent / name)


def _error_of(maintain: Callable[[], None]) -> str:
    """The error of a call that may fail and is repeated later; empty if it went well."""
    try:
        maintain()
    except (FtmError, SQLAlchemyError, DagsterPostgresException) as error:
        return str(error)
    return ""


def stop_services(home: Path, grace_s: float) -> bool:
    """Stop the services that another process keeps running or, killed, has left; returns False if there were none.

    grace_s: how long the worker lets runs go on
    raises:  FtmError
    """
    lock = _lock(home)
    pid = lock.owner()
    if pid is not None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + grace_s + 5 * STOP_TIMEOUT_S
        while lock.owner() == pid:
            if time.monotonic() > deadline:
                raise FtmError(f"process {pid}, which keeps the services up, does not stop; end it with: kill -9 {pid}")
            time.sleep(POLL_S)
    if not processes_of(home):
        return pid is not None
    with _exclusive(home):
        _end_leftovers(home)
    return True


def processes_of(home: Path) -> list[int]:
    """The running processes that carry the mark of this home, whatever started them; none where there is no /proc."""
    mark = os.fsencode(f"{MARK}={home.resolve()}")
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # It has ended, or belongs to another user.
            if mark in (process / "environ").read_bytes().split(b"\0"):
                found.append(int(process.name))
    return found


def _check_address(host: str, port: int) -> None:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            # Like the webserver itself: connections of the one before it, still in TIME_WAIT, do not count.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise CannotListen(host, port, error.strerror or str(error)) from error


def _stop_together(services: Sequence[Service], timeout_s: float, asked_to_stop: Sequence[int]) -> None:
    """Ask services to stop, and kill those that have not after the timeout."""
    for service in services:
        service.signal(signal.SIGTERM)
    n_asked, deadline = len(asked_to_stop), time.monotonic() + timeout_s
    while any(service.exit_status() is None for service in services) and time.monotonic() < deadline:
        if len(asked_to_stop) > n_asked:
            n_asked = len(asked_to_stop)
            for service in services:
                service.signal(signal.SIGTERM)  # Asked twice, the worker hands its runs back.
        time.sleep(POLL_S / 10)
    for service in services:
        service.signal(signal.SIGKILL)
        service.process.wait()


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
def _collected_signals() -> Iterator[list[int]]:
    """The signals that ask to stop, as they arrive. They interrupt nothing, so that all can end in order."""
    received: list[int] = []

    def collect(number: int, _frame: FrameType | None) -> None:
        received.append(number)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    # nohup ignores SIGHUP, and so do we then.
    before = {n: signal.signal(n, collect) for n in numbers if signal.getsignal(n) is not signal.SIG_IGN}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _lock(home: Path) -> PidLock:
    return PidLock(home / "up.lock", LOCK_TIMEOUT_S)


@contextmanager
def _exclusive(home: Path) -> Iterator[None]:
    """The sole right to start and end the services of a home. raises: AlreadyUp"""
    with ExitStack() as stack:
        try:
            stack.enter_context(_lock(home).held())
        except LockHeld as error:
            raise AlreadyUp(home, error.pid) from None
        yield
