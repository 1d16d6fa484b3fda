"""Text as others can hold it: no half of a surrogate pair, which UTF-8 cannot encode, and no NUL for Postgres."""

import re

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def encodable(text: str) -> str:
    """The text with '?' in place of each half of a surrogate pair, so that any encoder takes it."""
    return text.encode("utf-8", "replace").decode()


def storable(text: str) -> str:
    """The text as a Postgres column can hold it: encodable, and without NUL characters."""
    return encodable(text.replace("\0", ""))


def as_stored(text: str) -> str:
    """The text as rows of ours hold it: U+FFFD in place of each half of a surrogate pair, and without NUL.

    It differs from `storable` because rows have had this spelling from the first version on, and are hashed with it.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        text = _LONE_SURROGATE.sub("\N{REPLACEMENT CHARACTER}", text)
    return text.replace("\0", "")
