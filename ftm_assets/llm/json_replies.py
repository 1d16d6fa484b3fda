"""Documents to and from a language model: texts as they stand in a prompt, and a reply as JSON."""

import json
from collections import Counter
from typing import Any

from pydantic import ValidationError

_TEXT_CHARS = 400  # A longer one is cut in the prompt.


class Unreadable(ValueError):
    """A reply that is no JSON document of the right form."""


def clipped(text: str) -> str:
    """A text as it stands in the prompt; a long one loses its end."""
    return text if len(text) <= _TEXT_CHARS else f"{text[:_TEXT_CHARS].rsplit(' ', 1)[0]} ..."


def parsed(text: str) -> Any:
    """A JSON document. raises: Unreadable if it is none, or says something twice"""
    try:
        return json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"the reply is no JSON document ({error})") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise Unreadable(f"{twice!r} is there more than once in one object")
    return found


def shape_problem(error: ValidationError) -> str:
    """What pydantic has to say, without what was said to it."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    return f"{'.'.join(map(str, first['loc'])) or 'the reply'}: {first['msg']}"
