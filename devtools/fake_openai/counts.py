"""What the fake model has seen, as a provider would bill and limit it."""

from collections import Counter, deque
from dataclasses import dataclass, field

_REPORTED = (
    "n_requests",
    "most_at_once",
    "most_requests",
    "most_tokens",
    "tokens_in",
    "tokens_out",
    "over_limit",
    "n_whole",
)


@dataclass
class Counts:
    """Counts since the server began.

    whole:       replies that were sent to their end, by digest of the request; each is paid
    faults:      requests that a fault has hit, by its name
    over_limit:  requests answered 429 because they were too many
    most_at_once, most_requests, most_tokens: the largest number under way, and within the time of the limits
    """

    window_s: float
    n_requests: int = 0
    n_at_once: int = 0
    most_at_once: int = 0
    most_requests: int = 0
    most_tokens: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    over_limit: int = 0
    seen: Counter[str] = field(default_factory=Counter)
    whole: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    _window: deque[tuple[float, int]] = field(default_factory=deque)
    _window_tokens: int = 0

    def arrived(self, digest: str, now: float) -> None:
        """A request has come."""
        self.n_requests += 1
        self.n_at_once += 1
        self.seen[digest] += 1
        self.most_at_once = max(self.most_at_once, self.n_at_once)
        self._forget(now)

    def _forget(self, now: float) -> None:
        while self._window and self._window[0][0] <= now - self.window_s:
            self._window_tokens -= self._window.popleft()[1]

    def admits(self, tokens: int, rpm: int, tpm: int) -> bool:
        """Whether one more request with so many tokens stays within the limits."""
        n, tokens = len(self._window) + 1, self._window_tokens + tokens
        return not (rpm and n > rpm) and not (tpm and tokens > tpm)

    def admit(self, tokens: int, now: float) -> None:
        """Count a request, and all its tokens, from now on for the time of the limits."""
        self._window.append((now, tokens))
        self._window_tokens += tokens
        self.most_requests = max(self.most_requests, len(self._window))
        self.most_tokens = max(self.most_tokens, self._window_tokens)

    def delivered(self, digest: str, tokens_in: int, tokens_out: int) -> None:
        """A reply was sent to its end."""
        self.whole[digest] += 1
        self.tokens_in += tokens_in
        self.tokens_out += tokens_out

    @property
    def n_whole(self) -> int:
        """Replies that were sent to their end."""
        return self.whole.total()

    def as_json(self, now: float) -> dict[str, object]:
        """The counts as JSON, and what the limits count just now."""
        self._forget(now)
        lately = {"requests_now": len(self._window), "tokens_now": self._window_tokens}
        return {name: getattr(self, name) for name in _REPORTED} | {"faults": dict(self.faults), **lately}
