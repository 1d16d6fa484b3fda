"""One request on its way: retries until there is a result, with a ledger entry for each reply that may be paid."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from tenacity import AsyncRetrying, retry_if_exception_type, wait_random_exponential

from ftm_assets.llm.budget import Budget
from ftm_assets.llm.circuit_breaker import CircuitBreaker, Permit
from ftm_assets.llm.ledger import CallState, InFlightElsewhere, LedgerEntry
from ftm_assets.llm.protocol import ZERO, Completion, CompletionFailure, CompletionRequest, CompletionResult, UsageCost
from ftm_assets.llm.rate_limiter import RateLimiter, Reservation
from ftm_assets.llm.stats import ClientStats
from ftm_assets.llm.transport import (
    ConfigurationError,
    OpenAITransport,
    RequestRejected,
    RetryableError,
    UnusableReply,
)

MAX_FAILURES = 6
MAX_UNUSABLE = 2
_LONGEST_WAIT_S = 20.0
_POLL_ELSEWHERE_S = 0.5
_LONGEST_ELSEWHERE_S = 600.0

_Leave: TypeAlias = tuple[Permit, Reservation]


@dataclass(eq=False)
class PendingRequest:
    """A request until there is a result.

    slots:     one for each request at a time
    n_waiting: callers that wait for the result; without any, nothing more is sent
    is_busy:   it must not be canceled: what was sent and what came back has to be recorded
    """

    key: str
    request: CompletionRequest
    transport: OpenAITransport
    budget: Budget
    breaker: CircuitBreaker
    limiter: RateLimiter
    slots: asyncio.Semaphore
    stats: ClientStats
    n_waiting: int = 0
    is_busy: bool = False
    task: "asyncio.Task[CompletionResult]" = field(init=False)
    _entry: LedgerEntry | None = None
    _is_sent: bool = False
    _n_attempts: int = 0
    _n_failures: int = 0
    _n_unusable: int = 0
    _unusable: CompletionFailure | None = None
    _retry_cost: UsageCost = ZERO

    async def run(self) -> CompletionResult:
        """The result, with all that it took. raises: what the ledger raises"""
        result = self.budget.failure() or await self._retry()
        if isinstance(result, Completion):
            return replace(result, retry_cost=self._retry_cost)
        return replace(result, total_cost=self._retry_cost)

    async def _retry(self) -> CompletionResult:
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(RetryableError),
            wait=wait_random_exponential(multiplier=0.5, max=_LONGEST_WAIT_S),
            stop=lambda _: self._n_failures >= MAX_FAILURES or self._n_unusable >= MAX_UNUSABLE,
            reraise=True,
        )
        try:
            return await retrying(self._attempt)
        except RetryableError as error:
            await self._close_entry(CallState.failed, error.reason)
            if self._unusable is not None and self._n_unusable >= MAX_UNUSABLE:
                return self._unusable
            return CompletionFailure("unavailable", f"{self._n_failures} requests failed, the last: {error.reason}")
        except asyncio.CancelledError:
            state = CallState.lost if self._is_sent else CallState.failed
            await self._close_entry(state, "no caller waited for it any more")
            raise

    async def _attempt(self) -> CompletionResult:
        """One attempt, once breaker, limits, budget and other processes let it go. raises: RetryableError"""
        started = time.monotonic()
        while self.n_waiting:
            result = self.breaker.failure() or await self._send()
            if isinstance(result, InFlightElsewhere):
                if time.monotonic() - started > _LONGEST_ELSEWHERE_S:
                    return CompletionFailure(
                        "unavailable", f"another process has been waiting for this reply for {_LONGEST_ELSEWHERE_S:g} s"
                    )
                await asyncio.sleep(_POLL_ELSEWHERE_S)
            elif isinstance(result, Completion):
                return result
            elif result.kind == "budget" and self.budget.has_reservations:
                # Requests under way may cost less than was reserved for them.
                await self.budget.wait_for_settlement()
            else:
                await self._close_entry(CallState.failed, result.reason)
                return result
        raise asyncio.CancelledError

    async def _send(self) -> CompletionResult | InFlightElsewhere:
        async with self.slots:
            leave = await self._wait_for_leave()
            if isinstance(leave, CompletionFailure):
                return leave
            with self._uninterrupted():
                # Reserved only now: if this process is killed, all that the ledger has as sent counts as paid.
                reserved = self._entry or await self._reserve(*leave)
                if not isinstance(reserved, LedgerEntry):
                    return reserved
                self._entry = reserved
                return await self._exchange(reserved, *leave)

    async def _wait_for_leave(self) -> _Leave | CompletionFailure:
        """Leave of breaker and rate limiter to send one request."""
        while True:
            permit = await self.breaker.acquire()
            if isinstance(permit, CompletionFailure):
                return permit
            try:
                reservation = await self.limiter.reserve(sum(self.budget.max_tokens(self.request)))
            except asyncio.CancelledError:
                self.breaker.release(permit)
                raise
            if self.breaker.is_valid(permit):
                return permit, reservation
            self._give_back(permit, reservation)

    def _give_back(self, permit: Permit, reservation: Reservation) -> None:
        self.limiter.release(reservation)
        self.breaker.release(permit)

    @contextmanager
    def _uninterrupted(self) -> Iterator[None]:
        self.is_busy = True
        try:
            yield
        finally:
            self.is_busy = False
        if not self.n_waiting:
            raise asyncio.CancelledError

    async def _reserve(
        self, permit: Permit, reservation: Reservation
    ) -> LedgerEntry | CompletionResult | InFlightElsewhere:
        reserved = None
        try:
            reserved = await self.budget.reserve(self.key, self.request)
        finally:
            if isinstance(reserved, LedgerEntry):
                self._n_attempts = 0
            else:
                self._give_back(permit, reservation)
        return reserved

    async def _exchange(self, entry: LedgerEntry, permit: Permit, reservation: Reservation) -> CompletionResult:
        """Send the request and record what comes back. raises: RetryableError"""
        self._n_attempts += 1
        self.stats.n_requests += 1
        self._is_sent = True
        self.limiter.start(reservation)
        unusable: UnusableReply | None = None
        try:
            completion = await self.transport.send(self.key, self.request)
        except UnusableReply as error:
            unusable, completion = error, error.completion
        except (RetryableError, RequestRejected, ConfigurationError) as error:
            self._is_sent = False
            return await self._handle_error(error, permit)
        except BaseException:
            self.breaker.release(permit)
            raise
        self.breaker.record_success(permit)
        if not completion.usage_estimated:
            self.limiter.commit(reservation, completion.tokens_in + completion.tokens_out)
        completion = self.budget.priced(self.request, completion)
        self.stats.count_reply(completion)
        self._entry, self._is_sent = None, False
        if unusable is not None:
            return await self._record_unusable(entry, completion, unusable)
        self.breaker.record_reply(self.key)
        await self._record_reply(entry, completion, CallState.answered)
        return completion

    async def _handle_error(
        self, error: RetryableError | RequestRejected | ConfigurationError, permit: Permit
    ) -> CompletionFailure:
        """Tell the breaker of a request without reply. raises: RetryableError"""
        if isinstance(error, ConfigurationError):
            self.breaker.trip(error.reason)
            return CompletionFailure("misconfigured", error.reason)
        if isinstance(error, RequestRejected):
            self.breaker.release(permit)
            self._report_unusable(error.reason)
            return CompletionFailure("refused", error.reason)
        self.breaker.record_failure(permit, error.reason, error.retry_after_s)
        # A failed probe counts for the breaker alone. Decision 59.
        if not permit.is_probe:
            self._n_failures += 1
        if error.maybe_paid:
            await self._close_entry(CallState.lost, error.reason)
        raise error

    async def _record_unusable(
        self, entry: LedgerEntry, completion: Completion, unusable: UnusableReply
    ) -> CompletionFailure:
        """Record a paid reply that is unusable. raises: RetryableError if a retry may help"""
        failure = unusable.failure
        self._retry_cost += completion.total_cost
        self._n_unusable += 1
        self._report_unusable(failure.reason)
        state = CallState.refused if unusable.is_final else CallState.rejected
        await self._record_reply(entry, completion, state, failure.reason)
        if unusable.is_final:
            return failure
        self._unusable = replace(failure, reason=f"{failure.reason}, {self._n_unusable} times")
        raise RetryableError(failure.reason)

    async def _record_reply(
        self, entry: LedgerEntry, completion: Completion, state: CallState, reason: str | None = None
    ) -> None:
        n_attempts = self._n_attempts
        await self.budget.settle(
            entry, lambda ledger: ledger.record_reply(entry, completion, n_attempts, state, reason)
        )

    def _report_unusable(self, reason: str) -> None:
        """Tell the breaker of a reply that no caller will judge any more."""
        key = f"{self.key} {self._n_unusable}"
        self.breaker.record_reply(key)
        self.breaker.record_unusable(key, reason)

    async def _close_entry(self, state: CallState, reason: str) -> None:
        if self._entry is None:
            return
        entry, self._entry = self._entry, None
        if state is CallState.lost:
            self._retry_cost += UsageCost(
                n_sent=1, n_price_unknown=1 if entry.dollars is None else 0, dollars=entry.dollars or 0.0
            )
        await self.budget.settle(entry, lambda ledger: ledger.record_failure(entry, state, reason, self._n_attempts))
