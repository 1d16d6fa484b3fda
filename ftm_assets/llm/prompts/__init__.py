"""Prompts: one Markdown file for each prompt and version, next to the types of its replies.

To change a prompt, add a file with the next number. The number is part of the assets' code version and of the key
under which a reply is paid and kept.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from pydantic import BaseModel

from ftm_assets.llm.protocol import CompletionRequest, Message

_BORDER = "\n---\n"


@dataclass(frozen=True, slots=True)
class Prompt:
    """One version of a prompt. The request ends with `user` and a JSON document."""

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
        """The text that no reply may repeat."""
        return f"{self.system} {self.user}"

    def messages(self, document: Mapping[str, Any]) -> tuple[Message, ...]:
        """The request about a document."""
        return Message("system", self.system), Message("user", f"{self.user}\n\n{compact(document)}")

    def request(
        self, document: Mapping[str, Any], reply_schema: Mapping[str, Any], max_tokens: int, quarter: str, run: str
    ) -> CompletionRequest:
        """The request about a document, and who pays for it."""
        return CompletionRequest(
            quarter=quarter,
            prompt=self.id,
            messages=self.messages(document),
            reply_schema=reply_schema,
            max_tokens=max_tokens,
            run=run,
        )


@cache
def read_prompt(name: str, version: int) -> Prompt:
    """The prompt in the file of that name and version."""
    text = files("ftm_assets.llm.prompts").joinpath(f"{name}_{version}.md").read_text("utf-8")
    system, _, user = text.strip().partition(_BORDER)
    return Prompt(name, version, system.strip(), user.strip())


def compact(document: Mapping[str, Any]) -> str:
    """A document as compact JSON. Text that is quoted in it cannot end it."""
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"))


def strict_schema(reply: type[BaseModel]) -> dict[str, Any]:
    """The JSON schema that structured outputs demand: closed objects, every field required, no references."""
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
