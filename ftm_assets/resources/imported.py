"""Things of one's own, named by `package.module:attribute`."""

import pkgutil
import re

_IMPORT_PATH = r"[^\W\d][\w.]*:[^\W\d][\w.]*"


def is_import_path(spec: str) -> bool:
    """Whether a word names something to import rather than a file or a model."""
    return re.fullmatch(_IMPORT_PATH, spec) is not None


def imported(spec: str) -> object:
    """What an import path names; if that can be called, what it returns when called bare. raises: whatever that does"""
    found = pkgutil.resolve_name(spec)
    return found() if callable(found) else found
