"""Plugins: encoders and sources of your own, named by `package.module:attribute`."""

import pkgutil
import re
from inspect import getattr_static

from ftm_assets.errors import FtmError

_IMPORT_PATH = r"[^\W\d][\w.]*:[^\W\d][\w.]*"


def is_import_path(spec: str) -> bool:
    """Whether `spec` names something to import, and not a file or a model."""
    return re.fullmatch(_IMPORT_PATH, spec) is not None


def load_plugin(spec: str, kind: str, protocol: type, error: type[FtmError]) -> object:
    """The object of this import path, called without arguments if it is callable; it has every member of `protocol`.

    kind:   what the plugin is, for the error message
    raises: `error` if it cannot be imported or called, or lacks a member
    """
    try:
        found = pkgutil.resolve_name(spec)
        found = found() if callable(found) else found
    except Exception as cause:  # Code of others may raise anything.
        raise error(
            f"{kind} {spec!r} cannot be loaded ({type(cause).__name__}: {cause}); install its module or put its folder "
            f"on PYTHONPATH, and name a {protocol.__name__} or what returns one when called without arguments"
        ) from cause
    needed = [name for name in vars(protocol) if not name.startswith("_")]
    # Not isinstance: it reads properties, and reading `Encoder.revision` loads the model.
    if any(getattr_static(found, name, None) is None for name in needed):
        names = [f"`{name}`" for name in needed]
        raise error(
            f"{kind} {spec!r} is a {type(found).__name__}; it needs {', '.join(names[:-1])} and {names[-1]} as "
            f"{protocol.__module__}.{protocol.__name__} has them"
        )
    return found
