"""The contract with any language model: a request, its completion or failure, and what both cost."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, Protocol, TypeAlias

from ftm_assets.analysis.content_hash import content_hash

CHARS_PER_TOKEN = 4.0
Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True)
class CompletionRequest:
    """One request to a language model: all that the reply depends on, and the quarter that pays for it.

    prompt:       name and version of the prompt, as `topic_summaries@1`
    reply_schema: strict JSON schema of the reply
    max_tokens:   longest reply
    run:          id of the run that pays, empty if none does
    """

    quarter: str
    prompt: str
    messages: tuple[Message, ...]
    reply_schema: Mapping[str, Any]
    max_tokens: int
    run: str = ""

    def key(self, model: str) -> str:
        """Content hash of the request to this model. Who pays is not part of it."""
        return content_hash(model, self.prompt, self.messages, self.reply_schema, self.max_tokens)

    def estimated_tokens(self) -> int:
        """About how many tokens the request has, its reply schema included."""
        schema = json.dumps(dict(self.reply_schema))
        return estimate_tokens(schema) + sum(estimate_tokens(message.content) for message in self.messages)


@dataclass(frozen=True, slots=True)
class UsageCost:
    """Requests, tokens and dollars. A reply that was stored already only counts as reused.

    n_sent:          requests that are paid, or may be
    n_price_unknown: those of them to a model that is not in the price list
    tokens_cached:   part of tokens_in that the provider had in its cache
    dollars:         of replies with a known price; a lost reply counts with its upper bound
    """

    n_sent: int = 0
    n_reused: int = 0
    n_price_unknown: int = 0
    tokens_in: int = 0
    tokens_cached: int = 0
    tokens_out: int = 0
    dollars: float = 0.0

    def __add__(self, other: "UsageCost") -> "UsageCost":
        return UsageCost(**{each.name: getattr(self, each.name) + getattr(other, each.name) for each in fields(self)})


ZERO = UsageCost()


@dataclass(frozen=True, slots=True)
class Completion:
    """A reply, before anybody has judged its content.

    model:           as the provider names the model that replied
    key:             of the request
    tokens_cached:   those of `tokens_in` that the provider had from an earlier request
    dollars:         what the reply cost when it came, None if the model's price is unknown
    reused:          it was stored already, so that nothing was paid for it this time
    usage_estimated: the provider counted no tokens; these are estimates
    latency_s:       seconds until the reply came
    retry_cost:      what was paid for the request before this reply came: unusable and lost replies
    """

    text: str
    model: str
    key: str
    tokens_in: int
    tokens_cached: int
    tokens_out: int
    dollars: float | None
    reused: bool
    usage_estimated: bool = field(default=False, compare=False)
    latency_s: float = field(default=0.0, compare=False)
    retry_cost: UsageCost = field(default=ZERO, compare=False)

    @property
    def total_cost(self) -> UsageCost:
        """What the completion took, retries included."""
        if self.reused:
            return self.retry_cost + UsageCost(n_reused=1)
        return self.retry_cost + UsageCost(
            n_sent=1,
            n_price_unknown=1 if self.dollars is None else 0,
            tokens_in=self.tokens_in,
            tokens_cached=self.tokens_cached,
            tokens_out=self.tokens_out,
            dollars=self.dollars or 0.0,
        )


@dataclass(frozen=True, slots=True)
class CompletionFailure:
    """Why there is no reply.

    no model:      none is configured
    budget:        a cap would be passed, or cannot be kept
    refused:       the provider refused this request alone, or its reply was empty
    cut off:       the reply reached its longest length; a smaller request would fare no better
    unavailable:   the provider could not be reached, or failed
    misconfigured: key, model name or account: every request fails until you change something

    total_cost: what was paid all the same
    """

    kind: Literal["no model", "budget", "refused", "cut off", "unavailable", "misconfigured"]
    reason: str
    total_cost: UsageCost = field(default=ZERO, compare=False)


CompletionResult: TypeAlias = Completion | CompletionFailure


# Decision 66.
def estimate_tokens(text: str) -> int:
    """About how many tokens a text has. Providers' own counts of English differ by some percent."""
    return math.ceil(len(text) / CHARS_PER_TOKEN)


class LanguageModel(Protocol):
    """Anything that completes requests: the client of a provider, or of the process that owns one."""

    @property
    def name(self) -> str:
        """The model, as it is requested."""
        ...

    def complete(self, requests: Sequence[CompletionRequest]) -> Iterator[tuple[int, CompletionResult]]:
        """Each request's index with its result, in order of arrival. Several requests run at a time.

        If you stop iterating, requests that have not been sent are dropped.
        """
        ...

    def reject(self, key: str, reason: str) -> None:
        """Mark the stored reply as unusable: it is not returned again, and stays paid."""
        ...


@dataclass(frozen=True, slots=True)
class NoLanguageModel:
    """The language model where none is configured: every request fails."""

    name: str = ""

    def complete(self, requests: Sequence[CompletionRequest]) -> Iterator[tuple[int, CompletionResult]]:
        """See `LanguageModel`."""
        return ((index, CompletionFailure("no model", "")) for index in range(len(requests)))

    def reject(self, key: str, reason: str) -> None:
        """See `LanguageModel`."""
