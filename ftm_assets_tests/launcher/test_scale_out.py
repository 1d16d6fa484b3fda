"""The same graph under another engine: Celery's launcher, a real Redis, two workers, the rows of one process."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg
import pytest
import yaml

from devtools.processes import digests, free_port, wait_for
from ftm_assets.settings import with_database
from ftm_assets_tests.conftest import ROOT, SAMPLE
from ftm_assets_tests.six_firms import calls_of
from ftm_assets_tests.test_documentation import COMPANIES, QUARTER
from ftm_assets_tests.test_slow import ROWS

BIN = Path(sys.executable).parent
# One thread a process, as lanes have it: two round the last digits of a vector differently.
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


def documented_launcher() -> dict[str, object]:
    """The first block of docs/scale-out.md."""
    block = (ROOT / "docs" / "scale-out.md").read_text().split("```yaml\n")[1].split("```")[0]
    launcher: dict[str, object] = yaml.safe_load(block)["run_launcher"]
    return launcher


def ftm(environment: Mapping[str, str], *words: str) -> str:
    done = subprocess.run([BIN / "ftm", *words], env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


@contextmanager
def process(name: str, words: list[str], environment: Mapping[str, str], folder: Path) -> Iterator[Path]:
    """A process until the end of the block; where its output is."""
    log = folder / f"{name}.log"
    with log.open("wb") as stream:
        started = subprocess.Popen(
            words, env=environment, cwd=folder, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield log
    finally:
        # What Celery's command has started, too.
        os.killpg(started.pid, signal.SIGTERM)
        try:
            started.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(started.pid, signal.SIGKILL)
            started.wait()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_celery_with_two_workers_writes_the_rows_of_one_process(tmp_path: Path) -> None:
    pytest.importorskip("dagster_celery", reason="dagster-celery is not installed")
    redis = shutil.which("redis-server")
    if redis is None:
        pytest.skip("no redis-server on this machine")
    calls = str(calls_of(COMPANIES, SAMPLE, tmp_path / "calls.csv"))

    alone = {**os.environ, **ONE_THREAD, "FTM_HOME": str(tmp_path / "alone"), "PYTHONPATH": str(ROOT)}
    ftm(alone, "ingest", calls, "--quarter", QUARTER)
    ftm(alone, "backfill", QUARTER)
    expected = digests(ftm(alone, "db").strip(), ROWS)
    ftm(alone, "down")

    dagster_home, broker = tmp_path / "dagster", f"redis://127.0.0.1:{(port := free_port())}/0"
    dagster_home.mkdir()
    ours = yaml.safe_load((ROOT / "dagster.yaml").read_text())
    (dagster_home / "dagster.yaml").write_text(yaml.safe_dump({**ours, "run_launcher": documented_launcher()}))
    shutil.copy(ROOT / "workspace.yaml", dagster_home)
    config = {"broker": broker, "backend": broker, "config_source": {"worker_prefetch_multiplier": 1}}
    (tmp_path / "celery.yaml").write_text(yaml.safe_dump({"execution": {"config": config}}))
    many = {
        **alone,
        "FTM_HOME": str(tmp_path / "many"),
        "DAGSTER_HOME": str(dagster_home),
        "CELERY_BROKER": broker,
        "PATH": f"{BIN}:{os.environ['PATH']}",
    }
    ftm(many, "ingest", calls, "--quarter", QUARTER)
    exported = [line.removeprefix("export ") for line in ftm(many, "env").splitlines()]
    many |= dict(line.replace("'", "").split("=", 1) for line in exported)
    worker = [str(BIN / "dagster-celery"), "worker", "start", "-A", "dagster_celery.app", "-y", "celery.yaml", "--name"]
    with ExitStack() as stack:
        stack.enter_context(process("redis", [redis, "--port", str(port), "--save", ""], many, tmp_path))
        logs = [
            stack.enter_context(process(name, [*worker, name, "--", "--concurrency", "1"], many, tmp_path))
            for name in ("one", "two")
        ]
        stack.enter_context(process("daemon", [str(BIN / "ftm"), "daemon"], many, tmp_path))
        for log in logs:
            wait_for(lambda log=log: "ready." in log.read_text(), 300, f"worker {log.stem}")  # type: ignore[misc]
        wait_for(lambda: _daemon_lives(many), 300, "daemon", look_every_s=2)
        ftm(many, "backfill", QUARTER)
        n_by_worker = [log.read_text().count("succeeded in") for log in logs]
    url = ftm(many, "db").strip()
    assert digests(url, ROWS) == expected
    assert sum(n_by_worker) == len(COMPANIES) and all(n_by_worker), n_by_worker
    with psycopg.connect(with_database(url, "dagster")) as connection:
        found = connection.execute("SELECT count(*) FROM run_tags WHERE key = 'dagster-celery/task_id'").fetchone()
    assert found == (len(COMPANIES),)
    ftm(many, "down")


def _daemon_lives(environment: Mapping[str, str]) -> bool:
    return subprocess.run([BIN / "ftm", "daemon", "status"], env=environment, capture_output=True).returncode == 0
