"""Requests, and a client that asks the simulated model and keeps its ledger in a real database."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pydantic import SecretStr

from devtools.fake_openai.behaviour import MODEL
from devtools.fake_openai.server import FakeOpenAI
from ftm_assets.llm.client import Limits, LlmClient
from ftm_assets.llm.ledger import NO_CAPS, Caps, Ledger
from ftm_assets.llm.prices import Price
from ftm_assets.llm.protocol import Completion, CompletionFailure, CompletionRequest, LanguageModel, Message
from ftm_assets.llm.transport import OpenAITransport
from ftm_assets.storage.server.database import Database

KEY = "sesame-0123456789"
# A dollar for each token in, two for each token out.
DEAR = Price.model_validate({"in": 1e6, "cached": 5e5, "out": 2e6, "checked": "2026-11-28"})
SCHEMA = {
    "type": "object",
    "properties": {"summaries": {"type": "array", "items": {"type": "object"}}},
    "required": ["summaries"],
    "additionalProperties": False,
}


def llm_request(number: int = 0, quarter: str = "2021Q4", run: str = "", max_tokens: int = 200) -> CompletionRequest:
    """A request about one topic; its number tells it from others."""
    sentences = [{"id": f"7_70_{number:04}", "text": f"Freight costs rose {number} percent."}]
    document = {"topics": [{"topic": 0, "keywords": ["freight", "costs"], "sentences": sentences}]}
    messages = (Message("system", "Summarize each topic."), Message("user", json.dumps(document)))
    return CompletionRequest(quarter, "topic_summaries@1", messages, SCHEMA, max_tokens, run)


def build_client(
    database: Database,
    model: FakeOpenAI,
    *,
    price: Price | None = DEAR,
    caps: Caps = NO_CAPS,
    key: str | None = KEY,
    name: str = MODEL,
    reasoning_effort: str | None = None,
    timeout_s: float = 5.0,
    **limits: Any,
) -> LlmClient:
    """A client with a ledger of its own, as another process would have it; to be closed."""
    transport = OpenAITransport(
        base_url=model.base_url,
        model=name,
        key=SecretStr(key) if key else None,
        timeout_s=timeout_s,
        reasoning_effort=reasoning_effort,
    )
    defaults = {"concurrency": 8, "rpm": 0, "tpm": 0, "patience_s": 10.0, "caps": caps}
    return LlmClient(transport, Ledger(database), price, Limits(**{**defaults, **limits}))


@contextmanager
def open_client_of(database: Database, model: FakeOpenAI, **settings: Any) -> Iterator[LlmClient]:
    """A client that is closed at the end of the block."""
    made = build_client(database, model, **settings)
    try:
        yield made
    finally:
        made.close()


def complete_all(model: LanguageModel, requests: Sequence[CompletionRequest]) -> list[Completion | CompletionFailure]:
    """The results in the order of the requests."""
    found = dict(model.complete(requests))
    assert sorted(found) == list(range(len(requests)))
    return [found[place] for place in range(len(requests))]
