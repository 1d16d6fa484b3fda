"""How many tokens requests would take, before any is sent."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ftm_assets.llm.prompting import Inquiry, after_refusal
from ftm_assets.llm.prompts import theme_descriptions, topic_summaries
from ftm_assets.llm.protocol import CHARACTERS_OF_TOKEN, Question

# Of a model that was never asked.
TOKENS_OUT = {topic_summaries.PROMPT.id: 80.0, theme_descriptions.PROMPT.id: 120.0}


@dataclass(frozen=True)
class Planned:
    """A request that would be sent, as far as its price depends on it.

    n_items:       topics, or themes, that it is about
    after_refusal: the requests that are sent if it was refused
    """

    question: Question
    n_items: int
    after_refusal: Callable[[], "list[Planned]"] = list

    @classmethod
    def of(cls, inquiry: Inquiry[Any]) -> "Planned":
        """The request of an inquiry."""
        return cls(inquiry.question(), len(inquiry.numbers), lambda: cls._after_refusal(inquiry))

    @classmethod
    def _after_refusal(cls, inquiry: Inquiry[Any]) -> "list[Planned]":
        return [cls(question, len(part.numbers)) for part, question in after_refusal(inquiry)]

    @property
    def n_chars(self) -> int:
        """Characters of its messages."""
        return sum(len(message.content) for message in self.question.messages)


@dataclass(frozen=True)
class Rates:
    """What the requests of a prompt take from a model.

    out_share: tokens out for each token in, None where that is not known; then TOKENS_OUT an item
    n_seen:    requests that it was learned from, 0 for an assumption
    """

    chars_a_token: float = CHARACTERS_OF_TOKEN
    out_share: float | None = None
    n_seen: int = 0


@dataclass(frozen=True)
class Estimate:
    """What requests would take that are not there already.

    n_requests, n_items: that would be sent
    n_stored:            whose reply is there, and costs nothing
    """

    n_requests: int = 0
    n_items: int = 0
    n_stored: int = 0
    tokens_in: int = 0
    tokens_out: int = 0


def estimate(planned: Iterable[Planned], model: str, stored: frozenset[str], rates: Mapping[str, Rates]) -> Estimate:
    """What the planned requests would take from a model, each question once; repairs are not in it.

    stored: keys of the questions to this model whose reply is there
    rates:  by prompt; assumed for others
    """
    seen: set[str] = set()
    found = Estimate()
    tokens_in = tokens_out = 0.0
    for each in planned:
        key = each.question.key(model)
        if key in seen:
            continue
        seen.add(key)
        if key in stored:
            found = Estimate(found.n_requests, found.n_items, found.n_stored + 1)
            continue
        found = Estimate(found.n_requests + 1, found.n_items + each.n_items, found.n_stored)
        rate = rates.get(each.question.prompt, Rates())
        of_request = each.n_chars / rate.chars_a_token
        tokens_in += of_request
        assumed = TOKENS_OUT[each.question.prompt] * each.n_items
        tokens_out += assumed if rate.out_share is None else of_request * rate.out_share
    return Estimate(found.n_requests, found.n_items, found.n_stored, round(tokens_in), round(tokens_out))
