import json
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import SecretStr

from ftm_assets.llm.ledger import Usage
from ftm_assets.llm.transport import Chat, Misconfigured, ModelError, Refused, Transient, _retry_after_s

CHAT = Chat("https://api.example.com/v1", "grok-9", SecretStr("sesame"), 5.0)


@pytest.mark.parametrize(
    ("status", "code", "said", "kind"),
    [
        (401, "", "Unauthorized", Misconfigured),
        (403, "", "Your team lacks permission", Misconfigured),
        (403, "", "Content violates usage guidelines. Failed check: SAFETY", Refused),
        (400, "", "Incorrect API key provided", Misconfigured),
        (404, "", "The model grok-9 does not exist", Misconfigured),
        (400, "", "model grok-9 has been deprecated", Misconfigured),
        (410, "", "This model was retired", Misconfigured),
        (429, "insufficient_quota", "You exceeded your current quota", Misconfigured),
        (402, "", "Payment required", Misconfigured),
        (400, "context_length_exceeded", "maximum context length is 8192 tokens", Refused),
        (422, "", "Unprocessable", Refused),
        (429, "rate_limit_exceeded", "Slow down", Transient),
        (500, "", "oops", Transient),
        (503, "", "overloaded", Transient),
    ],
)
def test_what_an_error_means(status: int, code: str, said: str, kind: type[ModelError]) -> None:
    assert type(CHAT._verdict(status, code, said, None)) is kind


def test_a_gateway_that_lost_patience_may_have_been_too_early() -> None:
    verdicts = [CHAT._verdict(status, "", "timeout", None) for status in (500, 504)]
    assert [verdict.maybe_paid for verdict in verdicts if isinstance(verdict, Transient)] == [False, True]


def test_the_wait_that_a_server_asks_for_is_read_in_each_of_its_forms() -> None:
    then = datetime.now(UTC) + timedelta(seconds=30)
    assert _retry_after_s({"retry-after": "2.5"}) == 2.5
    assert _retry_after_s({"retry-after-ms": "250", "retry-after": "9"}) == 0.25
    by_date = _retry_after_s({"retry-after": then.strftime("%a, %d %b %Y %H:%M:%S GMT")})
    assert by_date is not None and 27 < by_date <= 30
    assert _retry_after_s({"retry-after": "soon"}) is None
    assert _retry_after_s({}) is None


def completion(usage: object = None, **message: object) -> str:
    body = {"model": "grok-9-2026", "choices": [{"message": message, "finish_reason": "stop"}], "usage": usage}
    return json.dumps(body)


def test_thoughts_are_counted_as_they_are_paid() -> None:
    usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 150}
    details = {"prompt_tokens_details": {"cached_tokens": 64}}
    assert CHAT._read(completion({**usage, **details}, content="x"), 1.0).usage == Usage(100, 64, 50)
    assert CHAT._read(completion(content="x"), 1.0).usage is None


@pytest.mark.parametrize("text", ["", "<html>", "[]", '{"choices": [{}]}', '{"choices": [{"message": {"content": "x'])
def test_what_is_no_completion_may_have_been_paid(text: str) -> None:
    with pytest.raises(Transient) as lost:
        CHAT._read(text, 1.0)
    assert lost.value.maybe_paid


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ({"message": "upstream", "code": 502}, Transient),
        ({"message": "bad key", "code": 401}, Misconfigured),
        ({"message": "The model is gone", "code": "model_not_found"}, Misconfigured),
        ("overloaded", Transient),
    ],
)
def test_an_error_that_comes_as_a_success_is_one(error: object, kind: type[ModelError]) -> None:
    with pytest.raises(kind):
        CHAT._read(json.dumps({"error": error}), 1.0)


def test_a_key_that_is_repeated_is_hidden() -> None:
    assert "sesame" not in CHAT.said("Incorrect key sesame\nprovided") + repr(CHAT)


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
    read = CHAT._read(completion(usage, content="x"), 1.0)
    assert (read.text, read.usage) == ("x", None)


def test_a_reply_that_names_no_model_is_one() -> None:
    body = {"model": None, "choices": [{"message": {"content": "x"}}]}
    assert CHAT._read(json.dumps(body), 1.0).model == ""


def test_an_error_counts_before_choices_whatever_they_are() -> None:
    with pytest.raises(Misconfigured):
        CHAT._read(json.dumps({"choices": None, "error": {"message": "bad key", "code": 401}}), 1.0)
    half = {"choices": [{"message": {"content": "half"}}], "error": {"message": "upstream died", "code": 502}}
    with pytest.raises(Transient) as lost:
        CHAT._read(json.dumps(half), 1.0)
    assert lost.value.maybe_paid


@pytest.mark.parametrize("asked", ["inf", "nan", "-inf"])
def test_a_wait_without_end_is_none(asked: str) -> None:
    assert _retry_after_s({"retry-after": asked}) is None
    assert _retry_after_s({"retry-after-ms": asked}) is None
