"""The fake model as a server: chat completions over HTTP, with every misbehaviour that a client must bear.

Written on sockets, because no framework would cut a connection in the middle of a reply.
"""

import asyncio
import hashlib
import json
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, cast

from devtools.fake_openai.behaviour import Behaviour, Fault
from devtools.fake_openai.counts import Counts
from devtools.fake_openai.replies import count_tokens, injected_reply, reply_to
from ftm_assets.errors import FtmError

_REASONS = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    429: "Too Many Requests",
}
# What xAI calls its errors, by their status.
_XAI_CODES = {
    400: "Client specified an invalid argument",
    403: "The caller does not have permission",
    404: "Some requested entity was not found",
    429: "Some resource has been exhausted",
}
_XAI_NO_CREDIT = (
    "Your team has either used all available credits or reached its monthly spending limit. To continue making API "
    "requests, please purchase more credits or raise your spending limit."
)
_MODERATION = "Content violates usage guidelines. Failed check: SAFETY_CHECK_TYPE_BIO"
_LITTLE_EFFORT = ("none", "minimal")
_HANGING_S = 3600.0
INVENTED_ID = "invented_0001"


class PortInUse(FtmError):
    """The port is taken."""

    def __init__(self, port: int, reason: str) -> None:
        super().__init__(
            f"cannot listen on 127.0.0.1:{port} ({reason}); choose another with --port, 0 for any free one"
        )


@dataclass(frozen=True)
class _Reply:
    """What goes over the wire; `cut` leaves the second half away and closes the connection."""

    status: int
    body: str
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: bool = False
    pays_for: tuple[str, int, int] | None = None


class FakeOpenAI:
    """A model that answers on a port of loopback from a thread; see `running`.

    behaviour: may be replaced at any time
    script:    faults of the next requests, None for none, before those that `behaviour` draws
    """

    def __init__(self, behaviour: Behaviour, port: int = 0) -> None:
        self.behaviour = behaviour
        self.port = port
        self.script: deque[Fault | None] = deque()
        self.counts = Counts(behaviour.window_s)
        self._loop = asyncio.new_event_loop()
        self._clients: set[asyncio.Task[None]] = set()

    @property
    def base_url(self) -> str:
        """What `FTM_LLM_BASE_URL` is set to."""
        return f"http://127.0.0.1:{self.port}/v1"

    def start(self) -> None:
        """Listen, and answer from a thread. raises: PortInUse"""
        try:
            server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", self.port))
        except OSError as error:
            raise PortInUse(self.port, error.strerror or str(error)) from error
        self._server = server
        self.port = server.sockets[0].getsockname()[1]
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Close all connections as a server does that goes down."""
        self._loop.call_soon_threadsafe(self._close)
        self._thread.join()
        self._loop.close()

    def _close(self) -> None:
        self._server.close()
        for client in self._clients:
            client.cancel()
        self._loop.call_soon(self._loop.stop)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = cast("asyncio.Task[None]", asyncio.current_task())
        self._clients.add(task)
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while (request := await _read(reader)) is not None:
                if not await self._answer(*request, writer):
                    break
        self._clients.discard(task)
        writer.transport.abort()

    async def _answer(self, line: str, headers: Mapping[str, str], body: bytes, writer: asyncio.StreamWriter) -> bool:
        """Answer a request; returns whether the connection goes on."""
        if line.startswith("GET /simulated/counts "):
            reply = _Reply(200, json.dumps(self.counts.as_json(time.monotonic())))
        elif not line.startswith("POST /v1/chat/completions "):
            reply = self._error(404, f"no such address: {line.split()[1]}", "not_found")
        else:
            digest = hashlib.blake2b(body, digest_size=8).hexdigest()
            self.counts.arrived(digest, time.monotonic())
            try:
                reply = await self._complete(digest, headers, json.loads(body))
            finally:
                self.counts.n_at_once -= 1
        sent = reply.body.encode()
        response_headers = {"Content-Type": "application/json", "Content-Length": str(len(sent)), **reply.headers}
        head = f"HTTP/1.1 {reply.status} {_REASONS.get(reply.status, 'Error')}\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in response_headers.items()) + "\r\n"
        if reply.pays_for:  # Also if nobody is there any more to read it: a provider has made it.
            self.counts.delivered(*reply.pays_for)
        writer.write(head.encode() + (sent[: len(sent) // 2] if reply.cut else sent))
        await writer.drain()
        return not reply.cut

    async def _complete(self, digest: str, headers: Mapping[str, str], asked: Mapping[str, Any]) -> _Reply:
        behaviour = self.behaviour
        key = headers.get("authorization", "").removeprefix("Bearer ")
        if behaviour.key is not None and key != behaviour.key:
            status = 401 if behaviour.errors == "openai" else 400
            message = f"Incorrect API key provided: {key}. Find yours at the console."
            return self._error(status, message, "invalid_api_key")
        if asked.get("model") != behaviour.model:
            return self._error(404, f"The model {asked.get('model')} does not exist or was retired.", "model_not_found")
        return await self._consider(digest, key, asked)

    async def _consider(self, digest: str, key: str, asked: Mapping[str, Any]) -> _Reply:
        behaviour = self.behaviour
        schema = (asked.get("response_format") or {}).get("json_schema", {}).get("schema", {})
        text = (injected_reply(asked["messages"]) if behaviour.follows_injected_instructions else None) or json.dumps(
            reply_to(asked["messages"], schema), ensure_ascii=False
        )
        tokens_in = count_tokens([str(message.get("content")) for message in asked["messages"]])
        tokens_out, is_cut_off = behaviour.billing_factor * count_tokens([text]), False
        if asked.get("reasoning_effort") not in _LITTLE_EFFORT:
            tokens_out += behaviour.reasoning_tokens
        if behaviour.reasoning_tokens and tokens_out > (longest := asked.get("max_completion_tokens", tokens_out)):
            text, tokens_out, is_cut_off = "", longest, True
        if not self.counts.admits(tokens_in + tokens_out, behaviour.rpm, behaviour.tpm):
            self.counts.over_limit += 1
            return self._error(429, "Too many requests or tokens in this minute.", "rate_limit_exceeded")
        self.counts.admit(tokens_in + tokens_out, time.monotonic())
        fault = self.script.popleft() if self.script else behaviour.fault_of(digest, self.counts.seen[digest])
        if fault is not None:
            self.counts.faults[fault.value] += 1
        pauses = {Fault.slow: behaviour.slow_s, Fault.hanging: _HANGING_S}
        await asyncio.sleep(behaviour.latency_s + (pauses.get(fault, 0.0) if fault else 0.0))
        if fault is not None and (failure := self._failure(fault, key)) is not None:
            return failure
        is_cut_off = is_cut_off or fault is Fault.cut_reply
        completion = _completion(
            behaviour.model, digest, _spoilt(text, fault), tokens_in, tokens_out, fault is Fault.refusal, is_cut_off
        )
        if fault in (Fault.cut, Fault.cut_body):
            is_cut = fault is Fault.cut
            return _Reply(200, completion if is_cut else completion[: len(completion) // 2], cut=is_cut)
        return _Reply(200, completion, pays_for=(digest, tokens_in, tokens_out))

    def _failure(self, fault: Fault, key: str) -> _Reply | None:
        """The error that a fault is; None if there is a reply all the same."""
        match fault:
            case Fault.too_many:
                return self._error(429, "Slow down.", "rate_limit_exceeded")
            case Fault.too_many_retry_after:
                wait = {"Retry-After": f"{self.behaviour.retry_after_s:g}"}
                return self._error(429, "Slow down.", "rate_limit_exceeded", wait)
            case Fault.server_error | Fault.error_body:
                status = 500 if fault is Fault.server_error else 200
                return self._error(status, f"Internal error while serving {key}.", "server_error")
            case Fault.moderation:
                return self._error(403, _MODERATION, "content_policy_violation")
            case Fault.no_credit:
                is_openai = self.behaviour.errors == "openai"
                message = "You exceeded your current quota." if is_openai else _XAI_NO_CREDIT
                return self._error(429, message, "insufficient_quota")
            case _:
                return None

    def _error(self, status: int, message: str, code: str, headers: Mapping[str, str] | None = None) -> _Reply:
        body: dict[str, object] = {"error": {"message": message, "type": "simulated", "param": None, "code": code}}
        if self.behaviour.errors == "xai":
            body = {"code": _XAI_CODES.get(status, "Internal error"), "error": message}
        return _Reply(status, json.dumps(body), headers or {})


@contextmanager
def running(behaviour: Behaviour | None = None, port: int = 0) -> Iterator[FakeOpenAI]:
    """A fake model that answers while the block runs. raises: PortInUse"""
    model = FakeOpenAI(behaviour or Behaviour(), port)
    model.start()
    try:
        yield model
    finally:
        model.stop()


async def _read(reader: asyncio.StreamReader) -> tuple[str, dict[str, str], bytes] | None:
    """First line, headers in lower case and body of the next request; None if the client has gone."""
    line = (await reader.readline()).decode().strip()
    if not line:
        return None
    headers: dict[str, str] = {}
    while header := (await reader.readline()).decode().strip():
        name, _, value = header.partition(":")
        headers[name.lower()] = value.strip()
    return line, headers, await reader.readexactly(int(headers.get("content-length", "0")))


def _completion(
    model: str, digest: str, text: str, tokens_in: int, tokens_out: int, is_refusal: bool, is_cut_off: bool
) -> str:
    message = {"role": "assistant", "content": text, "refusal": None}
    if is_refusal:
        message |= {"content": None, "refusal": "I cannot help with that."}
    choice = {"index": 0, "message": message, "finish_reason": "length" if is_cut_off else "stop"}
    usage = {
        "prompt_tokens": tokens_in,
        "completion_tokens": tokens_out,
        "total_tokens": tokens_in + tokens_out,
        "prompt_tokens_details": {"cached_tokens": 0},
    }
    whole = {"id": f"simulated-{digest}", "object": "chat.completion", "created": 0, "model": model}
    return json.dumps(whole | {"choices": [choice], "usage": usage})


def _spoilt(text: str, fault: Fault | None) -> str:
    match fault:
        case Fault.empty:
            return ""
        case Fault.cut_reply:
            return text[: len(text) // 2]
        case Fault.wrong_schema:
            return json.dumps({"unexpected": True})
        case Fault.duplicate_keys:
            found = json.loads(text)
            first = next(iter(found), "key")
            return f"{{{json.dumps(first)}: null, {text[1:]}" if found else text
        case Fault.wrong_ids:
            found = json.loads(text)
            for summary in found.get("summaries", []):
                summary["evidence"] = [INVENTED_ID]
            return json.dumps(found)
    return text
