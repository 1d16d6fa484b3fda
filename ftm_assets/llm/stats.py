"""Counters of a client, for status reports and metrics."""

from dataclasses import dataclass, fields, replace

from ftm_assets.llm.protocol import Completion


@dataclass
class ClientStats:
    """What a client has done so far. Status reports store these names, so they stay.

    n_requests: sent over HTTP, for n_questions that were to be completed
    n_unpriced: replies with an unknown price, which `dollars` leaves out
    state, why: of the circuit breaker
    """

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

    def count_reply(self, completion: Completion) -> None:
        """Add one reply that was paid."""
        self.n_replies += 1
        self.tokens_in += completion.tokens_in
        self.tokens_out += completion.tokens_out
        self.dollars += completion.dollars or 0.0
        if completion.dollars is None:
            self.n_unpriced += 1

    def followed_by(self, later: "ClientStats") -> "ClientStats":
        """The sums of an ended client and a later one; the state, and what is under way, are those of the later."""
        sums = {
            each.name: getattr(self, each.name) + getattr(later, each.name)
            for each in fields(self)
            if each.name not in ("n_under_way", "state", "why")
        }
        return replace(later, **sums)
