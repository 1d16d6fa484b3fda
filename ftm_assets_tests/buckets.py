"""A store that speaks S3's protocol, and a gate before it that fails as networks and stores do.

Behind the gate is a real moto server over HTTP. The gate passes requests on and notes them; `faults` says what becomes
of the next ones for objects.
"""

import http.client
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

DENIED = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
DAMAGE = b"\xff"
_OF_ONE_HOP = {"transfer-encoding", "connection", "date", "server"}


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one request.

    status, body: answered instead of passing it on
    cut_at:       bytes of the body after which the connection is broken
    flip_at:      byte of the body that arrives damaged
    ignoring:     headers that the store does not understand
    first:        what somebody else does before the request is passed on
    """

    status: int | None = None
    body: bytes = b""
    cut_at: int | None = None
    flip_at: int | None = None
    ignoring: tuple[str, ...] = ()
    first: Callable[[], object] | None = None


@dataclass(frozen=True)
class Asked:
    """A request for an object, as it came."""

    key: str
    range: str | None
    if_match: str | None


@dataclass
class Gate:
    """The server before the store. What is asked for objects and what becomes of it; lists and writes pass."""

    behind: tuple[str, int]
    faults: deque[Fault] = field(default_factory=deque)
    asked: list[Asked] = field(default_factory=list)
    n_sent: int = 0

    @contextmanager
    def running(self) -> Iterator[str]:
        """Serve until the end of the block; its address."""
        handler = type("Handler", (_Handler,), {"gate": self})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    gate: Gate
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        """Whatever the method, the same."""
        fault = self._note()
        if fault.first:
            fault.first()
        if fault.status:
            self._answer(fault.status, [("Content-Type", "application/xml")], fault.body, fault)
            return
        sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        store = http.client.HTTPConnection(*self.gate.behind)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in fault.ignoring}
        store.request(self.command, self.path, sent, headers)
        reply = store.getresponse()
        body = reply.read()
        self._answer(reply.status, reply.getheaders(), body, fault, length=reply.getheader("Content-Length"))
        store.close()

    do_PUT = do_POST = do_HEAD = do_DELETE = do_GET  # noqa: N815  (the names that the library calls)

    def _note(self) -> Fault:
        key = urlsplit(self.path).path.lstrip("/").partition("/")[2]
        if self.command != "GET" or not key:
            return Fault()
        self.gate.asked.append(Asked(key, self.headers.get("Range"), self.headers.get("If-Match")))
        return self.gate.faults.popleft() if self.gate.faults else Fault()

    def _answer(
        self, status: int, headers: list[tuple[str, str]], body: bytes, fault: Fault, length: str | None = None
    ) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in _OF_ONE_HOP | {"content-length"}:
                self.send_header(name, value)
        self.send_header("Content-Length", length or str(len(body)))
        self.end_headers()
        if fault.flip_at is not None:
            body = body[: fault.flip_at] + DAMAGE + body[fault.flip_at + 1 :]
        part = body if fault.cut_at is None else body[: fault.cut_at]
        self.gate.n_sent += len(part)
        # Whoever has read enough hangs up.
        with suppress(ConnectionError):
            self.wfile.write(part)
        self.close_connection = fault.cut_at is not None


@dataclass(frozen=True)
class Bucket:
    """A bucket of one's own, and the gate before it."""

    gate: Gate
    client: Any
    name: str

    def put(self, key: str, content: str | bytes) -> str:
        """Write an object; its address."""
        body = content.encode() if isinstance(content, str) else content
        self.client.put_object(Bucket=self.name, Key=key, Body=body)
        return self.address(key)

    def address(self, key: str) -> str:
        """How our sources name it."""
        return f"s3://{self.name}/{key}"

    def keys_asked(self) -> list[str]:
        """Keys of the objects that were asked for, in order."""
        return [each.key for each in self.gate.asked]
