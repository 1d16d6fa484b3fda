import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Listener
from pathlib import Path

import pytest

from devtools.fake_openai.behaviour import MODEL, Behaviour
from devtools.fake_openai.server import FakeOpenAI, running
from devtools.processes import wait_for
from ftm_assets.llm.client_supervisor import ModelProcess
from ftm_assets.llm.ledger import Ledger
from ftm_assets.llm.protocol import Completion, CompletionFailure, LanguageModel
from ftm_assets.llm.shared_client import (
    IndexedResult,
    RemoteLanguageModel,
    SharedClientFailed,
    SharedOrOwnLanguageModel,
    find_language_model,
    socket_of,
)
from ftm_assets.processes.ipc import ProcessGone
from ftm_assets.settings import Settings
from ftm_assets.storage.server.database import Database
from ftm_assets_tests.conftest import ROOT
from ftm_assets_tests.llm.llm_client import KEY, complete_all, llm_request
from ftm_assets_tests.storage.sql import ask, one


@pytest.fixture
def model(database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeOpenAI]:
    """The simulated model, which the environment names."""
    with running() as model:
        monkeypatch.setenv("FTM_DATABASE_URL", database.url())
        monkeypatch.setenv("FTM_LLM_BASE_URL", model.base_url)
        monkeypatch.setenv("FTM_LLM_MODEL", MODEL)
        monkeypatch.setenv("FTM_LLM_API_KEY", KEY)
        monkeypatch.setenv("FTM_LLM_CONCURRENCY", "4")
        monkeypatch.setenv("FTM_LLM_RPM", "0")
        yield model


class Kept:
    """The process and what it complains of, looked at as a worker does."""

    def __init__(self, address: str) -> None:
        self.process = ModelProcess(address)
        self.errors: list[str] = []

    def until(self, condition: Callable[[], object]) -> None:
        def look() -> object:
            self.errors.extend(self.process.collect())
            return condition()

        wait_for(look)

    def kill(self) -> None:
        assert self.process._process.pid
        os.kill(self.process._process.pid, signal.SIGKILL)


@pytest.fixture
def address(tmp_path: Path) -> str:
    return str(tmp_path / "model")


@pytest.fixture
def kept(model: FakeOpenAI, address: str) -> Iterator[Kept]:
    kept = Kept(address)
    yield kept
    kept.process.close()


def served_at(address: str) -> RemoteLanguageModel:
    """The model as a lane has it, less patient."""
    return RemoteLanguageModel(MODEL, address, patience_s=20.0)


def test_what_is_served_is_what_the_client_gives(kept: Kept, model: FakeOpenAI, address: str) -> None:
    served = served_at(address)
    found = complete_all(served, [llm_request(n) for n in range(10)])
    assert all(isinstance(result, Completion) and f"7_70_{n:04}" in result.text for n, result in enumerate(found))
    again = complete_all(served, [llm_request(n) for n in range(12)])
    assert [result.reused for result in again if isinstance(result, Completion)] == [True] * 10 + [False] * 2
    assert served.name == MODEL and complete_all(served, []) == []
    kept.until(lambda: kept.process.progress.n_replies == 12)
    progress = kept.process.progress
    assert (progress.n_questions, progress.n_reused, progress.state) == (22, 10, "well")
    assert kept.errors == []


def test_limits_hold_for_all_lanes_together(kept: Kept, model: FakeOpenAI, address: str) -> None:
    model.behaviour = Behaviour(latency_s=0.05)
    with ThreadPoolExecutor(5) as lanes:
        asked = [[llm_request(100 * lane + n) for n in range(8)] for lane in range(5)]
        found = list(lanes.map(lambda requests: complete_all(served_at(address), requests), asked))
    assert all(isinstance(result, Completion) for each in found for result in each)
    assert model.counts.n_requests == 40 and 1 < model.counts.most_at_once <= 4


def test_a_rejected_reply_is_asked_again(kept: Kept, model: FakeOpenAI, address: str, database: Database) -> None:
    served = served_at(address)
    [result] = complete_all(served, [llm_request()])
    assert isinstance(result, Completion)
    served.reject(result.key, "invented ids")
    [again] = complete_all(served, [llm_request()])
    assert isinstance(again, Completion) and not again.reused
    assert one(database, "SELECT state FROM llm_calls ORDER BY number") == ["rejected", "answered"]


@pytest.mark.slow
def test_a_process_that_is_killed_is_started_again_and_nothing_that_was_answered_is_paid_twice(
    kept: Kept, model: FakeOpenAI, address: str, database: Database
) -> None:
    model.behaviour = Behaviour(latency_s=0.15)
    with ThreadPoolExecutor(2) as lanes:
        asked = [[llm_request(100 * lane + n) for n in range(30)] for lane in range(2)]
        coming = [lanes.submit(complete_all, served_at(address), requests) for requests in asked]
        kept.until(lambda: model.counts.n_whole > 20)
        kept.kill()
        stored = one(database, "SELECT key FROM llm_calls WHERE state = 'answered'")
        kept.until(lambda: all(each.done() for each in coming))
    assert all(isinstance(result, Completion) for each in coming for result in each.result())
    assert len(stored) > 10
    rows = ask(database, "SELECT key, count(*), max(number) FROM llm_calls GROUP BY key")
    assert {n for key, n, _ in rows if key in stored} == {1}, "no row, so no request, after it was stored"
    lost = one(database, "SELECT key FROM llm_calls WHERE state = 'lost'")
    assert 0 < len(lost) <= 4, "as many as may be under way"
    assert model.counts.n_requests <= 60 + len(lost)
    assert sum(n - 1 for n in model.counts.whole.values()) <= len(lost)
    assert kept.errors == ["the language model's client process ended, killed by SIGKILL; it starts again"]
    kept.until(lambda: kept.process.progress.n_under_way == 0)


def test_a_lane_that_has_gone_has_nothing_more_sent(kept: Kept, model: FakeOpenAI, address: str) -> None:
    model.behaviour = Behaviour(latency_s=0.2)
    complete_all(served_at(address), [llm_request(1000)])
    coming = served_at(address).complete([llm_request(n) for n in range(100)])
    next(coming)
    coming.close()  # type: ignore[attr-defined]
    kept.until(lambda: model.counts.n_requests > 2)
    time.sleep(1.5)
    assert model.counts.n_requests <= 1 + 4 * 4
    assert isinstance(complete_all(served_at(address), [llm_request(2000)])[0], Completion)


def test_the_worker_hears_of_a_wrong_key_and_not_the_key(kept: Kept, model: FakeOpenAI, address: str) -> None:
    model.behaviour = Behaviour(key="another")
    found = complete_all(served_at(address), [llm_request(n) for n in range(30)])
    assert {result.kind for result in found if isinstance(result, CompletionFailure)} == {"misconfigured"}
    kept.until(lambda: kept.errors)
    assert len(kept.errors) == 1 and "misconfigured" in kept.errors[0] and "[key]" in kept.errors[0]
    assert KEY not in str(found) + str(kept.errors) + str(kept.process.progress)
    assert model.counts.n_requests == 1


def test_a_database_that_is_away_is_told_to_who_asks(
    model: FakeOpenAI, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FTM_DATABASE_URL", "postgresql://me:sesame@127.0.0.1:9/ftm")
    kept = Kept(address)
    try:
        with pytest.raises(SharedClientFailed, match="refused") as failed:
            complete_all(served_at(address), [llm_request()])
        assert "sesame" not in str(failed.value)
    finally:
        kept.process.close()
    assert model.counts.n_requests == 0


def test_a_process_that_never_comes_is_given_up(address: str) -> None:
    with pytest.raises(ProcessGone, match=r"no language model's client process for 1 s; .* ftm worker status"):
        complete_all(RemoteLanguageModel(MODEL, address, patience_s=1.0), [llm_request()])


def test_a_process_that_dies_after_its_last_result_is_not_waited_for(address: str) -> None:
    def answer_once() -> None:
        with listener.accept() as connection:
            connection.recv()
            connection.send(IndexedResult(0, result))

    result = CompletionFailure("refused", "for once")
    with Listener(address) as listener, ThreadPoolExecutor(1) as thread:
        thread.submit(answer_once)
        model = RemoteLanguageModel(MODEL, address, patience_s=0.0)
        assert complete_all(model, [llm_request()]) == [result]


def nearest(database: Database, model: FakeOpenAI, home: Path, name: str = MODEL) -> LanguageModel:
    """The model as a process has it that is no lane."""
    settings = Settings(home=home, llm_model=name, llm_base_url=model.base_url)
    found = find_language_model(settings, Ledger(database))
    assert isinstance(found, SharedOrOwnLanguageModel)
    return found


def test_a_process_that_is_no_lane_asks_the_worker_if_there_is_one(
    model: FakeOpenAI, database: Database, tmp_path_factory: pytest.TempPathFactory
) -> None:
    home = tmp_path_factory.mktemp("home") / "not there yet"  # The test's own folder may be too long for a socket.
    address = socket_of(home)
    assert address is not None
    asked = nearest(database, model, home)
    assert isinstance(complete_all(asked, [llm_request(0)])[0], Completion), "by itself"
    kept = Kept(address)
    try:
        assert isinstance(complete_all(served_at(address), [llm_request(0)])[0], Completion), "it listens"
        assert isinstance(complete_all(asked, [llm_request(1)])[0], Completion)
        kept.until(lambda: kept.process.progress.n_replies == 1)
        other = nearest(database, model, home, "grok-0")
        assert isinstance(complete_all(other, [llm_request(2)])[0], CompletionFailure), "the worker has another model"
        kept.kill()
        assert isinstance(complete_all(asked, [llm_request(3)])[0], Completion), "by itself again"
    finally:
        kept.process.close()
    assert model.counts.n_requests == 3, "none of them for a model without a price"


def test_a_path_that_is_too_long_for_a_socket_is_none() -> None:
    assert socket_of(Path("/" + 120 * "a")) is None


def test_the_graph_has_the_model_that_the_settings_name_and_loads_nothing_heavy_for_it() -> None:
    script = f"""
import importlib, os, sys
from ftm_assets import definitions
for variables in ({{}}, {{"FTM_LLM_MODEL": {MODEL!r}}}, {{"FTM_LLM_ADDRESS": "/there"}}):
    os.environ.update(variables)
    importlib.reload(definitions)
    print(type(definitions.defs.resources["language_model"]).__name__)
print([heavy for heavy in ("openai", "torch") if heavy in sys.modules])
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert ended.stdout.split() == ["NoLanguageModel", "SharedOrOwnLanguageModel", "RemoteLanguageModel", "[]"]
