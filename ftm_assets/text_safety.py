"""Text as others can hold it: no half of a surrogate pair, which UTF-8 cannot encode, and no NUL for Postgres."""


def encodable(text: str) -> str:
    """The text with '?' in place of each half of a surrogate pair, so that any encoder takes it."""
    return text.encode("utf-8", "replace").decode()


def storable(text: str) -> str:
    """The text as a Postgres column can hold it: encodable, and without NUL characters."""
    return encodable(text.replace("\0", ""))
