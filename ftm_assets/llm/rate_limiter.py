"""Requests and tokens per minute that are never passed, in no minute, and nearly reached.

A leaky bucket lets twice the limit through in its first minute; a window counted in slots costs memory by the token.
"""

import asyncio
import time
from collections import deque
from dataclasses import dataclass, field

# A request counts a little longer than a minute, because nobody knows when it was seen at the other end.
_SLACK = 1 / 60
# What may go at once: servers dislike a minute's requests in a second, and people dislike to wait for a few.
_BURST = 1 / 60
_FEW = 4


@dataclass(eq=False)
class Taken:
    """A request that was let through: the tokens that it counts, those that were expected of it, and whether it is in
    the window still.
    """

    at: float
    tokens: int
    expected: float
    counts: bool = False


@dataclass
class _Pace:
    """Evens out what goes: no faster than the limit on average, but for a few."""

    limit: int
    span_s: float
    free_at: float = 0.0
    few: float = _FEW

    def wait_s(self, now: float) -> float:
        if not self.limit:
            return 0.0
        return self.free_at - max(self.span_s * _BURST, self.few * self.span_s / self.limit) - now

    def move(self, units: float, now: float) -> None:
        if self.limit:
            self.free_at = max(self.free_at, now) + units * self.span_s / self.limit


@dataclass
class RateLimit:
    """At most `rpm` requests and `tpm` tokens in any `window_s`; 0: no limit. For one event loop.

    tokens are counted as an upper bound until `settle` says how many there were.
    """

    rpm: int
    tpm: int
    # Decision 57.
    window_s: float = 60.0
    _taken: deque[Taken] = field(default_factory=deque, init=False)
    _tokens: int = field(default=0, init=False)
    _share_used: float = field(default=1.0, init=False)
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)
    _settled: asyncio.Event = field(default_factory=asyncio.Event, init=False)

    def __post_init__(self) -> None:
        self._span_s = self.window_s * (1 + _SLACK)
        self._requests_pace = _Pace(self.rpm, self._span_s)
        self._tokens_pace = _Pace(self.tpm, self._span_s)

    async def take(self, tokens: int) -> Taken:
        """Wait until a request of so many tokens may go; it is to be sent, settled, or given back."""
        # One that is larger than the limit goes alone.
        tokens = min(tokens, self.tpm) if self.tpm else tokens
        async with self._turn:
            while (wait_s := self._wait_s(tokens, time.monotonic())) > 0:
                self._settled.clear()
                try:
                    await asyncio.wait_for(self._settled.wait(), wait_s)
                except TimeoutError:
                    continue
            now = time.monotonic()
            taken = Taken(now, tokens, tokens * self._share_used)
            if self.rpm or self.tpm:
                taken.counts = True
                self._taken.append(taken)
                self._tokens += tokens
                self._tokens_pace.few = _FEW * taken.expected
                self._tokens_pace.move(taken.expected, now)
                self._requests_pace.move(1, now)
            return taken

    def sent(self, taken: Taken) -> None:
        """It goes now."""
        taken.at = time.monotonic()

    def settle(self, taken: Taken, tokens: int) -> None:
        """Say how many tokens it was."""
        if taken.counts:
            self._tokens += tokens - taken.tokens
        self._tokens_pace.move(tokens - taken.expected, time.monotonic())
        if taken.tokens:
            self._share_used += (tokens / taken.tokens - self._share_used) / 10
        taken.tokens = tokens
        self._settled.set()

    def give_back(self, taken: Taken) -> None:
        """It was not sent."""
        if taken.counts:
            taken.counts = False
            self._taken.remove(taken)
            self._tokens -= taken.tokens
            now = time.monotonic()
            self._tokens_pace.move(-taken.expected, now)
            self._requests_pace.move(-1, now)
            self._settled.set()

    def _wait_s(self, tokens: int, now: float) -> float:
        while self._taken and self._taken[0].at <= now - self._span_s:
            gone = self._taken.popleft()
            gone.counts = False
            self._tokens -= gone.tokens
        paced_s = max(self._requests_pace.wait_s(now), self._tokens_pace.wait_s(now))
        return max(paced_s, self._window_wait_s(tokens, now))

    def _window_wait_s(self, tokens: int, now: float) -> float:
        """How long until enough has left the window."""
        excess_requests = len(self._taken) + 1 - self.rpm if self.rpm else 0
        excess_tokens = self._tokens + tokens - self.tpm if self.tpm else 0
        if excess_requests <= 0 and excess_tokens <= 0:
            return 0.0
        for taken in self._taken:
            excess_requests -= 1
            excess_tokens -= taken.tokens
            if excess_requests <= 0 and excess_tokens <= 0:
                return max(0.0, taken.at + self._span_s - now)
        return 0.0
