import asyncio
import time

import pytest

from ftm_assets.llm.rate_limiter import RateLimit


async def sent(limit: RateLimit, tokens: int, for_s: float, used: int | None = None) -> list[float]:
    """When requests went, each of so many tokens at most, of which so many were used."""
    at: list[float] = []
    started = time.monotonic()
    while time.monotonic() - started < for_s:
        taken = await limit.take(tokens)
        at.append(taken.at)
        if used is not None:
            limit.settle(taken, used)
    return at


def most_within(at: list[float], window_s: float) -> int:
    return max(sum(start <= other < start + window_s for other in at) for start in at)


@pytest.mark.parametrize("rpm", [3, 10, 100])
def test_no_window_has_more_requests_than_the_limit_and_nearly_as_many_go(rpm: int) -> None:
    at = asyncio.run(sent(RateLimit(rpm, 0, window_s=1.0), 0, 4.0))
    assert most_within(at, 1.0) <= rpm
    assert len(at) >= 0.9 * rpm * 4


def test_tokens_are_limited_by_what_was_used() -> None:
    limit = RateLimit(0, 1000, window_s=1.0)
    at = asyncio.run(sent(limit, 100, 4.0, used=50))
    assert most_within(at, 1.0) <= 20
    assert len(at) >= 0.85 * 20 * 4


def test_what_was_not_settled_counts_as_much_as_it_may_be() -> None:
    at = asyncio.run(sent(RateLimit(0, 1000, window_s=1.0), 100, 3.0))
    assert most_within(at, 1.0) <= 10


def test_a_request_larger_than_the_limit_goes_alone() -> None:
    at = asyncio.run(sent(RateLimit(0, 1000, window_s=0.5), 5000, 1.2))
    assert 2 <= len(at) <= 4


def test_without_limits_nobody_waits_and_nothing_is_kept() -> None:
    limit = RateLimit(0, 0)
    started = time.monotonic()
    asyncio.run(sent(limit, 10**9, 0.1))
    assert time.monotonic() - started < 1
    assert not limit._taken


def test_whoever_gives_up_waiting_lets_the_next_one_go() -> None:
    async def work() -> None:
        limit = RateLimit(1, 0, window_s=0.3)
        await limit.take(0)
        waiting = asyncio.create_task(limit.take(0))
        await asyncio.sleep(0.05)
        waiting.cancel()
        await asyncio.wait_for(limit.take(0), 2)

    asyncio.run(work())
