"""What is written down of each question to a language model, so that nothing is paid twice and no cap is passed."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from typing import Protocol

from ftm_assets.llm.protocol import Answer, NoAnswer, Question


class State(StrEnum):
    """How far a question has come."""

    # Decision 58.
    sent = "sent"
    answered = "answered"
    rejected = "rejected"
    refused = "refused"
    # Decision 93.
    lost = "lost"
    failed = "failed"


@dataclass(frozen=True, slots=True)
class Terms:
    """On which terms a question may be sent.

    dollars:         upper bound of what it costs, None if the price is unknown
    training_cutoff: of the model, None if it is unknown
    """

    dollars: float | None
    run_cap: float = math.inf
    quarter_cap: float = math.inf
    training_cutoff: date | None = None


@dataclass(frozen=True, slots=True)
class Sent:
    """A question that may be sent: its row in the ledger, and what was put aside for it."""

    key: str
    number: int
    question: Question
    dollars: float | None


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """Another process asks the same, now."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of a request and its reply; the cached ones are among those that went in."""

    tokens_in: int
    tokens_cached: int
    tokens_out: int


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back, as the provider says; `dollars` is None where the price is unknown."""

    text: str
    model: str
    usage: Usage
    dollars: float | None
    latency_s: float
    attempts: int


class Ledger(Protocol):
    """The memory of a client. All of it is durable when a method returns, and holds for all processes."""

    def find(self, keys: Sequence[str]) -> Mapping[str, Answer | NoAnswer]:
        """Replies that are there, marked as reused, and refusals."""
        ...

    def begin(self, key: str, question: Question, model: str, terms: Terms) -> Sent | Answer | NoAnswer | Elsewhere:
        """Put the price aside and let the question be sent, unless it was answered or a cap would be passed.

        A question of a process that is no more counts as lost: what was put aside for it stays spent.
        """
        ...

    def answered(self, sent: Sent, reply: Reply) -> Answer:
        """Keep a reply."""
        ...

    def useless(self, sent: Sent, reply: Reply, state: State, why: str) -> None:
        """Keep a reply that was paid and is of no use: `refused` or `rejected`."""
        ...

    def unanswered(self, sent: Sent, state: State, why: str, attempts: int) -> None:
        """No reply came. `lost`: it may have been paid; `failed`: it was not, so that nothing stays spent."""
        ...

    def reject(self, key: str, why: str) -> None:
        """The reply that is there is of no use; it stays paid."""
        ...

    def close(self) -> None:
        """This process asks no more: others take up what it has left as `sent`."""
        ...
