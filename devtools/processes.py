"""What tests and benchmarks of the living thing share: patience, ports, processes, webserver, browser, digests."""

import json
import shutil
import socket
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Page

_CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
# The webserver is on this machine: a proxy would look for it elsewhere.
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def wait_for(
    condition: Callable[[], object], timeout_s: float = 30, what: str = "change", look_every_s: float = 0.05
) -> None:
    """Return when the condition holds. raises: AssertionError"""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"no {what} within {timeout_s} s"
        time.sleep(look_every_s)


def free_port() -> int:
    """One of loopback's that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def children(pid: int) -> list[int]:
    """Processes that the main thread of a process has started."""
    with suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def read_proc(pid: int, name: str) -> bytes:
    """A file of /proc; empty if the process has gone."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/{name}").read_bytes()
    return b""


def worker_child(worker: int, kind: str) -> int | None:
    """The `parent` of the lanes, or the `encoder` process, of a GPU worker; None while there is none."""
    for pid in children(worker):
        is_parent = b"FTM_ENCODER_ADDRESS=" in read_proc(pid, "environ")
        if b"spawn_main" in read_proc(pid, "cmdline") and is_parent == (kind == "parent"):
            return pid
    return None


def ask(port: int, query: str, **variables: object) -> Any:
    """A webserver's answer to a query of GraphQL."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/graphql",
        json.dumps({"query": query, "variables": variables}).encode(),
        {"Content-Type": "application/json"},
    )
    with _direct.open(request, timeout=60) as answer:
        found = json.load(answer)
    assert "errors" not in found, found
    return found["data"]


def answers(port: int) -> bool:
    """Whether a webserver answers."""
    with suppress(OSError):
        return bool(ask(port, "{ version }"))
    return False


@contextmanager
def browsing(address: str, timeout_s: float) -> "Iterator[Page]":
    """A page of Chromium; skips the test where there is none."""
    from playwright.sync_api import sync_playwright

    if _CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=_CHROMIUM,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"],
        )
        page = browser.new_page(base_url=address, viewport={"width": 1500, "height": 1000})
        page.set_default_timeout(1000 * timeout_s)
        yield page
        browser.close()


def digests(url: str, rows: Mapping[str, str], *values: object) -> dict[str, object]:
    """A hash of all rows of each table; of no rows it is None.

    rows: a query for each, which leaves out what differs between two runs of the same calls
    """
    with psycopg.connect(url) as connection:
        return {
            table: connection.execute(
                f"SELECT md5(string_agg(r::text, '|' ORDER BY r::text)) FROM ({query}) AS r", values
            ).fetchone()[0]  # type: ignore[index]
            for table, query in rows.items()
        }
