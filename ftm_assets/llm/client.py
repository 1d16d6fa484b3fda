"""The client of a language model: one for a process, with its limits, circuit breaker, ledger and connections."""

import asyncio
import queue
import threading
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, TypeVar

from ftm_assets.llm.budget import Budget
from ftm_assets.llm.circuit_breaker import CircuitBreaker
from ftm_assets.llm.ledger import Caps, Ledger
from ftm_assets.llm.pending_request import PendingRequest
from ftm_assets.llm.prices import Price, PriceUnknown, read_prices
from ftm_assets.llm.protocol import ZERO, CompletionFailure, CompletionRequest, CompletionResult
from ftm_assets.llm.rate_limiter import RateLimiter
from ftm_assets.llm.stats import ClientStats
from ftm_assets.llm.transport import OpenAITransport
from ftm_assets.settings import Settings

# Requests that are looked up in the ledger at once; a firm or a quarter's themes have fewer.
_LOOKUP_SIZE = 1000
_CLOSE_S = 5.0

T = TypeVar("T")


@dataclass(frozen=True)
class Limits:
    """What a client keeps to. window_s: the minute of `rpm` and `tpm`, shorter in tests"""

    concurrency: int
    rpm: int
    tpm: int
    patience_s: float
    caps: Caps
    window_s: float = 60.0


@dataclass
class LlmClient:
    """A `LanguageModel` that any number of threads may use. Requests run on an event loop in a thread of its own.

    Building it opens nothing; the first use does. Do not carry it across a fork after that, nor use it after `close`.

    price: None if it is unknown
    """

    transport: OpenAITransport
    ledger: Ledger
    price: Price | None
    limits: Limits
    _loop: asyncio.AbstractEventLoop | None = field(default=None, init=False, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)
    _pending: dict[str, PendingRequest] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        limits = self.limits
        self._stats = ClientStats()
        self._budget = Budget(self.ledger, self.name, self.price, limits.caps)
        self._breaker = CircuitBreaker(limits.patience_s)
        self._limiter = RateLimiter(limits.rpm, limits.tpm, limits.window_s)
        self._slots = asyncio.Semaphore(limits.concurrency)

    @property
    def name(self) -> str:
        """See `LanguageModel`."""
        return self.transport.model

    @property
    def stats(self) -> ClientStats:
        """What was done so far."""
        return replace(self._stats)

    def complete(self, requests: Sequence[CompletionRequest]) -> Iterator[tuple[int, CompletionResult]]:
        """See `LanguageModel`. raises: what the ledger raises"""
        self._stats.n_questions += len(requests)
        for start in range(0, len(requests), _LOOKUP_SIZE):
            keys = [request.key(self.name) for request in requests[start : start + _LOOKUP_SIZE]]
            stored = self._submit(self._find(keys)).result()
            yield from ((index, stored[key]) for index, key in enumerate(keys, start) if key in stored)
            missing = [(index, key) for index, key in enumerate(keys, start) if key not in stored]
            yield from self._complete_all((index, key, requests[index]) for index, key in missing)

    def reject(self, key: str, reason: str) -> None:
        """See `LanguageModel`."""
        self._submit(self._reject(key, reason)).result()

    def close(self) -> None:
        """Cancel what is under way, and close all connections."""
        with self._lock:
            loop, self._loop = self._loop, None
        if loop is not None:
            asyncio.run_coroutine_threadsafe(self._close(), loop).result()
            loop.call_soon_threadsafe(loop.stop)

    def _complete_all(
        self, missing: Iterator[tuple[int, str, CompletionRequest]]
    ) -> Iterator[tuple[int, CompletionResult]]:
        """Submit as many at a time as may be sent, and as many that wait for their turn."""
        finished: queue.SimpleQueue[int] = queue.SimpleQueue()
        waiting: dict[int, Future[CompletionResult]] = {}

        def submit(index: int, key: str, request: CompletionRequest) -> None:
            waiting[index] = self._submit(self._complete_one(key, request))
            waiting[index].add_done_callback(lambda _: finished.put(index))

        try:
            for each in islice(missing, 2 * self.limits.concurrency):
                submit(*each)
            while waiting:
                index = finished.get()
                done = waiting.pop(index)
                for each in islice(missing, 1):
                    submit(*each)
                yield index, done.result()
        finally:
            for future in waiting.values():
                future.cancel()

    def _submit(self, work: Coroutine[Any, Any, T]) -> "Future[T]":
        """Run it on the event loop, which starts now if it has not yet."""
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, daemon=True, name="ftm-llm-client").start()
            return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _find(self, keys: list[str]) -> Mapping[str, CompletionResult]:
        found = await self._budget.with_ledger(lambda ledger: ledger.find(keys))
        self._stats.n_reused += len(found)
        return found

    async def _reject(self, key: str, reason: str) -> None:
        self._breaker.record_unusable(key, reason)
        await self._budget.with_ledger(lambda ledger: ledger.reject(key, reason))

    async def _complete_one(self, key: str, request: CompletionRequest) -> CompletionResult:
        """The result; equal requests at the same time are sent once.

        A caller that stops waiting does not cancel a request that has been sent. One that has not is canceled with its
        last caller.
        """
        pending = self._pending.get(key)
        is_first = pending is None
        if pending is None:
            pending = self._pending[key] = PendingRequest(
                key=key,
                request=request,
                transport=self.transport,
                budget=self._budget,
                breaker=self._breaker,
                limiter=self._limiter,
                slots=self._slots,
                stats=self._stats,
            )
            pending.task = asyncio.create_task(self._run(pending))
        pending.n_waiting += 1
        try:
            result = await asyncio.shield(pending.task)
        finally:
            pending.n_waiting -= 1
            if not pending.n_waiting and not pending.is_busy:
                pending.task.cancel()
        if is_first:
            return result
        if isinstance(result, CompletionFailure):
            return replace(result, total_cost=ZERO)
        self._stats.n_reused += 1
        return replace(result, reused=True, retry_cost=ZERO)

    async def _run(self, pending: PendingRequest) -> CompletionResult:
        stats = self._stats
        stats.n_under_way += 1
        try:
            result = await pending.run()
        finally:
            stats.n_under_way -= 1
            stats.state, stats.why = self._breaker.state, self._breaker.reason
            del self._pending[pending.key]
        if isinstance(result, CompletionFailure):
            stats.n_unanswered += 1
        elif result.reused:
            stats.n_reused += 1
        return result

    async def _close(self) -> None:
        """Replies under way may come for a while; then they are given up."""
        for pending in list(self._pending.values()):
            if not pending.is_busy:
                pending.task.cancel()
        for is_last_call in (False, True):
            tasks = [pending.task for pending in self._pending.values()]
            if is_last_call:
                for task in tasks:
                    task.cancel()
            if tasks:
                await asyncio.wait(tasks, timeout=_CLOSE_S)
        await self.transport.close()
        await self._budget.close()


def open_client(settings: Settings, ledger: Ledger) -> LlmClient | None:
    """The client of the model in the settings, None if they name none. Opens no connection. raises: BadPrices"""
    if not settings.llm_model:
        return None
    transport = OpenAITransport(
        base_url=settings.llm_base_url,
        model=settings.llm_model,
        key=settings.llm_api_key,
        timeout_s=settings.llm_timeout,
        reasoning_effort=settings.llm_reasoning_effort,
    )
    limits = Limits(
        concurrency=settings.llm_concurrency,
        rpm=settings.llm_rpm,
        tpm=settings.llm_tpm,
        patience_s=settings.llm_patience,
        caps=_caps(settings),
    )
    return LlmClient(transport, ledger, read_prices(settings.llm_prices).get(settings.llm_model), limits)


def check_price(settings: Settings) -> None:
    """Raise if caps keep the model in the settings from being used. raises: BadPrices, PriceUnknown"""
    model = settings.llm_model
    if model and _caps(settings).any and model not in read_prices(settings.llm_prices):
        raise PriceUnknown(model)


def _caps(settings: Settings) -> Caps:
    return Caps(run=settings.llm_run_cap, quarter=settings.llm_quarter_cap)
