"""Requests and tokens per minute: the limit is never passed in any minute, and nearly reached.

Decision 57: a leaky bucket allows twice the limit in its first minute, and a window of slots costs memory per token.
"""

import asyncio
import time
from collections import deque
from dataclasses import dataclass, field

# A request counts for 61 s: the server may see it a little later than it was sent.
_WINDOW_SLACK = 1 / 60
# What may go at once: servers dislike a minute's requests in one second, and people dislike to wait for a few.
_BURST = 1 / 60
_N_AT_ONCE = 4


@dataclass(eq=False)
class Reservation:
    """Room for one request.

    tokens:    counted for it: an upper bound until `commit`
    expected:  tokens that it will probably take, which set the pace
    in_window: it still counts in the window
    """

    at: float
    tokens: int
    expected: float
    in_window: bool = False


@dataclass
class _Pace:
    """Spreads requests evenly: no faster than the limit on average, but for a few at once."""

    limit: int
    span_s: float
    free_at: float = 0.0
    n_at_once: float = _N_AT_ONCE

    def wait_s(self, now: float) -> float:
        if not self.limit:
            return 0.0
        return self.free_at - max(self.span_s * _BURST, self.n_at_once * self.span_s / self.limit) - now

    def advance(self, units: float, now: float) -> None:
        if self.limit:
            self.free_at = max(self.free_at, now) + units * self.span_s / self.limit


@dataclass
class RateLimiter:
    """At most `rpm` requests and `tpm` tokens in any `window_s`; 0: no limit. For one event loop."""

    rpm: int
    tpm: int
    window_s: float = 60.0
    _reservations: deque[Reservation] = field(default_factory=deque, init=False)
    _tokens: int = field(default=0, init=False)
    _share_used: float = field(default=1.0, init=False)
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)
    _changed: asyncio.Event = field(default_factory=asyncio.Event, init=False)

    def __post_init__(self) -> None:
        self._span_s = self.window_s * (1 + _WINDOW_SLACK)
        self._request_pace = _Pace(self.rpm, self._span_s)
        self._token_pace = _Pace(self.tpm, self._span_s)

    async def reserve(self, tokens: int) -> Reservation:
        """Wait for room for a request of at most so many tokens. Follow it with `start` or `release`."""
        # A request larger than the limit goes alone.
        tokens = min(tokens, self.tpm) if self.tpm else tokens
        async with self._turn:
            while (wait_s := self._wait_s(tokens, time.monotonic())) > 0:
                self._changed.clear()
                try:
                    await asyncio.wait_for(self._changed.wait(), wait_s)
                except TimeoutError:
                    continue
            now = time.monotonic()
            reservation = Reservation(now, tokens, tokens * self._share_used)
            if self.rpm or self.tpm:
                reservation.in_window = True
                self._reservations.append(reservation)
                self._tokens += tokens
                self._token_pace.n_at_once = _N_AT_ONCE * reservation.expected
                self._token_pace.advance(reservation.expected, now)
                self._request_pace.advance(1, now)
            return reservation

    def start(self, reservation: Reservation) -> None:
        """The request is sent now."""
        reservation.at = time.monotonic()

    def commit(self, reservation: Reservation, tokens: int) -> None:
        """The reply says how many tokens the request took."""
        if reservation.in_window:
            self._tokens += tokens - reservation.tokens
        self._token_pace.advance(tokens - reservation.expected, time.monotonic())
        if reservation.tokens:
            self._share_used += (tokens / reservation.tokens - self._share_used) / 10
        reservation.tokens = tokens
        self._changed.set()

    def release(self, reservation: Reservation) -> None:
        """The request was not sent."""
        if reservation.in_window:
            reservation.in_window = False
            self._reservations.remove(reservation)
            self._tokens -= reservation.tokens
            now = time.monotonic()
            self._token_pace.advance(-reservation.expected, now)
            self._request_pace.advance(-1, now)
            self._changed.set()

    def _wait_s(self, tokens: int, now: float) -> float:
        while self._reservations and self._reservations[0].at <= now - self._span_s:
            expired = self._reservations.popleft()
            expired.in_window = False
            self._tokens -= expired.tokens
        paced_s = max(self._request_pace.wait_s(now), self._token_pace.wait_s(now))
        return max(paced_s, self._window_wait_s(tokens, now))

    def _window_wait_s(self, tokens: int, now: float) -> float:
        """Seconds until enough reservations have left the window."""
        excess_requests = len(self._reservations) + 1 - self.rpm if self.rpm else 0
        excess_tokens = self._tokens + tokens - self.tpm if self.tpm else 0
        for reservation in self._reservations:
            if excess_requests <= 0 and excess_tokens <= 0:
                return 0.0
            excess_requests -= 1
            excess_tokens -= reservation.tokens
            if excess_requests <= 0 and excess_tokens <= 0:
                return max(0.0, reservation.at + self._span_s - now)
        return 0.0
