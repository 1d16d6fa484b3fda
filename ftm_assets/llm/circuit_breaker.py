"""A circuit breaker: whether requests may go to a server, judged by the requests before them."""

import asyncio
import random
import time
from dataclasses import dataclass
from datetime import datetime, timedelta

from ftm_assets.llm.protocol import CompletionFailure

FAILURES_IN_A_ROW = 10
UNUSABLE_IN_A_ROW = 20
MISCONFIGURED_S = 300.0
_LONGEST_PAUSE_S = 30.0
_LONGEST_RETRY_AFTER_S = 600.0
_N_REPLIES = 200
_MAX_DOUBLINGS = 30  # After months of outages 2.0**n would overflow.


@dataclass(frozen=True, slots=True)
class Permit:
    """Leave to send one request. is_probe: it goes alone, to find out whether the server works."""

    epoch: int
    is_probe: bool


class CircuitBreaker:
    """Half-open at the start: one request goes alone, and if it succeeds, all may go. For one event loop.

    Ten failures in a row open it: nothing is sent during a pause that doubles each time, then one probe is. Requests
    wait for `patience_s`; after that all but the probe fail at once. Wrong credentials, a wrong model, or many unusable
    replies in a row trip it: then every request fails at once for five minutes.
    """

    # Decision 59: half-open at the start, so that one request finds a wrong key.

    def __init__(self, patience_s: float) -> None:
        self.patience_s = patience_s
        self.reason = ""
        self._epoch = 0
        self._is_closed = False
        self._is_probing = False
        self._down_since: float | None = None
        self._blocked_until = 0.0
        self._tripped_until = 0.0
        self._n_failures = 0
        self._n_pauses = 0
        # Decisions 59 and 90.
        self._replies: dict[str, bool] = {}
        self._changed = asyncio.Event()

    @property
    def state(self) -> str:
        """One word for status reports: well, untried, down, misconfigured."""
        if time.monotonic() < self._tripped_until:
            return "misconfigured"
        return "well" if self._is_closed else "down" if self._down_since is not None else "untried"

    def failure(self) -> CompletionFailure | None:
        """Why a request fails without waiting, None if it may wait or go."""
        now = time.monotonic()
        if now < self._tripped_until:
            return CompletionFailure("misconfigured", self.reason)
        if self._may_send(now):
            return None
        is_given_up = self._down_since is not None and now - self._down_since > self.patience_s
        if is_given_up or self._blocked_until - now > self.patience_s:
            return CompletionFailure("unavailable", self.reason)
        return None

    async def acquire(self) -> Permit | CompletionFailure:
        """Wait for a permit. Follow it with `record_success`, `record_failure`, `trip` or `release`."""
        while (failure := self.failure()) is None:
            now = time.monotonic()
            if self._may_send(now):
                self._is_probing = not self._is_closed
                return Permit(self._epoch, is_probe=not self._is_closed)
            self._changed.clear()
            wait_s = self._blocked_until - now
            try:
                await asyncio.wait_for(self._changed.wait(), wait_s if wait_s > 0 else None)
            except TimeoutError:
                continue
        return failure

    def is_valid(self, permit: Permit) -> bool:
        """Whether nothing has happened since that would have withheld the permit."""
        return permit.epoch == self._epoch and self._blocked_until <= time.monotonic()

    def release(self, permit: Permit) -> None:
        """Give a permit back without having learned anything."""
        if permit.epoch == self._epoch and permit.is_probe:
            self._is_probing = False
            self._changed.set()

    def record_success(self, permit: Permit) -> None:
        """The server replied."""
        self._n_failures = 0
        if permit.epoch == self._epoch and permit.is_probe:
            self._is_closed, self._down_since, self._n_pauses = True, None, 0
            self._change()

    def record_failure(self, permit: Permit, reason: str, retry_after_s: float | None = None) -> None:
        """The server could not be reached, or failed. retry_after_s: how long it asked all requests to wait"""
        now = time.monotonic()
        if retry_after_s:
            self._wait_as_asked(reason, min(retry_after_s, _LONGEST_RETRY_AFTER_S), now)
        if permit.epoch != self._epoch:
            return  # A request from before the last change tells nothing new.
        self._n_failures += 1
        if permit.is_probe or self._n_failures >= FAILURES_IN_A_ROW:
            pause_s = min(_LONGEST_PAUSE_S, 2.0**self._n_pauses) * random.uniform(0.75, 1.25)  # noqa: S311
            self._blocked_until = max(self._blocked_until, now + pause_s)
            self._n_pauses = min(self._n_pauses + 1, _MAX_DOUBLINGS)
            self._n_failures = 0
            self._open(reason, now)

    def trip(self, reason: str) -> None:
        """Every request would fail until somebody changes something."""
        self.reason = reason
        self._tripped_until = time.monotonic() + MISCONFIGURED_S
        self._is_closed = False
        self._change()

    def record_reply(self, key: str) -> None:
        """A reply came that may be usable; who sent the request decides later."""
        self._replies.pop(key, None)
        self._replies[key] = True
        if len(self._replies) > _N_REPLIES:
            del self._replies[next(iter(self._replies))]

    def record_unusable(self, key: str, reason: str) -> None:
        """A reply proved unusable; a long row of such replies trips the breaker.

        Decision 90: replies are judged seconds after they came, so a counter that each new reply resets would never
        get far. Therefore the last replies are kept in order of arrival.
        """
        if key not in self._replies:
            return  # It came long ago.
        self._replies[key] = False
        # The row stays known after the breaker has tripped, so that after the pause one more such reply trips it again.
        n, has_key = 0, False
        for each, is_usable in self._replies.items():
            if is_usable and has_key:
                break
            n = 0 if is_usable else n + 1
            has_key = has_key or each == key
        if n >= UNUSABLE_IN_A_ROW:
            self.trip(f"{n} replies in a row are of no use, the last: {reason}")

    def _may_send(self, now: float) -> bool:
        return self._blocked_until <= now and (self._is_closed or not self._is_probing)

    def _wait_as_asked(self, reason: str, wait_s: float, now: float) -> None:
        self._blocked_until = max(self._blocked_until, now + wait_s)
        self.reason = reason
        if wait_s > self.patience_s:
            until = datetime.now() + timedelta(seconds=wait_s)
            self._open(f"{reason} (nothing is sent until {until:%H:%M})", now)

    def _open(self, reason: str, now: float) -> None:
        self.reason = reason
        self._down_since = now if self._down_since is None else self._down_since
        self._is_closed = False
        self._change()

    def _change(self) -> None:
        self._epoch += 1
        self._is_probing = False
        self._changed.set()
