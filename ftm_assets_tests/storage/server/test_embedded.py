import os
import pwd
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import psycopg
import psycopg2
import pytest

from ftm_assets.storage.server import embedded
from ftm_assets.storage.server.embedded import EmbeddedServer, EmbeddedServerError, buffers_mb

REPOSITORY = Path(embedded.__file__).parents[3]
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root must not run Postgres")
with_proc = pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="looks into /proc")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """A running server for tests that leave it running."""
    server = EmbeddedServer(tmp_path_factory.mktemp("shared") / ".ftm")
    server.start()
    yield server
    end(server)


@pytest.fixture
def serve() -> Iterator[Callable[[Path], EmbeddedServer]]:
    """Servers of a test's own, stopped when it ends."""
    servers: list[EmbeddedServer] = []

    def make(home: Path) -> EmbeddedServer:
        servers.append(EmbeddedServer(home))
        return servers[-1]

    yield make
    for server in servers:
        end(server)


def end(server: EmbeddedServer) -> None:
    server.stop()
    assert not server.is_running()
    # pytest keeps the directories of three runs, and each cluster takes 40 MB.
    shutil.rmtree(server.home / "data", ignore_errors=True)


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory every user can reach; pytest's own are closed to all but one."""
    directory = Path(tempfile.mkdtemp(dir="/tmp"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


def ask(server: EmbeddedServer, statement: str) -> object:
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        cursor = connection.execute(statement.encode())
        row = cursor.fetchone() if cursor.description else None
        return row[0] if row else None


def remember(server: EmbeddedServer) -> None:
    ask(server, "CREATE TABLE calls AS SELECT 'good morning' AS text")


def remembers(server: EmbeddedServer) -> bool:
    return ask(server, "SELECT text FROM calls") == "good morning"


def pid_of(server: EmbeddedServer) -> int:
    return int((server.home / "data/postmaster.pid").read_text().split()[0])


def port_of(server: EmbeddedServer) -> int:
    return psycopg.conninfo.conninfo_to_dict(server.url("postgres"))["port"]  # type: ignore[return-value]


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    wait_for_the_end_of(pid)


def wait_for_the_end_of(pid: int) -> None:
    with suppress(ProcessLookupError):
        while True:
            os.kill(pid, 0)
            time.sleep(0.01)


def python(script: str, home: Path) -> "subprocess.Popen[str]":
    """A process in a session of its own that runs `script`, with the server of `home` at hand."""
    preamble = (
        f"from ftm_assets.storage.server.embedded import *; import sys; server = EmbeddedServer(Path({str(home)!r}))\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", preamble + script],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1"},
        cwd="/",
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


# What it offers


@pytest.mark.parametrize(("gigabytes", "mb"), [(0.25, 128), (24, 6144), (256, 8192)])
def test_buffers_are_a_quarter_of_the_memory_within_limits(gigabytes: float, mb: int) -> None:
    assert buffers_mb(int(gigabytes * 2**30)) == mb


def test_starting_twice_is_one_server(server: EmbeddedServer) -> None:
    pid = pid_of(server)
    server.start()
    assert pid_of(server) == pid
    assert server.is_running()


def test_the_url_opens_a_postgres_18_that_speaks_utf8_and_utc(server: EmbeddedServer) -> None:
    assert re.fullmatch(r"postgresql://ftm:[\w-]+@127\.0\.0\.1:\d+/ftm", server.url("ftm"))
    assert str(ask(server, "SHOW server_version")).startswith("18.")
    assert ask(server, "SHOW server_encoding") == "UTF8"
    assert ask(server, "SHOW timezone") == "UTC"
    assert ask(server, "SELECT upper('é')") == "É"


def test_a_database_may_have_any_name(server: EmbeddedServer) -> None:
    ask(server, 'CREATE DATABASE "a/b ?c"')
    with psycopg.connect(server.url("a/b ?c")) as connection:
        assert connection.info.dbname == "a/b ?c"


def test_the_settings_are_in_force_and_may_be_changed_by_hand(server: EmbeddedServer) -> None:
    for name, value in embedded.SETTINGS.items():
        assert ask(server, f"SHOW {name}") == value
        assert ask(server, f"SELECT source FROM pg_settings WHERE lower(name) = '{name}'") == "configuration file"


def test_pgvector_is_there_and_has_no_known_corruption(server: EmbeddedServer) -> None:
    ask(server, "CREATE EXTENSION vector")
    version = str(ask(server, "SELECT extversion FROM pg_extension WHERE extname = 'vector'"))
    assert tuple(map(int, version.split("."))) >= (0, 8, 3)
    assert ask(server, "SELECT '[1,0]'::vector <=> '[0,1]'") == 1


def test_only_the_loopback_listens(server: EmbeddedServer) -> None:
    assert ask(server, "SHOW listen_addresses") == "127.0.0.1"
    assert ask(server, "SHOW unix_socket_directories") == ""


def test_nobody_enters_without_the_password(server: EmbeddedServer) -> None:
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(f"host=127.0.0.1 port={port_of(server)} user=ftm dbname=postgres password=guess")


def test_asking_does_not_start_anything(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path / "never")
    assert not server.is_running()
    with pytest.raises(EmbeddedServerError, match="start it first"):
        server.url("ftm")
    server.stop()
    assert not server.home.exists()


# What it keeps


def test_data_and_port_survive_stop_and_start(tmp_path: Path, serve: Callable[[Path], EmbeddedServer]) -> None:
    server = serve(tmp_path)
    server.start()
    url = server.url("ftm")
    remember(server)
    server.stop()
    server.stop()
    assert not server.is_running()
    server.start()
    assert server.url("ftm") == url
    assert remembers(server)


@pytest.mark.slow
def test_a_port_taken_meanwhile_is_replaced_and_the_new_one_kept(
    tmp_path: Path, serve: Callable[[Path], EmbeddedServer]
) -> None:
    server = serve(tmp_path)
    server.start()
    remember(server)
    old_port = port_of(server)
    server.stop()
    with socket.create_server(("127.0.0.1", int(old_port))):
        server.start()
        new_port = port_of(server)
        assert new_port != old_port
        assert remembers(server)
        server.stop()
    server.start()
    assert port_of(server) == new_port


@pytest.mark.slow
def test_the_copy_of_a_home_is_another_server(tmp_path: Path, serve: Callable[[Path], EmbeddedServer]) -> None:
    original, copy = serve(tmp_path / "original"), serve(tmp_path / "copy")
    original.start()
    remember(original)
    original.stop()
    subprocess.run(["/bin/cp", "-a", original.home, copy.home], check=True)
    original.start()
    assert not copy.is_running()
    copy.start()
    assert port_of(copy) != port_of(original)
    ask(original, "DROP TABLE calls")
    assert remembers(copy)


# What it survives


def test_committed_rows_survive_kill_9_of_the_postmaster(
    tmp_path: Path, serve: Callable[[Path], EmbeddedServer]
) -> None:
    server = serve(tmp_path)
    server.start()
    remember(server)
    port = port_of(server)
    kill(pid_of(server))
    assert not server.is_running()
    server.start()
    assert remembers(server)
    assert port_of(server) == port


@pytest.mark.slow
def test_a_backend_that_outlives_the_postmaster_is_waited_for_and_then_named(
    tmp_path: Path, serve: Callable[[Path], EmbeddedServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(tmp_path)
    server.start()
    remember(server)
    connection = psycopg.connect(server.url("postgres"))
    busy = connection.info.backend_pid
    connection.pgconn.send_query(b"SELECT count(*) FROM generate_series(1, 1000000000000) AS n WHERE n < 0")
    connection.pgconn.flush()
    time.sleep(0.2)
    kill(pid_of(server))
    monkeypatch.setattr(embedded, "START_TIMEOUT_S", 1)
    with pytest.raises(EmbeddedServerError, match=r"(?s)log.*pre-existing shared memory block"):
        server.start()
    threading.Timer(1, kill, [busy]).start()
    monkeypatch.setattr(embedded, "START_TIMEOUT_S", 60)
    server.start()
    assert remembers(server)
    connection.close()


@pytest.mark.slow
@pytest.mark.parametrize("lines", ["{pid}\n", "{pid}\n{data}\n1700000000\n20000\n\n127.0.0.1\n", ""])
def test_a_stale_pid_that_is_somebody_elses_by_now_does_not_matter(
    lines: str, tmp_path: Path, serve: Callable[[Path], EmbeddedServer]
) -> None:
    server = serve(tmp_path)
    server.start()
    remember(server)
    kill(pid_of(server))
    pid_file = server.home / "data/postmaster.pid"
    with subprocess.Popen(["/bin/sleep", "60"]) as bystander:
        pid_file.write_text(lines.format(pid=bystander.pid, data=server.home / "data"))
        server.stop()
        server.start()
        assert remembers(server)
        assert bystander.poll() is None
        bystander.kill()


@pytest.mark.slow
def test_a_forgotten_port_is_read_from_the_running_server(
    tmp_path: Path, serve: Callable[[Path], EmbeddedServer]
) -> None:
    server = serve(tmp_path)
    server.start()
    url, pid = server.url("ftm"), pid_of(server)
    (server.home / "port").unlink()
    server.start()
    assert (server.url("ftm"), pid_of(server)) == (url, pid)


@pytest.mark.slow
def test_a_server_out_of_connections_can_still_be_stopped(
    tmp_path: Path, serve: Callable[[Path], EmbeddedServer]
) -> None:
    server = serve(tmp_path)
    server.start()
    ask(server, "ALTER SYSTEM SET max_connections = 5")
    server.stop()
    server.start()
    connections = [psycopg.connect(server.url("postgres")) for _ in range(5)]
    pid = pid_of(server)
    server.stop()
    wait_for_the_end_of(pid)
    for connection in connections:
        connection.close()


@pytest.mark.slow
def test_an_interrupted_first_start_is_begun_again(tmp_path: Path, serve: Callable[[Path], EmbeddedServer]) -> None:
    server = serve(tmp_path)
    (tmp_path / "data.new/base").mkdir(parents=True)
    (tmp_path / "password.new").write_text("half")
    server.start()
    assert server.is_running()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PGSSLMODE", "require"),
        ("PGSERVICE", "wrds"),
        ("PGOPTIONS", "-c search_path=elsewhere"),
        ("PGHOSTADDR", "192.0.2.1"),
        ("PGREQUIREAUTH", "none"),
        ("PGCHANNELBINDING", "require"),
        ("PGTARGETSESSIONATTRS", "standby"),
        ("PGTZ", "Asia/Tokyo"),
    ],
)
def test_libpqs_variables_are_for_another_server(
    server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    assert server.is_running()
    monkeypatch.setenv(name, value)
    url = server.url("postgres")
    for connect in (psycopg.connect, psycopg2.connect):  # Ours, and Dagster's.
        with closing(connect(url)) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT current_setting('search_path'), current_setting('TimeZone')")
            assert cursor.fetchone() == ('"$user", public', "UTC")
    assert name not in os.environ, "children have it neither"


@pytest.mark.slow
def test_two_processes_starting_at_once_get_one_server(tmp_path: Path, serve: Callable[[Path], EmbeddedServer]) -> None:
    server = serve(tmp_path)
    starters = [python("server.start(); print(server.url('ftm'))", server.home) for _ in range(2)]
    urls = {starter.communicate()[0].strip() for starter in starters}
    assert urls == {server.url("ftm")}
    assert (server.home / "log").read_text().count("starting PostgreSQL") == 1


def test_the_server_outlives_the_process_that_started_it_and_a_ctrl_c(
    tmp_path: Path, serve: Callable[[Path], EmbeddedServer]
) -> None:
    server = serve(tmp_path)
    starter = python("server.start(); print('up', flush=True); time.sleep(60)", server.home)
    assert starter.stdout is not None
    assert starter.stdout.readline() == "up\n"
    os.killpg(starter.pid, signal.SIGINT)
    assert "KeyboardInterrupt" in starter.communicate()[0]
    assert server.is_running()
    assert os.getsid(pid_of(server)) == pid_of(server)


@pytest.mark.slow
def test_the_server_holds_none_of_our_files_open(tmp_path: Path, serve: Callable[[Path], EmbeddedServer]) -> None:
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    os.set_blocking(reader, False)
    serve(tmp_path).start()
    os.close(writer)
    assert os.read(reader, 1) == b""
    os.close(reader)


# Where it lives


def test_a_long_home_with_spaces_and_quotes_is_fine(tmp_path: Path, serve: Callable[[Path], EmbeddedServer]) -> None:
    server = serve(tmp_path / "Jane's earnings calls; für 2023" / ("long" * 30) / ".ftm")
    server.start()
    assert server.is_running()


def test_a_relative_home_stays_where_it_was(
    tmp_path: Path, serve: Callable[[Path], EmbeddedServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    server = serve(Path(".ftm"))
    monkeypatch.chdir("/")
    server.start()
    assert (tmp_path / ".ftm/data").is_dir()


def test_a_home_the_shell_would_misread_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EmbeddedServerError, match=r"cannot handle \['\$'\]"):
        EmbeddedServer(tmp_path / "$HOME")


def test_the_environment_of_the_caller_does_not_count(
    tmp_path: Path, serve: Callable[[Path], EmbeddedServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    surroundings = {
        "HOME": "/nonexistent",
        "LC_ALL": "xx_XX",
        "TZ": "Asia/Tokyo",
        "PGDATA": "/nonexistent",
        "PGHOSTADDR": "192.0.2.1",
        "PGOPTIONS": "-c nonsense=1",
        "PGPORT": "1",
        "PGSSLMODE": "require",
    }
    for name, value in surroundings.items():
        monkeypatch.setenv(name, value)
    server = serve(tmp_path)
    server.start()
    assert server.is_running()


# Who it is


@as_root
def test_root_starts_it_below_a_closed_directory_and_changes_nothing_above(
    tmp_path: Path, serve: Callable[[Path], EmbeddedServer]
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    above = [closed, *closed.parents]
    before = [(path.stat().st_mode, path.stat().st_uid) for path in above]
    server = serve(closed / ".ftm")
    server.start()
    ask(server, "CREATE EXTENSION vector")
    assert [(path.stat().st_mode, path.stat().st_uid) for path in above] == before
    assert (server.home / "data").stat().st_uid != 0


@as_root
@with_proc
def test_roots_server_has_no_privilege_where_it_needs_none(
    open_directory: Path, serve: Callable[[Path], EmbeddedServer]
) -> None:
    server = serve(open_directory / ".ftm")
    server.start()
    status = Path(f"/proc/{pid_of(server)}/status").read_text()
    assert re.search(r"CapEff:\s+0+\n", status)


@pytest.mark.slow
@as_root
def test_the_owner_of_the_data_directory_is_the_user_of_the_server(
    tmp_path: Path, serve: Callable[[Path], EmbeddedServer]
) -> None:
    nobody = pwd.getpwnam("nobody").pw_uid
    (tmp_path / "data").mkdir()
    os.chown(tmp_path / "data", nobody, -1)
    server = serve(tmp_path)
    server.start()
    assert (tmp_path / "data").stat().st_uid == nobody
    assert Path(f"/proc/{pid_of(server)}").stat().st_uid == nobody


@as_root
def test_root_without_setpriv_is_told_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EmbeddedServerError, match=r"setpriv.*run as another user.*FTM_DATABASE_URL"):
        EmbeddedServer(tmp_path).start()


RECOVER_FROM_A_STALE_PID = """
# Not our own pid: Postgres overlooks those of its forebears.
bystander = subprocess.Popen(["/bin/sleep", "60"])
server.start()
pid_file = server.home / "data/postmaster.pid"
os.kill(int(pid_file.read_text().split()[0]), 9)
pid_file.write_text(f"{bystander.pid}\\n{server.home / 'data'}\\n1700000000\\n20000\\n\\n127.0.0.1\\n")
server.start()
print(server.is_running())
server.stop()
print(server.is_running(), bystander.poll())
bystander.kill()
"""


def as_nobody(script: str, home: Path) -> str:
    """What `script` prints in a process that was root while importing, since root's Python may be closed to nobody."""
    nobody = pwd.getpwnam("nobody")
    if not embedded._can_reach(nobody.pw_uid, embedded._binaries() / "postgres"):
        pytest.skip(f"nobody cannot reach {embedded._binaries()}")
    become = f"os.setgroups([]); os.setgid({nobody.pw_gid}); os.setuid({nobody.pw_uid})\n"
    output, _ = python(become + script, home).communicate()
    return output


@pytest.mark.slow
@as_root
def test_a_common_user_starts_it_too_and_recovers_when_the_stale_pid_is_another_process_of_that_user(
    open_directory: Path,
) -> None:
    os.chown(open_directory, pwd.getpwnam("nobody").pw_uid, -1)
    assert as_nobody(RECOVER_FROM_A_STALE_PID, open_directory / ".ftm") == "True\nFalse None\n"


@as_root
def test_roots_server_says_so_to_another_user(open_directory: Path, serve: Callable[[Path], EmbeddedServer]) -> None:
    server = serve(open_directory / ".ftm")
    server.start()
    assert "lock: permission denied; run as the user that owns it" in as_nobody("server.start()", server.home)
    assert "password: it belongs to another user" in as_nobody("server.is_running()", server.home)


# What it tells, and what it does not


def test_what_is_secret_is_for_one_user_only(server: EmbeddedServer) -> None:
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in server.home.iterdir()}
    assert modes == {"data": 0o700, "lock": 0o600, "log": 0o600, "password": 0o600, "port": 0o600}


@with_proc
def test_the_password_is_in_no_command_line_no_log_and_no_repr(
    tmp_path: Path, serve: Callable[[Path], EmbeddedServer]
) -> None:
    command_lines: set[bytes] = set()
    started = threading.Event()

    def watch() -> None:
        while not started.is_set():
            for process in Path("/proc").glob("[0-9]*/cmdline"):
                with suppress(OSError):
                    command_lines.add(process.read_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    server = serve(tmp_path)
    server.start()
    started.set()
    watcher.join()
    password = (tmp_path / "password").read_text()
    assert len(password) >= 32
    assert any(b"initdb" in line for line in command_lines)
    assert not any(password.encode() in line for line in command_lines)
    assert password not in (tmp_path / "log").read_text()
    assert password not in repr(server)


def test_a_lost_password_is_named(tmp_path: Path, serve: Callable[[Path], EmbeddedServer]) -> None:
    server = serve(tmp_path)
    server.start()
    lost = (tmp_path / "password").rename(tmp_path / "lost")
    with pytest.raises(EmbeddedServerError, match="there is no password; put it back"):
        server.start()
    lost.rename(tmp_path / "password")


def test_a_broken_data_directory_is_an_error_that_names_the_log(
    tmp_path: Path, serve: Callable[[Path], EmbeddedServer]
) -> None:
    server = serve(tmp_path)
    server.start()
    server.stop()
    (tmp_path / "data/global/pg_control").unlink()
    with pytest.raises(EmbeddedServerError, match=rf"(?s){re.escape(str(tmp_path / 'log'))}.*pg_control"):
        server.start()


def test_a_directory_that_is_no_cluster_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/thesis.tex").write_text("precious")
    (tmp_path / "password").write_text("whatever")
    with pytest.raises(EmbeddedServerError, match="not a database cluster directory"):
        EmbeddedServer(tmp_path).start()
    assert (tmp_path / "data/thesis.tex").read_text() == "precious"
