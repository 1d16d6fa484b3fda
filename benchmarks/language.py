"""What the language model's client makes of a provider's limits, of its faults, and of memory.

    python -m benchmarks language [--seconds 130] [--questions 400] [--many 5000]

A simulated model in a process of its own, the real client, a real Postgres. First, a server with a second of latency
and a limit of requests, and one with a limit of tokens, both at the same time: the share of the limit that was reached
in the best and in the last minute, as the server counts it. Then the same requests to a server without and with 30 %
faults of all kinds, and once more: what was paid, and how often. Then the memory of the client over many requests.
"""

import argparse
import json
import multiprocessing
import os
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, overload

import sqlalchemy as sa
from pydantic import SecretStr
from rich.console import Console
from rich.table import Table

from devtools.fake_openai.behaviour import MODEL, Behaviour, mixed
from devtools.fake_openai.server import running
from ftm_assets.llm.client import Limits, LlmClient
from ftm_assets.llm.ledger import NO_CAPS, Ledger
from ftm_assets.llm.prices import Price
from ftm_assets.llm.protocol import Completion, CompletionRequest, Message
from ftm_assets.llm.transport import OpenAITransport
from ftm_assets.settings import Settings
from ftm_assets.storage.server.database import Database
from ftm_assets.storage.server.embedded import EmbeddedServer

RPM, TPM = 600, 120_000
FAULTS = 0.3
PRICE = Price.model_validate({"in": 0.2, "cached": 0.05, "out": 0.5, "checked": "2026-11-28"})
WORDS = ("freight", "costs", "pricing", "wages", "hiring", "tariffs", "margins", "demand", "inventory", "suppliers")
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class Requests(Sequence[CompletionRequest]):
    """Requests that are made when they are looked at; each with eight topics of three sentences."""

    quarter: str
    n: int
    first: int = 0

    def __len__(self) -> int:
        return self.n

    @overload
    def __getitem__(self, at: int) -> CompletionRequest: ...
    @overload
    def __getitem__(self, at: slice) -> "Requests": ...
    def __getitem__(self, at: int | slice) -> "CompletionRequest | Requests":
        if isinstance(at, slice):
            start, stop, _ = at.indices(self.n)
            return Requests(self.quarter, stop - start, self.first + start)
        if at >= self.n:
            raise IndexError
        number = self.first + at
        topics = [
            {
                "topic": topic,
                "keywords": [WORDS[(number + topic + k) % len(WORDS)] for k in range(4)],
                "sentences": [
                    {"id": f"7_{number}_{topic}{k}", "text": f"We saw {WORDS[(topic + k) % 12]} rise {number} percent."}
                    for k in range(3)
                ],
            }
            for topic in range(8)
        ]
        messages = (Message("system", "Summarize each topic."), Message("user", json.dumps({"topics": topics})))
        return CompletionRequest(self.quarter, "bench@1", messages, {"type": "object", "properties": {}}, 1200)


def _serve(behaviour: Behaviour, pipe: Connection) -> None:
    with running(behaviour) as model:
        pipe.send(model.port)
        pipe.recv()


@contextmanager
def served(behaviour: Behaviour) -> Iterator[int]:
    """The port of a simulated model in a process of its own."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(behaviour, theirs), daemon=True)
    process.start()
    yield ours.recv()
    ours.send(None)
    process.join()


def counts(port: int) -> dict[str, Any]:
    """What the server has counted."""
    with _direct.open(f"http://127.0.0.1:{port}/simulated/counts") as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def client(database: Database, port: int, concurrency: int, rpm: int = 0, tpm: int = 0) -> LlmClient:
    """The client as the worker has it."""
    transport = OpenAITransport(f"http://127.0.0.1:{port}/v1", MODEL, SecretStr("none"), 30.0)
    limits = Limits(concurrency=concurrency, rpm=rpm, tpm=tpm, patience_s=120.0, caps=NO_CAPS)
    return LlmClient(transport, Ledger(database), PRICE, limits)


@dataclass
class Share:
    """How much of a limit was used in each minute that was looked at, and what the server turned away."""

    limit: str
    best: float = 0.0
    last: float = 0.0
    turned_away: int = 0


def reach(database: Database, name: str, rpm: int, tpm: int, seconds: float, share: Share) -> None:
    """Ask for so long, and see how much of the limit is used."""
    with served(Behaviour(latency_s=1.0, rpm=rpm, tpm=tpm)) as port:
        model = client(database, port, 32, rpm, tpm)
        until = time.monotonic() + seconds
        with closing(model.complete(Requests(name, 100_000))) as coming:  # type: ignore[type-var]
            for _ in coming:
                if time.monotonic() > until:
                    break
            found = counts(port)
        share.best = found["most_requests"] / rpm if rpm else found["most_tokens"] / tpm
        share.last = found["requests_now"] / rpm if rpm else found["tokens_now"] / tpm
        share.turned_away = found["over_limit"]
        model.close()


@dataclass(frozen=True)
class Asked:
    """The same requests, once without and once with faults."""

    faults: float
    wall_s: float
    n_requests: int
    n_answers: int
    n_whole: int
    n_rows_paid: int
    n_lost: int
    n_again: int


def ask_all(database: Database, faults: float, n: int, quarter: str) -> Asked:
    """Ask them, then once more, as a run that is resumed does."""
    with served(Behaviour(mixed(faults), latency_s=0.2, slow_s=2.0, retry_after_s=1.0)) as port:
        model = client(database, port, 16)
        # Other requests than those before: each quarter has its own numbers.
        requests = Requests(quarter, n, first=1_000_000 * (1 + round(100 * faults)))
        started = time.monotonic()
        n_answers = sum(isinstance(answer, Completion) for _, answer in model.complete(requests))
        wall_s = time.monotonic() - started
        found = counts(port)
        again = sum(isinstance(answer, Completion) and not answer.reused for _, answer in model.complete(requests))
        model.close()
    with database.transaction() as connection:
        by_state: dict[str, int] = dict(
            connection.execute(
                sa.text("SELECT state, count(*) FROM llm_calls WHERE quarter = :quarter GROUP BY state"),
                {"quarter": quarter},
            ).all()
        )
    paid = sum(by_state.get(state, 0) for state in ("answered", "rejected", "refused"))
    lost = by_state.get("lost", 0)
    return Asked(faults, wall_s, found["n_requests"], n_answers, found["n_whole"], paid, lost, again)


def memory(database: Database, n: int) -> list[tuple[int, float]]:
    """Requests asked -> MB of this process, at ten points."""
    seen: list[tuple[int, float]] = []
    with served(Behaviour()) as port:
        model = client(database, port, 16)
        for done, _ in enumerate(model.complete(Requests("2003Q1", n, first=10_000_000)), 1):
            if done % max(1, n // 10) == 0:
                resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
                seen.append((done, resident / 2**20))
        model.close()
    return seen


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=130.0, help="to ask against each limit; 0: not at all")
    parser.add_argument("--questions", type=int, default=400, help="with and without faults; 0: none")
    parser.add_argument("--many", type=int, default=5_000, help="to see the memory; 0: none")
    return parser


def main() -> None:
    """Measure and print."""
    chosen = parser().parse_args()
    console = Console(width=max(Console().width, 120))
    with tempfile.TemporaryDirectory() as folder:
        server = EmbeddedServer(Path(folder) / "postgres")
        server.start()
        database = Database(Settings(home=Path(folder), database_url=SecretStr(server.url("ftm"))))
        try:
            if chosen.seconds:
                console.print(_shares(database, chosen.seconds))
            if chosen.questions:
                console.print(_faults(database, chosen.questions))
            if chosen.many:
                table = Table("requests", "MB", title="memory of the client")
                for done, megabytes in memory(database, chosen.many):
                    table.add_row(f"{done:,}", f"{megabytes:.1f}")
                console.print(table)
        finally:
            server.stop()


def _shares(database: Database, seconds: float) -> Table:
    shares = [Share(f"{RPM} requests a minute"), Share(f"{TPM:,} tokens a minute")]
    asked = [("2001Q1", RPM, 0, seconds, shares[0]), ("2001Q2", 0, TPM, seconds, shares[1])]
    threads = [threading.Thread(target=reach, args=(database, *each)) for each in asked]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    table = Table("limit", "most in any minute", "in the last minute", "turned away", title="share of the limit")
    for share in shares:
        table.add_row(share.limit, f"{share.best:.1%}", f"{share.last:.1%}", str(share.turned_away))
    return table


def _faults(database: Database, n: int) -> Table:
    table = Table(
        *("faults", "wall s", "requests", "answers", "whole replies", "of them in the ledger", "lost", "paid again"),
        title=f"{n} requests, 16 at a time, 0.2 s latency",
    )
    for faults, quarter in ((0.0, "2002Q1"), (FAULTS, "2002Q2")):
        asked = ask_all(database, faults, n, quarter)
        numbers = (asked.n_requests, asked.n_answers, asked.n_whole, asked.n_rows_paid, asked.n_lost, asked.n_again)
        table.add_row(f"{faults:.0%}", f"{asked.wall_s:.1f}", *(f"{number:,}" for number in numbers))
    return table
