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
from ftm_assets.llm import circuit_breaker as gate
from ftm_assets.llm import pending_request as errand
from ftm_assets.llm.client import Caps
from ftm_assets.llm.language_model import open_language_model
from ftm_assets.llm.postgres_ledger import PostgresLedger
from ftm_assets.llm.protocol import Answer, Message, NoAnswer
from ftm_assets.settings import Settings
from ftm_assets.storage.server.database import Database
from ftm_assets_tests.llm.llm_client import KEY, answers, asking, client, question
from ftm_assets_tests.storage.sql import ask, one


@pytest.fixture
def model() -> Iterator[FakeOpenAI]:
    with running() as model:
        yield model


def states(database: Database) -> list[object]:
    """The state of each row of the ledger, in the order of the questions."""
    return one(database, "SELECT state FROM llm_calls ORDER BY created_at, number")


def spent(database: Database) -> dict[object, object]:
    return {(kind, payer): dollars for kind, payer, dollars in ask(database, "SELECT * FROM llm_spending")}


def summed(database: Database) -> float:
    [dollars] = one(database, "SELECT sum(dollars) FROM llm_calls")
    return float(str(dollars))


def test_each_question_gets_its_answer_and_what_it_cost(database: Database, model: FakeOpenAI) -> None:
    with asking(database, model) as asked:
        found = answers(asked, [question(n) for n in range(20)])
    for n, answer in enumerate(found):
        assert isinstance(answer, Answer)
        assert json.loads(answer.text)["summaries"][0]["evidence"] == [f"7_70_{n:04}"]
        assert answer.dollars == pytest.approx(answer.tokens_in + 2 * answer.tokens_out)
        assert not answer.reused
    assert model.counts.tokens_in == sum(answer.tokens_in for answer in found if isinstance(answer, Answer))
    [row] = ask(
        database,
        "SELECT quarter, prompt, model, model_answered, state, attempts, latency_s > 0, request ->> 'max_tokens' "
        "FROM llm_calls WHERE request ->> 'messages' LIKE '%7_70_0003%'",
    )
    assert row == ("2021Q4", "topic_summaries@1", "simulated-1", "simulated-1", "answered", 1, True, "200")
    assert spent(database) == {("quarter", "2021Q4"): pytest.approx(summed(database))}


def test_no_questions_need_no_server(database: Database, model: FakeOpenAI) -> None:
    with asking(database, model) as asked:
        assert answers(asked, []) == []
    assert model.counts.n_requests == 0


def test_the_same_question_is_paid_once_whoever_asks(database: Database, model: FakeOpenAI) -> None:
    with asking(database, model) as asked:
        [first] = answers(asked, [question()])
    with asking(database, model) as another:
        [again] = answers(another, [question(quarter="2022Q1", run="a run")])
    assert isinstance(first, Answer) and isinstance(again, Answer)
    assert (again.reused, again.text, again.dollars) == (True, first.text, first.dollars)
    assert model.counts.n_requests == 1
    assert spent(database).keys() == {("quarter", "2021Q4")}


def test_equal_questions_under_way_are_asked_once(database: Database, model: FakeOpenAI) -> None:
    model.behaviour = Behaviour(latency_s=0.3)
    with asking(database, model) as asked, ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda _: answers(asked, [question()] * 3), range(4)))
    texts = {answer.text for each in found for answer in each if isinstance(answer, Answer)}
    assert len(texts) == 1 and sum(not a.reused for each in found for a in each if isinstance(a, Answer)) == 1
    assert model.counts.n_requests == 1


def test_two_processes_at_once_pay_once(database: Database, model: FakeOpenAI) -> None:
    model.behaviour = Behaviour(latency_s=0.5)
    with asking(database, model) as ours, asking(database, model) as theirs, ThreadPoolExecutor(2) as threads:
        questions = [question(n) for n in range(8)]
        found = list(threads.map(lambda each: answers(each, questions), (ours, theirs)))
    assert [a.text for a in found[0] if isinstance(a, Answer)] == [a.text for a in found[1] if isinstance(a, Answer)]
    assert ask(database, "SELECT DISTINCT number, state FROM llm_calls") == [(1, "answered")]
    assert len(found[0]) == 8 and model.counts.n_requests == 8


def test_answers_come_as_they_come(database: Database, model: FakeOpenAI) -> None:
    model.behaviour = Behaviour(slow_s=1.0)
    with asking(database, model) as asked:
        answers(asked, [question(9)])  # From then on several are asked at a time.
        model.script.append(Fault.slow)
        places = [place for place, _ in asked.ask([question(n) for n in range(4)])]
    assert len(places) == 4 and places[-1] != 3


def test_no_more_requests_at_a_time_than_allowed(database: Database, model: FakeOpenAI) -> None:
    model.behaviour = Behaviour(latency_s=0.05)
    with asking(database, model, concurrency=3) as asked, ThreadPoolExecutor(4) as threads:
        asked_for = [[question(100 * n + m) for m in range(10)] for n in range(4)]
        list(threads.map(lambda questions: answers(asked, questions), asked_for))
    assert (model.counts.n_requests, model.counts.most_at_once) == (40, 3)


def test_a_text_that_no_encoding_has_is_asked_all_the_same(database: Database, model: FakeOpenAI) -> None:
    odd = replace(question(), messages=(Message("user", "half \ud800 and zero \0"),))
    with asking(database, model) as asked:
        assert isinstance(answers(asked, [odd])[0], Answer)


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
        # What is wrong with a reply is for those to find who know what they asked.
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
    with asking(database, model) as asked:
        [answer] = answers(asked, [question()])
    assert isinstance(answer, Answer)
    assert states(database) == states_after
    assert model.counts.n_whole == n_whole
    assert spent(database)["quarter", "2021Q4"] == pytest.approx(summed(database))


def test_a_refusal_is_paid_once_and_asked_never_again(database: Database, model: FakeOpenAI) -> None:
    model.script.append(Fault.refusal)
    for _ in range(2):
        with asking(database, model) as asked:
            [answer] = answers(asked, [question()])
            assert answer == NoAnswer("refused", "the model refuses: I cannot help with that.")
    assert (model.counts.n_requests, states(database)) == (1, ["refused"])


def test_a_model_that_has_nothing_to_say_is_asked_twice(database: Database, model: FakeOpenAI) -> None:
    model.script.extend([Fault.empty] * 3)
    with asking(database, model) as asked:
        [answer] = answers(asked, [question()])
    assert answer == NoAnswer("refused", "the reply is empty, 2 times")
    assert states(database) == ["rejected", "rejected"]


def test_a_hanging_request_is_given_up_and_sent_again(database: Database, model: FakeOpenAI) -> None:
    model.script.append(Fault.hanging)
    with asking(database, model, timeout_s=0.5) as asked:
        [answer] = answers(asked, [question()])
    assert isinstance(answer, Answer)
    assert ask(database, "SELECT state, error FROM llm_calls ORDER BY number") == [
        ("lost", "no reply within 0.5 s (FTM_LLM_TIMEOUT)"),
        ("answered", None),
    ]


def test_all_wait_as_long_as_the_server_asks(database: Database, model: FakeOpenAI) -> None:
    model.behaviour = Behaviour(retry_after_s=1.5)
    with asking(database, model) as asked:
        answers(asked, [question(0)])
        model.script.append(Fault.too_many_retry_after)
        started = time.monotonic()
        answers(asked, [question(1)])
        assert 1.4 < time.monotonic() - started < 4
        with ThreadPoolExecutor(2) as threads:
            model.script.append(Fault.too_many_retry_after)
            threads.submit(answers, asked, [question(2)])
            wait_for(lambda: model.counts.n_requests == 4)
            time.sleep(0.1)
            started = time.monotonic()
            answers(asked, [question(3)])
    assert time.monotonic() - started > 1.2


def test_a_question_that_fails_again_and_again_is_given_up_alone(
    database: Database, model: FakeOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(errand, "_LONGEST_WAIT_S", 0.05)
    with asking(database, model) as asked:
        answers(asked, [question(0)])
        model.script.extend([Fault.server_error] * errand.MAX_ATTEMPTS)
        [answer] = answers(asked, [question(1)])
        assert isinstance(answer, NoAnswer) and answer.kind == "unavailable"
        assert answer.why.startswith("6 requests failed, the last: 127.0.0.1:")
        assert isinstance(answers(asked, [question(2)])[0], Answer)
    assert states(database) == ["answered", "failed", "answered"]
    assert spent(database)["quarter", "2021Q4"] == pytest.approx(summed(database))


def test_a_wrong_key_is_said_once_and_never_shown(
    database: Database, model: FakeOpenAI, caplog: pytest.LogCaptureFixture
) -> None:
    model.behaviour = Behaviour(key="another")
    with caplog.at_level(logging.DEBUG), asking(database, model) as asked:
        found = answers(asked, [question(n) for n in range(50)])
        shown = repr(asked) + repr(asked.progress) + str(found)
    assert {answer.kind for answer in found if isinstance(answer, NoAnswer)} == {"misconfigured"}
    assert len(set(found)) == 1
    assert isinstance(found[0], NoAnswer) and "says 401: Incorrect API key provided: [key]." in found[0].why
    assert "Check FTM_LLM_API_KEY" in found[0].why
    assert model.counts.n_requests == 1, "not 50, and not one for each at a time"
    rows = str(ask(database, "SELECT row_to_json(c)::text FROM llm_calls AS c"))
    assert KEY not in shown + caplog.text + rows


def test_a_key_that_a_failing_server_repeats_is_not_shown(database: Database, model: FakeOpenAI) -> None:
    model.script.extend([Fault.server_error] * 2)
    with asking(database, model, patience_s=0.1) as asked:
        [answer] = answers(asked, [question()])
    assert "while serving [key]" in str(answer) and KEY not in str(answer)
    assert KEY not in str(ask(database, "SELECT row_to_json(c)::text FROM llm_calls AS c"))


def test_a_model_name_that_is_not_known_any_more_is_said_once(database: Database, model: FakeOpenAI) -> None:
    with asking(database, model, name="grok-0") as asked:
        found = answers(asked, [question(n) for n in range(20)])
    assert isinstance(found[0], NoAnswer) and found[0].kind == "misconfigured" and len(set(found)) == 1
    assert "grok-0 does not exist or was retired. Check FTM_LLM_MODEL=grok-0" in found[0].why
    assert model.counts.n_requests == 1


def test_what_is_there_is_given_also_while_the_key_is_wrong(database: Database, model: FakeOpenAI) -> None:
    with asking(database, model) as asked:
        answers(asked, [question(0)])
    model.behaviour = Behaviour(key="another")
    with asking(database, model) as asked:
        new, old = answers(asked, [question(1), question(0)])
    assert isinstance(new, NoAnswer) and isinstance(old, Answer)


def test_a_server_that_is_down_is_waited_for_once_and_not_for_each_question(database: Database) -> None:
    with running() as model:
        port = model.port
    with asking(database, model, patience_s=1.0) as asked:
        started = time.monotonic()
        found = answers(asked, [question(n) for n in range(100)])
        first_s = time.monotonic() - started
        started = time.monotonic()
        assert all(isinstance(answer, NoAnswer) for answer in answers(asked, [question(n) for n in range(500)]))
        assert time.monotonic() - started < first_s + 5
        assert {answer.kind for answer in found if isinstance(answer, NoAnswer)} == {"unavailable"}
        assert f"127.0.0.1:{port}: ConnectError" in str(found[0])
        assert asked.progress.n_requests < 10
        assert asked.progress.state == "down"
        with running(port=port):
            wait_for(lambda: isinstance(answers(asked, [question(1000)])[0], Answer), 20, "recovery")
    assert summed(database) == pytest.approx(spent(database)["quarter", "2021Q4"]), "what was not sent is not paid"


@pytest.mark.slow
def test_a_server_that_goes_down_half_way_and_comes_back_is_waited_for(database: Database) -> None:
    with running(Behaviour(latency_s=0.1)) as model:
        port = model.port
        asked = client(database, model, patience_s=30.0)
        coming = asked.ask([question(n) for n in range(60)])
        before = list(itertools.islice(coming, 20))
    rest: list[tuple[int, Answer | NoAnswer]] = []
    waiting = threading.Thread(target=lambda: rest.extend(coming))
    waiting.start()
    time.sleep(1.5)
    with running(Behaviour(), port) as again:
        waiting.join(40)
        assert all(isinstance(answer, Answer) for _, answer in before + rest) and len(before + rest) == 60
        paid_twice = model.counts.whole.keys() & again.counts.whole.keys()
        assert len(paid_twice) <= states(database).count("lost")
    asked.close()


# What it costs


def test_a_cap_is_never_passed_and_what_is_missing_is_said(database: Database, model: FakeOpenAI) -> None:
    model.behaviour = Behaviour(latency_s=0.05)
    with asking(database, model, caps=Caps(float("inf"), 5000.0)) as asked:
        found = answers(asked, [question(n) for n in range(40)])
    n_answers = sum(isinstance(answer, Answer) for answer in found)
    assert 5 < n_answers < 40
    refused = next(answer for answer in found if isinstance(answer, NoAnswer))
    assert refused == NoAnswer(
        "budget", "the cap of $5000 for quarter 2021Q4 would be passed; raise it with FTM_LLM_QUARTER_CAP"
    )
    total = spent(database)["quarter", "2021Q4"]
    assert total == pytest.approx(summed(database)) and 4000 < float(str(total)) <= 5000
    assert model.counts.n_whole == n_answers


def test_a_run_has_a_cap_of_its_own(database: Database, model: FakeOpenAI) -> None:
    with asking(database, model, caps=Caps(1000.0, float("inf"))) as asked:
        poor = answers(asked, [question(n, run="poor") for n in range(20)])
        [rich] = answers(asked, [question(100, run="rich")])
    assert isinstance(rich, Answer)
    assert any("cap of $1000 for run poor" in answer.why for answer in poor if isinstance(answer, NoAnswer))


def test_caps_hold_for_all_processes_together(database: Database, model: FakeOpenAI) -> None:
    model.behaviour = Behaviour(latency_s=0.05)
    caps = Caps(float("inf"), 5000.0)
    with (
        asking(database, model, caps=caps) as ours,
        asking(database, model, caps=caps) as theirs,
        ThreadPoolExecutor(2) as threads,
    ):
        half = [[question(100 * n + m) for m in range(30)] for n in range(2)]
        list(threads.map(lambda each: answers(*each), zip((ours, theirs), half, strict=True)))
    assert 4000 < summed(database) <= 5000


def test_a_cap_without_a_price_sends_nothing(database: Database, model: FakeOpenAI) -> None:
    with asking(database, model, price=None, caps=Caps(float("inf"), 5.0)) as asked:
        [answer] = answers(asked, [question()])
    assert isinstance(answer, NoAnswer) and answer.kind == "budget"
    assert "the price of simulated-1 is unknown" in answer.why and "FTM_LLM_PRICES" in answer.why
    assert model.counts.n_requests == 0


def test_without_a_cap_an_unknown_price_is_unknown(database: Database, model: FakeOpenAI) -> None:
    with asking(database, model, price=None) as asked:
        [answer] = answers(asked, [question()])
        assert (asked.progress.n_unpriced, asked.progress.dollars) == (1, 0.0)
    assert isinstance(answer, Answer) and answer.dollars is None and answer.tokens_in > 0
    assert ask(database, "SELECT dollars, tokens_in FROM llm_calls") == [(None, answer.tokens_in)]


def test_a_rejected_reply_is_not_given_again_and_stays_paid(database: Database, model: FakeOpenAI) -> None:
    with asking(database, model) as asked:
        [first] = answers(asked, [question()])
        assert isinstance(first, Answer)
        asked.reject(first.key, "invented ids")
        [second] = answers(asked, [question()])
    assert isinstance(second, Answer) and not second.reused
    assert ask(database, "SELECT number, state, error FROM llm_calls ORDER BY number") == [
        (1, "rejected", "invented ids"),
        (2, "answered", None),
    ]
    assert float(str(spent(database)["quarter", "2021Q4"])) == pytest.approx(summed(database))


def test_what_a_killed_process_had_sent_stays_put_aside_and_is_asked_anew(
    database: Database, model: FakeOpenAI
) -> None:
    from ftm_assets.llm.ledger import Sent, Terms

    killed = PostgresLedger(database)
    asked_for = question(run="a run")
    key = asked_for.key("simulated-1")
    assert isinstance(killed.begin(key, asked_for, "simulated-1", Terms(3.0)), Sent)
    killed.close()
    with asking(database, model) as asked:
        [answer] = answers(asked, [asked_for])
    assert isinstance(answer, Answer) and answer.dollars is not None
    assert ask(database, "SELECT state, dollars FROM llm_calls ORDER BY number") == [
        ("lost", 3.0),
        ("answered", answer.dollars),
    ]
    assert spent(database)["run", "a run"] == pytest.approx(3.0 + answer.dollars)


# Whoever does not wait


def test_whoever_stops_listening_pays_for_what_was_sent_and_for_nothing_else(
    database: Database, model: FakeOpenAI
) -> None:
    model.behaviour = Behaviour(latency_s=0.3)
    with asking(database, model, concurrency=2) as asked:
        answers(asked, [question(100)])
        coming = asked.ask([question(n) for n in range(20)])
        next(coming)
        coming.close()  # type: ignore[attr-defined]
        wait_for(lambda: asked.progress.n_under_way == 0)
        time.sleep(0.5)
        assert model.counts.n_requests <= 6
    assert model.counts.n_whole == states(database).count("answered")
    assert summed(database) == pytest.approx(spent(database)["quarter", "2021Q4"])


def test_mixed_faults_end_well_and_nothing_is_paid_twice(
    database: Database, model: FakeOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(errand, "_LONGEST_WAIT_S", 0.2)
    model.behaviour = Behaviour(mixed(0.3), latency_s=0.01, slow_s=0.2, retry_after_s=0.1)
    with asking(database, model, concurrency=16) as asked:
        found = answers(asked, [question(n) for n in range(300)])
    assert all(isinstance(a, Answer) or a.kind in ("refused", "cut off") for a in found)
    billed = sum(answer.bill.dollars for answer in found)
    assert billed == pytest.approx(summed(database)), "those who asked know what it took"
    by_state = Counter(states(database))
    assert model.counts.n_whole == by_state["answered"] + by_state["rejected"] + by_state["refused"]
    assert by_state["lost"] == sum(model.counts.faults[fault] for fault in (Fault.cut, Fault.cut_body))
    useless = model.counts.faults[Fault.empty] + model.counts.faults[Fault.cut_reply]
    assert sum(n - 1 for n in model.counts.whole.values()) <= useless, "but for those, none was paid twice"
    assert summed(database) == pytest.approx(spent(database)["quarter", "2021Q4"])


def test_a_gate_opens_again_after_a_misconfiguration(
    database: Database, model: FakeOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "MISCONFIGURED_S", 0.5)
    model.behaviour = Behaviour(key="another")
    with asking(database, model) as asked:
        assert isinstance(answers(asked, [question()])[0], NoAnswer)
        model.behaviour = Behaviour()
        assert isinstance(answers(asked, [question()])[0], NoAnswer)
        time.sleep(0.5)
        assert isinstance(answers(asked, [question()])[0], Answer)


def test_without_a_model_there_is_none(database: Database) -> None:
    assert open_language_model(Settings(), PostgresLedger(database)) is None


def test_the_settings_name_the_model(database: Database, model: FakeOpenAI) -> None:
    settings = Settings(llm_model="simulated-1", llm_base_url=model.base_url)
    opened = open_language_model(settings, PostgresLedger(database))
    assert opened is not None and opened.name == "simulated-1"
    [answer] = answers(opened, [question()])
    assert isinstance(answer, Answer) and answer.dollars == 0.0
    opened.close()


def test_the_key_of_a_question_holds_all_that_the_reply_depends_on_and_no_more() -> None:
    base = question()
    others = [
        question(1),
        question(max_tokens=201),
        replace(base, prompt="topic_summaries@2"),
        replace(base, messages=()),
    ]
    keys = {each.key("simulated-1") for each in (base, question(quarter="2022Q1", run="a run"), *others)}
    assert len(keys | {base.key("another")}) == 6
