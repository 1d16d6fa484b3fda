"""Texts as they stand in a prompt, and replies as JSON."""

import json
from collections import Counter
from typing import Any

from pydantic import ValidationError

_TEXT_CHARS = 400


class InvalidJson(ValueError):
    """A reply that is no JSON document of the right form."""


def truncate(text: str) -> str:
    """A text as it stands in a prompt; a long one loses its end."""
    return text if len(text) <= _TEXT_CHARS else f"{text[:_TEXT_CHARS].rsplit(' ', 1)[0]} ..."


def parse_json(text: str) -> Any:
    """A JSON document. raises: InvalidJson if it is none, or names a key twice"""
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise InvalidJson(f"the reply is no JSON document ({error})") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise InvalidJson(f"{twice!r} is there more than once in one object")
    return found


def schema_problem(error: ValidationError) -> str:
    """The first problem that pydantic found, without the values it was given."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    return f"{'.'.join(map(str, first['loc'])) or 'the reply'}: {first['msg']}"
