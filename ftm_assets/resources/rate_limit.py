"""Requests and tokens per minute that are never passed, in no minute, and nearly reached.

A leaky bucket lets twice the limit through in its first minute; a window counted in slots costs memory by the token.
"""

import asyncio
import time
from collections import deque
from dataclasses import dataclass, field

# A request counts a little longer than a minute, because nobody knows when it was seen at the other end.
_SLACK = 1 / 60
# What may go at once: servers dislike a minute's requests in a second.
_BURST = 1 / 6


@dataclass(eq=False)
class Taken:
    """A request that was let through, and what it counts."""

    at: float
    tokens: int


@dataclass
class _Pace:
    """Evens out what goes: after a burst no faster than the limit on average."""

    limit: int
    span_s: float
    free_at: float = 0.0

    def wait_s(self, now: float) -> float:
        return self.free_at - self.span_s * _BURST - now if self.limit else 0.0

    def move(self, units: int, now: float) -> None:
        if self.limit:
            self.free_at = max(self.free_at, now) + units * self.span_s / self.limit


@dataclass
class RateLimit:
    """At most `rpm` requests and `tpm` tokens in any `window_s`; 0: no limit. For one event loop.

    tokens are counted as an upper bound until `settle` says how many there were.
    """

    rpm: int
    tpm: int
    window_s: float = 60.0
    _taken: deque[Taken] = field(default_factory=deque, init=False)
    _tokens: int = field(default=0, init=False)
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)
    _settled: asyncio.Event = field(default_factory=asyncio.Event, init=False)

    def __post_init__(self) -> None:
        self._span_s = self.window_s * (1 + _SLACK)
        self._requests_pace = _Pace(self.rpm, self._span_s)
        self._tokens_pace = _Pace(self.tpm, self._span_s)

    async def take(self, tokens: int) -> Taken:
        """Wait until a request of so many tokens may go."""
        # One that is larger than the limit goes alone.
        tokens = min(tokens, self.tpm) if self.tpm else tokens
        async with self._turn:
            while (wait_s := self._wait_s(tokens, time.monotonic())) > 0:
                self._settled.clear()
                try:
                    await asyncio.wait_for(self._settled.wait(), wait_s)
                except TimeoutError:
                    continue
            taken = Taken(time.monotonic(), tokens)
            if self.rpm or self.tpm:
                self._taken.append(taken)
                self._count(tokens)
                self._requests_pace.move(1, taken.at)
            return taken

    def settle(self, taken: Taken, tokens: int) -> None:
        """Say how many tokens it was."""
        if self._taken and taken.at >= self._taken[0].at:
            self._count(tokens - taken.tokens)
        taken.tokens = tokens
        self._settled.set()

    def give_back(self, taken: Taken) -> None:
        """What was let through was not sent."""
        if taken in self._taken:
            self._taken.remove(taken)
            self._count(-taken.tokens)
            self._requests_pace.move(-1, time.monotonic())
            self._settled.set()

    def _count(self, tokens: int) -> None:
        self._tokens += tokens
        self._tokens_pace.move(tokens, time.monotonic())

    def _wait_s(self, tokens: int, now: float) -> float:
        while self._taken and self._taken[0].at <= now - self._span_s:
            self._tokens -= self._taken.popleft().tokens
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
