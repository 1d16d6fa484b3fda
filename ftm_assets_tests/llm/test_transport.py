import asyncio
import json
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import SecretStr

from ftm_assets.llm.protocol import Completion, CompletionRequest
from ftm_assets.llm.transport import (
    ConfigurationError,
    OpenAITransport,
    RequestRejected,
    RetryableError,
    TransportError,
    UnusableReply,
    _retry_after_s,
)

TRANSPORT = OpenAITransport("https://api.example.com/v1", "grok-9", SecretStr("sesame"), 5.0)
REQUEST = CompletionRequest("2021Q4", "p@1", (), {}, 100)


@pytest.mark.parametrize(
    ("status", "code", "said", "kind"),
    [
        (401, "", "Unauthorized", ConfigurationError),
        (403, "", "Your team lacks permission", ConfigurationError),
        (403, "", "Content violates usage guidelines. Failed check: SAFETY", RequestRejected),
        (400, "", "Incorrect API key provided", ConfigurationError),
        (404, "", "The model grok-9 does not exist", ConfigurationError),
        (400, "", "model grok-9 has been deprecated", ConfigurationError),
        (410, "", "This model was retired", ConfigurationError),
        (429, "insufficient_quota", "You exceeded your current quota", ConfigurationError),
        (402, "", "Payment required", ConfigurationError),
        (400, "context_length_exceeded", "maximum context length is 8192 tokens", RequestRejected),
        (422, "", "Unprocessable", RequestRejected),
        (429, "rate_limit_exceeded", "Slow down", RetryableError),
        (500, "", "oops", RetryableError),
        (503, "", "overloaded", RetryableError),
    ],
)
def test_what_an_error_means(status: int, code: str, said: str, kind: type[TransportError]) -> None:
    assert type(TRANSPORT._classify(status, code, said, None)) is kind


def test_a_gateway_that_lost_patience_may_have_been_too_early() -> None:
    errors = [TRANSPORT._classify(status, "", "timeout", None) for status in (500, 504)]
    assert [error.maybe_paid for error in errors if isinstance(error, RetryableError)] == [False, True]


def test_the_wait_that_a_server_asks_for_is_read_in_each_of_its_forms() -> None:
    then = datetime.now(UTC) + timedelta(seconds=30)
    assert _retry_after_s({"retry-after": "2.5"}) == 2.5
    assert _retry_after_s({"retry-after-ms": "250", "retry-after": "9"}) == 0.25
    by_date = _retry_after_s({"retry-after": then.strftime("%a, %d %b %Y %H:%M:%S GMT")})
    assert by_date is not None and 27 < by_date <= 30
    assert _retry_after_s({"retry-after": "soon"}) is None
    assert _retry_after_s({}) is None


def body_of(usage: object = None, **message: object) -> str:
    body = {"model": "grok-9-2026", "choices": [{"message": message, "finish_reason": "stop"}], "usage": usage}
    return json.dumps(body)


def read(text: str) -> Completion:
    return TRANSPORT._read(text, "key", REQUEST, 1.0)


def test_thoughts_are_counted_as_they_are_paid() -> None:
    usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 150}
    details = {"prompt_tokens_details": {"cached_tokens": 64}}
    counted = read(body_of({**usage, **details}, content="x"))
    assert (counted.tokens_in, counted.tokens_cached, counted.tokens_out) == (100, 64, 50)
    assert not counted.usage_estimated and read(body_of(content="x")).usage_estimated


@pytest.mark.parametrize("text", ["", "<html>", "[]", '{"choices": [{}]}', '{"choices": [{"message": {"content": "x'])
def test_what_is_no_completion_may_have_been_paid(text: str) -> None:
    with pytest.raises(RetryableError) as lost:
        read(text)
    assert lost.value.maybe_paid


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ({"message": "upstream", "code": 502}, RetryableError),
        ({"message": "bad key", "code": 401}, ConfigurationError),
        ({"message": "The model is gone", "code": "model_not_found"}, ConfigurationError),
        ("overloaded", RetryableError),
    ],
)
def test_an_error_that_comes_as_a_success_is_one(error: object, kind: type[TransportError]) -> None:
    with pytest.raises(kind):
        read(json.dumps({"error": error}))


def test_a_key_that_is_repeated_is_hidden() -> None:
    assert "sesame" not in TRANSPORT.printable("Incorrect key sesame\nprovided") + repr(TRANSPORT)


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": -5, "completion_tokens": 9},
        {"prompt_tokens": 10**12, "completion_tokens": 9},
        {"prompt_tokens": 5.5, "completion_tokens": 9},
        "many",
    ],
)
def test_a_count_that_cannot_be_is_none(usage: object) -> None:
    completion = read(body_of(usage, content="x"))
    assert (completion.text, completion.tokens_out, completion.usage_estimated) == ("x", 1, True)


@pytest.mark.parametrize(
    ("message", "kind", "is_final"),
    [({"refusal": "No."}, "refused", True), ({"content": " "}, "refused", False)],
)
def test_a_reply_that_helps_nobody_was_paid_all_the_same(message: dict[str, str], kind: str, is_final: bool) -> None:
    usage = {"prompt_tokens": 100, "completion_tokens": 10}
    with pytest.raises(UnusableReply) as found:
        read(body_of(usage, **message))
    assert (found.value.failure.kind, found.value.is_final) == (kind, is_final)
    assert found.value.completion.tokens_in == 100


def test_a_reply_that_names_no_model_is_one() -> None:
    body = {"model": None, "choices": [{"message": {"content": "x"}}]}
    assert read(json.dumps(body)).model == ""


def test_an_error_counts_before_choices_whatever_they_are() -> None:
    with pytest.raises(ConfigurationError):
        read(json.dumps({"choices": None, "error": {"message": "bad key", "code": 401}}))
    half = {"choices": [{"message": {"content": "half"}}], "error": {"message": "upstream died", "code": 502}}
    with pytest.raises(RetryableError) as lost:
        read(json.dumps(half))
    assert lost.value.maybe_paid


@pytest.mark.parametrize("asked", ["inf", "nan", "-inf"])
def test_a_wait_without_end_is_none(asked: str) -> None:
    assert _retry_after_s({"retry-after": asked}) is None
    assert _retry_after_s({"retry-after-ms": asked}) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [("ALL_PROXY", "socks5://127.0.0.1:1080"), ("https_proxy", "nonsense://127.0.0.1"), ("SSL_CERT_FILE", "/gone.pem")],
)
def test_what_no_connection_can_be_made_with_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    elsewhere = OpenAITransport("https://models.invalid/v1", "model", None, timeout_s=5.0)
    with pytest.raises(ConfigurationError, match=f"no connection can be made with .*{name}.*: "):
        asyncio.run(elsewhere.send("key", REQUEST))
