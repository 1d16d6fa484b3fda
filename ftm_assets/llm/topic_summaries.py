"""Summaries of a firm's topics by a language model: several topics a request, and every reply checked."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count, pairwise
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from ftm_assets.analysis.topic_summaries import TopicEvidence, TopicSummary, keyword_summary
from ftm_assets.llm.guardrails import SUMMARY, TITLE, NameBlocklist, fault, plain
from ftm_assets.llm.json_replies import Unreadable, clipped, parsed, shape_problem
from ftm_assets.llm.prompting import Reading, inquire
from ftm_assets.llm.prompts.topic_summaries import PROMPT, SCHEMA, TopicReply
from ftm_assets.llm.protocol import Bill, LanguageModel, Question

_TOKENS_A_TOPIC, _TOKENS_A_REPLY = 220, 80


# Decision 63.
class SummarySettings(BaseModel, frozen=True):
    """How a language model is asked for summaries; without one they steer nothing."""

    topics_per_request: int = Field(15, ge=1, le=50, description="most topics that one request asks about")


DEFAULTS = SummarySettings()


@dataclass(frozen=True)
class Written:
    """A summary for each topic, in order, and what they took. keys: of the replies that they came from"""

    summaries: tuple[TopicSummary, ...]
    bill: Bill
    keys: frozenset[str]


@dataclass(frozen=True)
class TopicInquiry:
    """A request about some topics of a firm. Sentences go by short ids in it, and no two topics share one.

    ids: topic number -> short id -> sentence id
    """

    quarter: str
    run: str
    topics: tuple[TopicEvidence, ...]
    names: NameBlocklist
    ids: Mapping[int, Mapping[str, str]]

    @classmethod
    def of(cls, quarter: str, run: str, topics: tuple[TopicEvidence, ...], names: NameBlocklist) -> "TopicInquiry":
        """The request about these topics."""
        short = count(1)
        ids = {
            topic.topic_number: {str(next(short)): sentence_id for sentence_id in topic.sentence_ids}
            for topic in topics
        }
        return cls(quarter, run, topics, names, ids)

    @property
    def numbers(self) -> tuple[int, ...]:
        """The topics' numbers."""
        return tuple(topic.topic_number for topic in self.topics)

    def document(self) -> dict[str, Any]:
        """What the prompt ends in."""
        return {
            "topics": [
                {
                    "topic": topic.topic_number,
                    "keywords": list(topic.keywords),
                    "sentences": [
                        {"id": short, "text": clipped(text)}
                        for short, text in zip(self.ids[topic.topic_number], topic.sentences, strict=True)
                    ],
                }
                for topic in self.topics
            ]
        }

    def question(self) -> Question:
        """The request."""
        max_tokens = _TOKENS_A_REPLY + _TOKENS_A_TOPIC * len(self.topics)
        return PROMPT.question(self.document(), SCHEMA, max_tokens, self.quarter, self.run)

    def only(self, numbers: Sequence[int]) -> "TopicInquiry":
        """The same about some of its topics; their sentences keep their short ids."""
        return replace(self, topics=tuple(topic for topic in self.topics if topic.topic_number in numbers))

    def read(self, text: str) -> Reading[TopicReply]:
        """The summaries in a reply that are as they must be, and what is wrong with the other topics."""
        try:
            replies, misshapen = _replies(text)
        except Unreadable as error:
            return Reading({}, dict.fromkeys(self.numbers, str(error)))
        told = Counter(reply.topic for reply in replies)
        by_number = {reply.topic: reply for reply in replies}
        good: dict[int, TopicReply] = {}
        problems: dict[int, str] = {}
        for topic in self.topics:
            number = topic.topic_number
            if not told[number]:
                problems[number] = misshapen.get(number, "the topic is missing")
            elif told[number] > 1:
                problems[number] = "the topic is there more than once"
            elif problem := self._problem(topic, reply := _plain(by_number[number])):
                problems[number] = problem
            else:
                good[number] = _with_ids(reply, self.ids[number])
        return Reading(good, problems)

    def _problem(self, topic: TopicEvidence, reply: TopicReply) -> str | None:
        known = self.ids[topic.topic_number]
        if invented := [short for short in reply.evidence if short not in known]:
            return f"evidence {invented[0]!r} is no id of a sentence of this topic"
        if not reply.evidence:
            return "evidence names no sentence"
        said = (*topic.sentences, *topic.keywords)
        return fault(reply.summary, SUMMARY, self.names, PROMPT.instructions, said) or fault(
            reply.title, TITLE, self.names, PROMPT.instructions, (*said, reply.summary), "title"
        )


# Decision 64.
def summarize(
    topics: Sequence[TopicEvidence],
    names: NameBlocklist,
    model: LanguageModel,
    quarter: str,
    run: str = "",
    before: Iterable[TopicSummary] = (),
    settings: SummarySettings = DEFAULTS,
    *,
    # Decision 96.
    only_missing: bool = False,
) -> Written:
    """A summary for each topic: the model's if it gave a usable one, else the one before, else keywords and the reason.

    before:       summaries of the same topics; what a model wrote is paid, and is replaced only by what a model writes
    only_missing: ask nothing about topics of which a model, whichever, has written a summary before
    """
    paid = {summary.topic_number: summary for summary in before if summary.source == "model"}
    asked = [topic for topic in topics if not (only_missing and topic.topic_number in paid)]
    came = inquire(model, inquiries(asked, names, quarter, run, settings))
    written = []
    for topic in topics:
        number = topic.topic_number
        if number in came.found:
            reply, name = came.found[number]
            written.append(
                TopicSummary(number, reply.summary, "model", name, tuple(reply.evidence), reply.title or None)
            )
        else:
            written.append(paid.get(number) or keyword_summary(topic, came.reasons[number]))
    return Written(tuple(written), came.bill, came.keys)


def inquiries(
    topics: Sequence[TopicEvidence],
    names: NameBlocklist = NameBlocklist(),  # noqa: B008  (frozen)
    quarter: str = "",
    run: str = "",
    settings: SummarySettings = DEFAULTS,
) -> list[TopicInquiry]:
    """The requests about a firm's topics: as few as allowed, of about the same size."""
    n = -(-len(topics) // settings.topics_per_request)
    cuts = [round(i * len(topics) / n) for i in range(n + 1)] if n else []
    return [TopicInquiry.of(quarter, run, tuple(topics[start:end]), names) for start, end in pairwise(cuts)]


def _replies(text: str) -> tuple[list[TopicReply], dict[int, str]]:
    """What is of the right form, and by topic what is wrong with the rest, as far as it tells which topic it is of."""
    document = parsed(text)
    if not isinstance(document, dict) or not isinstance(entries := document.get("summaries"), list):
        raise Unreadable('the reply is no object with a list "summaries"')
    found, misshapen = [], {}
    for entry in entries:
        try:
            found.append(TopicReply.model_validate(entry))
        except ValidationError as error:
            number = entry.get("topic") if isinstance(entry, Mapping) else None
            if isinstance(number, int):
                misshapen[number] = shape_problem(error)
    return found, misshapen


def _plain(reply: TopicReply) -> TopicReply:
    return reply.model_copy(update={"title": plain(reply.title), "summary": plain(reply.summary)})


def _with_ids(reply: TopicReply, ids: Mapping[str, str]) -> TopicReply:
    return reply.model_copy(update={"evidence": list(dict.fromkeys(ids[short] for short in reply.evidence))})
