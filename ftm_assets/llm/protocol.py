"""What is asked of a language model and what comes back; who asks knows neither a provider nor a database."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from typing import Any, Literal, Protocol

from ftm_assets.analysis.content import content_hash

CHARACTERS_OF_TOKEN = 4.0
Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True)
class Question:
    """One request to a language model: all that its reply depends on, and the quarter that pays for it.

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
        """Content hash of the question to this model; who pays is not in it."""
        return content_hash(model, self.prompt, self.messages, self.reply_schema, self.max_tokens)


@dataclass(frozen=True, slots=True)
class Bill:
    """What was asked, and what it took. Replies that were there already are counted as reused alone.

    n_sent:          requests that are paid, or may be
    n_price_unknown: those of them to a model that the price table does not hold
    tokens_cached:   part of tokens_in that the provider had in its cache
    dollars:         of the replies whose price is known; of what was lost on the way the most that it may have cost
    """

    n_sent: int = 0
    n_reused: int = 0
    n_price_unknown: int = 0
    tokens_in: int = 0
    tokens_cached: int = 0
    tokens_out: int = 0
    dollars: float = 0.0

    def plus(self, other: "Bill") -> "Bill":
        """Both bills in one."""
        return Bill(*(mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))


NOTHING = Bill()


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply, whatever it is worth.

    model:         as the provider names what answered
    key:           of the question
    tokens_cached: those of `tokens_in` that the provider had from an earlier request
    dollars:       what the reply cost when it came, None if the model's price is unknown
    reused:        whether it was there already, so that nothing was paid for it this time
    besides:       what was paid for the question before this reply came: replies of no use, and lost ones
    """

    text: str
    model: str
    key: str
    tokens_in: int
    tokens_cached: int
    tokens_out: int
    dollars: float | None
    reused: bool
    besides: Bill = field(default=NOTHING, compare=False)

    @property
    def bill(self) -> Bill:
        """What the answer took, all in all."""
        if self.reused:
            return self.besides.plus(Bill(n_reused=1))
        tokens = (self.tokens_in, self.tokens_cached, self.tokens_out)
        return self.besides.plus(Bill(1, 0, int(self.dollars is None), *tokens, self.dollars or 0.0))


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """Why there is no reply.

    no model:      none is configured
    budget:        a cap would be passed, or cannot be kept
    refused:       this question alone was refused, or its reply was empty
    cut off:       the reply was longer than it may be; a part of the question would fare no better
    unavailable:   the provider could not be reached, or did not do its work
    misconfigured: key, model name or account: no question will be answered before somebody acts

    bill: what was paid all the same
    """

    kind: Literal["no model", "budget", "refused", "cut off", "unavailable", "misconfigured"]
    why: str
    bill: Bill = field(default=NOTHING, compare=False)


# Decision 66.
def estimate_tokens(text: str) -> int:
    """About how many tokens a text is; a provider's own count of English differs by some percent."""
    return math.ceil(len(text) / CHARACTERS_OF_TOKEN)


class LanguageModel(Protocol):
    """Anything that answers questions: a client of a provider, or of the process that owns one."""

    @property
    def name(self) -> str:
        """The model, as it is asked for."""
        ...

    def ask(self, questions: Sequence[Question]) -> Iterator[tuple[int, Answer | NoAnswer]]:
        """Each question's place and what came of it, as it comes; several are asked at a time.

        Whoever stops listening leaves questions unasked that have not been sent.
        """
        ...

    def reject(self, key: str, why: str) -> None:
        """The stored reply is of no use: it is not given again, and stays paid."""
        ...
