"""The processes behind the UI: webserver and daemon, started together and stopped together."""

import fcntl
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from ftm_assets.errors import FtmError

START_TIMEOUT_S = 120
STOP_TIMEOUT_S = 20
POLL_S = 0.3
LOG_LINES = 15


class ServiceFailed(FtmError):
    """A process of the UI did not start or did not stay."""

    def __init__(self, name: str, log: Path, happened: str) -> None:
        last = "\n".join(log.read_text(errors="replace").splitlines()[-LOG_LINES:]) if log.exists() else ""
        super().__init__(f"{name} {happened}; its log is {log}\n{last}")


class AlreadyUp(FtmError):
    """The services of this home are running."""

    def __init__(self, home: Path, pid: int) -> None:
        super().__init__(f"already up in {home} (process {pid}); stop it with Ctrl-C there, or with: ftm down")


@dataclass(frozen=True)
class Services:
    """Webserver and daemon of one home; `environment` may hold a password and goes to them alone."""

    home: Path
    environment: dict[str, str]
    host: str
    port: int

    @property
    def address(self) -> str:
        """Where the UI is."""
        return f"http://{self.host}:{self.port}"

    @contextmanager
    def running(self) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
        """Both processes, the webserver answering; both are stopped at the end of the block.

        raises: AlreadyUp, ServiceFailed
        """
        workspace = str(Path(self.environment["DAGSTER_HOME"]) / "workspace.yaml")
        commands = {
            "webserver": ["dagster-webserver", "-h", self.host, "-p", str(self.port), "-w", workspace],
            "daemon": ["dagster-daemon", "run", "-w", workspace],
        }
        with _alone(self.home):
            processes: dict[str, subprocess.Popen[bytes]] = {}
            try:
                for name, command in commands.items():
                    processes[name] = self._start(name, command)
                self._wait_for_webserver(processes)
                yield processes
            finally:
                _stop(list(processes.values()))

    def watch(self, processes: dict[str, subprocess.Popen[bytes]]) -> None:
        """Return when SIGINT or SIGTERM comes. raises: ServiceFailed as soon as a process has gone"""
        asked_to_stop: list[int] = []

        def stop(signal_number: int, _frame: FrameType | None) -> None:
            asked_to_stop.append(signal_number)

        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, stop)
        while not asked_to_stop:
            self._check(processes)
            time.sleep(POLL_S)

    def _start(self, name: str, command: list[str]) -> subprocess.Popen[bytes]:
        log = self._log(name)
        log.parent.mkdir(parents=True, exist_ok=True)
        program = str(Path(sys.executable).parent / command[0])
        with log.open("wb") as stream:
            # A group of its own: Ctrl-C reaches us, and we stop it in order, code servers included.
            return subprocess.Popen(
                [program, *command[1:]],
                stdout=stream,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self.environment},
                start_new_session=True,
            )

    def _wait_for_webserver(self, processes: dict[str, subprocess.Popen[bytes]]) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            self._check(processes)
            with suppress(urllib.error.URLError, ConnectionError, TimeoutError):
                urllib.request.urlopen(f"{self.address}/server_info", timeout=2)  # noqa: S310  (our own address)
                self._check(processes)
                return
            time.sleep(POLL_S)
        raise ServiceFailed("webserver", self._log("webserver"), f"did not answer within {START_TIMEOUT_S} s")

    def _check(self, processes: dict[str, subprocess.Popen[bytes]]) -> None:
        for name, process in processes.items():
            if process.poll() is not None:
                raise ServiceFailed(name, self._log(name), f"ended with code {process.returncode}")

    def _log(self, name: str) -> Path:
        return self.home / "logs" / f"{name}.log"


def stop_services(home: Path) -> bool:
    """Stop the services that another process keeps up; returns False if there were none. raises: FtmError"""
    pid = _holder(home)
    if pid is None:
        return False
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + 2 * STOP_TIMEOUT_S
    while _holder(home) == pid:
        if time.monotonic() > deadline:
            raise FtmError(f"process {pid}, which keeps the services up, does not stop; end it with: kill -9 {pid}")
        time.sleep(POLL_S)
    return True


def _stop(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_TIMEOUT_S
    for process in processes:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0.1, deadline - time.monotonic()))
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def _alone(home: Path) -> Iterator[None]:
    home.mkdir(parents=True, exist_ok=True)
    with (home / "up.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyUp(home, _holder(home) or 0) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def _holder(home: Path) -> int | None:
    """The process that keeps the services up: whoever holds the lock, not whoever once wrote its number."""
    try:
        lock = (home / "up.lock").open("r+")
    except FileNotFoundError:
        return None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return int(lock.read() or 0)
    return None
