"""One question on its way: requests until there is an answer, each possibly paid one with its row in the ledger."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

from tenacity import AsyncRetrying, retry_if_exception_type, wait_random_exponential

from ftm_assets.analysis.language import Answer, NoAnswer, Question, estimate_tokens
from ftm_assets.analysis.ledger import Elsewhere, Sent, State
from ftm_assets.resources.chat import Completion, Misconfigured, Refused, Transient
from ftm_assets.resources.gate import Pass
from ftm_assets.resources.rate_limit import Taken

if TYPE_CHECKING:
    from ftm_assets.resources.asking import Asking

MAX_ATTEMPTS = 6
MAX_EMPTY = 2
_LONGEST_WAIT_S = 20.0
_ELSEWHERE_S = 0.5


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
        self.n_empty = 0

    async def run(self) -> Answer | NoAnswer:
        """Try until something comes of it. A server that is down is the gate's business and counts as no failure."""
        trying = AsyncRetrying(
            retry=retry_if_exception_type(Transient),
            wait=wait_random_exponential(multiplier=0.5, max=_LONGEST_WAIT_S),
            stop=lambda _: self.n_failures >= MAX_ATTEMPTS or self.n_empty >= MAX_EMPTY,
            reraise=True,
        )
        try:
            return await trying(self._try)
        except Transient as error:
            await self._no_reply(State.failed, error.why)
            if self.n_empty >= MAX_EMPTY:
                return NoAnswer("refused", error.why)
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
        asking = self.asking
        while self.n_waiting:
            came = asking.gate.refusal() or await self._send()
            if isinstance(came, Elsewhere):
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
                taken = await limit.take(asking.most_tokens_in(self.question) + self.question.max_tokens)
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
            if isinstance(error, Refused):
                gate.refused(error.why, leave)
            else:
                gate.misconfigured(error.why)
            return NoAnswer("refused" if isinstance(error, Refused) else "misconfigured", error.why)
        except BaseException:
            gate.left(leave)
            raise
        gate.well(leave)
        if completion.usage is not None:
            limit.settle(taken, completion.usage.tokens_in + completion.usage.tokens_out)
        return completion

    async def _keep(self, completion: Completion) -> Answer | NoAnswer:
        asking, sent = self.asking, cast(Sent, self.sent)
        reply = asking.reply_of(completion, self.question, self.n_attempts)
        self.sent, self.is_sent = None, False
        if completion.refusal:
            why = f"the model refuses: {completion.refusal}"
            await asking.settle(asking.ledger.useless, sent, reply, State.refused, why)
            return NoAnswer("refused", why)
        if not completion.text.strip():
            await asking.settle(asking.ledger.useless, sent, reply, State.rejected, "the reply is empty")
            self.n_empty += 1
            raise Transient(f"the reply was empty {self.n_empty} times")
        return await asking.settle(asking.ledger.answered, sent, reply)

    async def _no_reply(self, state: State, why: str) -> None:
        if self.sent is not None:
            sent, self.sent = self.sent, None
            await self.asking.settle(self.asking.ledger.unanswered, sent, state, why, self.n_attempts)


def tokens_in(question: Question) -> int:
    """About how many tokens a request is, the form of its reply among them."""
    schema = json.dumps(dict(question.reply_schema))
    return estimate_tokens(schema) + sum(estimate_tokens(message.content) for message in question.messages)
