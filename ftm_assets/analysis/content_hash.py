"""The content hash of everything that is stored: equal content has the same hash in any process."""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from datetime import date, datetime

import numpy as np


def content_hash(*parts: object) -> str:
    """32 hex digits of BLAKE2b over the parts, in order.

    parts:  None, str, bool, int, float, date, datetime, dataclasses, arrays, mappings, and (nested) iterables of those
    raises: TypeError for anything else, also for sets: their order changes from process to process
    """
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        _feed(digest, part)
    return digest.hexdigest()


def _feed(digest: "hashlib.blake2b", part: object) -> None:
    if part is None or isinstance(part, str | bool | int | float):
        digest.update(json.dumps(part).encode() + b"\0")
    elif isinstance(part, date | datetime):
        digest.update(part.isoformat().encode() + b"\0")
    elif isinstance(part, np.ndarray) and not part.dtype.hasobject:
        digest.update(f"{part.dtype.str}{part.shape}".encode() + np.ascontiguousarray(part).tobytes())
    elif dataclasses.is_dataclass(part) and not isinstance(part, type):
        digest.update(b"(")
        for field in dataclasses.fields(part):
            _feed(digest, getattr(part, field.name))
        digest.update(b")")
    elif isinstance(part, Mapping):
        digest.update(b"{")
        _feed(digest, sorted(part.items()))
    elif isinstance(part, Iterable) and not isinstance(part, AbstractSet | bytes | np.ndarray):
        digest.update(b"[")
        for item in part:
            _feed(digest, item)
        digest.update(b"]")
    else:
        raise TypeError(f"cannot hash a {type(part).__name__}: {part!r}")
