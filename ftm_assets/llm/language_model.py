"""A language model behind OpenAI's protocol: one client for a process, with its limits, breaker, ledger and pool."""

import asyncio
import queue
import threading
from collections.abc import Coroutine, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar, cast

from ftm_assets.llm.circuit_breaker import Gate
from ftm_assets.llm.client import Asking, Caps, Progress
from ftm_assets.llm.ledger import Ledger
from ftm_assets.llm.prices import Price, PriceUnknown, read_prices
from ftm_assets.llm.protocol import Answer, NoAnswer, Question
from ftm_assets.llm.rate_limiter import RateLimit
from ftm_assets.llm.transport import Chat
from ftm_assets.settings import Settings

# So many are looked up in the ledger at once, and no more are begun before these are through: more than a firm or a
# quarter's themes have.
_LOOKED_UP = 1000
Result = TypeVar("Result")
Came = tuple[int, Answer | NoAnswer]


@dataclass(frozen=True)
class Limits:
    """What a client keeps to, whoever asks. window_s: the minute of `rpm` and `tpm`; shorter in tests"""

    concurrency: int
    rpm: int
    tpm: int
    timeout_s: float
    patience_s: float
    caps: Caps
    window_s: float = 60.0


@dataclass
class OpenAILanguageModel:
    """A `LanguageModel`; to be used by any number of threads. Building it opens nothing; the first use does.

    Not to be carried across a fork once it was used.
    """

    chat: Chat
    ledger: Ledger
    price: Price | None
    limits: Limits
    _asking: Asking | None = field(default=None, init=False, repr=False)
    _loop: asyncio.AbstractEventLoop | None = field(default=None, init=False, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    @property
    def name(self) -> str:
        """See `LanguageModel`."""
        return self.chat.model

    @property
    def progress(self) -> Progress:
        """What was done so far."""
        return replace(self._asking.progress) if self._asking is not None else Progress()

    def ask(self, questions: Sequence[Question]) -> Iterator[Came]:
        """See `LanguageModel`. raises: what the ledger raises"""
        asking = self._open()
        asking.progress.n_questions += len(questions)
        for start in range(0, len(questions), _LOOKED_UP):
            keys = [question.key(self.name) for question in questions[start : start + _LOOKED_UP]]
            found = self._wait_for(asking.find(keys))
            yield from ((start + n, found[key]) for n, key in enumerate(keys) if key in found)
            missing = {start + n: key for n, key in enumerate(keys) if key not in found}
            yield from self._ask_all(asking, [(place, key, questions[place]) for place, key in missing.items()])

    def reject(self, key: str, why: str) -> None:
        """See `LanguageModel`."""
        self._wait_for(self._open().reject(key, why))

    def close(self) -> None:
        """Give up what is under way, and close all connections."""
        with self._lock:
            loop, asking, self._loop, self._asking = self._loop, self._asking, None, None
        if loop is not None and asking is not None:
            asyncio.run_coroutine_threadsafe(asking.close(), loop).result()
            loop.call_soon_threadsafe(loop.stop)

    def _ask_all(self, asking: Asking, todo: Sequence[tuple[int, str, Question]]) -> Iterator[Came]:
        """Ask as many at a time as there are requests at a time, and as many that wait for their turn."""
        came: queue.SimpleQueue[tuple[int, Future[Answer | NoAnswer]]] = queue.SimpleQueue()
        waiting: dict[int, Future[Answer | NoAnswer]] = {}
        left = iter(todo)

        def ask_next() -> None:
            for place, key, question in left:
                future = self._submit(asking.ask(key, question))
                waiting[place] = future
                future.add_done_callback(lambda done, place=place: came.put((place, done)))  # type: ignore[misc]
                return

        try:
            for _ in range(2 * self.limits.concurrency):
                ask_next()
            while waiting:
                place, done = came.get()
                del waiting[place]
                ask_next()
                yield place, done.result()
        finally:
            for future in waiting.values():
                future.cancel()

    def _wait_for(self, work: Coroutine[Any, Any, Result]) -> Result:
        return self._submit(work).result()

    def _submit(self, work: Coroutine[Any, Any, Result]) -> "Future[Result]":
        return asyncio.run_coroutine_threadsafe(work, cast(asyncio.AbstractEventLoop, self._loop))

    def _open(self) -> Asking:
        with self._lock:
            if self._asking is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, daemon=True, name="ftm-language-model").start()
                self._asking = asyncio.run_coroutine_threadsafe(self._build(), self._loop).result()
            return self._asking

    async def _build(self) -> Asking:
        limits = self.limits
        limit = RateLimit(limits.rpm, limits.tpm, limits.window_s)
        gate = Gate(limits.patience_s)
        return Asking(self.chat, self.ledger, self.price, limits.caps, limit, gate, limits.concurrency)


def open_language_model(settings: Settings, ledger: Ledger) -> OpenAILanguageModel | None:
    """The model that the settings name, None if they name none; nothing is opened. raises: BadPrices"""
    if not settings.llm_model:
        return None
    limits = Limits(
        settings.llm_concurrency,
        settings.llm_rpm,
        settings.llm_tpm,
        settings.llm_timeout,
        settings.llm_patience,
        _caps(settings),
    )
    chat = Chat(
        *(settings.llm_base_url, settings.llm_model, settings.llm_api_key),
        timeout_s=limits.timeout_s,
        reasoning_effort=settings.llm_reasoning_effort,
    )
    return OpenAILanguageModel(chat, ledger, read_prices(settings.llm_prices).get(settings.llm_model), limits)


def check_price(settings: Settings) -> None:
    """Raise what keeps the named model from being asked anything. raises: BadPrices, PriceUnknown"""
    model = settings.llm_model
    if model and _caps(settings).any and model not in read_prices(settings.llm_prices):
        raise PriceUnknown(model)


def _caps(settings: Settings) -> Caps:
    return Caps(settings.llm_run_cap, settings.llm_quarter_cap)
