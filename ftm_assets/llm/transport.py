"""One request to a server of OpenAI's protocol, and what its answer, of whatever kind, means."""

import asyncio
import email.utils
import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from ftm_assets.llm.ledger import Usage
from ftm_assets.llm.protocol import Question

if TYPE_CHECKING:
    from openai import APIStatusError, AsyncOpenAI

_LONGEST_SAID = 300
# What the server has surely not seen, by the names of the errors below openai's own.
_NOT_SENT = {"ConnectError", "ConnectTimeout", "PoolTimeout", "UnsupportedProtocol", "LocalProtocolError"}
# A gateway may say these after the model has done its work.
_MAYBE_PAID = {408, 504, 524}
_WRONG_KEY = {"invalid_api_key", "unauthorized", "account_deactivated"}
_NO_MODEL = {"model_not_found", "model_not_available", "deprecated_model"}
_NO_CREDIT = {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "credit_limit_reached"}
_SAYS_NO_CREDIT = ("all available credits", "spending limit", "out of credits", "any credits", "purchase credits")
_MODERATION = ("safety", "violat", "moderation", "usage guidelines", "content policy")


class ModelError(Exception):
    """A request that came to nothing; the message names no key."""


@dataclass
class Transient(ModelError):
    """It may be tried again. maybe_paid: the server may have done its work; retry_after_s: what it asked to wait"""

    why: str
    maybe_paid: bool = False
    retry_after_s: float | None = None


@dataclass
class Refused(ModelError):
    """The server refuses this request."""

    why: str


@dataclass
class Misconfigured(ModelError):
    """The server would refuse every request."""

    why: str


@dataclass(frozen=True, slots=True)
class Completion:
    """What a model replied. refusal: why it did not, empty if it did; is_cut_off: it came to the longest allowed"""

    text: str
    refusal: str
    is_cut_off: bool
    model: str
    usage: Usage | None
    latency_s: float


class _Message(BaseModel):
    model_config = ConfigDict(extra="ignore")
    content: str | None = None
    refusal: str | None = None


class _Choice(BaseModel):
    model_config = ConfigDict(extra="ignore")
    message: _Message
    # Decision 91: a reply that is cut off has a kind of its own.
    finish_reason: str | None = None


# No more than the ledger can hold.
_Count = Annotated[int, Field(ge=0, lt=2**31)]


class _Details(BaseModel):
    model_config = ConfigDict(extra="ignore")
    cached_tokens: _Count | None = None


class _Usage(BaseModel):
    model_config = ConfigDict(extra="ignore")
    prompt_tokens: _Count
    # Decision 92.
    completion_tokens: _Count
    total_tokens: _Count | None = None
    prompt_tokens_details: _Details | None = None


class _Body(BaseModel):
    """The part of a reply that we read."""

    model_config = ConfigDict(extra="ignore")
    choices: list[_Choice] | None = None
    model: str | None = None
    usage: object = None
    error: object = None


@dataclass
class Chat:
    """A server, a model, and a pool of connections. For one event loop.

    base_url:         where the server is
    timeout_s:        for a request from begin to end
    reasoning_effort: how much the model is to think first, in the provider's words; empty: as it likes
    """

    base_url: str
    model: str
    key: SecretStr | None = field(repr=False)
    timeout_s: float
    reasoning_effort: str | None = None
    _client: "AsyncOpenAI | None" = field(default=None, init=False, repr=False)

    async def complete(self, question: Question) -> Completion:
        """The model's reply. raises: Transient, Refused, Misconfigured"""
        import openai

        started = time.monotonic()
        try:
            async with asyncio.timeout(self.timeout_s):
                response = await self._open().chat.completions.with_raw_response.create(**self._request(question))
                text = self._hidden(response.http_response.text)
        except TimeoutError:
            raise Transient(f"no reply within {self.timeout_s:g} s (FTM_LLM_TIMEOUT)", maybe_paid=True) from None
        except openai.APITimeoutError as error:
            raise Transient("the connection timed out", maybe_paid=not _was_not_sent(error)) from None
        except openai.APIConnectionError as error:
            raise Transient(self.said(f"{self._server}: {_cause(error)}"), not _was_not_sent(error)) from None
        except openai.APIStatusError as error:
            raise self._refusal(error) from None
        except (openai.OpenAIError, ValueError) as error:
            raise Refused(self.said(f"{type(error).__name__}: {error}")) from None
        return self._read(text, time.monotonic() - started)

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.close()
            self._client = None

    def said(self, text: str) -> str:
        """What somebody said, on one line, not too long, and without our key."""
        return " ".join(self._hidden(text).split())[:_LONGEST_SAID]

    def _hidden(self, text: str) -> str:
        return text.replace(self.key.get_secret_value(), "[key]") if self.key else text

    @property
    def _server(self) -> str:
        return urlsplit(self.base_url).netloc

    def _open(self) -> "AsyncOpenAI":
        if self._client is None:
            import openai

            host = urlsplit(self.base_url).hostname or ""
            is_here = host in ("localhost", "::1") or host.startswith("127.")
            self._client = openai.AsyncOpenAI(
                api_key=self.key.get_secret_value() if self.key else "none",
                base_url=self.base_url,
                max_retries=0,
                timeout=self.timeout_s,
                # A server on this machine is not behind a proxy.
                http_client=openai.DefaultAsyncHttpxClient(trust_env=not is_here),
            )
        return self._client

    def _request(self, question: Question) -> dict[str, Any]:
        schema = {"name": _name(question.prompt), "schema": dict(question.reply_schema), "strict": True}
        # Past the library's types, which it would otherwise compare with each part of the schema, each time.
        more: dict[str, Any] = {"response_format": {"type": "json_schema", "json_schema": schema}}
        if self.reasoning_effort:
            more["reasoning_effort"] = self.reasoning_effort
        return {
            "model": self.model,
            "messages": [{"role": each.role, "content": _sendable(each.content)} for each in question.messages],
            "max_completion_tokens": question.max_tokens,
            "extra_body": more,
        }

    def _refusal(self, error: "APIStatusError") -> ModelError:
        response = error.response
        try:
            code, said = _told(json.loads(response.text))
        except ValueError:  # A page of a proxy, that nobody wants to read.
            code, said = "", ""
        said = self.said(said or response.reason_phrase)
        return self._verdict(response.status_code, code, said, _retry_after_s(response.headers))

    def _verdict(self, status: int, code: str, said: str, retry_after_s: float | None) -> ModelError:
        """What an error means; providers use the statuses for different things, so its words count, too."""
        where, lower = f"{self._server} says {status}: {said}", said.lower()
        if status == 403 and any(word in lower for word in _MODERATION):
            return Refused(where)
        if status == 402 or code in _NO_CREDIT or any(words in lower for words in _SAYS_NO_CREDIT):
            return Misconfigured(f"{where} The account has no credit left")
        if status in (401, 403) or code in _WRONG_KEY or (status == 400 and "api key" in lower):
            return Misconfigured(f"{where} Check FTM_LLM_API_KEY (or XAI_API_KEY) and FTM_LLM_BASE_URL")
        if status == 404 or code in _NO_MODEL or (status in (400, 410) and _speaks_of_no_model(lower)):
            return Misconfigured(f"{where} Check FTM_LLM_MODEL={self.model} and FTM_LLM_BASE_URL; models get renamed")
        if status in (408, 409, 425, 429) or status >= 500:
            return Transient(where, status in _MAYBE_PAID, retry_after_s)
        return Refused(where)

    def _read(self, text: str, latency_s: float) -> Completion:
        try:
            body = _Body.model_validate_json(text)
        except ValidationError:
            raise Transient(f"{self._server}: the reply is no chat completion, or only half of one", True) from None
        usage = _usage(body.usage)
        if body.error:
            raise self._error_in(text, is_paid=usage is not None or bool(body.choices))
        if not body.choices:
            raise Transient(f"{self._server}: a reply without choices", maybe_paid=usage is not None)
        message, ending = body.choices[0].message, body.choices[0].finish_reason
        refusal = self.said(message.refusal or ("content filter" if ending == "content_filter" else ""))
        return Completion(message.content or "", refusal, ending == "length", body.model or "", usage, latency_s)

    def _error_in(self, text: str, *, is_paid: bool) -> ModelError:
        """What an error means that came as a success."""
        code, said = _told(json.loads(text))
        status = int(code) if code.isdigit() else 500
        verdict = self._verdict(status, code, self.said(said), None)
        return replace(verdict, maybe_paid=True) if isinstance(verdict, Transient) and is_paid else verdict


def _told(body: object) -> tuple[str, str]:
    """Code and words of an error, both empty if there are none.

    `error` is an object with `message` and `code` (OpenAI), or the words themselves with `code` beside them (xAI);
    others have `message` or `detail` at the top.
    """
    if not isinstance(body, Mapping):
        return "", ""
    error = body.get("error")
    told = error if isinstance(error, Mapping) else body
    said = told.get("message") or (error if told is body else "") or told.get("detail") or ""
    return str(told.get("code") or ""), said if isinstance(said, str) else json.dumps(said)


def _sendable(text: str) -> str:
    """Without halves of surrogate pairs, which no encoding has."""
    return text.encode("utf-8", "replace").decode()


def _name(prompt: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in prompt)[:64]


def _usage(told: object) -> Usage | None:
    """The tokens that a provider counts; None if it counts none, or what no count can be."""
    try:
        found = _Usage.model_validate(told)
    except ValidationError:
        return None
    details = found.prompt_tokens_details
    cached = min(found.prompt_tokens, (details.cached_tokens or 0) if details else 0)
    # What a model has thought is paid like what it says; some providers count it in the total alone.
    tokens_out = max(found.completion_tokens, (found.total_tokens or 0) - found.prompt_tokens)
    return Usage(found.prompt_tokens, cached, tokens_out)


def _speaks_of_no_model(said: str) -> bool:
    words = ("not found", "not exist", "no longer", "retired", "deprecated", "unknown model", "invalid model")
    return "model" in said and any(word in said for word in words)


def _cause(error: BaseException) -> str:
    cause = error.__cause__
    return f"{type(cause).__name__}: {cause}" if cause is not None else str(error)


def _was_not_sent(error: BaseException) -> bool:
    return type(error.__cause__).__name__ in _NOT_SENT


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    """What a server asks to wait, in whichever of three ways it says so; None if it says nothing that makes sense."""
    try:
        if "retry-after-ms" in headers:
            asked_s = float(headers["retry-after-ms"]) / 1000
        else:
            asked_s = _seconds(headers["retry-after"])
    except (ValueError, KeyError):
        return None
    return max(0.0, asked_s) if math.isfinite(asked_s) else None


def _seconds(text: str) -> float:
    """From now: so many, or until a date. raises: ValueError if it is neither"""
    try:
        return float(text)
    except ValueError:
        then = email.utils.parsedate_to_datetime(text)
    then = then if then.tzinfo else then.replace(tzinfo=UTC)
    return (then - datetime.now(UTC)).total_seconds()
