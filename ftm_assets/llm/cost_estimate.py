"""How many tokens requests would take, before any is sent. Decision 66."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ftm_assets.llm.prompting import PromptTask, after_refusal
from ftm_assets.llm.prompts import theme_descriptions, topic_summaries
from ftm_assets.llm.protocol import CHARS_PER_TOKEN, CompletionRequest
from ftm_assets.storage.read.llm_spending import PromptUsage

# Tokens out for each item, of a model that has not replied yet.
TOKENS_OUT = {topic_summaries.PROMPT.id: 80.0, theme_descriptions.PROMPT.id: 120.0}


@dataclass(frozen=True)
class PlannedRequest:
    """A request that would be sent.

    n_items:       topics, or themes, that it is about
    after_refusal: the requests that are sent if it was refused
    """

    request: CompletionRequest
    n_items: int
    after_refusal: "Callable[[], list[PlannedRequest]]" = list

    @classmethod
    def from_task(cls, task: PromptTask[Any]) -> "PlannedRequest":
        """The request of a task."""
        return cls(
            request=task.request(),
            n_items=len(task.numbers),
            after_refusal=lambda: [cls(request, len(part.numbers)) for part, request in after_refusal(task)],
        )

    @property
    def n_chars(self) -> int:
        """Characters of its messages."""
        return sum(len(message.content) for message in self.request.messages)


@dataclass(frozen=True)
class TokenEstimate:
    """What the requests would take whose reply is not stored.

    n_requests, n_items: that would be sent
    n_stored:            requests whose reply is stored, and costs nothing
    """

    n_requests: int
    n_items: int
    n_stored: int
    tokens_in: int
    tokens_out: int


def estimate(
    planned: Iterable[PlannedRequest], model: str, stored: frozenset[str], usage: Mapping[str, PromptUsage]
) -> TokenEstimate:
    """What the planned requests would take from a model, each request once. Repairs are not included.

    stored: keys of the requests to this model whose reply is stored
    usage:  by prompt, of earlier requests to this model; a prompt without any has assumed rates
    """
    by_key = {each.request.key(model): each for each in planned}
    to_send = [each for key, each in by_key.items() if key not in stored]
    tokens = [_tokens(each, usage.get(each.request.prompt)) for each in to_send]
    return TokenEstimate(
        n_requests=len(to_send),
        n_items=sum(each.n_items for each in to_send),
        n_stored=len(by_key) - len(to_send),
        tokens_in=round(sum(tokens_in for tokens_in, _ in tokens)),
        tokens_out=round(sum(tokens_out for _, tokens_out in tokens)),
    )


def _tokens(planned: PlannedRequest, usage: PromptUsage | None) -> tuple[float, float]:
    """Tokens in and out."""
    if usage is None:
        return planned.n_chars / CHARS_PER_TOKEN, TOKENS_OUT[planned.request.prompt] * planned.n_items
    tokens_in = planned.n_chars / usage.chars_per_token
    return tokens_in, tokens_in * usage.tokens_out / usage.tokens_in
