"""From a question to an answer: ledger, breaker, limits and retries around one request after another."""

import asyncio
import functools
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Concatenate, ParamSpec, TypeVar

from tenacity import AsyncRetrying, stop_after_delay, wait_fixed

from ftm_assets.llm.circuit_breaker import Gate
from ftm_assets.llm.ledger import Elsewhere, Ledger, Reply, Sent, State, Terms, Usage
from ftm_assets.llm.pending_request import Errand, tokens_in
from ftm_assets.llm.prices import Price, PriceUnknown
from ftm_assets.llm.protocol import NOTHING, Answer, NoAnswer, Question, estimate_tokens
from ftm_assets.llm.rate_limiter import RateLimit
from ftm_assets.llm.transport import Chat, Completion

# How much more a provider may count than we estimate, before it has counted anything and after.
_MARGIN = 1.5
_MARGIN_KNOWN = 1.1
_INSIST_S = 60.0
_CLOSE_S = 5.0

Result = TypeVar("Result")
Parameters = ParamSpec("Parameters")


@dataclass
class Progress:
    """What was done so far; `dollars` leaves out what has an unknown price, which `n_unpriced` replies have."""

    n_questions: int = 0
    n_reused: int = 0
    n_requests: int = 0
    n_replies: int = 0
    n_unpriced: int = 0
    n_unanswered: int = 0
    n_under_way: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    dollars: float = 0.0
    state: str = "untried"
    why: str = ""


@dataclass(frozen=True)
class Caps:
    """Dollars that a run and a quarter may cost; inf: no limit."""

    run: float
    quarter: float

    @property
    def any(self) -> bool:
        """Whether there is a limit."""
        return self.run != float("inf") or self.quarter != float("inf")


class Asking:
    """Asks questions on one event loop; equal ones that are under way at the same time are asked once.

    ledger:      called from threads of our own, so that it never holds up the loop
    price:       None if it is unknown
    concurrency: requests at a time
    """

    def __init__(
        self,
        chat: Chat,
        ledger: Ledger,
        price: Price | None,
        caps: Caps,
        limit: RateLimit,
        gate: Gate,
        concurrency: int,
    ) -> None:
        self.chat = chat
        self.ledger = ledger
        self.price = price
        self.caps = caps
        self.limit = limit
        self.gate = gate
        self.progress = Progress()
        self.slots = asyncio.Semaphore(concurrency)
        self._threads = ThreadPoolExecutor(2, "ftm-ledger")
        self._under_way: dict[str, Errand] = {}
        self._settled = asyncio.Event()
        self.n_reserved = 0
        self._unsettled: list[Sent] = []
        self._scale_in = _MARGIN
        self._scale_out = 1.0

    async def find(self, keys: list[str]) -> dict[str, Answer | NoAnswer]:
        """What the ledger has of them."""
        found = dict(await self._in_thread(self.ledger.find, keys))
        self.progress.n_reused += len(found)
        return found

    async def ask(self, key: str, question: Question) -> Answer | NoAnswer:
        """The answer, from whoever asks already or by asking.

        Who stops waiting does not end a request that has been sent; one that has not is given up if nobody waits.
        """
        errand = self._under_way.get(key)
        is_first = errand is None
        if errand is None:
            errand = self._under_way[key] = Errand(self, key, question)
            errand.task = asyncio.create_task(self._carry_out(errand))
        errand.n_waiting += 1
        try:
            answer = await asyncio.shield(errand.task)
        finally:
            errand.n_waiting -= 1
            if not errand.n_waiting and not errand.is_busy:
                errand.task.cancel()
        if is_first:
            return answer
        if isinstance(answer, NoAnswer):
            return replace(answer, bill=NOTHING)
        self.progress.n_reused += 1
        return replace(answer, reused=True, besides=NOTHING)

    async def reject(self, key: str, why: str) -> None:
        """See `LanguageModel`."""
        self.gate.is_of_no_use(key, why)
        await self._in_thread(self.ledger.reject, key, why)

    async def close(self) -> None:
        """Close what is open. What is with the server may come for a while; then it is given up."""
        for errand in list(self._under_way.values()):
            if not errand.is_busy:
                errand.task.cancel()
        for give_up in (False, True):
            tasks = [errand.task for errand in self._under_way.values()]
            if give_up:
                for task in tasks:
                    task.cancel()
            if tasks:
                await asyncio.wait(tasks, timeout=_CLOSE_S)
        await self.chat.close()
        await self._in_thread(self.ledger.close)
        self._threads.shutdown(wait=False)

    async def _carry_out(self, errand: Errand) -> Answer | NoAnswer:
        self.progress.n_under_way += 1
        try:
            if self.price is None and self.caps.any:
                answer: Answer | NoAnswer = NoAnswer("budget", str(PriceUnknown(self.chat.model)))
            else:
                answer = await errand.run()
        finally:
            self.progress.n_under_way -= 1
            self.progress.state, self.progress.why = self.gate.state, self.gate.why
            del self._under_way[errand.key]
        if isinstance(answer, NoAnswer):
            self.progress.n_unanswered += 1
        elif answer.reused:
            self.progress.n_reused += 1
        return answer

    async def begin(self, key: str, question: Question) -> Sent | Answer | NoAnswer | Elsewhere:
        """The question's row with its price put aside, if it may be sent."""
        await self._settle_late()
        begun = await self._in_thread(self.ledger.begin, key, question, self.chat.model, self._terms(question))
        self.n_reserved += isinstance(begun, Sent)
        return begun

    async def any_settled(self) -> None:
        """Wait until something that is under way has been settled."""
        self._settled.clear()
        await self._settled.wait()

    async def settle(
        self,
        work: Callable[Concatenate[Sent, Parameters], Result],
        sent: Sent,
        *args: Parameters.args,
        **kwargs: Parameters.kwargs,
    ) -> Result:
        """Write down what became of a row, also if the database is away for a while: the reply is paid.

        Where that does not help the row counts as lost, from the next question on.
        """
        insisting = AsyncRetrying(stop=stop_after_delay(_INSIST_S), wait=wait_fixed(1.0), reraise=True)
        try:
            return await insisting(self._in_thread, work, sent, *args, **kwargs)
        except Exception:
            self._unsettled.append(sent)
            raise
        finally:
            self.n_reserved -= 1
            self._settled.set()

    async def _settle_late(self) -> None:
        """Let nobody wait for a reply that could not be written down."""
        late, self._unsettled = self._unsettled, []
        try:
            for sent in late:
                why = "what became of it could not be written down"
                await self._in_thread(self.ledger.unanswered, sent, State.lost, why, 1)
        except BaseException:
            self._unsettled += late  # It does no harm to do it twice.
            raise

    def reply_of(self, completion: Completion, question: Question, attempts: int) -> Reply:
        """A completion with its price; of a provider that counts no tokens, we count."""
        usage = completion.usage or Usage(tokens_in(question), 0, estimate_tokens(completion.text))
        dollars = self.price.dollars(usage.tokens_in, usage.tokens_cached, usage.tokens_out) if self.price else None
        self._scale_in = _learned(self._scale_in, usage.tokens_in / tokens_in(question))
        self._scale_out = max(1.0, _learned(self._scale_out, usage.tokens_out / question.max_tokens))
        self.progress.n_replies += 1
        self.progress.n_unpriced += dollars is None
        self.progress.tokens_in += usage.tokens_in
        self.progress.tokens_out += usage.tokens_out
        self.progress.dollars += dollars or 0.0
        return Reply(completion.text, completion.model, usage, dollars, completion.latency_s, attempts)

    def most_tokens(self, question: Question) -> tuple[int, int]:
        """Upper bounds of what the provider will count in and out, from what it counted so far: some bill more than
        they were allowed to say.
        """
        return math.ceil(self._scale_in * tokens_in(question)), math.ceil(self._scale_out * question.max_tokens)

    def _terms(self, question: Question) -> Terms:
        cutoff = self.price.training_cutoff if self.price else None
        most_in, most_out = self.most_tokens(question)
        dollars = self.price.dollars(most_in, 0, most_out) if self.price else None
        return Terms(dollars, self.caps.run, self.caps.quarter, cutoff)

    async def _in_thread(
        self, work: Callable[Parameters, Result], *args: Parameters.args, **kwargs: Parameters.kwargs
    ) -> Result:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, functools.partial(work, *args, **kwargs))


def _learned(scale: float, counted: float) -> float:
    """Up at once, down by and by."""
    counted *= _MARGIN_KNOWN
    return max(counted, scale + (counted - scale) / 10)
