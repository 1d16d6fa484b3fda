"""One HTTP request to a server that speaks OpenAI's protocol, and what its answer, of whatever kind, means."""

import asyncio
import email.utils
import json
import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, SecretStr, ValidationError

from ftm_assets.llm.protocol import Completion, CompletionFailure, CompletionRequest, estimate_tokens
from ftm_assets.text_safety import encodable

if TYPE_CHECKING:
    from openai import APIStatusError, AsyncOpenAI

_MAX_ERROR_CHARS = 300
# Errors below openai's own after which the server has surely not seen the request.
_NOT_SENT = {"ConnectError", "ConnectTimeout", "PoolTimeout", "UnsupportedProtocol", "LocalProtocolError"}
# A gateway may send these after the model has done its work.
_MAYBE_PAID = {408, 504, 524}
# What httpx takes from the environment.
_OF_CONNECTIONS = [
    name
    for upper in ("ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR")
    for name in (upper, upper.lower())
]
_WRONG_KEY = {"invalid_api_key", "unauthorized", "account_deactivated"}
_NO_MODEL = {"model_not_found", "model_not_available", "deprecated_model"}
_NO_CREDIT = {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "credit_limit_reached"}
_NO_CREDIT_PHRASES = ("all available credits", "spending limit", "out of credits", "any credits", "purchase credits")
_MODERATION = ("safety", "violat", "moderation", "usage guidelines", "content policy")


class TransportError(Exception):
    """A request that failed. The message never holds the API key."""


@dataclass
class RetryableError(TransportError):
    """A retry may help. maybe_paid: the server may have done its work; retry_after_s: how long it asked to wait"""

    reason: str
    maybe_paid: bool = False
    retry_after_s: float | None = None


@dataclass
class RequestRejected(TransportError):
    """The server refuses this request."""

    reason: str


@dataclass
class ConfigurationError(TransportError):
    """The server would refuse every request."""

    reason: str


@dataclass
class UnusableReply(TransportError):
    """A reply that was paid and is of no use. is_final: the model refuses, so that a retry would not help"""

    completion: Completion
    failure: CompletionFailure
    is_final: bool


class _Message(BaseModel):
    content: str | None = None
    refusal: str | None = None


class _Choice(BaseModel):
    message: _Message
    # Decision 91: a reply that is cut off has a kind of its own.
    finish_reason: str | None = None


# No more than the ledger can hold.
_Count = Annotated[int, Field(ge=0, lt=2**31)]


class _Details(BaseModel):
    cached_tokens: _Count | None = None


class _Usage(BaseModel):
    prompt_tokens: _Count
    # Decision 92.
    completion_tokens: _Count
    total_tokens: _Count | None = None
    prompt_tokens_details: _Details | None = None


class _Body(BaseModel):
    """The part of a reply that we read."""

    choices: list[_Choice] | None = None
    model: str | None = None
    usage: object = None
    error: object = None


@dataclass
class OpenAITransport:
    """One model of one server, and a pool of connections. For one event loop.

    base_url:         where the server is
    timeout_s:        for a whole request
    reasoning_effort: sent to the provider as it is; empty: the provider's default
    """

    base_url: str
    model: str
    key: SecretStr | None = field(repr=False)
    timeout_s: float
    reasoning_effort: str | None = None
    _client: "AsyncOpenAI | None" = field(default=None, init=False, repr=False)

    async def send(self, key: str, request: CompletionRequest) -> Completion:
        """The model's reply, without its price. key: of the request

        raises: RetryableError, RequestRejected, ConfigurationError, UnusableReply
        """
        import openai

        started = time.monotonic()
        try:
            async with asyncio.timeout(self.timeout_s):
                response = await self._open().chat.completions.with_raw_response.create(**self._parameters(request))
                text = self._without_key(response.http_response.text)
        except TimeoutError:
            raise RetryableError(f"no reply within {self.timeout_s:g} s (FTM_LLM_TIMEOUT)", maybe_paid=True) from None
        except openai.APITimeoutError as error:
            raise RetryableError("the connection timed out", maybe_paid=not _was_not_sent(error)) from None
        except openai.APIConnectionError as error:
            reason = self.printable(f"{self._server}: {_cause(error)}")
            raise RetryableError(reason, maybe_paid=not _was_not_sent(error)) from None
        except openai.APIStatusError as error:
            raise self._error_of_status(error) from None
        except (openai.OpenAIError, ValueError) as error:
            raise RequestRejected(self.printable(f"{type(error).__name__}: {error}")) from None
        return self._read(text, key, request, time.monotonic() - started)

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.close()
            self._client = None

    def printable(self, text: str) -> str:
        """A server's text on one line, cut, and without the API key."""
        return " ".join(self._without_key(text).split())[:_MAX_ERROR_CHARS]

    def _without_key(self, text: str) -> str:
        return text.replace(self.key.get_secret_value(), "[key]") if self.key else text

    @property
    def _server(self) -> str:
        return urlsplit(self.base_url).netloc

    def _open(self) -> "AsyncOpenAI":
        if self._client is None:
            import openai

            host = urlsplit(self.base_url).hostname or ""
            is_here = host in ("localhost", "::1") or host.startswith("127.")
            try:
                # A server on this machine is not behind a proxy.
                http_client = openai.DefaultAsyncHttpxClient(trust_env=not is_here)
            except (ImportError, OSError, ValueError) as error:
                found = ", ".join(name for name in _OF_CONNECTIONS if os.environ.get(name))
                raise ConfigurationError(
                    self.printable(f"no connection can be made with {found or 'these settings'}: {error}")
                ) from None
            self._client = openai.AsyncOpenAI(
                api_key=self.key.get_secret_value() if self.key else "none",
                base_url=self.base_url,
                max_retries=0,
                timeout=self.timeout_s,
                http_client=http_client,
            )
        return self._client

    def _parameters(self, request: CompletionRequest) -> dict[str, Any]:
        schema = {"name": _schema_name(request.prompt), "schema": dict(request.reply_schema), "strict": True}
        # Not as a typed argument: the library would compare it with each part of the schema, each time.
        extra_body: dict[str, Any] = {"response_format": {"type": "json_schema", "json_schema": schema}}
        if self.reasoning_effort:
            extra_body["reasoning_effort"] = self.reasoning_effort
        return {
            "model": self.model,
            "messages": [{"role": each.role, "content": encodable(each.content)} for each in request.messages],
            "max_completion_tokens": request.max_tokens,
            "extra_body": extra_body,
        }

    def _error_of_status(self, error: "APIStatusError") -> TransportError:
        response = error.response
        try:
            code, message = _error_fields(json.loads(response.text))
        except ValueError:  # The HTML page of a proxy.
            code, message = "", ""
        message = self.printable(message or response.reason_phrase)
        return self._classify(response.status_code, code, message, _retry_after_s(response.headers))

    def _classify(self, status: int, code: str, message: str, retry_after_s: float | None) -> TransportError:
        """What an error means. Providers use the statuses differently, so the words count as well."""
        reason, lower = f"{self._server} says {status}: {message}", message.lower()
        if status == 403 and any(word in lower for word in _MODERATION):
            return RequestRejected(reason)
        if status == 402 or code in _NO_CREDIT or any(phrase in lower for phrase in _NO_CREDIT_PHRASES):
            return ConfigurationError(f"{reason} The account has no credit left")
        if status in (401, 403) or code in _WRONG_KEY or (status == 400 and "api key" in lower):
            return ConfigurationError(f"{reason} Check FTM_LLM_API_KEY (or XAI_API_KEY) and FTM_LLM_BASE_URL")
        if status == 404 or code in _NO_MODEL or (status in (400, 410) and _says_model_is_unknown(lower)):
            next_step = f"Check FTM_LLM_MODEL={self.model} and FTM_LLM_BASE_URL; models get renamed"
            return ConfigurationError(f"{reason} {next_step}")
        if status in (408, 409, 425, 429) or status >= 500:
            return RetryableError(reason, maybe_paid=status in _MAYBE_PAID, retry_after_s=retry_after_s)
        return RequestRejected(reason)

    def _read(self, text: str, key: str, request: CompletionRequest, latency_s: float) -> Completion:
        try:
            body = _Body.model_validate_json(text)
        except ValidationError:
            reason = f"{self._server}: the reply is no chat completion, or only half of one"
            raise RetryableError(reason, maybe_paid=True) from None
        usage = _read_usage(body.usage)
        if body.error:
            raise self._error_in_body(text, is_paid=usage is not None or bool(body.choices))
        if not body.choices:
            raise RetryableError(f"{self._server}: a reply without choices", maybe_paid=usage is not None)
        message, ending = body.choices[0].message, body.choices[0].finish_reason
        reply = message.content or ""
        # Some providers count no tokens.
        tokens_in, tokens_cached, tokens_out = usage or (request.estimated_tokens(), 0, estimate_tokens(reply))
        completion = Completion(
            text=reply,
            model=body.model or "",
            key=key,
            tokens_in=tokens_in,
            tokens_cached=tokens_cached,
            tokens_out=tokens_out,
            dollars=None,
            reused=False,
            usage_estimated=usage is None,
            latency_s=latency_s,
        )
        refusal = self.printable(message.refusal or ("content filter" if ending == "content_filter" else ""))
        if failure := _failure_of(completion, refusal, is_cut_off=ending == "length"):
            raise UnusableReply(completion, failure, is_final=bool(refusal))
        return completion

    def _error_in_body(self, text: str, *, is_paid: bool) -> TransportError:
        """What an error means that came with status 200."""
        code, message = _error_fields(json.loads(text))
        status = int(code) if code.isdigit() else 500
        error = self._classify(status, code, self.printable(message), None)
        return replace(error, maybe_paid=True) if isinstance(error, RetryableError) and is_paid else error


def _failure_of(completion: Completion, refusal: str, *, is_cut_off: bool) -> CompletionFailure | None:
    if refusal:
        return CompletionFailure("refused", f"the model refuses: {refusal}")
    if is_cut_off:
        return CompletionFailure(
            "cut off",
            f"the reply ended at its longest, {completion.tokens_out} tokens; if the model reasons first, let it do "
            "less with FTM_LLM_REASONING_EFFORT, or choose another with FTM_LLM_MODEL",
        )
    return None if completion.text.strip() else CompletionFailure("refused", "the reply is empty")


def _error_fields(body: object) -> tuple[str, str]:
    """Code and message of an error, both empty if there are none.

    `error` is an object with `message` and `code` (OpenAI), or the message itself with `code` next to it (xAI). Others
    have `message` or `detail` at the top.
    """
    if not isinstance(body, Mapping):
        return "", ""
    error = body.get("error")
    holder = error if isinstance(error, Mapping) else body
    message = holder.get("message") or (error if holder is body else "") or holder.get("detail") or ""
    return str(holder.get("code") or ""), message if isinstance(message, str) else json.dumps(message)


def _schema_name(prompt: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in prompt)[:64]


def _read_usage(usage: object) -> tuple[int, int, int] | None:
    """Tokens in, cached and out as the provider counts them; None if it counts none, or impossible numbers."""
    try:
        found = _Usage.model_validate(usage)
    except ValidationError:
        return None
    details = found.prompt_tokens_details
    cached = min(found.prompt_tokens, (details.cached_tokens or 0) if details else 0)
    # Reasoning is paid like output; some providers count it in the total alone.
    tokens_out = max(found.completion_tokens, (found.total_tokens or 0) - found.prompt_tokens)
    return found.prompt_tokens, cached, tokens_out


def _says_model_is_unknown(message: str) -> bool:
    phrases = ("not found", "not exist", "no longer", "retired", "deprecated", "unknown model", "invalid model")
    return "model" in message and any(phrase in message for phrase in phrases)


def _cause(error: BaseException) -> str:
    cause = error.__cause__
    return f"{type(cause).__name__}: {cause}" if cause is not None else str(error)


def _was_not_sent(error: BaseException) -> bool:
    return type(error.__cause__).__name__ in _NOT_SENT


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    """How long a server asks to wait, in any of its three forms; None if it does not ask, or makes no sense."""
    try:
        if "retry-after-ms" in headers:
            wait_s = float(headers["retry-after-ms"]) / 1000
        else:
            wait_s = _seconds(headers["retry-after"])
    except (ValueError, KeyError):
        return None
    return max(0.0, wait_s) if math.isfinite(wait_s) else None


def _seconds(text: str) -> float:
    """A number of seconds, or those until a date. raises: ValueError if it is neither"""
    try:
        return float(text)
    except ValueError:
        then = email.utils.parsedate_to_datetime(text)
    then = then if then.tzinfo else then.replace(tzinfo=UTC)
    return (then - datetime.now(UTC)).total_seconds()
