"""Environment variables of libpq, Postgres' client library: they are for other servers than the embedded one."""

import logging
import os

from psycopg.pq import Conninfo

_log = logging.getLogger(__name__)
# Those of a connection, and those that libpq reads without an option of that name.
VARIABLES = frozenset(option.envvar.decode() for option in Conninfo.get_defaults() if option.envvar) | {
    "PGDATESTYLE",
    "PGGEQO",
    "PGREALM",
    "PGREQUIRESSL",
    "PGSERVICEFILE",
    "PGSYSCONFDIR",
    "PGTZ",
}


def drop_variables() -> None:
    """Take them out of the environment of this process and of those that it starts.

    A connection string cannot overrule all of them: PGSERVICE counts whatever the string says.
    """
    found = sorted(VARIABLES & os.environ.keys())
    for name in found:
        del os.environ[name]
    if found:
        _log.info("%s: not used, they are for another server than the embedded one", ", ".join(found))
