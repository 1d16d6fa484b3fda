"""Prompts: one file for each prompt and version, beside the types of its replies.

A prompt that is changed gets a new number, and with it a new file: the number is part of the assets' code version and
of the key under which a reply is paid and kept.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from pydantic import BaseModel

from ftm_assets.llm.protocol import Message, Question

_BORDER = "\n---\n"


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt of one version. What is asked about follows `user` as a JSON document."""

    name: str
    version: int
    system: str
    user: str

    @property
    def id(self) -> str:
        """Name and version, `topic_summaries@1`."""
        return f"{self.name}@{self.version}"

    @property
    def instructions(self) -> str:
        """All that no reply may repeat."""
        return f"{self.system} {self.user}"

    def messages(self, document: Mapping[str, Any]) -> tuple[Message, ...]:
        """The request about a document."""
        return Message("system", self.system), Message("user", f"{self.user}\n\n{compact(document)}")

    def question(
        self, document: Mapping[str, Any], reply_schema: Mapping[str, Any], max_tokens: int, quarter: str, run: str
    ) -> Question:
        """The request about a document, and who pays for it."""
        return Question(quarter, self.id, self.messages(document), reply_schema, max_tokens, run)


@cache
def read_prompt(name: str, version: int) -> Prompt:
    """The prompt in the file of that name and version."""
    text = files("ftm_assets.llm.prompts").joinpath(f"{name}_{version}.md").read_text("utf-8")
    system, _, user = text.strip().partition(_BORDER)
    return Prompt(name, version, system.strip(), user.strip())


def compact(document: Mapping[str, Any]) -> str:
    """A document as JSON without needless characters; text that is quoted in it cannot end it."""
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"))


def strict_schema(reply: type[BaseModel]) -> dict[str, Any]:
    """The JSON schema of a reply as structured outputs demand: closed objects, every field required, no references."""
    schema = reply.model_json_schema()
    definitions = schema.pop("$defs", {})
    return _strict(schema, definitions)


def _strict(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> dict[str, Any]:
    if reference := schema.get("$ref"):
        return _strict(definitions[reference.rpartition("/")[2]], definitions)
    kept: dict[str, Any] = {"type": schema["type"]}
    if "description" in schema:
        kept["description"] = schema["description"]
    if schema["type"] == "array":
        kept["items"] = _strict(schema["items"], definitions)
    if schema["type"] == "object":
        kept["properties"] = {name: _strict(field, definitions) for name, field in schema["properties"].items()}
        kept["required"] = list(schema["properties"])
        kept["additionalProperties"] = False
    return kept
