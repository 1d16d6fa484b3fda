"""Things of one's own, named by `package.module:attribute`."""

import pkgutil
import re
from inspect import getattr_static

from ftm_assets.errors import FtmError

_IMPORT_PATH = r"[^\W\d][\w.]*:[^\W\d][\w.]*"


def is_import_path(spec: str) -> bool:
    """Whether a word names something to import rather than a file or a model."""
    return re.fullmatch(_IMPORT_PATH, spec) is not None


def imported(spec: str, kind: str, protocol: type, error: type[FtmError]) -> object:
    """What an import path names, or what that returns when called bare; it has all that the protocol asks for.

    kind:   what it is to be, in words, for whoever reads the error
    raises: `error` if it cannot be imported or called, or lacks something
    """
    try:
        found = pkgutil.resolve_name(spec)
        found = found() if callable(found) else found
    except Exception as cause:  # Whatever a module of somebody else's may raise.
        raise error(
            f"{kind} {spec!r} cannot be loaded ({type(cause).__name__}: {cause}); install its module or put its folder "
            f"on PYTHONPATH, and name a {protocol.__name__} or what returns one when called without arguments"
        ) from cause
    needed = [name for name in vars(protocol) if not name.startswith("_")]
    # Not isinstance, which would read properties, and one of an encoder's loads its model.
    if any(getattr_static(found, name, None) is None for name in needed):
        names = [f"`{name}`" for name in needed]
        raise error(
            f"{kind} {spec!r} is a {type(found).__name__}; it needs {', '.join(names[:-1])} and {names[-1]} as "
            f"{protocol.__module__}.{protocol.__name__} has them"
        )
    return found
