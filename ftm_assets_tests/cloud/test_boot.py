"""What the box does by itself: its units read by systemd, its programs run beside some that note what they are told."""

import re
import shutil
import subprocess
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import typer.main

from ftm_assets.cli.main import app
from ftm_assets_tests.cloud.conftest import BOOT, SCRIPTS, find_tool, run

UNITS = sorted((BOOT / "units").iterdir())
PROGRAMS = sorted((BOOT / "bin").iterdir())
SYSTEM_UNITS = Path("/usr/lib/systemd/system")
# systemd wants these to be there; what they do is not asked.
ELSEWHERE = ("bin/true", "usr/bin/env")


def test_systemd_understands_every_unit(tmp_path: Path) -> None:
    verify = find_tool("systemd-analyze")
    shutil.copytree(SYSTEM_UNITS, tmp_path / "usr/lib/systemd/system", symlinks=True)
    (tmp_path / "etc/systemd/system").mkdir(parents=True)
    (tmp_path / "etc/systemd/system/docker.service").write_text("[Service]\nExecStart=/bin/true\n")
    for program in ELSEWHERE:
        (tmp_path / program).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(f"/{program}", tmp_path / program)
    shutil.copytree(BOOT / "bin", tmp_path / "usr/local/bin")
    ours = [shutil.copy(unit, tmp_path / "etc/systemd/system") for unit in UNITS]

    done = run([verify, "verify", "--man=no", "--root", tmp_path, *ours], {"PATH": "/usr/bin:/bin"})

    assert done.stderr == ""


def test_the_shell_finds_nothing_to_say_about_any_script(environment: dict[str, str]) -> None:
    checked = [*PROGRAMS, *sorted(SCRIPTS.glob("*.sh"))]
    assert run([find_tool("shellcheck"), "--external-sources", *checked], environment).stdout == ""


def test_units_start_programs_and_commands_that_exist() -> None:
    commands = typer.main.get_group(app).commands
    for unit in UNITS:
        for program, arguments in re.findall(r"^ExecStart=/usr/local/bin/(\S+) ?(.*)$", unit.read_text(), re.MULTILINE):
            assert BOOT / "bin" / program in PROGRAMS
            if program == "ftm":
                name, *options = arguments.split()
                assert name in commands and not options, unit.name


def test_runs_may_end_within_the_two_minutes_that_a_spot_machine_has() -> None:
    [grace] = re.findall(r"FTM_GRACE=(\d+)", (BOOT / "bin/ftm").read_text())
    [stop] = re.findall(r"TimeoutStopSec=(\d+)", (BOOT / "units/ftm-worker.service").read_text())
    [poll] = re.findall(r"POLL_SECONDS:-(\d+)", (BOOT / "bin/ftm-spot-notice").read_text())
    assert int(grace) < int(stop)
    assert int(poll) + int(stop) < 120


class Box:
    """A box with our programs, and beside them some that only note what they are told."""

    def __init__(self, folder: Path) -> None:
        self.etc, self.bin, self.calls = folder / "etc", folder / "bin", folder / "calls"
        self.etc.mkdir()
        self.calls.touch()
        shutil.copytree(BOOT / "bin", self.bin)
        names = "AWS_DEFAULT_REGION DATABASE DATABASE_HOST DATABASE_SECRET LOG_GROUP LLM_KEY_PARAMETER"
        settings = {**{name: name.lower() for name in names.split()}, "BUCKET": "ftm", "LLM_MODEL": ""}
        self.write("box.env", settings | {"IMAGE": "registry/ftm:1", "IDLE_MINUTES": "2"})
        self.write("quarter.env", {"INSTANCE": "i-1", "QUARTER": "2024Q1"})
        for name in ("aws", "docker", "systemctl", "journalctl"):
            self.program(name)
        self.environment = {"PATH": f"{self.bin}:/usr/bin:/bin", "BOX": str(self.etc), "POLL_SECONDS": "0.1"}

    def write(self, name: str, settings: Mapping[str, str]) -> None:
        (self.etc / name).write_text("".join(f"{key}={value}\n" for key, value in settings.items()))

    def program(self, name: str, does: str = "") -> None:
        """Put a program in the place of another one; it notes how it was called."""
        (self.bin / name).write_text(f'#!/bin/bash\necho "{name} $*" >>"{self.calls}"\n{does}\n')
        (self.bin / name).chmod(0o755)

    def run(self, name: str, fails: bool = False) -> list[str]:
        """What a program of ours has called."""
        self.calls.write_text("")
        run([self.bin / name], self.environment, fails=fails)
        return self.calls.read_text().splitlines()


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path)


class Metadata(ThreadingHTTPServer):
    """The metadata service of an instance, version 2: nothing without a token.

    answers: by path, what is said one after another, the last for ever; None is 404
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.answers: dict[str, list[str | None]] = {}
        self.asked: list[str] = []

    def say(self, path: str, *answers: str | None) -> None:
        self.answers[path] = list(answers)

    def answer(self, path: str) -> str | None:
        self.asked.append(path)
        left = self.answers.get(path, [None])
        return left.pop(0) if len(left) > 1 else left[0]


class _Answer(BaseHTTPRequestHandler):
    server: Metadata

    def do_PUT(self) -> None:
        assert self.path == "/latest/api/token" and self.headers["X-aws-ec2-metadata-token-ttl-seconds"]
        self._say(200, "token")

    def do_GET(self) -> None:
        path = self.path.removeprefix("/latest/meta-data/").partition("?")[0]
        if self.headers["X-aws-ec2-metadata-token"] != "token":
            self._say(401, "")
            return
        told = self.server.answer(path)
        self._say(404 if told is None else 200, told or "")

    def _say(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def metadata(box: Box) -> Iterator[Metadata]:
    server = Metadata()
    server.say("instance-id", "i-7")
    server.say("tags/instance/Quarter", "2023Q4")
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    box.environment["IMDS"] = address
    yield server
    server.shutdown()


def test_the_box_learns_its_quarter_from_its_tags_and_pulls_the_image(box: Box, metadata: Metadata) -> None:
    *log_in, pull = box.run("ftm-prepare")
    # One pipes into the other, so either may be first.
    assert set(log_in) == {"aws ecr get-login-password", "docker login --username AWS --password-stdin registry"}
    assert pull == "docker pull --quiet registry/ftm:1"
    assert (box.etc / "quarter.env").read_text() == "INSTANCE=i-7\nQUARTER=2023Q4\n"

    metadata.say("tags/instance/KeepMinutes", "120")
    box.run("ftm-prepare")
    assert (box.etc / "quarter.env").read_text() == "INSTANCE=i-7\nQUARTER=2023Q4\nIDLE_MINUTES=120\n"


def test_the_password_is_in_the_containers_environment_and_in_no_command_line(box: Box) -> None:
    box.program("aws", """echo '{"username": "ftm", "password": "p@ss/word"}'""")
    box.program("docker", f'env >"{box.etc}/seen"')
    [_, started] = box.run("ftm")
    assert "p@ss" not in started and "p%40ss" not in started
    assert "--env FTM_DATABASE_URL" in started and "--network host" in started
    assert (
        "FTM_DATABASE_URL=postgresql://ftm:p%40ss%2Fword@database_host:5432/ftm?sslmode=require\n"
        in (box.etc / "seen").read_text()
    )


def test_a_quarter_is_loaded_computed_and_reported_once_the_daemon_is_up(box: Box) -> None:
    box.program("ftm", f'[ "$1" != daemon ] || [ "$(grep -c "ftm daemon" "{box.calls}")" = 2 ]')
    called = box.run("ftm-quarter")
    assert [line for line in called if line.startswith("ftm ")] == [
        "ftm daemon status",
        "ftm daemon status",
        "ftm ingest s3://ftm/transcripts/2024Q1/ --quarter 2024Q1",
        "ftm backfill 2024Q1",
        "ftm report 2024Q1 --output /ftm/report.html",
    ]
    assert called[-1] == "aws s3 cp --no-progress /report.html s3://ftm/exports/2024Q1/report.html"


def test_a_backfill_that_fails_makes_the_quarter_fail(box: Box) -> None:
    box.program("ftm", '[ "$1" != backfill ]')
    assert box.run("ftm-quarter", fails=True)[-1] == "ftm backfill 2024Q1"


def test_the_spot_notice_lets_the_worker_drain_and_ends_the_box(box: Box, metadata: Metadata) -> None:
    box.program("ftm-say")
    metadata.say("spot/instance-action", None, None, '{"action": "terminate"}')
    assert box.run("ftm-spot-notice") == [
        "systemctl stop ftm-watch.timer ftm-quarter",
        "systemctl stop ftm-worker",
        "ftm-say interrupted",
        "systemctl poweroff",
    ]
    assert metadata.asked == ["spot/instance-action"] * 3


def test_what_the_box_says_begins_with_who_it_is(box: Box) -> None:
    box.program("aws", f'cat >"{box.etc}/said"')
    box.program("ftm", "echo 17 of 18 firms")
    box.program("journalctl", "echo no such object")
    for state, then in (("working", "17 of 18 firms"), ("failed", "no such object")):
        done = subprocess.run([box.bin / "ftm-say", state], env=box.environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        first, second = (box.etc / "said").read_text().splitlines()
        assert re.fullmatch(rf"i-1 {state} \d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\dZ", first)
        assert second == then


UNITS_ARE = """case "$*" in
*is-failed*) exit 1 ;;
*is-active*) echo {state} ;;
esac"""


@pytest.mark.parametrize("state", ["inactive", "activating"])
def test_a_box_at_work_says_so_and_stays(box: Box, state: str) -> None:
    box.program("ftm-say")
    box.program("ftm")
    box.program("systemctl", UNITS_ARE.format(state=state))
    for _ in range(4):
        assert "ftm-say working" in box.run("ftm-watch")
        assert "systemctl poweroff" not in box.calls.read_text()


@pytest.mark.parametrize(("state", "said"), [("active", "done"), ("failed", "failed")])
def test_a_box_without_work_ends_after_some_minutes(box: Box, state: str, said: str) -> None:
    box.program("ftm-say")
    box.program("ftm")
    box.program("systemctl", UNITS_ARE.format(state=state))
    first, second = box.run("ftm-watch"), box.run("ftm-watch")
    assert f"ftm-say {said}" in first and "ftm idle" in first and "systemctl poweroff" not in first
    assert "systemctl poweroff" in second


def test_a_click_of_a_person_keeps_the_box_and_the_minutes_count_again(box: Box) -> None:
    box.program("ftm-say")
    box.program("systemctl", UNITS_ARE.format(state="active"))
    for idle, ends in ((0, False), (1, False), (0, False), (0, True)):
        box.program("ftm", f"exit {idle}")
        assert ("systemctl poweroff" in box.run("ftm-watch")) == ends


def test_a_box_that_could_not_even_begin_ends_at_once(box: Box) -> None:
    box.program("ftm-say")
    box.program("systemctl", '[ "$*" != "--quiet is-failed ftm-prepare" ]')
    assert box.run("ftm-watch")[-2:] == ["ftm-say failed", "systemctl poweroff"]
