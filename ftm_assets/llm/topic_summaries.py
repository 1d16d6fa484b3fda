"""Summaries of a firm's topics by a language model: several topics per request, every reply checked."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count, pairwise
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from ftm_assets.analysis.topic_summaries import TopicEvidence, TopicSummary, keyword_summary
from ftm_assets.llm.guardrails import SUMMARY, TITLE, NameBlocklist, first_violation, one_line
from ftm_assets.llm.json_replies import InvalidJson, parse_json, schema_problem, truncate
from ftm_assets.llm.prompting import ParsedReply, run_tasks
from ftm_assets.llm.prompts.topic_summaries import PROMPT, SCHEMA, TopicReply
from ftm_assets.llm.protocol import CompletionRequest, LanguageModel, UsageCost

_TOKENS_PER_TOPIC = 220
_TOKENS_PER_REPLY = 80


class SummarySettings(BaseModel, frozen=True):
    """How topics are put into requests. Without a language model this has no effect."""

    topics_per_request: int = Field(15, ge=1, le=50, description="most topics in one request")  # Decision 63.


DEFAULTS = SummarySettings()


@dataclass(frozen=True)
class WrittenSummaries:
    """A summary for each topic, in order, and what they cost. reply_keys: of the replies that they came from"""

    summaries: tuple[TopicSummary, ...]
    cost: UsageCost
    reply_keys: frozenset[str]


@dataclass(frozen=True)
class TopicTask:
    """A request about some topics of a firm. Its sentences have short ids, and no two topics share one.

    ids: topic number -> short id -> sentence id
    """

    quarter: str
    run: str
    topics: tuple[TopicEvidence, ...]
    blocklist: NameBlocklist
    ids: Mapping[int, Mapping[str, str]]

    @classmethod
    def about(cls, topics: tuple[TopicEvidence, ...], blocklist: NameBlocklist, quarter: str, run: str) -> "TopicTask":
        """The request about these topics."""
        short = count(1)
        ids = {
            topic.topic_number: {str(next(short)): sentence_id for sentence_id in topic.sentence_ids}
            for topic in topics
        }
        return cls(quarter=quarter, run=run, topics=topics, blocklist=blocklist, ids=ids)

    @property
    def numbers(self) -> tuple[int, ...]:
        """The topics' numbers."""
        return tuple(topic.topic_number for topic in self.topics)

    def document(self) -> dict[str, Any]:
        """The JSON document at the end of the prompt."""
        return {
            "topics": [
                {
                    "topic": topic.topic_number,
                    "keywords": list(topic.keywords),
                    "sentences": [
                        {"id": short, "text": truncate(text)}
                        for short, text in zip(self.ids[topic.topic_number], topic.sentences, strict=True)
                    ],
                }
                for topic in self.topics
            ]
        }

    def request(self) -> CompletionRequest:
        """The request."""
        max_tokens = _TOKENS_PER_REPLY + _TOKENS_PER_TOPIC * len(self.topics)
        return PROMPT.request(self.document(), SCHEMA, max_tokens, self.quarter, self.run)

    def only(self, numbers: Sequence[int]) -> "TopicTask":
        """The same request about some of its topics; their sentences keep their short ids."""
        return replace(self, topics=tuple(topic for topic in self.topics if topic.topic_number in numbers))

    def parse(self, text: str) -> ParsedReply[TopicReply]:
        """The valid summaries of a reply, and what is wrong with the other topics."""
        try:
            replies, malformed = _replies(text)
        except InvalidJson as error:
            return ParsedReply({}, dict.fromkeys(self.numbers, str(error)))
        n_replies = Counter(reply.topic for reply in replies)
        by_number = {reply.topic: reply for reply in replies}
        good: dict[int, TopicReply] = {}
        problems: dict[int, str] = {}
        for topic in self.topics:
            number = topic.topic_number
            if not n_replies[number]:
                problems[number] = malformed.get(number, "the topic is missing")
            elif n_replies[number] > 1:
                problems[number] = "the topic is there more than once"
            elif problem := self._problem(topic, reply := _on_one_line(by_number[number])):
                problems[number] = problem
            else:
                good[number] = _with_ids(reply, self.ids[number])
        return ParsedReply(good, problems)

    def _problem(self, topic: TopicEvidence, reply: TopicReply) -> str | None:
        ids = self.ids[topic.topic_number]
        if invented := [short for short in reply.evidence if short not in ids]:
            return f"evidence {invented[0]!r} is no id of a sentence of this topic"
        if not reply.evidence:
            return "evidence names no sentence"
        evidence = (*topic.sentences, *topic.keywords)
        return first_violation(
            reply.summary, SUMMARY, self.blocklist, PROMPT.instructions, evidence
        ) or first_violation(
            reply.title, TITLE, self.blocklist, PROMPT.instructions, (*evidence, reply.summary), "title"
        )


def summarize(
    topics: Sequence[TopicEvidence],
    blocklist: NameBlocklist,
    model: LanguageModel,
    quarter: str,
    run: str = "",
    before: Iterable[TopicSummary] = (),
    settings: SummarySettings = DEFAULTS,
    *,
    only_missing: bool = False,
) -> WrittenSummaries:
    """A summary for each topic: the model's if it is usable, else the one before, else keywords and the reason.

    before:       summaries of the same topics; one by a model is replaced only by another by a model (decision 64)
    only_missing: send nothing about topics that any model has summarized before (decision 96)
    """
    paid = {summary.topic_number: summary for summary in before if summary.source == "model"}
    wanted = [topic for topic in topics if not (only_missing and topic.topic_number in paid)]
    results = run_tasks(model, topic_tasks(wanted, blocklist, quarter, run, settings))
    written = []
    for topic in topics:
        number = topic.topic_number
        if number in results.found:
            reply, name = results.found[number]
            summary = TopicSummary(
                topic_number=number,
                text=reply.summary,
                source="model",
                model=name,
                evidence=tuple(reply.evidence),
                title=reply.title or None,
            )
            written.append(summary)
        else:
            written.append(paid.get(number) or keyword_summary(topic, results.reasons[number]))
    return WrittenSummaries(tuple(written), results.cost, frozenset(results.reply_keys))


def topic_tasks(
    topics: Sequence[TopicEvidence],
    blocklist: NameBlocklist = NameBlocklist(),  # noqa: B008  (frozen)
    quarter: str = "",
    run: str = "",
    settings: SummarySettings = DEFAULTS,
) -> list[TopicTask]:
    """The requests about a firm's topics: as few as possible, of about the same size."""
    n = -(-len(topics) // settings.topics_per_request)
    cuts = [round(i * len(topics) / n) for i in range(n + 1)] if n else []
    return [TopicTask.about(tuple(topics[start:end]), blocklist, quarter, run) for start, end in pairwise(cuts)]


def _replies(text: str) -> tuple[list[TopicReply], dict[int, str]]:
    """Entries of the right form and, by topic, what is wrong with the others, where they name their topic."""
    document = parse_json(text)
    if not isinstance(document, dict) or not isinstance(entries := document.get("summaries"), list):
        raise InvalidJson('the reply is no object with a list "summaries"')
    found, malformed = [], {}
    for entry in entries:
        try:
            found.append(TopicReply.model_validate(entry))
        except ValidationError as error:
            number = entry.get("topic") if isinstance(entry, Mapping) else None
            if isinstance(number, int):
                malformed[number] = schema_problem(error)
    return found, malformed


def _on_one_line(reply: TopicReply) -> TopicReply:
    return reply.model_copy(update={"title": one_line(reply.title), "summary": one_line(reply.summary)})


def _with_ids(reply: TopicReply, ids: Mapping[str, str]) -> TopicReply:
    return reply.model_copy(update={"evidence": list(dict.fromkeys(ids[short] for short in reply.evidence))})
