"""Questions, and a client that asks the simulated model and keeps its ledger in a real database."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pydantic import SecretStr

from devtools.fake_openai.behaviour import MODEL
from devtools.fake_openai.server import FakeOpenAI
from ftm_assets.llm.client import Caps
from ftm_assets.llm.language_model import Limits, OpenAILanguageModel
from ftm_assets.llm.postgres_ledger import PostgresLedger
from ftm_assets.llm.prices import Price
from ftm_assets.llm.protocol import Answer, LanguageModel, Message, NoAnswer, Question
from ftm_assets.llm.transport import Chat
from ftm_assets.storage.server.database import Database

KEY = "sesame-0123456789"
NO_CAPS = Caps(float("inf"), float("inf"))
# A dollar for each token in, two for each token out.
DEAR = Price.model_validate({"in": 1e6, "cached": 5e5, "out": 2e6, "checked": "2026-11-28"})
SCHEMA = {
    "type": "object",
    "properties": {"summaries": {"type": "array", "items": {"type": "object"}}},
    "required": ["summaries"],
    "additionalProperties": False,
}


def question(number: int = 0, quarter: str = "2021Q4", run: str = "", max_tokens: int = 200) -> Question:
    """A question about a topic, told from others by its number."""
    sentences = [{"id": f"7_70_{number:04}", "text": f"Freight costs rose {number} percent."}]
    document = {"topics": [{"topic": 0, "keywords": ["freight", "costs"], "sentences": sentences}]}
    messages = (Message("system", "Summarize each topic."), Message("user", json.dumps(document)))
    return Question(quarter, "topic_summaries@1", messages, SCHEMA, max_tokens, run)


def client(
    database: Database,
    model: FakeOpenAI,
    *,
    price: Price | None = DEAR,
    caps: Caps = NO_CAPS,
    key: str | None = KEY,
    name: str = MODEL,
    reasoning_effort: str | None = None,
    **limits: Any,
) -> OpenAILanguageModel:
    """A client with a ledger of its own, as another process would have it; to be closed."""
    defaults = {"concurrency": 8, "rpm": 0, "tpm": 0, "timeout_s": 5.0, "patience_s": 10.0, "caps": caps}
    kept_to = Limits(**{**defaults, **limits})
    chat = Chat(model.base_url, name, SecretStr(key) if key else None, kept_to.timeout_s, reasoning_effort)
    return OpenAILanguageModel(chat, PostgresLedger(database), price, kept_to)


@contextmanager
def asking(database: Database, model: FakeOpenAI, **settings: Any) -> Iterator[OpenAILanguageModel]:
    """A client that is closed at the end of the block."""
    made = client(database, model, **settings)
    try:
        yield made
    finally:
        made.close()


def answers(model: LanguageModel, questions: Sequence[Question]) -> list[Answer | NoAnswer]:
    """What came of each question, in their order."""
    found = dict(model.ask(questions))
    assert sorted(found) == list(range(len(questions)))
    return [found[place] for place in range(len(questions))]
