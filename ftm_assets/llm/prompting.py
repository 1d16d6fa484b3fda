"""Asking a language model so that a bad reply costs only what it is about: checked, repaired once, then given up."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import itemgetter
from typing import Generic, Protocol, TypeVar

from ftm_assets.llm.prompts import compact
from ftm_assets.llm.protocol import Answer, Bill, LanguageModel, Message, NoAnswer, Question

INVALID = "invalid reply"
_REPLY_CHARS = 4000  # Of a bad reply, as far as the model is shown it again.
_NO_REPLY = "There was no reply to this before; reply in full, by the same rules."

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class NoLanguageModel:
    """The language model where none is configured: it answers nothing."""

    name: str = ""

    def ask(self, questions: Sequence[Question]) -> Iterator[tuple[int, Answer | NoAnswer]]:
        """See `LanguageModel`."""
        return ((place, NoAnswer("no model", "")) for place in range(len(questions)))

    def reject(self, key: str, why: str) -> None:
        """See `LanguageModel`."""


@dataclass(frozen=True)
class Reading(Generic[T]):
    """What a reply holds, by the number of the topic or theme, and what is wrong with the rest of it."""

    good: Mapping[int, T]
    # Decision 61.
    problems: Mapping[int, str]


class Inquiry(Protocol[T]):
    """A question about some topics, or a theme, and how its reply is read."""

    @property
    def numbers(self) -> tuple[int, ...]:
        """Of what it asks about; `read` says something of each."""
        ...

    def question(self) -> Question:
        """The question."""
        ...

    def read(self, text: str) -> Reading[T]:
        """The reply, checked."""
        ...

    def only(self, numbers: Sequence[int]) -> "Inquiry[T]":
        """The same about a part of it."""
        ...


@dataclass(frozen=True)
class Inquired(Generic[T]):
    """What came of all inquiries.

    found:   number -> what was found, and the model that answered
    reasons: number -> why nothing was; each number is in one of the two
    keys:    of the replies that something was found in
    """

    found: Mapping[int, tuple[T, str]]
    reasons: Mapping[int, str]
    bill: Bill
    keys: frozenset[str]


@dataclass
class _Round(Generic[T]):
    found: dict[int, tuple[T, str]] = field(default_factory=dict)
    reasons: dict[int, str] = field(default_factory=dict)
    bill: Bill = field(default_factory=Bill)
    keys: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class _Again(Generic[T]):
    """The second and last question about something. of_no_use: key of the first reply, if nothing of it was good"""

    inquiry: Inquiry[T]
    question: Question
    of_no_use: str | None


def inquire(model: LanguageModel, inquiries: Sequence[Inquiry[T]]) -> Inquired[T]:
    """Ask all at once; then, once more, about what was replied badly. The order of replies changes nothing.

    What was refused as a whole is asked about piece by piece: one sentence may be what the model will not speak of. A
    reply of no use to anybody is rejected, so that a later run asks again; one with something good in it is kept, and a
    later run pays neither for it nor for its repair.
    """
    done: _Round[T] = _Round()
    again: list[_Again[T]] = []
    for place, came in _in_order(model, [inquiry.question() for inquiry in inquiries], done):
        inquiry = inquiries[place]
        if isinstance(came, NoAnswer) and came.kind == "refused":
            again += [_Again(part, question, None) for part, question in after_refusal(inquiry)]
        elif isinstance(came, NoAnswer):
            done.reasons |= dict.fromkeys(inquiry.numbers, reason(came))
        elif (reading := _read(inquiry, came, done)).problems:
            bad = inquiry.only(tuple(reading.problems))
            of_no_use = None if reading.good else came.key
            question = repair(bad, came.text, reading.problems) if came.text else once_more(bad)
            again.append(_Again(bad, question, of_no_use))
    for place, came in _in_order(model, [each.question for each in again], done):
        each = again[place]
        if isinstance(came, NoAnswer):
            # The reply of before, if there was one, is kept: the next run repairs the same.
            done.reasons |= dict.fromkeys(each.inquiry.numbers, reason(came))
            continue
        reading = _read(each.inquiry, came, done)
        for number, problem in reading.problems.items():
            done.reasons[number] = f"{INVALID}: {problem}"
        if reading.problems:
            model.reject(came.key, _told(reading.problems))
            if not reading.good and each.of_no_use is not None:
                model.reject(each.of_no_use, "neither it nor its repair can be used")
    return Inquired(done.found, done.reasons, done.bill, frozenset(done.keys))


def after_refusal(inquiry: Inquiry[T]) -> list[tuple[Inquiry[T], Question]]:
    """What is asked after an inquiry was refused as a whole: each piece of it or, if it is one, the same once more."""
    if len(inquiry.numbers) == 1:
        return [(inquiry, once_more(inquiry))]
    pieces = (inquiry.only((number,)) for number in inquiry.numbers)
    return [(piece, piece.question()) for piece in pieces]


def reason(no: NoAnswer) -> str:
    """Why there is no reply, in one line; the kind stands before the colon."""
    return f"{no.kind}: {no.why}" if no.why else no.kind


def once_more(inquiry: Inquiry[T]) -> Question:
    """The question in other words, after no reply to it: under the same key the refusal would be found again."""
    asked = inquiry.question()
    *before, document = asked.messages
    return replace(asked, messages=(*before, Message("user", f"{_NO_REPLY}\n\n{document.content}")))


def repair(inquiry: Inquiry[T], reply: str, problems: Mapping[int, str]) -> Question:
    """The question again, about what was replied badly alone, with that reply and what is wrong with it."""
    asked = inquiry.question()
    wrong = [{"number": number, "problem": problem} for number, problem in problems.items()]
    said = reply if len(reply) <= _REPLY_CHARS else f"{reply[:_REPLY_CHARS]} ..."
    complaint = (
        "That reply cannot be used. The list says what is wrong, by number of the topic; reply again in full, to the "
        f"document below alone, by the same rules: {compact({'problems': wrong})}"
    )
    *before, document = asked.messages
    complained = Message("user", f"{complaint}\n\n{document.content}")
    return replace(asked, messages=(*before, document, Message("assistant", said), complained))


def _in_order(
    model: LanguageModel, questions: Sequence[Question], done: _Round[T]
) -> list[tuple[int, Answer | NoAnswer]]:
    if not questions:
        return []
    # Sorted: a sum of floats depends on its order.
    came = sorted(model.ask(questions), key=itemgetter(0))
    for _, answer in came:
        done.bill = done.bill.plus(answer.bill)
    return came


def _read(inquiry: Inquiry[T], answer: Answer, done: _Round[T]) -> Reading[T]:
    reading = inquiry.read(answer.text)
    if reading.good:
        done.found |= {number: (found, answer.model) for number, found in reading.good.items()}
        done.keys.add(answer.key)
    return reading


def _told(problems: Mapping[int, str]) -> str:
    return "; ".join(f"{number}: {problem}" for number, problem in problems.items())
