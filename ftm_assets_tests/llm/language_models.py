"""Language models that behave, without a server: they answer from the document in the prompt, as they are told to."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ftm_assets.llm.protocol import Answer, NoAnswer, Question

Document = dict[str, Any]
Reply = str | NoAnswer | dict[str, Any]


def document_of(question: Question) -> Document:
    """The JSON document that the last message of a question ends in."""
    found: Document = json.loads(question.messages[-1].content.rpartition("\n\n")[2])
    return found


def is_repair(question: Question) -> bool:
    return len(question.messages) > 2


def good_reply(document: Document) -> Document:
    """What a model replies that does as it is told: in lower case, and from the sentences alone."""
    if theme := document.get("theme"):
        said = " ".join(re.findall(r"\w+", " ".join(theme["summaries"]).lower())[:12])
        return {"title": f"About {theme['keywords'][0]}", "description": f"Companies say that {said}. Some differ."}
    return {
        "summaries": [
            {
                "topic": topic["topic"],
                "title": f"About {topic['keywords'][0]}",
                "summary": f"The company says that {topic['sentences'][0]['text'].lower().rstrip('.')}.",
                "evidence": [topic["sentences"][0]["id"]],
            }
            for topic in document["topics"]
        ]
    }


@dataclass
class Replying:
    """Replies what `reply` makes of a question and its document; the same question is paid once, unless it forgets.

    asked: every question that was sent, in order; those answered from before are not
    """

    reply: Callable[[Question, Document], Reply] = lambda _, document: good_reply(document)
    name: str = "fake-1"
    price: float | None = 0.001
    forgets: bool = False
    asked: list[Question] = field(default_factory=list)
    stored: dict[str, Answer] = field(default_factory=dict)
    rejected: dict[str, str] = field(default_factory=dict)

    def ask(self, questions: Sequence[Question]) -> Iterator[tuple[int, Answer | NoAnswer]]:
        # The last first: nobody may count on an order.
        for place, question in reversed(list(enumerate(questions))):
            yield place, self._answer(question)

    def reject(self, key: str, why: str) -> None:
        del self.stored[key]
        self.rejected[key] = why

    def _answer(self, question: Question) -> Answer | NoAnswer:
        key = question.key(self.name)
        if key in self.stored and not self.forgets:
            before = self.stored[key]
            return Answer(before.text, before.model, key, before.tokens_in, 0, before.tokens_out, before.dollars, True)
        self.asked.append(question)
        reply = self.reply(question, document_of(question))
        if isinstance(reply, NoAnswer):
            return reply
        text = reply if isinstance(reply, str) else json.dumps(reply)
        n_in = sum(len(message.content) for message in question.messages) // 4
        answer = Answer(text, f"{self.name}-dated", key, n_in, 0, len(text) // 4, self.price, False)
        self.stored[key] = answer
        return answer
