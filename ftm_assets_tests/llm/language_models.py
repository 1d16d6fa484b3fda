"""A language model without a server: it replies from the document in the prompt, as a test tells it to."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ftm_assets.llm.protocol import Completion, CompletionFailure, CompletionRequest

Document = dict[str, Any]
Reply = str | CompletionFailure | dict[str, Any]


def document_of(request: CompletionRequest) -> Document:
    """The JSON document at the end of a request's last message."""
    found: Document = json.loads(request.messages[-1].content.rpartition("\n\n")[2])
    return found


def is_repair(request: CompletionRequest) -> bool:
    return len(request.messages) > 2


def good_reply(document: Document) -> Document:
    """The reply of a model that follows its instructions: in lower case, and from the sentences alone."""
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
class FakeLanguageModel:
    """Replies what `reply` makes of a request and its document; equal requests are paid once, unless it forgets.

    requests: all that were sent, in order; those answered from `stored` are not
    """

    reply: Callable[[CompletionRequest, Document], Reply] = lambda _, document: good_reply(document)
    name: str = "fake-1"
    price: float | None = 0.001
    forgets: bool = False
    requests: list[CompletionRequest] = field(default_factory=list)
    stored: dict[str, Completion] = field(default_factory=dict)
    rejected: dict[str, str] = field(default_factory=dict)

    def complete(self, requests: Sequence[CompletionRequest]) -> Iterator[tuple[int, Completion | CompletionFailure]]:
        # The last first: no caller may rely on an order.
        for index, request in reversed(list(enumerate(requests))):
            yield index, self._complete(request)

    def reject(self, key: str, reason: str) -> None:
        del self.stored[key]
        self.rejected[key] = reason

    def _complete(self, request: CompletionRequest) -> Completion | CompletionFailure:
        key = request.key(self.name)
        if key in self.stored and not self.forgets:
            return replace(self.stored[key], reused=True)
        self.requests.append(request)
        reply = self.reply(request, document_of(request))
        if isinstance(reply, CompletionFailure):
            return reply
        text = reply if isinstance(reply, str) else json.dumps(reply)
        n_in = sum(len(message.content) for message in request.messages) // 4
        self.stored[key] = Completion(
            text=text,
            model=f"{self.name}-dated",
            key=key,
            tokens_in=n_in,
            tokens_cached=0,
            tokens_out=len(text) // 4,
            dollars=self.price,
            reused=False,
        )
        return self.stored[key]
