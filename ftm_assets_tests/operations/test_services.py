"""Stand-ins for webserver, daemon and worker, in processes of their own; as a script, this file is their `ftm up`."""

import fcntl
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import dagster as dg
import pytest
from dagster._daemon.types import DaemonHeartbeat

from devtools.processes import free_port, wait_for
from ftm_assets.errors import FtmError
from ftm_assets.launcher import recovery
from ftm_assets.launcher.recovery import end_abandoned_runs, end_stuck_runs
from ftm_assets.launcher.single_gpu import COMMAND_TAG
from ftm_assets.operations import services
from ftm_assets.operations.instance import daemon_is_up
from ftm_assets.operations.services import (
    AlreadyUp,
    CannotListen,
    ServiceFailed,
    Services,
    processes_of,
    stop_services,
)

WEBSERVER = "import http.server as h; h.HTTPServer(('127.0.0.1', {port}), h.SimpleHTTPRequestHandler).serve_forever()"
SLEEP = "/bin/sleep"
DAEMON = f"{SLEEP} 301"
WORKER = f"{SLEEP} 302"


@dataclass(frozen=True)
class StandIns(Services):
    """A webserver with a code server of its own, which may never answer, a daemon and a worker.

    daemon_script: a shell's, which a daemon that sleeps follows
    worker_script: likewise
    """

    answers: bool = True
    daemon_script: str = ""
    worker_script: str = ""

    def commands(self) -> dict[str, list[str]]:
        (self.home / "server_info").touch()
        serve = WEBSERVER.format(port=self.port)
        alone = f"cd '{self.home}'; {SLEEP} 300 & exec '{sys.executable}' -c \"{serve}\""
        webserver = ["/bin/sh", "-c", alone] if self.answers else [SLEEP, "300"]
        daemon = ["/bin/sh", "-c", f"cd '{self.home}'; {self.daemon_script}\nexec {DAEMON}"]
        worker = ["/bin/sh", "-c", f"cd '{self.home}'; {self.worker_script}\nexec {WORKER}"]
        return {"webserver": webserver, "daemon": daemon, "worker": worker}


def stand_ins(
    home: Path, port: int, *, answers: bool = True, daemon_script: str = "", worker_script: str = ""
) -> StandIns:
    environment = {"FTM_DAGSTER_URL": "postgresql://ftm:sesame@db/dagster"}
    return StandIns(home, environment, "127.0.0.1", port, True, 0.0, answers, daemon_script, worker_script)


def up(home: str, port: str, answers: str) -> None:
    ours = stand_ins(Path(home), int(port), answers=answers == "True")
    with ours.running() as running:
        sys.stdout.write("up\n")
        sys.stdout.flush()
        ours.watch(running)
    sys.stdout.write("stopped\n")


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A home whose services have ended when the test ends."""
    home = tmp_path / "home with spaces"
    home.mkdir()
    yield home
    for pid in processes_of(home):
        os.kill(pid, signal.SIGKILL)


@pytest.fixture
def start(home: Path, port: int) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start the stand-ins from a process of their own; with `answers`, return when they are up."""
    started: list[subprocess.Popen[str]] = []

    def start(*, answers: bool = True) -> subprocess.Popen[str]:
        command = [
            sys.executable,
            "-m",
            "ftm_assets_tests.operations.test_services",
            str(home),
            str(port),
            str(answers),
        ]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        started.append(process)
        if answers:
            assert process.stdout and process.stdout.readline() == "up\n"
        else:
            wait_for(lambda: len(processes_of(home)) == 3)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_down_ends_all_and_the_second_time_there_is_nothing_to_end(
    home: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    up = start()
    assert len(processes_of(home)) == 4, "the code server is one of them"
    assert stop_services(home, 0.0)
    assert processes_of(home) == []
    assert up.communicate(timeout=10)[0] == "stopped\n"
    assert up.returncode == 0
    assert not stop_services(home, 0.0)


def test_down_ends_what_is_still_starting(home: Path, start: Callable[..., subprocess.Popen[str]]) -> None:
    up = start(answers=False)
    assert stop_services(home, 0.0)
    assert processes_of(home) == []
    assert "StoppedEarly" in up.communicate(timeout=10)[1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_ctrl_c_and_a_closed_terminal_end_what_is_still_starting(
    home: Path, start: Callable[..., subprocess.Popen[str]], number: signal.Signals
) -> None:
    up = start(answers=False)
    up.send_signal(number)
    up.wait(30)
    assert processes_of(home) == []


def the(home: Path, command: str) -> int | None:
    """The process of this home with that in its command line, which its shell has no more."""
    for pid in processes_of(home):
        with suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().strip("\0").split("\0")
            if command in " ".join(words) and words[0] != "/bin/sh":
                return pid
    return None


def kill(home: Path, command: str) -> int:
    """Kill that process with -9, as soon as it is there; its number."""
    wait_for(lambda: the(home, command))
    pid = the(home, command)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    return pid


@pytest.mark.parametrize("command", [DAEMON, WORKER, "http.server"])
def test_a_process_that_ends_is_started_again_and_the_others_stay(home: Path, port: int, command: str) -> None:
    def look() -> None:
        if the(home, command) not in (None, killed):
            running.asked_to_stop.append(signal.SIGTERM)

    ours = stand_ins(home, port)
    with ours.running() as running:
        killed = kill(home, command)
        others = {other: the(home, other) for other in (DAEMON, WORKER, "http.server") if other != command}
        ours.watch(running, maintain=look)
        assert {other: the(home, other) for other in others} == others
    # Also what it had started itself, and left.
    assert processes_of(home) == []


def test_a_log_goes_on_when_its_process_is_started_again_and_begins_anew_with_up(home: Path, port: int) -> None:
    def look() -> None:
        if log.read_text() == "begun\nbegun\n":
            running.asked_to_stop.append(signal.SIGTERM)

    log = home / "logs" / "daemon.log"
    ours = stand_ins(home, port, daemon_script="echo begun")
    with ours.running() as running:
        kill(home, DAEMON)
        ours.watch(running, maintain=look)
    with ours.running():
        wait_for(lambda: log.read_text() == "begun\n")


def test_a_process_that_ends_again_and_again_is_given_ever_longer_pauses_and_takes_no_other_along(
    home: Path, port: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def look() -> None:
        if len(caplog.messages) == 4:
            running.asked_to_stop.append(signal.SIGTERM)

    monkeypatch.setattr(services, "POLL_S", 0.05)
    ours = stand_ins(home, port, worker_script="[ ! -e broken ] || { echo no model; exit 3; }")
    with ours.running() as running:
        (home / "broken").touch()
        kill(home, WORKER)
        others = {other: the(home, other) for other in (DAEMON, "http.server")}
        ours.watch(running, maintain=look)
        assert {other: the(home, other) for other in others} == others
    log = home / "logs" / "worker.log"
    assert caplog.messages == [
        f"worker ended with code -9 and is started again; its log is {log}",
        f"worker ended with code 3 and is started again in 1 s; its log is {log}\n    no model",
        f"worker ended with code 3 and is started again in 3 s; its log is {log}\n    no model",
        f"worker ended with code 3 and is started again in 7 s; its log is {log}\n    no model",
    ]


@pytest.mark.parametrize("name", ["daemon", "worker"])
def test_a_process_that_ends_while_the_others_start_is_not_started_again(home: Path, port: int, name: str) -> None:
    ends = {f"{name}_script": "echo no; exit 3"}
    with (
        pytest.raises(ServiceFailed, match=rf"{name} ended with code 3; its log is .*\nno"),
        stand_ins(home, port, **ends).running(),  # type: ignore[arg-type]
    ):
        pass
    assert processes_of(home) == []


def test_the_worker_lets_runs_end_before_daemon_and_webserver_are_told_to_stop(home: Path, port: int) -> None:
    says = "trap '{first}echo {name} >> ended; exit' TERM; {sleep} & wait"
    worker = says.format(name="worker", first="sleep 0.5; ", sleep=WORKER)
    daemon = says.format(name="daemon", first="", sleep=DAEMON)
    with stand_ins(home, port, daemon_script=daemon, worker_script=worker).running():
        wait_for(lambda: the(home, DAEMON) and the(home, WORKER))
    assert (home / "ended").read_text() == "worker\ndaemon\n"


def test_a_worker_that_does_not_stop_in_time_is_killed(home: Path, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "STOP_TIMEOUT_S", 0.5)
    with stand_ins(home, port, worker_script="trap '' TERM").running():
        wait_for(lambda: the(home, WORKER))
    assert processes_of(home) == []


def test_a_worker_has_its_grace_time_and_less_if_it_is_told_twice(
    home: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask_again() -> None:
        wait_for(lambda: (home / "ended").read_text() == "told\n")
        running.asked_to_stop.append(signal.SIGINT)

    monkeypatch.setattr(services, "STOP_TIMEOUT_S", 5)
    twice = f"trap 'echo told >> ended' TERM; touch up; while [ $(wc -l < ended) -lt 2 ]; do {SLEEP} 0.05; done; exit; "
    (home / "ended").touch()
    ours = replace(stand_ins(home, port, worker_script=twice), grace_s=20.0)
    with ours.running() as running:
        wait_for((home / "up").exists)
        asking = threading.Thread(target=ask_again)
        asking.start()
        started = time.monotonic()
    asking.join()
    assert (home / "ended").read_text() == "told\ntold\n"
    assert time.monotonic() - started < 15


def test_a_machine_without_a_gpu_may_do_without_the_worker(home: Path) -> None:
    environment = {"DAGSTER_HOME": str(home)}
    assert list(Services(home, environment, "127.0.0.1", 3000).commands()) == ["webserver", "daemon", "worker"]
    assert list(Services(home, environment, "127.0.0.1", 3000, worker=False).commands()) == ["webserver", "daemon"]


def test_down_ends_what_a_killed_up_has_left(home: Path, start: Callable[..., subprocess.Popen[str]]) -> None:
    start().kill()
    assert len(processes_of(home)) == 4
    assert stop_services(home, 0.0)
    assert processes_of(home) == []


def test_the_next_up_ends_what_a_killed_one_has_left_and_takes_its_port(
    home: Path, port: int, start: Callable[..., subprocess.Popen[str]]
) -> None:
    killed = start()
    killed.kill()
    killed.wait()
    left = set(processes_of(home))
    with stand_ins(home, port).running():
        assert len(processes_of(home)) == 4
        assert not left & set(processes_of(home))
    assert processes_of(home) == []


def test_a_second_up_is_refused_and_names_the_first(
    home: Path, port: int, start: Callable[..., subprocess.Popen[str]]
) -> None:
    up = start()
    with pytest.raises(AlreadyUp, match=rf"already up .*\(process {up.pid}\)"), stand_ins(home, port).running():
        pass
    assert len(processes_of(home)) == 4


def test_services_of_another_home_are_left_alone(
    home: Path, tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    start()
    assert not stop_services(tmp_path / "home with space", 0.0)
    assert len(processes_of(home)) == 4


def test_a_proxy_is_not_asked_for_our_own_webserver(home: Path, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with stand_ins(home, port).running() as running:
        assert [service.process.poll() for service in running.services.values()] == [None] * 3


def test_a_webserver_that_never_answers_is_given_up(home: Path, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "START_TIMEOUT_S", 0.5)
    with (
        pytest.raises(ServiceFailed, match=r"webserver did not answer within 0\.5 s; its log is"),
        stand_ins(home, port, answers=False).running(),
    ):
        pass
    assert processes_of(home) == []


@pytest.mark.parametrize(("host", "reason"), [("127.0.0.1", "in use"), ("192.0.2.1", "assign"), ("no.such", "known")])
def test_an_address_that_cannot_be_had_is_refused_before_anything_starts(home: Path, host: str, reason: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        wanted = StandIns(home, {}, host, port)
        with pytest.raises(CannotListen, match=f"{host}:{port} .*{reason}.*--port"), wanted.running():
            pass
    assert not (home / "logs").exists()


def test_signals_are_as_before_when_all_is_over(home: Path, port: int) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    with stand_ins(home, port).running():
        pass
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before


def test_nohup_is_respected(home: Path, port: int) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stand_ins(home, port).running() as running:
            os.kill(os.getpid(), signal.SIGHUP)
            assert running.asked_to_stop == []
    finally:
        signal.signal(signal.SIGHUP, before)


def test_passwords_do_not_show(home: Path) -> None:
    assert "sesame" not in repr(stand_ins(home, 3000))


# The lock


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    """A process of somebody else's that has the number of a former `ftm up`."""
    with subprocess.Popen([SLEEP, "300"]) as stranger:
        yield stranger
        stranger.kill()


def test_a_number_that_was_left_behind_is_nobody_to_signal(home: Path, stranger: subprocess.Popen[bytes]) -> None:
    (home / "up.lock").write_text(f"{stranger.pid} 1")
    assert not stop_services(home, 0.0)
    assert stranger.poll() is None


@pytest.mark.parametrize("born", [None, "1"], ids=["not yet written", "of a predecessor"])
def test_who_holds_the_lock_and_has_not_said_who_he_is_is_waited_for_and_never_signalled(
    home: Path, stranger: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch, born: str | None
) -> None:
    monkeypatch.setattr(services, "LOCK_TIMEOUT_S", 0.3)
    (home / "up.lock").write_text(f"{stranger.pid} {born}" if born else "")
    with (home / "up.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(FtmError, match=r"up\.lock is held by an unknown process"):
            stop_services(home, 0.0)
        time.sleep(0.1)
    assert stranger.poll() is None


def test_who_only_looks_keeps_nobody_from_starting(home: Path, port: int) -> None:
    (home / "up.lock").touch()
    with (home / "up.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        looking = threading.Timer(0.3, lock.close)
        looking.start()
        with stand_ins(home, port).running():
            pass
        looking.join()


# Runs that a killed predecessor has left


def test_runs_whose_processes_are_gone_are_ended_and_all_others_left_alone(instance: dg.DagsterInstance) -> None:
    status = dg.DagsterRunStatus
    runs = {
        "started": (status.STARTED, {}, status.FAILURE),
        "starting": (status.STARTING, {}, status.FAILURE),
        "canceling": (status.CANCELING, {}, status.CANCELED),
        "to come": (status.NOT_STARTED, {}, status.NOT_STARTED),
        "done": (status.SUCCESS, {}, status.SUCCESS),
        "of a command": (status.STARTED, {COMMAND_TAG: "backfill 2021Q4"}, status.STARTED),
        "firm_quarter": (status.STARTED, {}, status.STARTED),  # The worker's.
    }
    ids = {
        name: instance.add_run(dg.DagsterRun(job_name=name, tags=tags, status=begun)).run_id
        for name, (begun, tags, _) in runs.items()
    }
    end_abandoned_runs(instance)
    found = {name: run.status for name, run_id in ids.items() if (run := instance.get_run_by_id(run_id))}
    assert found == {name: end for name, (_, _, end) in runs.items()}
    said = [entry.message for entry in instance.all_logs(ids["started"])]
    assert "The process that executed this run was killed; start it again unless Dagster does." in said


def test_runs_of_another_launcher_are_left_to_it(instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    run = instance.add_run(dg.DagsterRun(job_name="ingest_quarter", status=dg.DagsterRunStatus.STARTED))
    monkeypatch.setattr(instance, "_run_launcher", dg.DefaultRunLauncher())
    end_abandoned_runs(instance)
    found = instance.get_run_by_id(run.run_id)
    assert found and found.status is dg.DagsterRunStatus.STARTED


def test_they_are_ended_before_the_daemon_starts(home: Path, port: int, instance: dg.DagsterInstance) -> None:
    run = instance.add_run(dg.DagsterRun(job_name="ingest_quarter", status=dg.DagsterRunStatus.STARTED))
    with stand_ins(home, port).running(instance):
        found = instance.get_run_by_id(run.run_id)
    assert found and found.status is dg.DagsterRunStatus.FAILURE


def test_a_run_whose_process_was_never_begun_fails_after_a_while(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    starting = dg.DagsterRunStatus.STARTING
    ids = {
        job: instance.add_run(dg.DagsterRun(job_name=job, status=starting)).run_id
        for job in ("ingest_quarter", "firm_quarter")
    }
    end_stuck_runs(instance)
    assert instance.get_runs_count(dg.RunsFilter(statuses=[starting])) == 2, "it takes a while to begin"

    monkeypatch.setattr(recovery, "STUCK_S", -1.0)
    end_stuck_runs(instance)

    found = {job: run.status for job, run_id in ids.items() if (run := instance.get_run_by_id(run_id))}
    assert found == {"ingest_quarter": dg.DagsterRunStatus.FAILURE, "firm_quarter": starting}, "the worker's wait"


def test_what_cannot_be_kept_alive_is_said_once_and_tried_again(
    home: Path, port: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def maintain() -> None:
        tried.append(1)
        if len(tried) == 4:
            running.asked_to_stop.append(signal.SIGTERM)
        raise FtmError("the disk is full")

    tried: list[int] = []
    monkeypatch.setattr(services, "MAINTAIN_S", 0.1)
    ours = stand_ins(home, port)
    with ours.running() as running:
        ours.watch(running, maintain)
    assert len(tried) == 4
    assert caplog.messages == ["the disk is full"]


def test_a_daemon_that_was_stopped_in_order_does_not_seem_to_live(
    home: Path, port: int, instance: dg.DagsterInstance
) -> None:
    instance.add_daemon_heartbeat(DaemonHeartbeat(time.time(), "BACKFILL", None, None))
    with stand_ins(home, port).running(instance):
        assert daemon_is_up(instance)
    assert not daemon_is_up(instance)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        up(*sys.argv[1:])
