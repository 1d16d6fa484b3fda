"""Image and services as far as they can be tried without Docker's engine.

`compose_spec.json` is the Compose Specification's own schema (Apache-2.0), as Docker Compose 2.40.3 carries it.
"""

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jsonschema
import psycopg
import pytest
import typer.main
from dagster_shared.yaml_utils import safe_load_yaml

from devtools.processes import wait_for
from ftm_assets.cli.main import app
from ftm_assets.settings import Settings, parse_url, with_database
from ftm_assets.storage.server import embedded
from ftm_assets.storage.server.embedded import EmbeddedServer
from ftm_assets_tests.conftest import ROOT, SAMPLE

COMPOSE = ROOT / "docker-compose.yml"
DOCKERFILE = ROOT / "Dockerfile"
BIN = Path(sys.executable).parent
OURS = ["webserver", "daemon", "worker", "worker-gpu"]
MEGABYTE = 1 << 20


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = safe_load_yaml(COMPOSE.read_text())
    return loaded


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions in order: word and arguments."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    found = [line.partition(" ") for line in text.splitlines() if line.strip()]
    return [(word, " ".join(arguments.split())) for word, _, arguments in found]


def argument(word: str) -> str:
    """What the last instruction of this kind says."""
    return [arguments for kind, arguments in instructions() if kind == word][-1]


def seconds(duration: str) -> float:
    assert duration.endswith("s")
    return float(duration.removesuffix("s"))


# --- The files ------------------------------------------------------------------------------------------------------


def test_the_services_keep_to_the_specification(compose: dict[str, Any]) -> None:
    schema = json.loads((Path(__file__).parent / "compose_spec.json").read_text())
    assert list(jsonschema.Draft7Validator(schema).iter_errors(compose)) == []
    wrong = {**compose, "services": {"worker": {"comand": ["worker"]}}}
    assert not jsonschema.Draft7Validator(schema).is_valid(wrong)


@pytest.mark.parametrize("profile", ["cpu", "gpu"])
def test_compose_itself_reads_them(profile: str) -> None:
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "compose", "version"], capture_output=True).returncode:
        pytest.skip("no `docker compose` on this machine")
    subprocess.run([docker, "compose", "-f", COMPOSE, "--profile", profile, "config", "--quiet"], check=True)


def test_the_profile_says_which_worker_there_is(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert services.keys() == {"postgres", *OURS}
    assert {name: service["profiles"] for name, service in services.items() if "profiles" in service} == {
        "worker": ["cpu"],
        "worker-gpu": ["gpu"],
    }
    [device] = services["worker-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}


def test_every_service_is_watched_and_comes_back(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        assert service["healthcheck"]["test"][0] == "CMD"
        assert service["restart"] == "unless-stopped"
    mounted = {volume.partition(":")[0] for service in compose["services"].values() for volume in service["volumes"]}
    assert mounted == compose["volumes"].keys()


def test_the_database_is_the_one_that_the_settings_page_names(compose: dict[str, Any]) -> None:
    postgres = compose["services"]["postgres"]
    address, port, _ = postgres["ports"][0].split(":")
    given = postgres["environment"]
    password = given["POSTGRES_PASSWORD"].removeprefix("${POSTGRES_PASSWORD:-").removesuffix("}")
    url = with_database(f"postgresql://{given['POSTGRES_USER']}:{password}@{address}:{port}", given["POSTGRES_DB"])
    assert f"FTM_DATABASE_URL={url}\n" in (ROOT / "docs" / "settings.md").read_text()


def test_the_database_has_shared_memory_for_parallel_index_builds(compose: dict[str, Any]) -> None:
    assert int(compose["services"]["postgres"]["shm_size"].removesuffix("gb")) > 4


@pytest.mark.parametrize("name", OURS)
def test_a_service_calls_our_command_as_it_is(compose: dict[str, Any], name: str) -> None:
    service = compose["services"][name]
    command, *options = service["command"]
    asked = typer.main.get_group(app).commands[command]
    known = {option for each in asked.params for option in (*each.opts, *each.secondary_opts)}
    assert {option for option in options if option.startswith("--")} <= known
    assert {
        variable.removeprefix("FTM_").lower() for variable in service["environment"]
    } <= Settings.model_fields.keys()
    url = parse_url(service["environment"]["FTM_DATABASE_URL"].replace("${POSTGRES_PASSWORD:-ftm}", "ftm"))
    assert (url.host, url.port, url.username, url.database) == ("postgres", 5432, "ftm", "ftm")


def test_a_worker_has_time_to_let_its_runs_end(compose: dict[str, Any]) -> None:
    for name in ("worker", "worker-gpu"):
        grace = seconds(compose["services"][name]["stop_grace_period"])
        assert grace > Settings.model_fields["grace"].default


def test_the_image_is_built_as_its_linter_wants() -> None:
    subprocess.run([BIN / "hadolint", DOCKERFILE], check=True)


def test_the_image_is_not_roots_and_its_base_is_an_argument() -> None:
    user, group = argument("USER").split(":")
    assert int(user) > 0 and int(group) > 0
    assert argument("FROM") == "${BASE}"
    base = instructions()[0]
    assert base[0] == "ARG" and re.fullmatch(r"BASE=python:3\.11\.\d+-slim-bookworm", base[1])


def test_the_image_holds_what_the_command_needs_and_nothing_that_is_not_there() -> None:
    copied = {source for kind, words in instructions() if kind == "COPY" for source in words.split()[:-1]}
    assert all((ROOT / source).exists() for source in copied)
    assert {"ftm_assets", "dagster.yaml", "workspace.yaml", "pyproject.toml", "constraints.txt"} <= copied
    assert copied == set(let_through())


def let_through() -> list[str]:
    """What .dockerignore, which begins by leaving out everything, lets into the context."""
    first, *others = (ROOT / ".dockerignore").read_text().splitlines()
    assert first == "*"
    assert [line for line in others if not line.startswith("!")] == ["**/__pycache__"]
    return [line.removeprefix("!") for line in others if line.startswith("!")]


def build_context(folder: Path) -> Path:
    """A folder with exactly what a build would be sent."""
    for name in let_through():
        source, target = ROOT / name, folder / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    return folder


def test_what_a_build_is_sent_is_small(tmp_path: Path) -> None:
    context = build_context(tmp_path)
    assert sum(file.stat().st_size for file in context.rglob("*")) < 3 * MEGABYTE


# --- The services, without containers ---------------------------------------------------------------------------------


@dataclass
class Services:
    """What Compose would start, as processes of this machine: the same words, in the folder that the image would have.

    Of the environment only the address of Postgres and the folder of the volume are other ones.
    """

    compose: Mapping[str, Any]
    context: Path
    home: Path
    database: str
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def environment(self, name: str) -> dict[str, str]:
        of_image = dict(word.split("=", 1) for word in shlex.split(argument("ENV")))
        of_service = dict(self.compose["services"][name]["environment"])
        assert of_image.pop("FTM_HOME") == "/ftm"
        host = "postgres:5432"
        assert host in of_service["FTM_DATABASE_URL"]
        given = {**os.environ, **of_image, **of_service}
        return {
            **given,
            "FTM_DATABASE_URL": self.database,
            "FTM_HOME": str(self.home),
            "PYTHONPATH": str(self.context),
            "PATH": f"{BIN}:{given['PATH']}",
        }

    def start(self, name: str) -> None:
        words = [*json.loads(argument("ENTRYPOINT")), *self.compose["services"][name]["command"]]
        with (self.home / f"{name}.log").open("wb") as log:
            self.running[name] = subprocess.Popen(
                words, env=self.environment(name), cwd=self.context, stdout=log, stderr=subprocess.STDOUT
            )

    def run(self, name: str, *words: str) -> subprocess.CompletedProcess[str]:
        """What `docker compose exec` would."""
        return subprocess.run(
            words, env=self.environment(name), cwd=self.context, capture_output=True, text=True, timeout=600
        )

    def is_healthy(self, name: str) -> bool:
        check = self.compose["services"][name]["healthcheck"]
        _, *words = check["test"]
        assert self.running[name].poll() is None, (self.home / f"{name}.log").read_text()
        return self.run(name, *words).returncode == 0

    def stop(self) -> dict[str, int]:
        """SIGTERM to all, as Docker does; their exit codes."""
        for process in self.running.values():
            process.send_signal(signal.SIGTERM)
        try:
            return {
                name: process.wait(seconds(self.compose["services"][name]["stop_grace_period"]))
                for name, process in self.running.items()
            }
        finally:
            for process in self.running.values():
                process.kill()


@pytest.fixture
def services(compose: dict[str, Any], server: EmbeddedServer, tmp_path: Path) -> Iterator[Services]:
    for port in (3000, Settings.model_fields["metrics_port"].default):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                pytest.skip(f"port {port}, which the services have in their containers, is taken on this machine")
    home, context = tmp_path / "ftm", tmp_path / "app"
    for folder in (home, context):
        folder.mkdir()
    services = Services(compose, build_context(context), home, server.url("compose"))
    yield services
    for process in services.running.values():
        process.kill()
        process.wait()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_services_work_together_with_the_words_that_compose_gives_them(services: Services) -> None:
    for name in ("webserver", "daemon", "worker"):
        services.start(name)
    for name in ("webserver", "daemon", "worker"):
        wait_for(lambda name=name: services.is_healthy(name), 180, f"healthy {name}", look_every_s=1)  # type: ignore[misc]

    for words in (["ingest", str(SAMPLE), "--quarter", "2024Q1"], ["backfill", "2024Q1", "--firm", "wexcombe"]):
        done = services.run("daemon", "ftm", *words)
        assert done.returncode == 0, done.stderr
    with psycopg.connect(services.database) as connection:
        [n] = connection.execute("SELECT count(DISTINCT company_id) FROM topic_summaries").fetchone() or [0]
    assert n == 1
    assert json.loads(services.run("worker", "ftm", "worker", "status", "--format", "json").stdout)
    with urllib.request.urlopen("http://127.0.0.1:3000/server_info") as answer:
        assert "dagster_webserver_version" in json.load(answer)

    codes = services.stop()
    # The webserver cleans up, and then lets the signal end it, or not.
    assert codes.pop("webserver") in (0, -signal.SIGTERM)
    assert codes == {"daemon": 0, "worker": 0}


@pytest.mark.slow
def test_the_health_of_postgres_is_asked_with_words_that_it_knows(
    compose: dict[str, Any], server: EmbeddedServer
) -> None:
    _, program, *words = compose["services"]["postgres"]["healthcheck"]["test"]
    asked = [embedded._binaries() / program, *words]
    url = parse_url(server.url("postgres"))
    assert subprocess.run(asked, env={"PGPORT": str(url.port)}).returncode == 0
    assert subprocess.run(asked, env={"PGPORT": "1"}).returncode != 0
