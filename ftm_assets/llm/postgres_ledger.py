"""The ledger of the language model in Postgres: `llm_calls`, and what each quarter and run has spent."""

import secrets
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.engine import Connection

from ftm_assets.llm.ledger import Elsewhere, Reply, Sent, State, Terms
from ftm_assets.llm.protocol import Answer, NoAnswer, Question
from ftm_assets.storage.schema import tables as t
from ftm_assets.storage.server.advisory_locks import Lock, acquire, is_held
from ftm_assets.storage.server.database import Database

_MAX_ERROR = 500


@dataclass
class PostgresLedger:
    """A `Ledger` in the database. To be used by any thread of one process, and not to be carried across a fork.

    Each process holds an advisory lock as long as it lives, so that others know a question that is under way from one
    whose process was killed.
    """

    database: Database
    sender: int = field(default_factory=lambda: secrets.randbits(31))
    _life: Connection | None = field(default=None, init=False, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def find(self, keys: Sequence[str]) -> Mapping[str, Answer | NoAnswer]:
        """See `Ledger`."""
        there = sa.select(t.LlmCall).where(
            t.LlmCall.key.in_(keys), t.LlmCall.state.in_([State.answered, State.refused])
        )
        with self.database.transaction() as connection:
            found = {row.key: _stored(row) for row in connection.execute(there.order_by(t.LlmCall.number))}
        return {key: stored for key, stored in found.items() if stored is not None}

    def begin(self, key: str, question: Question, model: str, terms: Terms) -> Sent | Answer | NoAnswer | Elsewhere:
        """See `Ledger`."""
        self._live()
        with self.database.transaction() as connection:
            last = _last(connection, key)
            if last is not None and (stored := _stored(last)) is not None:
                return stored
            if last is not None and last.state == State.sent:
                if last.sender != self.sender and _lives(connection, last.sender):
                    return Elsewhere()
                _set(connection, key, last.number, state=State.lost, error="its process ended")
            number = last.number + 1 if last is not None else 1
            if not _insert(connection, key, number, question, model, terms, self.sender):
                return Elsewhere()  # It came between our look and our row.
            if passed := _put_aside(connection, question, terms):
                connection.rollback()
                return NoAnswer("budget", passed)
        return Sent(key, number, question, terms.dollars)

    def answered(self, sent: Sent, reply: Reply) -> Answer:
        """See `Ledger`."""
        self._end(sent, reply, State.answered, None)
        usage = reply.usage
        tokens = (usage.tokens_in, usage.tokens_cached, usage.tokens_out)
        return Answer(reply.text, reply.model, sent.key, *tokens, reply.dollars, reused=False)

    def useless(self, sent: Sent, reply: Reply, state: State, why: str) -> None:
        """See `Ledger`."""
        self._end(sent, reply, state, why)

    def unanswered(self, sent: Sent, state: State, why: str, attempts: int) -> None:
        """See `Ledger`."""
        with self.database.transaction() as connection:
            facts: dict[str, Any] = {"state": state, "error": _clean(why), "attempts": attempts}
            if state is State.failed:
                facts["dollars"] = None if sent.dollars is None else 0.0
                _spend(connection, sent.question, -(sent.dollars or 0.0))
            _set(connection, sent.key, sent.number, **facts)

    def reject(self, key: str, why: str) -> None:
        """See `Ledger`."""
        of_no_use = (
            sa.update(t.LlmCall)
            .where(t.LlmCall.key == key, t.LlmCall.state == State.answered)
            .values(state=State.rejected, error=_clean(why))
        )
        with self.database.transaction() as connection:
            connection.execute(of_no_use)

    def close(self) -> None:
        """See `Ledger`."""
        with self._lock:
            if self._life is not None:
                self._life.close()
                self._life = None

    def _end(self, sent: Sent, reply: Reply, state: State, why: str | None) -> None:
        with self.database.transaction() as connection:
            _spend(connection, sent.question, (reply.dollars or 0.0) - (sent.dollars or 0.0))
            _set(
                *(connection, sent.key, sent.number),
                **asdict(reply.usage),
                state=state,
                reply=_clean(reply.text, None),
                model_answered=_clean(reply.model),
                dollars=reply.dollars,
                latency_s=reply.latency_s,
                attempts=reply.attempts,
                error=_clean(why),
            )

    def _live(self) -> None:
        """Hold the lock that says this process lives, again if the server was restarted."""
        with self._lock:
            if self._life is not None:
                try:
                    self._life.scalar(sa.select(1))
                    return
                except (sa.exc.DBAPIError, sa.exc.ResourceClosedError):
                    self._life.close()
            self._life = self.database.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
            # Not from the pool: what it holds must not end up with others, nor they wait for it.
            self._life.detach()
            acquire(self._life, Lock.LLM_CLIENT, self.sender)


def _lives(connection: Connection, sender: int) -> bool:
    """Whether the process that a row names is still there."""
    return is_held(connection, Lock.LLM_CLIENT, sender)


def _last(connection: Connection, key: str) -> sa.Row[Any] | None:
    asked = sa.select(t.LlmCall).where(t.LlmCall.key == key).order_by(t.LlmCall.number.desc()).limit(1)
    return connection.execute(asked.with_for_update()).first()


def _stored(row: sa.Row[Any]) -> Answer | NoAnswer | None:
    if row.state == State.answered:
        tokens = (row.tokens_in, row.tokens_cached, row.tokens_out)
        return Answer(row.reply, row.model_answered, row.key, *tokens, row.dollars, reused=True)
    return NoAnswer("refused", row.error) if row.state == State.refused else None


def _insert(
    connection: Connection, key: str, number: int, question: Question, model: str, terms: Terms, sender: int
) -> bool:
    request = {
        "messages": [{"role": message.role, "content": _clean(message.content, None)} for message in question.messages],
        "reply_schema": dict(question.reply_schema),
        "max_tokens": question.max_tokens,
    }
    row = insert(t.LlmCall).values(
        key=key,
        number=number,
        quarter=question.quarter,
        run=question.run,
        prompt=question.prompt,
        model=model,
        training_cutoff=terms.training_cutoff,
        request=request,
        state=State.sent,
        dollars=terms.dollars,
        attempts=0,
        sender=sender,
    )
    return connection.scalar(row.on_conflict_do_nothing().returning(t.LlmCall.number)) is not None


def _set(connection: Connection, key: str, number: int, **facts: object) -> None:
    mine = (t.LlmCall.key == key, t.LlmCall.number == number)
    connection.execute(sa.update(t.LlmCall).where(*mine).values(**facts))


def _payers(question: Question, terms: Terms | None = None) -> Iterator[tuple[str, str, float]]:
    """Who pays for a question and up to what; always in this order, so that no two wait for each other."""
    yield "quarter", question.quarter, terms.quarter_cap if terms else 0.0
    if question.run:
        yield "run", question.run, terms.run_cap if terms else 0.0


def _put_aside(connection: Connection, question: Question, terms: Terms) -> str:
    """Reserve the price for each payer; returns which cap would be passed, empty if none."""
    dollars = terms.dollars or 0.0
    for kind, payer, cap in _payers(question, terms):
        row = insert(t.LlmSpending).values(kind=kind, payer=payer, dollars=dollars)
        added = row.on_conflict_do_update(
            index_elements=["kind", "payer"],
            set_={"dollars": t.LlmSpending.dollars + dollars},
            where=t.LlmSpending.dollars + dollars <= cap,
        )
        if dollars > cap or connection.scalar(added.returning(t.LlmSpending.dollars)) is None:
            return f"the cap of ${cap:g} for {kind} {payer} would be passed; raise it with FTM_LLM_{kind.upper()}_CAP"
    return ""


def _spend(connection: Connection, question: Question, dollars: float) -> None:
    for kind, payer, _ in _payers(question):
        mine = (t.LlmSpending.kind == kind, t.LlmSpending.payer == payer)
        connection.execute(
            sa.update(t.LlmSpending).where(*mine).values(dollars=sa.func.greatest(0.0, t.LlmSpending.dollars + dollars))
        )


def _clean(text: str | None, longest: int | None = _MAX_ERROR) -> str | None:
    """What Postgres can hold: no zero bytes and no halves of surrogate pairs."""
    if text is None:
        return None
    return text.replace("\0", "").encode("utf-8", "replace").decode()[:longest]
