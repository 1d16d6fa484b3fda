"""One question on its way: requests until there is an answer, each possibly paid one with its row in the ledger."""

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from tenacity import AsyncRetrying, retry_if_exception_type, wait_random_exponential

from ftm_assets.llm.circuit_breaker import Pass
from ftm_assets.llm.ledger import Elsewhere, Reply, Sent, State
from ftm_assets.llm.protocol import NOTHING, Answer, Bill, NoAnswer, Question, estimate_tokens
from ftm_assets.llm.rate_limiter import Taken
from ftm_assets.llm.transport import Completion, Misconfigured, Refused, Transient

if TYPE_CHECKING:
    from ftm_assets.llm.client import Asking

MAX_ATTEMPTS = 6
MAX_USELESS = 2
_LONGEST_WAIT_S = 20.0
_ELSEWHERE_S = 0.5
_LONGEST_ELSEWHERE_S = 600.0


class Errand:
    """One question until there is an answer, or none. It has a row in the ledger for each reply that may be paid.

    n_waiting: how many want to know; without any, nothing more is sent
    is_busy:   whether it must not be disturbed: what is sent and what came is written down
    is_sent:   whether a request is with the server
    """

    task: "asyncio.Task[Answer | NoAnswer]"

    def __init__(self, asking: "Asking", key: str, question: Question) -> None:
        self.asking = asking
        self.key = key
        self.question = question
        self.n_waiting = 0
        self.is_busy = False
        self.is_sent = False
        self.sent: Sent | None = None
        self.n_attempts = 0
        self.n_failures = 0
        self.n_useless = 0
        self.useless = NoAnswer("refused", "")
        self.besides = NOTHING

    async def run(self) -> Answer | NoAnswer:
        """Try until something comes of it, with all that it took on the bill."""
        came = await self._insist()
        return replace(came, besides=self.besides) if isinstance(came, Answer) else replace(came, bill=self.besides)

    async def _insist(self) -> Answer | NoAnswer:
        """A server that is down is the gate's business and counts as no failure."""
        trying = AsyncRetrying(
            retry=retry_if_exception_type(Transient),
            wait=wait_random_exponential(multiplier=0.5, max=_LONGEST_WAIT_S),
            stop=lambda _: self.n_failures >= MAX_ATTEMPTS or self.n_useless >= MAX_USELESS,
            reraise=True,
        )
        try:
            return await trying(self._try)
        except Transient as error:
            await self._no_reply(State.failed, error.why)
            if self.n_useless >= MAX_USELESS:
                return self.useless
            return NoAnswer("unavailable", f"{self.n_failures} requests failed, the last: {error.why}")
        except asyncio.CancelledError:
            await self._no_reply(State.lost if self.is_sent else State.failed, "nobody waited for it any more")
            raise

    @contextmanager
    def _undisturbed(self) -> Iterator[None]:
        self.is_busy = True
        try:
            yield
        finally:
            self.is_busy = False
        if not self.n_waiting:
            raise asyncio.CancelledError

    async def _try(self) -> Answer | NoAnswer:
        asking, started = self.asking, time.monotonic()
        while self.n_waiting:
            came = asking.gate.refusal() or await self._send()
            if isinstance(came, Elsewhere):
                if time.monotonic() - started > _LONGEST_ELSEWHERE_S:
                    return NoAnswer("unavailable", f"another process has asked it for {_LONGEST_ELSEWHERE_S:g} s")
                await asyncio.sleep(_ELSEWHERE_S)
            elif isinstance(came, NoAnswer) and came.kind == "budget" and asking.n_reserved:
                # What is under way may cost less than was put aside for it.
                await asking.any_settled()
            else:
                if isinstance(came, NoAnswer):
                    await self._no_reply(State.failed, came.why)
                return came
        raise asyncio.CancelledError

    async def _send(self) -> Answer | NoAnswer | Elsewhere:
        """One request, once everybody lets it through. raises: Transient"""
        async with self.asking.slots:
            leave = await self._leave()
            if isinstance(leave, NoAnswer):
                return leave
            with self._undisturbed():
                # Only now: of a process that is killed, all that the ledger has as sent counts as paid.
                begun = self.sent or await self._begin(*leave)
                if not isinstance(begun, Sent):
                    return begun
                completion = await self._request(*leave)
                return await self._keep(completion) if isinstance(completion, Completion) else completion

    async def _begin(self, leave: Pass, taken: Taken) -> Sent | Answer | NoAnswer | Elsewhere:
        begun = None
        try:
            begun = await self.asking.begin(self.key, self.question)
        finally:
            if isinstance(begun, Sent):
                self.sent, self.n_attempts = begun, 0
            else:
                self.asking.limit.give_back(taken)
                self.asking.gate.left(leave)
        return begun

    async def _leave(self) -> tuple[Pass, Taken] | NoAnswer:
        """Leave of gate and limit to send one request."""
        asking, gate, limit = self.asking, self.asking.gate, self.asking.limit
        while True:
            leave = await gate.enter()
            if isinstance(leave, NoAnswer):
                return leave
            try:
                taken = await limit.take(sum(asking.most_tokens(self.question)))
            except asyncio.CancelledError:
                gate.left(leave)
                raise
            if gate.still(leave):
                return leave, taken
            limit.give_back(taken)
            gate.left(leave)

    async def _request(self, leave: Pass, taken: Taken) -> Completion | NoAnswer:
        """One request. raises: Transient"""
        asking, gate, limit = self.asking, self.asking.gate, self.asking.limit
        self.n_attempts += 1
        asking.progress.n_requests += 1
        self.is_sent = True
        limit.sent(taken)
        try:
            completion = await asking.chat.complete(self.question)
        except Transient as error:
            self.is_sent = False
            gate.failed(error.why, leave, error.retry_after_s)
            self.n_failures += not leave.alone
            if error.maybe_paid:
                await self._no_reply(State.lost, error.why)
            raise
        except (Refused, Misconfigured) as error:
            self.is_sent = False
            if isinstance(error, Misconfigured):
                gate.misconfigured(error.why)
                return NoAnswer("misconfigured", error.why)
            gate.left(leave)
            self._is_of_no_use(error.why)
            return NoAnswer("refused", error.why)
        except BaseException:
            gate.left(leave)
            raise
        gate.well(leave)
        if completion.usage is not None:
            limit.settle(taken, completion.usage.tokens_in + completion.usage.tokens_out)
        return completion

    async def _keep(self, completion: Completion) -> Answer | NoAnswer:
        """Write down what came. raises: Transient if it is of no use, though another reply may be"""
        asking, sent = self.asking, cast(Sent, self.sent)
        reply = asking.reply_of(completion, self.question, self.n_attempts)
        self.sent, self.is_sent = None, False
        no_use = self._no_use(completion, reply)
        if no_use is None:
            asking.gate.came(self.key)
            return await asking.settle(asking.ledger.answered, sent, reply)
        unknown, tokens = int(reply.dollars is None), reply.usage
        self.besides = self.besides.plus(
            Bill(1, 0, unknown, tokens.tokens_in, tokens.tokens_cached, tokens.tokens_out, reply.dollars or 0.0)
        )
        self.n_useless += 1
        self._is_of_no_use(no_use.why)
        state = State.refused if completion.refusal else State.rejected
        await asking.settle(asking.ledger.useless, sent, reply, state, no_use.why)
        if completion.refusal:
            return no_use
        self.useless = replace(no_use, why=f"{no_use.why}, {self.n_useless} times")
        raise Transient(no_use.why)

    def _no_use(self, completion: Completion, reply: Reply) -> NoAnswer | None:
        """Why a reply is of no use to anybody; None if it may be."""
        if completion.refusal:
            return NoAnswer("refused", f"the model refuses: {completion.refusal}")
        if completion.is_cut_off:
            return NoAnswer(
                "cut off",
                f"the reply ended at its longest, {reply.usage.tokens_out} tokens; if the model reasons first, let it "
                "do less with FTM_LLM_REASONING_EFFORT, or choose another with FTM_LLM_MODEL",
            )
        return None if completion.text.strip() else NoAnswer("refused", "the reply is empty")

    def _is_of_no_use(self, why: str) -> None:
        """Tell the gate of a reply that nobody will judge any more."""
        reply = f"{self.key} {self.n_useless}"
        self.asking.gate.came(reply)
        self.asking.gate.is_of_no_use(reply, why)

    async def _no_reply(self, state: State, why: str) -> None:
        if self.sent is not None:
            sent, self.sent = self.sent, None
            if state is State.lost:
                unknown = int(sent.dollars is None)
                self.besides = self.besides.plus(Bill(1, n_price_unknown=unknown, dollars=sent.dollars or 0.0))
            await self.asking.settle(self.asking.ledger.unanswered, sent, state, why, self.n_attempts)


def tokens_in(question: Question) -> int:
    """About how many tokens a request is, the form of its reply among them."""
    schema = json.dumps(dict(question.reply_schema))
    return estimate_tokens(schema) + sum(estimate_tokens(message.content) for message in question.messages)
