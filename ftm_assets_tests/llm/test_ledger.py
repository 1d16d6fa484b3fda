from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date

import pytest
import sqlalchemy as sa

from ftm_assets.llm.ledger import CallState, Caps, InFlightElsewhere, Ledger, LedgerEntry
from ftm_assets.llm.protocol import Completion, CompletionFailure, CompletionRequest, Message
from ftm_assets.storage.server.database import Database
from ftm_assets_tests.storage.sql import ask, one

REQUEST = CompletionRequest("2021Q4", "p@1", (Message("user", "Freight?"),), {"type": "object"}, 100, "a run")
COMPLETION = Completion("It rose.", "grok-9-0601", REQUEST.key("grok-9"), 10, 4, 5, 0.25, reused=False, latency_s=1.5)


def reserve(ledger: Ledger, request: CompletionRequest = REQUEST) -> LedgerEntry:
    reserved = ledger.reserve(request.key("grok-9"), request, "grok-9", max_dollars=1.0)
    assert isinstance(reserved, LedgerEntry)
    return reserved


def spent(database: Database) -> list[object]:
    return one(database, "SELECT dollars FROM llm_spending ORDER BY kind")


def another(number: int) -> CompletionRequest:
    return replace(REQUEST, messages=(Message("user", f"Freight {number}?"),))


@pytest.fixture
def ledger(database: Database) -> Ledger:
    return Ledger(database)


def test_a_question_is_written_down_before_it_is_sent_and_its_price_put_aside(
    ledger: Ledger, database: Database
) -> None:
    ledger.reserve(REQUEST.key("grok-9"), REQUEST, "grok-9", 1.0, training_cutoff=date(2024, 5, 31))
    assert ask(database, "SELECT number, quarter, run, state, dollars, training_cutoff, reply FROM llm_calls") == [
        (1, "2021Q4", "a run", "sent", 1.0, date(2024, 5, 31), None)
    ]
    assert spent(database) == [1.0, 1.0]


def test_a_reply_is_kept_and_what_was_put_aside_too_much_is_free_again(ledger: Ledger, database: Database) -> None:
    entry = reserve(ledger)
    ledger.record_reply(entry, COMPLETION, attempts=2)
    assert ledger.find([entry.key, "unknown"]) == {entry.key: replace(COMPLETION, reused=True)}
    again = ledger.reserve(entry.key, REQUEST, "grok-9", 1.0)
    assert again == replace(COMPLETION, reused=True)
    assert spent(database) == [0.25, 0.25]
    assert ask(database, "SELECT latency_s, attempts, model_answered FROM llm_calls") == [(1.5, 2, "grok-9-0601")]


@pytest.mark.parametrize(
    ("end", "state", "dollars"),
    [
        (
            lambda ledger, entry: ledger.record_reply(entry, COMPLETION, 2, CallState.rejected, "empty"),
            "rejected",
            0.25,
        ),
        (lambda ledger, entry: ledger.record_failure(entry, CallState.lost, "cut", 1), "lost", 1.0),
        (lambda ledger, entry: ledger.record_failure(entry, CallState.failed, "500", 6), "failed", 0.0),
    ],
)
def test_what_brought_nothing_of_use_may_be_asked_again_and_what_may_be_paid_stays_spent(
    ledger: Ledger,
    database: Database,
    end: Callable[[Ledger, LedgerEntry], None],
    state: str,
    dollars: float,
) -> None:
    end(ledger, reserve(ledger))
    assert reserve(ledger).number == 2
    assert ask(database, "SELECT state, dollars FROM llm_calls ORDER BY number") == [(state, dollars), ("sent", 1.0)]
    assert spent(database) == [dollars + 1.0] * 2


def test_a_refusal_is_told_to_whoever_asks_again(ledger: Ledger) -> None:
    entry = reserve(ledger)
    ledger.record_reply(entry, COMPLETION, 2, CallState.refused, "I cannot")
    assert ledger.find([entry.key]) == {entry.key: CompletionFailure("refused", "I cannot")}
    assert ledger.reserve(entry.key, REQUEST, "grok-9", 1.0) == CompletionFailure("refused", "I cannot")


def test_what_a_living_process_asks_is_not_asked_by_another_and_what_a_dead_one_asked_is(
    ledger: Ledger, database: Database
) -> None:
    entry = reserve(ledger)
    other = Ledger(database)
    assert isinstance(other.reserve(entry.key, REQUEST, "grok-9", 1.0), InFlightElsewhere)
    ledger.close()
    assert reserve(other).number == 2
    assert one(database, "SELECT state FROM llm_calls ORDER BY number") == ["lost", "sent"]


def test_a_process_lives_on_after_the_server_has_ended_its_connections(ledger: Ledger, database: Database) -> None:
    reserve(ledger)
    with database.transaction() as connection:
        connection.execute(
            sa.text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        )
    entry = reserve(ledger, another(1))
    other = Ledger(database)
    assert isinstance(other.reserve(entry.key, another(1), "grok-9", 1.0), InFlightElsewhere)


def test_a_cap_is_kept_by_all_threads_together_and_what_it_refuses_leaves_no_row(
    ledger: Ledger, database: Database
) -> None:
    def one_more(number: int) -> bool:
        request = another(number)
        reserved = ledger.reserve(request.key("grok-9"), request, "grok-9", 1.0, Caps(quarter=7.5))
        return isinstance(reserved, LedgerEntry)

    with ThreadPoolExecutor(6) as threads:
        assert sum(threads.map(one_more, range(30))) == 7
    assert one(database, "SELECT count(*) FROM llm_calls") == [7]
    assert spent(database) == [7.0, 7.0]


def test_the_cap_of_a_run_undoes_what_was_put_aside_for_the_quarter(ledger: Ledger, database: Database) -> None:
    refused = ledger.reserve(REQUEST.key("grok-9"), REQUEST, "grok-9", 1.0, Caps(run=0.5))
    assert refused == CompletionFailure(
        "budget", "the cap of $0.5 for run a run would be passed; raise it with FTM_LLM_RUN_CAP"
    )
    assert spent(database) == []


def test_an_unknown_price_is_null_and_spends_nothing(ledger: Ledger, database: Database) -> None:
    entry = ledger.reserve(REQUEST.key("grok-9"), REQUEST, "grok-9", None)
    assert isinstance(entry, LedgerEntry)
    ledger.record_reply(entry, replace(COMPLETION, dollars=None), attempts=2)
    assert one(database, "SELECT dollars FROM llm_calls") == [None]
    assert spent(database) == [0.0, 0.0]


def test_what_postgres_cannot_hold_does_not_lose_the_reply(ledger: Ledger, database: Database) -> None:
    request = replace(REQUEST, messages=(Message("user", "zero \0 half \ud800"),))
    entry = reserve(ledger, request)
    ledger.record_reply(entry, replace(COMPLETION, text="zero \0 half \ud800."), attempts=2)
    assert one(database, "SELECT reply FROM llm_calls") == ["zero  half ?."]
    ledger.reject(entry.key, "bad \0 words")
    assert one(database, "SELECT error FROM llm_calls") == ["bad  words"]
