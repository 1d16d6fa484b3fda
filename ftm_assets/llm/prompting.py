"""Runs prompts so that a bad reply costs only the items it is about: check, repair once, then give up. Decision 61."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import itemgetter
from typing import Generic, Protocol, TypeVar

from ftm_assets.llm.prompts import compact
from ftm_assets.llm.protocol import (
    ZERO,
    Completion,
    CompletionFailure,
    CompletionRequest,
    CompletionResult,
    LanguageModel,
    Message,
    UsageCost,
)

INVALID = "invalid reply"
_REPLY_CHARS = 4000  # Of a bad reply, as far as the model sees it again.
_NO_REPLY = "There was no reply to this before; reply in full, by the same rules."

T = TypeVar("T")


@dataclass(frozen=True)
class ParsedReply(Generic[T]):
    """What a reply holds, by the number of the topic or theme, and what is wrong with the rest of it."""

    good: Mapping[int, T]
    # Decision 61.
    problems: Mapping[int, str]


class PromptTask(Protocol[T]):
    """A request about some topics, or a theme, and how its reply is read."""

    @property
    def numbers(self) -> tuple[int, ...]:
        """Numbers of what it is about; `parse` accounts for each."""
        ...

    def request(self) -> CompletionRequest:
        """The request."""
        ...

    def parse(self, text: str) -> ParsedReply[T]:
        """The reply, checked."""
        ...

    def only(self, numbers: Sequence[int]) -> "PromptTask[T]":
        """The same task for some of its numbers."""
        ...


@dataclass
class TaskResults(Generic[T]):
    """Results of all tasks. Each number is in `found` or in `reasons`.

    found:      number -> the result, and the model that wrote it
    reasons:    number -> why there is none
    reply_keys: keys of the replies with a result in them
    """

    found: dict[int, tuple[T, str]] = field(default_factory=dict)
    reasons: dict[int, str] = field(default_factory=dict)
    cost: UsageCost = ZERO
    reply_keys: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class _SecondTry(Generic[T]):
    """The second and last request about something. unusable_key: of the first reply, if nothing in it was good"""

    task: PromptTask[T]
    request: CompletionRequest
    unusable_key: str | None = None


def run_tasks(model: LanguageModel, tasks: Sequence[PromptTask[T]]) -> TaskResults[T]:
    """Send all requests at once, then once more those with bad replies. The order of arrival changes nothing.

    What is refused as a whole is sent again piece by piece: one sentence may be what the model will not speak of. A
    reply without any result is rejected, so that a later run sends the request again. A reply with some result is
    kept, and a later run pays neither for it nor for its repair.
    """
    results: TaskResults[T] = TaskResults()
    second_tries: list[_SecondTry[T]] = []
    for index, result in _complete(model, [task.request() for task in tasks], results):
        second_tries += _first_try(tasks[index], result, results)
    for index, result in _complete(model, [each.request for each in second_tries], results):
        _last_try(model, second_tries[index], result, results)
    return results


def _first_try(task: PromptTask[T], result: CompletionResult, results: TaskResults[T]) -> list[_SecondTry[T]]:
    """Take what is good; what has to be requested again."""
    if isinstance(result, CompletionFailure):
        if result.kind == "refused":
            return [_SecondTry(part, request) for part, request in after_refusal(task)]
        results.reasons |= dict.fromkeys(task.numbers, format_failure(result))
        return []
    reply = _parse(task, result, results)
    if not reply.problems:
        return []
    bad = task.only(tuple(reply.problems))
    request = repair(bad, result.text, reply.problems) if result.text else rephrased(bad)
    return [_SecondTry(bad, request, None if reply.good else result.key)]


def _last_try(
    model: LanguageModel, second_try: _SecondTry[T], result: CompletionResult, results: TaskResults[T]
) -> None:
    """Take what is good, and reject replies without any use."""
    if isinstance(result, CompletionFailure):
        # The first reply, if there was one, is kept: the next run repairs the same.
        results.reasons |= dict.fromkeys(second_try.task.numbers, format_failure(result))
        return
    reply = _parse(second_try.task, result, results)
    results.reasons |= {number: f"{INVALID}: {problem}" for number, problem in reply.problems.items()}
    if reply.problems:
        model.reject(result.key, "; ".join(f"{number}: {problem}" for number, problem in reply.problems.items()))
        if not reply.good and second_try.unusable_key is not None:
            model.reject(second_try.unusable_key, "neither it nor its repair can be used")


def after_refusal(task: PromptTask[T]) -> list[tuple[PromptTask[T], CompletionRequest]]:
    """What is sent after a task was refused as a whole: each piece of it or, if it is one piece, it in other words."""
    if len(task.numbers) == 1:
        return [(task, rephrased(task))]
    pieces = (task.only((number,)) for number in task.numbers)
    return [(piece, piece.request()) for piece in pieces]


def format_failure(failure: CompletionFailure) -> str:
    """Why there is no reply, in one line; the kind stands before the colon."""
    return f"{failure.kind}: {failure.reason}" if failure.reason else failure.kind


def rephrased(task: PromptTask[T]) -> CompletionRequest:
    """The request in other words. Decision 97: under the same key the ledger would return the refusal."""
    request = task.request()
    *before, document = request.messages
    return replace(request, messages=(*before, Message("user", f"{_NO_REPLY}\n\n{document.content}")))


def repair(task: PromptTask[T], reply: str, problems: Mapping[int, str]) -> CompletionRequest:
    """The request again with the bad reply and what is wrong with it."""
    request = task.request()
    wrong = [{"number": number, "problem": problem} for number, problem in problems.items()]
    shown = reply if len(reply) <= _REPLY_CHARS else f"{reply[:_REPLY_CHARS]} ..."
    # The words are part of the key under which a repair is paid and kept.
    complaint = (
        "That reply cannot be used. The list says what is wrong, by number of the topic; reply again in full, to the "
        f"document below alone, by the same rules: {compact({'problems': wrong})}"
    )
    *before, document = request.messages
    corrected = Message("user", f"{complaint}\n\n{document.content}")
    return replace(request, messages=(*before, document, Message("assistant", shown), corrected))


def _complete(
    model: LanguageModel, requests: Sequence[CompletionRequest], results: TaskResults[T]
) -> list[tuple[int, CompletionResult]]:
    if not requests:
        return []
    # Sorted: a sum of floats depends on its order.
    completed = sorted(model.complete(requests), key=itemgetter(0))
    for _, result in completed:
        results.cost += result.total_cost
    return completed


def _parse(task: PromptTask[T], completion: Completion, results: TaskResults[T]) -> ParsedReply[T]:
    reply = task.parse(completion.text)
    if reply.good:
        results.found |= {number: (found, completion.model) for number, found in reply.good.items()}
        results.reply_keys.add(completion.key)
    return reply
