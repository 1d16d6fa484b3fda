"""One request to a server of OpenAI's protocol, and what its answer, of whatever kind, means."""

import asyncio
import email.utils
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError

from ftm_assets.analysis.language import Question
from ftm_assets.analysis.ledger import Usage

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
    """What a model replied. refusal: why it did not, empty if it did"""

    text: str
    refusal: str
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
    finish_reason: str | None = None


class _Details(BaseModel):
    model_config = ConfigDict(extra="ignore")
    cached_tokens: int | None = None


class _Usage(BaseModel):
    model_config = ConfigDict(extra="ignore")
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int | None = None
    prompt_tokens_details: _Details | None = None


class _Body(BaseModel):
    """The part of a reply that we read; an error body has no choices."""

    model_config = ConfigDict(extra="ignore")
    choices: list[_Choice] = []
    model: str = ""
    usage: _Usage | None = None
    error: Any = None


@dataclass
class Chat:
    """A server, a model, and a pool of connections. For one event loop.

    base_url:  where the server is
    timeout_s: for a request from begin to end
    """

    base_url: str
    model: str
    key: SecretStr | None = field(repr=False)
    timeout_s: float
    _client: "AsyncOpenAI | None" = field(default=None, init=False, repr=False)

    async def complete(self, question: Question) -> Completion:
        """The model's reply. raises: Transient, Refused, Misconfigured"""
        import openai

        started = time.monotonic()
        try:
            async with asyncio.timeout(self.timeout_s):
                response = await self._open().chat.completions.with_raw_response.create(**self._request(question))
                text = response.http_response.text
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
        key = self.key.get_secret_value() if self.key else ""
        hidden = text.replace(key, "[key]") if key else text
        return " ".join(hidden.split())[:_LONGEST_SAID]

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
        return {
            "model": self.model,
            "messages": [{"role": each.role, "content": _sendable(each.content)} for each in question.messages],
            "max_completion_tokens": question.max_tokens,
            # Past the library's types, which it would otherwise compare with each part of the schema, each time.
            "extra_body": {"response_format": {"type": "json_schema", "json_schema": schema}},
        }

    def _refusal(self, error: "APIStatusError") -> ModelError:
        # The body of another server, such as a proxy, is a page that nobody wants to read.
        body = error.body if isinstance(error.body, Mapping) else {}
        said = self.said(str(body.get("message") or body.get("error") or error.response.reason_phrase))
        return self._verdict(error.status_code, str(error.code or ""), said, _retry_after_s(error.response.headers))

    def _verdict(self, status: int, code: str, said: str, retry_after_s: float | None) -> ModelError:
        """What an error means; providers use the statuses for different things, so its words count, too."""
        where, lower = f"{self._server} says {status}: {said}", said.lower()
        if status == 403 and any(word in lower for word in _MODERATION):
            return Refused(where)
        if status in (401, 403) or code in _WRONG_KEY or (status == 400 and "api key" in lower):
            return Misconfigured(f"{where} Check FTM_LLM_API_KEY (or XAI_API_KEY) and FTM_LLM_BASE_URL")
        if status == 404 or code in _NO_MODEL or (status in (400, 410) and _speaks_of_no_model(lower)):
            return Misconfigured(f"{where} Check FTM_LLM_MODEL={self.model} and FTM_LLM_BASE_URL; models get renamed")
        if status == 402 or code in _NO_CREDIT:
            return Misconfigured(f"{where} The account has no credit left")
        if status in (408, 409, 425, 429) or status >= 500:
            return Transient(where, status in _MAYBE_PAID, retry_after_s)
        return Refused(where)

    def _read(self, text: str, latency_s: float) -> Completion:
        try:
            body = _Body.model_validate_json(text)
        except ValidationError:
            raise Transient(f"{self._server}: the reply is no chat completion, or only half of one", True) from None
        if not body.choices:
            raise self._error_in(body)
        message = body.choices[0].message
        refusal = message.refusal or ("content filter" if body.choices[0].finish_reason == "content_filter" else "")
        return Completion(message.content or "", self.said(refusal), body.model, _usage(body.usage), latency_s)

    def _error_in(self, body: _Body) -> ModelError:
        """What an error means that came as a success."""
        if body.usage is not None or body.error is None:
            return Transient(f"{self._server}: a reply without choices", maybe_paid=body.usage is not None)
        error = body.error if isinstance(body.error, Mapping) else {"message": str(body.error)}
        code = str(error.get("code") or "")
        status = int(code) if code.isdigit() else 500
        return self._verdict(status, code, self.said(str(error.get("message") or json.dumps(error))), None)


def _sendable(text: str) -> str:
    """Without halves of surrogate pairs, which no encoding has."""
    return text.encode("utf-8", "replace").decode()


def _name(prompt: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in prompt)[:64]


def _usage(found: _Usage | None) -> Usage | None:
    if found is None:
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
    """What a server asks to wait, in whichever of three ways it says so."""
    try:
        if "retry-after-ms" in headers:
            return max(0.0, float(headers["retry-after-ms"]) / 1000)
        return max(0.0, float(headers["retry-after"])) if "retry-after" in headers else None
    except ValueError:
        pass
    try:
        then = email.utils.parsedate_to_datetime(headers["retry-after"])
    except (ValueError, KeyError):
        return None
    then = then if then.tzinfo else then.replace(tzinfo=UTC)
    return max(0.0, (then - datetime.now(UTC)).total_seconds())
