import itertools
import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from devtools.fake_openai.behaviour import Behaviour, Fault, mixed
from devtools.fake_openai.server import FakeOpenAI, running
from devtools.processes import wait_for
from ftm_assets.llm import circuit_breaker, pending_request
from ftm_assets.llm.client import open_client
from ftm_assets.llm.ledger import Caps, Ledger, LedgerEntry
from ftm_assets.llm.protocol import Completion, CompletionFailure, Message
from ftm_assets.settings import Settings
from ftm_assets.storage.server.database import Database
from ftm_assets_tests.llm.llm_client import KEY, build_client, complete_all, llm_request, open_client_of
from ftm_assets_tests.storage.sql import ask, one


@pytest.fixture
def model() -> Iterator[FakeOpenAI]:
    with running() as model:
        yield model


def states(database: Database) -> list[object]:
    """The state of each row of the ledger, in the order of the requests."""
    return one(database, "SELECT state FROM llm_calls ORDER BY created_at, number")


def spent(database: Database) -> dict[object, object]:
    return {(kind, payer): dollars for kind, payer, dollars in ask(database, "SELECT * FROM llm_spending")}


def summed(database: Database) -> float:
    [dollars] = one(database, "SELECT sum(dollars) FROM llm_calls")
    return float(str(dollars))


def test_each_question_gets_its_answer_and_what_it_cost(database: Database, model: FakeOpenAI) -> None:
    with open_client_of(database, model) as client:
        found = complete_all(client, [llm_request(n) for n in range(20)])
    for n, result in enumerate(found):
        assert isinstance(result, Completion)
        assert json.loads(result.text)["summaries"][0]["evidence"] == [f"7_70_{n:04}"]
        assert result.dollars == pytest.approx(result.tokens_in + 2 * result.tokens_out)
        assert not result.reused
    assert model.counts.tokens_in == sum(result.tokens_in for result in found if isinstance(result, Completion))
    [row] = ask(
        database,
        "SELECT quarter, prompt, model, model_answered, state, attempts, latency_s > 0, request ->> 'max_tokens' "
        "FROM llm_calls WHERE request ->> 'messages' LIKE '%7_70_0003%'",
    )
    assert row == ("2021Q4", "topic_summaries@1", "simulated-1", "simulated-1", "answered", 1, True, "200")
    assert spent(database) == {("quarter", "2021Q4"): pytest.approx(summed(database))}


def test_no_questions_need_no_server(database: Database, model: FakeOpenAI) -> None:
    with open_client_of(database, model) as client:
        assert complete_all(client, []) == []
    assert model.counts.n_requests == 0


def test_the_same_question_is_paid_once_whoever_asks(database: Database, model: FakeOpenAI) -> None:
    with open_client_of(database, model) as client:
        [first] = complete_all(client, [llm_request()])
    with open_client_of(database, model) as another:
        [again] = complete_all(another, [llm_request(quarter="2022Q1", run="a run")])
    assert isinstance(first, Completion) and isinstance(again, Completion)
    assert (again.reused, again.text, again.dollars) == (True, first.text, first.dollars)
    assert model.counts.n_requests == 1
    assert spent(database).keys() == {("quarter", "2021Q4")}


def test_equal_questions_under_way_are_asked_once(database: Database, model: FakeOpenAI) -> None:
    model.behaviour = Behaviour(latency_s=0.3)
    with open_client_of(database, model) as client, ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda _: complete_all(client, [llm_request()] * 3), range(4)))
    texts = {result.text for each in found for result in each if isinstance(result, Completion)}
    assert len(texts) == 1 and sum(not a.reused for each in found for a in each if isinstance(a, Completion)) == 1
    assert model.counts.n_requests == 1


def test_two_processes_at_once_pay_once(database: Database, model: FakeOpenAI) -> None:
    model.behaviour = Behaviour(latency_s=0.5)
    with (
        open_client_of(database, model) as ours,
        open_client_of(database, model) as theirs,
        ThreadPoolExecutor(2) as threads,
    ):
        requests = [llm_request(n) for n in range(8)]
        found = list(threads.map(lambda each: complete_all(each, requests), (ours, theirs)))
    assert [a.text for a in found[0] if isinstance(a, Completion)] == [
        a.text for a in found[1] if isinstance(a, Completion)
    ]
    assert ask(database, "SELECT DISTINCT number, state FROM llm_calls") == [(1, "answered")]
    assert len(found[0]) == 8 and model.counts.n_requests == 8


def test_answers_come_as_they_come(database: Database, model: FakeOpenAI) -> None:
    model.behaviour = Behaviour(slow_s=1.0)
    with open_client_of(database, model) as client:
        complete_all(client, [llm_request(9)])  # From then on several are client at a time.
        model.script.append(Fault.slow)
        places = [place for place, _ in client.complete([llm_request(n) for n in range(4)])]
    assert len(places) == 4 and places[-1] != 3


def test_no_more_requests_at_a_time_than_allowed(database: Database, model: FakeOpenAI) -> None:
    model.behaviour = Behaviour(latency_s=0.05)
    with open_client_of(database, model, concurrency=3) as client, ThreadPoolExecutor(4) as threads:
        asked_for = [[llm_request(100 * n + m) for m in range(10)] for n in range(4)]
        list(threads.map(lambda requests: complete_all(client, requests), asked_for))
    assert (model.counts.n_requests, model.counts.most_at_once) == (40, 3)


def test_a_text_that_no_encoding_has_is_asked_all_the_same(database: Database, model: FakeOpenAI) -> None:
    odd = replace(llm_request(), messages=(Message("user", "half \ud800 and zero \0"),))
    with open_client_of(database, model) as client:
        assert isinstance(complete_all(client, [odd])[0], Completion)


# What goes wrong


@pytest.mark.parametrize(
    ("fault", "states_after", "n_whole"),
    [
        (Fault.too_many, ["answered"], 1),
        (Fault.too_many_retry_after, ["answered"], 1),
        (Fault.server_error, ["answered"], 1),
        (Fault.error_body, ["answered"], 1),
        (Fault.cut, ["lost", "answered"], 1),
        (Fault.cut_body, ["lost", "answered"], 1),
        (Fault.empty, ["rejected", "answered"], 2),
        (Fault.slow, ["answered"], 1),
        (Fault.cut_reply, ["rejected", "answered"], 2),
        # What is wrong with a reply is for those to find who know what they client.
        (Fault.wrong_schema, ["answered"], 1),
        (Fault.wrong_ids, ["answered"], 1),
        (Fault.duplicate_keys, ["answered"], 1),
    ],
)
def test_a_request_that_goes_wrong_is_tried_again_and_what_may_be_paid_is_written_down(
    database: Database, model: FakeOpenAI, fault: Fault, states_after: list[str], n_whole: int
) -> None:
    model.behaviour = Behaviour(retry_after_s=0.1, slow_s=0.2)
    model.script.append(fault)
    with open_client_of(database, model) as client:
        [result] = complete_all(client, [llm_request()])
    assert isinstance(result, Completion)
    assert states(database) == states_after
    assert model.counts.n_whole == n_whole
    assert spent(database)["quarter", "2021Q4"] == pytest.approx(summed(database))


def test_a_refusal_is_paid_once_and_asked_never_again(database: Database, model: FakeOpenAI) -> None:
    model.script.append(Fault.refusal)
    for _ in range(2):
        with open_client_of(database, model) as client:
            [result] = complete_all(client, [llm_request()])
            assert result == CompletionFailure("refused", "the model refuses: I cannot help with that.")
    assert (model.counts.n_requests, states(database)) == (1, ["refused"])


def test_a_model_that_has_nothing_to_say_is_asked_twice(database: Database, model: FakeOpenAI) -> None:
    model.script.extend([Fault.empty] * 3)
    with open_client_of(database, model) as client:
        [result] = complete_all(client, [llm_request()])
    assert result == CompletionFailure("refused", "the reply is empty, 2 times")
    assert states(database) == ["rejected", "rejected"]


def test_a_hanging_request_is_given_up_and_sent_again(database: Database, model: FakeOpenAI) -> None:
    model.script.append(Fault.hanging)
    with open_client_of(database, model, timeout_s=0.5) as client:
        [result] = complete_all(client, [llm_request()])
    assert isinstance(result, Completion)
    assert ask(database, "SELECT state, error FROM llm_calls ORDER BY number") == [
        ("lost", "no reply within 0.5 s (FTM_LLM_TIMEOUT)"),
        ("answered", None),
    ]


def test_all_wait_as_long_as_the_server_asks(database: Database, model: FakeOpenAI) -> None:
    model.behaviour = Behaviour(retry_after_s=1.5)
    with open_client_of(database, model) as client:
        complete_all(client, [llm_request(0)])
        model.script.append(Fault.too_many_retry_after)
        started = time.monotonic()
        complete_all(client, [llm_request(1)])
        assert 1.4 < time.monotonic() - started < 4
        with ThreadPoolExecutor(2) as threads:
            model.script.append(Fault.too_many_retry_after)
            threads.submit(complete_all, client, [llm_request(2)])
            wait_for(lambda: model.counts.n_requests == 4)
            time.sleep(0.1)
            started = time.monotonic()
            complete_all(client, [llm_request(3)])
    assert time.monotonic() - started > 1.2


def test_a_question_that_fails_again_and_again_is_given_up_alone(
    database: Database, model: FakeOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pending_request, "_LONGEST_WAIT_S", 0.05)
    with open_client_of(database, model) as client:
        complete_all(client, [llm_request(0)])
        model.script.extend([Fault.server_error] * pending_request.MAX_FAILURES)
        [result] = complete_all(client, [llm_request(1)])
        assert isinstance(result, CompletionFailure) and result.kind == "unavailable"
        assert result.reason.startswith("6 requests failed, the last: 127.0.0.1:")
        assert isinstance(complete_all(client, [llm_request(2)])[0], Completion)
    assert states(database) == ["answered", "failed", "answered"]
    assert spent(database)["quarter", "2021Q4"] == pytest.approx(summed(database))


def test_a_wrong_key_is_said_once_and_never_shown(
    database: Database, model: FakeOpenAI, caplog: pytest.LogCaptureFixture
) -> None:
    model.behaviour = Behaviour(key="another")
    with caplog.at_level(logging.DEBUG), open_client_of(database, model) as client:
        found = complete_all(client, [llm_request(n) for n in range(50)])
        shown = repr(client) + repr(client.stats) + str(found)
    assert {result.kind for result in found if isinstance(result, CompletionFailure)} == {"misconfigured"}
    assert len(set(found)) == 1
    assert isinstance(found[0], CompletionFailure) and "says 401: Incorrect API key provided: [key]." in found[0].reason
    assert "Check FTM_LLM_API_KEY" in found[0].reason
    assert model.counts.n_requests == 1, "not 50, and not one for each at a time"
    rows = str(ask(database, "SELECT row_to_json(c)::text FROM llm_calls AS c"))
    assert KEY not in shown + caplog.text + rows


def test_a_key_that_a_failing_server_repeats_is_not_shown(database: Database, model: FakeOpenAI) -> None:
    model.script.extend([Fault.server_error] * 2)
    with open_client_of(database, model, patience_s=0.1) as client:
        [result] = complete_all(client, [llm_request()])
    assert "while serving [key]" in str(result) and KEY not in str(result)
    assert KEY not in str(ask(database, "SELECT row_to_json(c)::text FROM llm_calls AS c"))


def test_a_model_name_that_is_not_known_any_more_is_said_once(database: Database, model: FakeOpenAI) -> None:
    with open_client_of(database, model, name="grok-0") as client:
        found = complete_all(client, [llm_request(n) for n in range(20)])
    assert isinstance(found[0], CompletionFailure) and found[0].kind == "misconfigured" and len(set(found)) == 1
    assert "grok-0 does not exist or was retired. Check FTM_LLM_MODEL=grok-0" in found[0].reason
    assert model.counts.n_requests == 1


def test_what_is_there_is_given_also_while_the_key_is_wrong(database: Database, model: FakeOpenAI) -> None:
    with open_client_of(database, model) as client:
        complete_all(client, [llm_request(0)])
    model.behaviour = Behaviour(key="another")
    with open_client_of(database, model) as client:
        new, old = complete_all(client, [llm_request(1), llm_request(0)])
    assert isinstance(new, CompletionFailure) and isinstance(old, Completion)


def test_a_server_that_is_down_is_waited_for_once_and_not_for_each_question(database: Database) -> None:
    with running() as model:
        port = model.port
    with open_client_of(database, model, patience_s=1.0) as client:
        started = time.monotonic()
        found = complete_all(client, [llm_request(n) for n in range(100)])
        first_s = time.monotonic() - started
        started = time.monotonic()
        assert all(
            isinstance(result, CompletionFailure)
            for result in complete_all(client, [llm_request(n) for n in range(500)])
        )
        assert time.monotonic() - started < first_s + 5
        assert {result.kind for result in found if isinstance(result, CompletionFailure)} == {"unavailable"}
        assert f"127.0.0.1:{port}: ConnectError" in str(found[0])
        assert client.stats.n_requests < 10
        assert client.stats.state == "down"
        with running(port=port):
            wait_for(lambda: isinstance(complete_all(client, [llm_request(1000)])[0], Completion), 20, "recovery")
    assert summed(database) == pytest.approx(spent(database)["quarter", "2021Q4"]), "what was not sent is not paid"


@pytest.mark.slow
def test_a_server_that_goes_down_half_way_and_comes_back_is_waited_for(database: Database) -> None:
    with running(Behaviour(latency_s=0.1)) as model:
        port = model.port
        client = build_client(database, model, patience_s=30.0)
        coming = client.complete([llm_request(n) for n in range(60)])
        before = list(itertools.islice(coming, 20))
    rest: list[tuple[int, Completion | CompletionFailure]] = []
    waiting = threading.Thread(target=lambda: rest.extend(coming))
    waiting.start()
    time.sleep(1.5)
    with running(Behaviour(), port) as again:
        waiting.join(40)
        assert all(isinstance(result, Completion) for _, result in before + rest) and len(before + rest) == 60
        paid_twice = model.counts.whole.keys() & again.counts.whole.keys()
        assert len(paid_twice) <= states(database).count("lost")
    client.close()


# What it costs


def test_a_cap_is_never_passed_and_what_is_missing_is_said(database: Database, model: FakeOpenAI) -> None:
    model.behaviour = Behaviour(latency_s=0.05)
    with open_client_of(database, model, caps=Caps(quarter=5000.0)) as client:
        found = complete_all(client, [llm_request(n) for n in range(40)])
    n_answers = sum(isinstance(result, Completion) for result in found)
    assert 5 < n_answers < 40
    refused = next(result for result in found if isinstance(result, CompletionFailure))
    assert refused == CompletionFailure(
        "budget", "the cap of $5000 for quarter 2021Q4 would be passed; raise it with FTM_LLM_QUARTER_CAP"
    )
    total = spent(database)["quarter", "2021Q4"]
    assert total == pytest.approx(summed(database)) and 4000 < float(str(total)) <= 5000
    assert model.counts.n_whole == n_answers


def test_a_run_has_a_cap_of_its_own(database: Database, model: FakeOpenAI) -> None:
    with open_client_of(database, model, caps=Caps(run=1000.0)) as client:
        poor = complete_all(client, [llm_request(n, run="poor") for n in range(20)])
        [rich] = complete_all(client, [llm_request(100, run="rich")])
    assert isinstance(rich, Completion)
    assert any("cap of $1000 for run poor" in result.reason for result in poor if isinstance(result, CompletionFailure))


def test_caps_hold_for_all_processes_together(database: Database, model: FakeOpenAI) -> None:
    model.behaviour = Behaviour(latency_s=0.05)
    caps = Caps(quarter=5000.0)
    with (
        open_client_of(database, model, caps=caps) as ours,
        open_client_of(database, model, caps=caps) as theirs,
        ThreadPoolExecutor(2) as threads,
    ):
        half = [[llm_request(100 * n + m) for m in range(30)] for n in range(2)]
        list(threads.map(lambda each: complete_all(*each), zip((ours, theirs), half, strict=True)))
    assert 4000 < summed(database) <= 5000


def test_a_cap_without_a_price_sends_nothing(database: Database, model: FakeOpenAI) -> None:
    with open_client_of(database, model, price=None, caps=Caps(quarter=5.0)) as client:
        [result] = complete_all(client, [llm_request()])
    assert isinstance(result, CompletionFailure) and result.kind == "budget"
    assert "the price of simulated-1 is unknown" in result.reason and "FTM_LLM_PRICES" in result.reason
    assert model.counts.n_requests == 0


def test_without_a_cap_an_unknown_price_is_unknown(database: Database, model: FakeOpenAI) -> None:
    with open_client_of(database, model, price=None) as client:
        [result] = complete_all(client, [llm_request()])
        assert (client.stats.n_unpriced, client.stats.dollars) == (1, 0.0)
    assert isinstance(result, Completion) and result.dollars is None and result.tokens_in > 0
    assert ask(database, "SELECT dollars, tokens_in FROM llm_calls") == [(None, result.tokens_in)]


def test_a_rejected_reply_is_not_given_again_and_stays_paid(database: Database, model: FakeOpenAI) -> None:
    with open_client_of(database, model) as client:
        [first] = complete_all(client, [llm_request()])
        assert isinstance(first, Completion)
        client.reject(first.key, "invented ids")
        [second] = complete_all(client, [llm_request()])
    assert isinstance(second, Completion) and not second.reused
    assert ask(database, "SELECT number, state, error FROM llm_calls ORDER BY number") == [
        (1, "rejected", "invented ids"),
        (2, "answered", None),
    ]
    assert float(str(spent(database)["quarter", "2021Q4"])) == pytest.approx(summed(database))


def test_what_a_killed_process_had_sent_stays_put_aside_and_is_asked_again(
    database: Database, model: FakeOpenAI
) -> None:
    killed = Ledger(database)
    asked_for = llm_request(run="a run")
    key = asked_for.key("simulated-1")
    assert isinstance(killed.reserve(key, asked_for, "simulated-1", max_dollars=3.0), LedgerEntry)
    killed.close()
    with open_client_of(database, model) as client:
        [result] = complete_all(client, [asked_for])
    assert isinstance(result, Completion) and result.dollars is not None
    assert ask(database, "SELECT state, dollars FROM llm_calls ORDER BY number") == [
        ("lost", 3.0),
        ("answered", result.dollars),
    ]
    assert spent(database)["run", "a run"] == pytest.approx(3.0 + result.dollars)


# Whoever does not wait


def test_whoever_stops_listening_pays_for_what_was_sent_and_for_nothing_else(
    database: Database, model: FakeOpenAI
) -> None:
    model.behaviour = Behaviour(latency_s=0.3)
    with open_client_of(database, model, concurrency=2) as client:
        complete_all(client, [llm_request(100)])
        coming = client.complete([llm_request(n) for n in range(20)])
        next(coming)
        coming.close()  # type: ignore[attr-defined]
        wait_for(lambda: client.stats.n_under_way == 0)
        time.sleep(0.5)
        assert model.counts.n_requests <= 6
    assert model.counts.n_whole == states(database).count("answered")
    assert summed(database) == pytest.approx(spent(database)["quarter", "2021Q4"])


def test_mixed_faults_end_well_and_nothing_is_paid_twice(
    database: Database, model: FakeOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pending_request, "_LONGEST_WAIT_S", 0.2)
    model.behaviour = Behaviour(mixed(0.3), latency_s=0.01, slow_s=0.2, retry_after_s=0.1)
    with open_client_of(database, model, concurrency=16) as client:
        found = complete_all(client, [llm_request(n) for n in range(300)])
    assert all(isinstance(a, Completion) or a.kind in ("refused", "cut off") for a in found)
    billed = sum(result.total_cost.dollars for result in found)
    assert billed == pytest.approx(summed(database)), "the callers know what it took"
    by_state = Counter(states(database))
    assert model.counts.n_whole == by_state["answered"] + by_state["rejected"] + by_state["refused"]
    assert by_state["lost"] == sum(model.counts.faults[fault] for fault in (Fault.cut, Fault.cut_body))
    useless = model.counts.faults[Fault.empty] + model.counts.faults[Fault.cut_reply]
    assert sum(n - 1 for n in model.counts.whole.values()) <= useless, "but for those, none was paid twice"
    assert summed(database) == pytest.approx(spent(database)["quarter", "2021Q4"])


def test_a_gate_opens_again_after_a_misconfiguration(
    database: Database, model: FakeOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(circuit_breaker, "MISCONFIGURED_S", 0.5)
    model.behaviour = Behaviour(key="another")
    with open_client_of(database, model) as client:
        assert isinstance(complete_all(client, [llm_request()])[0], CompletionFailure)
        model.behaviour = Behaviour()
        assert isinstance(complete_all(client, [llm_request()])[0], CompletionFailure)
        time.sleep(0.5)
        assert isinstance(complete_all(client, [llm_request()])[0], Completion)


def test_without_a_model_there_is_none(database: Database) -> None:
    assert open_client(Settings(), Ledger(database)) is None


def test_the_settings_name_the_model(database: Database, model: FakeOpenAI) -> None:
    settings = Settings(llm_model="simulated-1", llm_base_url=model.base_url)
    opened = open_client(settings, Ledger(database))
    assert opened is not None and opened.name == "simulated-1"
    [result] = complete_all(opened, [llm_request()])
    assert isinstance(result, Completion) and result.dollars == 0.0
    opened.close()


def test_the_key_of_a_question_holds_all_that_the_reply_depends_on_and_no_more() -> None:
    base = llm_request()
    others = [
        llm_request(1),
        llm_request(max_tokens=201),
        replace(base, prompt="topic_summaries@2"),
        replace(base, messages=()),
    ]
    keys = {each.key("simulated-1") for each in (base, llm_request(quarter="2022Q1", run="a run"), *others)}
    assert len(keys | {base.key("another")}) == 6
