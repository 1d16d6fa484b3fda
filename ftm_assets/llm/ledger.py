"""The ledger in Postgres: one row for each request that is or may be paid, and what each quarter and run has spent.

So nothing is paid twice and no cap is passed, by all processes together. Decision 58.
"""

import math
import secrets
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.engine import Connection

from ftm_assets.llm.protocol import Completion, CompletionFailure, CompletionRequest, CompletionResult
from ftm_assets.storage.schema import tables as t
from ftm_assets.storage.server.advisory_locks import Lock, acquire, is_held
from ftm_assets.storage.server.database import Database
from ftm_assets.text_safety import storable

_MAX_ERROR_CHARS = 500


class CallState(StrEnum):
    """How far a request has come; docs/language-model.md says which states are paid."""

    # Decision 58.
    sent = "sent"
    answered = "answered"
    rejected = "rejected"
    refused = "refused"
    # Decision 93.
    lost = "lost"
    failed = "failed"


@dataclass(frozen=True)
class Caps:
    """Dollars that a run and a quarter may cost; inf: no limit."""

    run: float = math.inf
    quarter: float = math.inf

    @property
    def any(self) -> bool:
        """Whether there is a limit."""
        return not math.isinf(min(self.run, self.quarter))


NO_CAPS = Caps()


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """The row of a request that may be sent now.

    quarter, run: who pays
    dollars:      reserved for it, None if the price is unknown
    """

    key: str
    number: int
    quarter: str
    run: str
    dollars: float | None


@dataclass(frozen=True, slots=True)
class InFlightElsewhere:
    """Another process has sent the same request and waits for its reply."""


@dataclass
class Ledger:
    """Every method is durable when it returns. Use it from any thread of one process, but not across a fork.

    Each process holds an advisory lock as long as it lives, so that others can tell a request that is under way from
    one whose process was killed.
    """

    database: Database
    sender: int = field(default_factory=lambda: secrets.randbits(31))
    _alive: Connection | None = field(default=None, init=False, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def find(self, keys: Sequence[str]) -> Mapping[str, CompletionResult]:
        """Stored replies, marked as reused, and refusals."""
        rows = sa.select(t.LlmCall).where(
            t.LlmCall.key.in_(keys), t.LlmCall.state.in_([CallState.answered, CallState.refused])
        )
        with self.database.transaction() as connection:
            found = {row.key: _stored(row) for row in connection.execute(rows.order_by(t.LlmCall.number))}
        return {key: stored for key, stored in found.items() if stored is not None}

    def reserve(
        self,
        key: str,
        request: CompletionRequest,
        model: str,
        max_dollars: float | None,
        caps: Caps = NO_CAPS,
        training_cutoff: date | None = None,
    ) -> LedgerEntry | CompletionResult | InFlightElsewhere:
        """Reserve the highest price and let the request be sent, unless it was answered or a cap would be passed.

        A request of a process that has ended counts as lost: what it reserved stays spent.

        max_dollars:     upper bound of the price, None if it is unknown
        training_cutoff: of the model, None if it is unknown
        """
        self._hold_lock()
        with self.database.transaction() as connection:
            last = _last_row(connection, key)
            if last is not None and (stored := _stored(last)) is not None:
                return stored
            if last is not None and last.state == CallState.sent:
                if last.sender != self.sender and _is_alive(connection, last.sender):
                    return InFlightElsewhere()
                _update(connection, key, last.number, state=CallState.lost, error="its process ended")
            entry = LedgerEntry(
                key=key,
                number=last.number + 1 if last is not None else 1,
                quarter=request.quarter,
                run=request.run,
                dollars=max_dollars,
            )
            if not _insert(connection, entry, request, model, training_cutoff, self.sender):
                return InFlightElsewhere()  # Another process inserted it after we looked.
            if reason := _reserve_dollars(connection, entry, caps):
                connection.rollback()
                return CompletionFailure("budget", reason)
        return entry

    def record_reply(
        self,
        entry: LedgerEntry,
        completion: Completion,
        attempts: int,
        state: CallState = CallState.answered,
        reason: str | None = None,
    ) -> None:
        """Store a reply that was paid. state: `refused` or `rejected` where it is unusable, for this reason"""
        with self.database.transaction() as connection:
            _spend(connection, entry, (completion.dollars or 0.0) - (entry.dollars or 0.0))
            _update(
                connection,
                entry.key,
                entry.number,
                state=state,
                reply=storable(completion.text),
                model_answered=_short(completion.model),
                tokens_in=completion.tokens_in,
                tokens_cached=completion.tokens_cached,
                tokens_out=completion.tokens_out,
                dollars=completion.dollars,
                latency_s=completion.latency_s,
                attempts=attempts,
                error=reason and _short(reason),
            )

    def record_failure(self, entry: LedgerEntry, state: CallState, reason: str, attempts: int = 1) -> None:
        """No reply came. `lost`: it may have been paid; `failed`: it was not, and its reservation is released."""
        with self.database.transaction() as connection:
            changes: dict[str, Any] = {"state": state, "error": _short(reason), "attempts": attempts}
            if state is CallState.failed:
                changes["dollars"] = None if entry.dollars is None else 0.0
                _spend(connection, entry, -(entry.dollars or 0.0))
            _update(connection, entry.key, entry.number, **changes)

    def reject(self, key: str, reason: str) -> None:
        """Mark the stored reply as unusable; it stays paid."""
        answered = (t.LlmCall.key == key, t.LlmCall.state == CallState.answered)
        with self.database.transaction() as connection:
            connection.execute(
                sa.update(t.LlmCall).where(*answered).values(state=CallState.rejected, error=_short(reason))
            )

    def close(self) -> None:
        """This process sends no more: others may take over what it left as `sent`."""
        with self._lock:
            if self._alive is not None:
                self._alive.close()
                self._alive = None

    def _hold_lock(self) -> None:
        """Hold the lock that shows this process is alive; take it again after the server was restarted."""
        with self._lock:
            if self._alive is not None:
                try:
                    self._alive.scalar(sa.select(1))
                    return
                except (sa.exc.DBAPIError, sa.exc.ResourceClosedError):
                    self._alive.close()
            self._alive = self.database.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
            # Not from the pool: its lock must not end up with others, nor should they wait for it.
            self._alive.detach()
            acquire(self._alive, Lock.LLM_CLIENT, self.sender)


def _is_alive(connection: Connection, sender: int) -> bool:
    """Whether the process that a row names still runs."""
    return is_held(connection, Lock.LLM_CLIENT, sender)


def _last_row(connection: Connection, key: str) -> sa.Row[Any] | None:
    rows = sa.select(t.LlmCall).where(t.LlmCall.key == key).order_by(t.LlmCall.number.desc()).limit(1)
    return connection.execute(rows.with_for_update()).first()


def _stored(row: sa.Row[Any]) -> CompletionResult | None:
    if row.state == CallState.refused:
        return CompletionFailure("refused", row.error)
    if row.state != CallState.answered:
        return None
    return Completion(
        text=row.reply,
        model=row.model_answered,
        key=row.key,
        tokens_in=row.tokens_in,
        tokens_cached=row.tokens_cached,
        tokens_out=row.tokens_out,
        dollars=row.dollars,
        reused=True,
    )


def _insert(
    connection: Connection,
    entry: LedgerEntry,
    request: CompletionRequest,
    model: str,
    training_cutoff: date | None,
    sender: int,
) -> bool:
    row = insert(t.LlmCall).values(
        key=entry.key,
        number=entry.number,
        quarter=entry.quarter,
        run=entry.run,
        prompt=request.prompt,
        model=model,
        training_cutoff=training_cutoff,
        request={
            "messages": [{"role": each.role, "content": storable(each.content)} for each in request.messages],
            "reply_schema": dict(request.reply_schema),
            "max_tokens": request.max_tokens,
        },
        state=CallState.sent,
        dollars=entry.dollars,
        attempts=0,
        sender=sender,
    )
    return connection.scalar(row.on_conflict_do_nothing().returning(t.LlmCall.number)) is not None


def _update(connection: Connection, key: str, number: int, **changes: object) -> None:
    row = (t.LlmCall.key == key, t.LlmCall.number == number)
    connection.execute(sa.update(t.LlmCall).where(*row).values(**changes))


def _payers(entry: LedgerEntry) -> Iterator[tuple[str, str]]:
    """Kind and name of those who pay; always in this order, so that no two transactions wait for each other."""
    yield "quarter", entry.quarter
    if entry.run:
        yield "run", entry.run


def _reserve_dollars(connection: Connection, entry: LedgerEntry, caps: Caps) -> str:
    """Reserve the price for each payer; returns which cap would be passed, empty if none."""
    dollars = entry.dollars or 0.0
    for kind, payer in _payers(entry):
        cap = caps.quarter if kind == "quarter" else caps.run
        row = insert(t.LlmSpending).values(kind=kind, payer=payer, dollars=dollars)
        added = row.on_conflict_do_update(
            index_elements=["kind", "payer"],
            set_={"dollars": t.LlmSpending.dollars + dollars},
            where=t.LlmSpending.dollars + dollars <= cap,
        )
        if dollars > cap or connection.scalar(added.returning(t.LlmSpending.dollars)) is None:
            return f"the cap of ${cap:g} for {kind} {payer} would be passed; raise it with FTM_LLM_{kind.upper()}_CAP"
    return ""


def _spend(connection: Connection, entry: LedgerEntry, dollars: float) -> None:
    for kind, payer in _payers(entry):
        row = (t.LlmSpending.kind == kind, t.LlmSpending.payer == payer)
        connection.execute(
            sa.update(t.LlmSpending).where(*row).values(dollars=sa.func.greatest(0.0, t.LlmSpending.dollars + dollars))
        )


def _short(text: str) -> str:
    return storable(text)[:_MAX_ERROR_CHARS]
