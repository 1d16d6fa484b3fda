from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date

import pytest
import sqlalchemy as sa

from ftm_assets.llm.ledger import Elsewhere, Reply, Sent, State, Terms, Usage
from ftm_assets.llm.postgres_ledger import PostgresLedger
from ftm_assets.llm.protocol import Answer, Message, NoAnswer, Question
from ftm_assets.storage.server.database import Database
from ftm_assets_tests.storage.sql import ask, one

QUESTION = Question("2021Q4", "p@1", (Message("user", "Freight?"),), {"type": "object"}, 100, "a run")
REPLY = Reply("It rose.", "grok-9-0601", Usage(10, 4, 5), 0.25, 1.5, 2)


def begin(ledger: PostgresLedger, question: Question = QUESTION, **terms: float) -> Sent:
    begun = ledger.begin(question.key("grok-9"), question, "grok-9", Terms(**{"dollars": 1.0, **terms}))  # type: ignore[arg-type]
    assert isinstance(begun, Sent)
    return begun


def spent(database: Database) -> list[object]:
    return one(database, "SELECT dollars FROM llm_spending ORDER BY kind")


def another(number: int) -> Question:
    return replace(QUESTION, messages=(Message("user", f"Freight {number}?"),))


@pytest.fixture
def ledger(database: Database) -> PostgresLedger:
    return PostgresLedger(database)


def test_a_question_is_written_down_before_it_is_sent_and_its_price_put_aside(
    ledger: PostgresLedger, database: Database
) -> None:
    ledger.begin(QUESTION.key("grok-9"), QUESTION, "grok-9", Terms(1.0, training_cutoff=date(2024, 5, 31)))
    assert ask(database, "SELECT number, quarter, run, state, dollars, training_cutoff, reply FROM llm_calls") == [
        (1, "2021Q4", "a run", "sent", 1.0, date(2024, 5, 31), None)
    ]
    assert spent(database) == [1.0, 1.0]


def test_a_reply_is_kept_and_what_was_put_aside_too_much_is_free_again(
    ledger: PostgresLedger, database: Database
) -> None:
    sent = begin(ledger)
    answer = ledger.answered(sent, REPLY)
    assert answer == Answer("It rose.", "grok-9-0601", sent.key, 10, 4, 5, 0.25, reused=False)
    assert ledger.find([sent.key, "unknown"]) == {sent.key: replace(answer, reused=True)}
    again = ledger.begin(sent.key, QUESTION, "grok-9", Terms(1.0))
    assert again == replace(answer, reused=True)
    assert spent(database) == [0.25, 0.25]
    assert ask(database, "SELECT latency_s, attempts, model_answered FROM llm_calls") == [(1.5, 2, "grok-9-0601")]


@pytest.mark.parametrize(
    ("end", "state", "dollars"),
    [
        (lambda ledger, sent: ledger.useless(sent, REPLY, State.rejected, "empty"), "rejected", 0.25),
        (lambda ledger, sent: ledger.unanswered(sent, State.lost, "cut", 1), "lost", 1.0),
        (lambda ledger, sent: ledger.unanswered(sent, State.failed, "500", 6), "failed", 0.0),
    ],
)
def test_what_brought_nothing_of_use_may_be_asked_again_and_what_may_be_paid_stays_spent(
    ledger: PostgresLedger,
    database: Database,
    end: Callable[[PostgresLedger, Sent], None],
    state: str,
    dollars: float,
) -> None:
    end(ledger, begin(ledger))
    assert begin(ledger).number == 2
    assert ask(database, "SELECT state, dollars FROM llm_calls ORDER BY number") == [(state, dollars), ("sent", 1.0)]
    assert spent(database) == [dollars + 1.0] * 2


def test_a_refusal_is_told_to_whoever_asks_again(ledger: PostgresLedger) -> None:
    sent = begin(ledger)
    ledger.useless(sent, REPLY, State.refused, "I cannot")
    assert ledger.find([sent.key]) == {sent.key: NoAnswer("refused", "I cannot")}
    assert ledger.begin(sent.key, QUESTION, "grok-9", Terms(1.0)) == NoAnswer("refused", "I cannot")


def test_what_a_living_process_asks_is_not_asked_by_another_and_what_a_dead_one_asked_is(
    ledger: PostgresLedger, database: Database
) -> None:
    sent = begin(ledger)
    other = PostgresLedger(database)
    assert isinstance(other.begin(sent.key, QUESTION, "grok-9", Terms(1.0)), Elsewhere)
    ledger.close()
    assert begin(other).number == 2
    assert one(database, "SELECT state FROM llm_calls ORDER BY number") == ["lost", "sent"]


def test_a_process_lives_on_after_the_server_has_ended_its_connections(
    ledger: PostgresLedger, database: Database
) -> None:
    begin(ledger)
    with database.transaction() as connection:
        connection.execute(
            sa.text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        )
    sent = begin(ledger, another(1))
    other = PostgresLedger(database)
    assert isinstance(other.begin(sent.key, another(1), "grok-9", Terms(1.0)), Elsewhere)


def test_a_cap_is_kept_by_all_threads_together_and_what_it_refuses_leaves_no_row(
    ledger: PostgresLedger, database: Database
) -> None:
    def one_more(number: int) -> bool:
        question = another(number)
        begun = ledger.begin(question.key("grok-9"), question, "grok-9", Terms(1.0, quarter_cap=7.5))
        return isinstance(begun, Sent)

    with ThreadPoolExecutor(6) as threads:
        assert sum(threads.map(one_more, range(30))) == 7
    assert one(database, "SELECT count(*) FROM llm_calls") == [7]
    assert spent(database) == [7.0, 7.0]


def test_the_cap_of_a_run_undoes_what_was_put_aside_for_the_quarter(ledger: PostgresLedger, database: Database) -> None:
    refused = ledger.begin(QUESTION.key("grok-9"), QUESTION, "grok-9", Terms(1.0, run_cap=0.5))
    assert refused == NoAnswer("budget", "the cap of $0.5 for run a run would be passed; raise it with FTM_LLM_RUN_CAP")
    assert spent(database) == []


def test_an_unknown_price_is_null_and_spends_nothing(ledger: PostgresLedger, database: Database) -> None:
    begun = ledger.begin(QUESTION.key("grok-9"), QUESTION, "grok-9", Terms(None))
    assert isinstance(begun, Sent)
    ledger.answered(begun, replace(REPLY, dollars=None))
    assert one(database, "SELECT dollars FROM llm_calls") == [None]
    assert spent(database) == [0.0, 0.0]


def test_what_postgres_cannot_hold_does_not_lose_the_reply(ledger: PostgresLedger, database: Database) -> None:
    question = replace(QUESTION, messages=(Message("user", "zero \0 half \ud800"),))
    answer = ledger.answered(begin(ledger, question), replace(REPLY, text="zero \0 half \ud800."))
    assert one(database, "SELECT reply FROM llm_calls") == ["zero  half ?."]
    ledger.reject(answer.key, "bad \0 words")
    assert one(database, "SELECT error FROM llm_calls") == ["bad  words"]
