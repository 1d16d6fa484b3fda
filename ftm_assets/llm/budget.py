"""What requests may cost and have cost: price, caps and ledger, for the client's event loop."""

import asyncio
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import TypeVar

from tenacity import AsyncRetrying, stop_after_delay, wait_fixed

from ftm_assets.llm.ledger import CallState, Caps, InFlightElsewhere, Ledger, LedgerEntry
from ftm_assets.llm.prices import Price, PriceUnknown
from ftm_assets.llm.protocol import Completion, CompletionFailure, CompletionRequest, CompletionResult

# How much more than our estimate a provider may count: before it has counted anything, and after. Decision 92.
_FIRST_MARGIN = 1.5
_MARGIN = 1.1
_RETRY_S = 60.0

T = TypeVar("T")


class Budget:
    """Reserves the highest price of each request and settles the real one. Calls the ledger from threads of its own.

    price: None if it is unknown
    """

    def __init__(self, ledger: Ledger, model: str, price: Price | None, caps: Caps) -> None:
        self._ledger = ledger
        self._model = model
        self._price = price
        self._caps = caps
        self._threads = ThreadPoolExecutor(2, "ftm-ledger")
        self._settled = asyncio.Event()
        self._n_reserved = 0
        self._unsettled: list[LedgerEntry] = []
        self._scale_in = _FIRST_MARGIN
        self._scale_out = 1.0

    @property
    def has_reservations(self) -> bool:
        """Whether requests are under way, which may cost less than was reserved for them."""
        return self._n_reserved > 0

    def failure(self) -> CompletionFailure | None:
        """Why no request can be sent, None if requests can be."""
        if self._price is None and self._caps.any:
            return CompletionFailure("budget", str(PriceUnknown(self._model)))
        return None

    def max_tokens(self, request: CompletionRequest) -> tuple[int, int]:
        """Upper bounds of the tokens in and out that the provider will count, learned from its counts so far."""
        return math.ceil(self._scale_in * request.estimated_tokens()), math.ceil(self._scale_out * request.max_tokens)

    async def reserve(self, key: str, request: CompletionRequest) -> LedgerEntry | CompletionResult | InFlightElsewhere:
        """The request's row with its price reserved, if it may be sent."""
        await self._settle_late()
        max_in, max_out = self.max_tokens(request)
        reserved = await self.with_ledger(
            lambda ledger: ledger.reserve(
                key,
                request,
                self._model,
                max_dollars=self._price.dollars(max_in, 0, max_out) if self._price else None,
                caps=self._caps,
                training_cutoff=self._price.training_cutoff if self._price else None,
            )
        )
        if isinstance(reserved, LedgerEntry):
            self._n_reserved += 1
        return reserved

    async def wait_for_settlement(self) -> None:
        """Wait until a request that is under way has been settled."""
        self._settled.clear()
        await self._settled.wait()

    def priced(self, request: CompletionRequest, completion: Completion) -> Completion:
        """The completion with its price. Learns how this provider counts tokens."""
        self._scale_in = _learned(self._scale_in, completion.tokens_in / request.estimated_tokens())
        self._scale_out = max(1.0, _learned(self._scale_out, completion.tokens_out / request.max_tokens))
        if self._price is None:
            return completion
        tokens = (completion.tokens_in, completion.tokens_cached, completion.tokens_out)
        return replace(completion, dollars=self._price.dollars(*tokens))

    async def with_ledger(self, work: Callable[[Ledger], T]) -> T:
        """What the work returns. It runs in a thread, because the ledger blocks."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, self._ledger)

    async def settle(self, entry: LedgerEntry, work: Callable[[Ledger], None]) -> None:
        """Record in the ledger what became of an entry, and insist while the database is away: the reply is paid.

        If that does not help, the next request marks the row as lost. Decision 93.
        """
        insisting = AsyncRetrying(stop=stop_after_delay(_RETRY_S), wait=wait_fixed(1.0), reraise=True)
        try:
            await insisting(self.with_ledger, work)
        except Exception:
            self._unsettled.append(entry)
            raise
        finally:
            self._n_reserved -= 1
            self._settled.set()

    async def close(self) -> None:
        """Others may take over what this process left unfinished."""
        await self.with_ledger(Ledger.close)
        self._threads.shutdown(wait=False)

    async def _settle_late(self) -> None:
        """Mark rows as lost whose reply could not be recorded, so that no process waits for them."""
        late, self._unsettled = self._unsettled, []
        reason = "its reply could not be recorded"
        try:
            for entry in late:
                await self.with_ledger(partial(Ledger.record_failure, entry=entry, state=CallState.lost, reason=reason))
        except BaseException:
            self._unsettled += late  # Doing it twice does no harm.
            raise


def _learned(scale: float, counted: float) -> float:
    """Rises at once, falls slowly. Decision 92."""
    counted *= _MARGIN
    return max(counted, scale + (counted - scale) / 10)
