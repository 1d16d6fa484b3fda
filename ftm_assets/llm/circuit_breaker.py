"""A circuit breaker: whether requests may go to a server, as far as the ones before them tell."""

import asyncio
import random
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby

from ftm_assets.llm.protocol import NoAnswer

FAILURES_IN_A_ROW = 10
NO_USE_IN_A_ROW = 20
MISCONFIGURED_S = 300.0
_LONGEST_PAUSE_S = 30.0
_LONGEST_ASKED_S = 600.0
_REMEMBERED = 200
_MANY = 30  # Who is down for months is asked as often; a float has its limits.


@dataclass(frozen=True, slots=True)
class Pass:
    """Leave to send one request; `alone`: to find out whether the server is well."""

    epoch: int
    alone: bool


class Gate:
    """Lets one request through until one has gone well, then all; after failures in a row none for a while, then one.

    A server that is down longer than `patience_s` is not waited for any more: all but the one that tries are told at
    once. So are all for five minutes where key, model name or account is wrong, and where reply after reply is of no
    use, whether the server or those who asked say so. For one event loop.
    """

    def __init__(self, patience_s: float) -> None:
        self.patience_s = patience_s
        self.why = ""
        self._epoch = 0
        self._is_well = False
        self._is_tried = False
        self._down_since: float | None = None
        self._closed_until = 0.0
        self._misconfigured_until = 0.0
        self._n_failures = 0
        self._n_pauses = 0
        # Decisions 59 and 90.
        self._replies: dict[str, bool] = {}
        self._changed = asyncio.Event()

    @property
    def state(self) -> str:
        """In one word, for people: well, untried, down, misconfigured."""
        if time.monotonic() < self._misconfigured_until:
            return "misconfigured"
        return "well" if self._is_well else "down" if self._down_since is not None else "untried"

    def refusal(self) -> NoAnswer | None:
        """Why a request would not even be waited with; None if it would."""
        now = time.monotonic()
        if now < self._misconfigured_until:
            return NoAnswer("misconfigured", self.why)
        wait_s = self._closed_until - now
        if wait_s <= 0 and (self._is_well or not self._is_tried):
            return None
        is_given_up = self._down_since is not None and now - self._down_since > self.patience_s
        return NoAnswer("unavailable", self.why) if is_given_up or wait_s > self.patience_s else None

    async def enter(self) -> Pass | NoAnswer:
        """Wait for leave to send. Each pass is to be followed by `well`, `failed`, `misconfigured` or `left`."""
        while (refusal := self.refusal()) is None:
            wait_s = self._closed_until - time.monotonic()
            if wait_s <= 0 and (self._is_well or not self._is_tried):
                self._is_tried = not self._is_well
                return Pass(self._epoch, alone=not self._is_well)
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), wait_s if wait_s > 0 else None)
            except TimeoutError:
                continue
        return refusal

    def still(self, leave: Pass) -> bool:
        """Whether nothing has happened since that would have kept it back."""
        return leave.epoch == self._epoch and self._closed_until <= time.monotonic()

    def well(self, leave: Pass) -> None:
        """A request was answered."""
        self._n_failures = 0
        if leave.epoch == self._epoch and leave.alone:
            self._is_well, self._down_since, self._n_pauses = True, None, 0
            self._change()

    def failed(self, why: str, leave: Pass, retry_after_s: float | None = None) -> None:
        """A request found no server, or one that does not do its work. retry_after_s: what it asked all to wait"""
        now = time.monotonic()
        if retry_after_s:
            asked_s = min(retry_after_s, _LONGEST_ASKED_S)
            self._closed_until = max(self._closed_until, now + asked_s)
            self.why = why
            if asked_s > self.patience_s:
                self.why = f"{why} (nothing is sent until {datetime.now() + timedelta(seconds=asked_s):%H:%M})"
                self._down_since = now if self._down_since is None else self._down_since
                self._is_well = False
                self._change()
        if leave.epoch != self._epoch:
            return  # Late news of what is known.
        self._n_failures += 1
        if leave.alone or self._n_failures >= FAILURES_IN_A_ROW:
            self.why = why
            pause_s = min(_LONGEST_PAUSE_S, 2.0**self._n_pauses) * random.uniform(0.75, 1.25)  # noqa: S311
            self._closed_until = max(self._closed_until, now + pause_s)
            self._down_since = now if self._down_since is None else self._down_since
            self._n_pauses = min(self._n_pauses + 1, _MANY)
            self._n_failures = 0
            self._is_well = False
            self._change()

    def came(self, reply: str) -> None:
        """A reply came, and is of use as far as is known."""
        self._replies.pop(reply, None)
        self._replies[reply] = True
        if len(self._replies) > _REMEMBERED:
            del self._replies[next(iter(self._replies))]

    def is_of_no_use(self, reply: str, why: str) -> None:
        """A reply that came is of no use, or a question was refused. Many in a row of them are the configuration."""
        if reply not in self._replies:
            return  # From long ago.
        self._replies[reply] = False
        for is_of_use, row in groupby(self._replies.items(), key=lambda each: each[1]):
            found = [name for name, _ in row]
            if not is_of_use and reply in found and len(found) >= NO_USE_IN_A_ROW:
                self.misconfigured(f"{len(found)} replies in a row are of no use, the last: {why}")

    def misconfigured(self, why: str) -> None:
        """Nothing will be answered before somebody acts."""
        self.why = why
        self._misconfigured_until = time.monotonic() + MISCONFIGURED_S
        self._is_well = False
        self._change()

    def left(self, leave: Pass) -> None:
        """A pass was given back, and nothing learned."""
        if leave.epoch == self._epoch and leave.alone:
            self._is_tried = False
            self._changed.set()

    def _change(self) -> None:
        self._epoch += 1
        self._is_tried = False
        self._changed.set()
