import asyncio
import time

import pytest

from ftm_assets.llm.rate_limiter import RateLimiter


async def sent(limiter: RateLimiter, tokens: int, for_s: float, used: int | None = None) -> list[float]:
    """When requests went, each of so many tokens at most, of which so many were used."""
    at: list[float] = []
    started = time.monotonic()
    while time.monotonic() - started < for_s:
        reservation = await limiter.reserve(tokens)
        at.append(reservation.at)
        if used is not None:
            limiter.commit(reservation, used)
    return at


def most_within(at: list[float], window_s: float) -> int:
    return max(sum(start <= other < start + window_s for other in at) for start in at)


@pytest.mark.parametrize("rpm", [3, 10, 100])
def test_no_window_has_more_requests_than_the_limit_and_nearly_as_many_go(rpm: int) -> None:
    at = asyncio.run(sent(RateLimiter(rpm, 0, window_s=1.0), 0, 4.0))
    assert most_within(at, 1.0) <= rpm
    assert len(at) >= 0.9 * rpm * 4


def test_tokens_are_limited_by_what_was_used() -> None:
    limiter = RateLimiter(0, 1000, window_s=1.0)
    at = asyncio.run(sent(limiter, 100, 4.0, used=50))
    assert most_within(at, 1.0) <= 20
    assert len(at) >= 0.85 * 20 * 4


def test_what_was_not_settled_counts_as_much_as_it_may_be() -> None:
    at = asyncio.run(sent(RateLimiter(0, 1000, window_s=1.0), 100, 3.0))
    assert most_within(at, 1.0) <= 10


def test_a_request_larger_than_the_limit_goes_alone() -> None:
    at = asyncio.run(sent(RateLimiter(0, 1000, window_s=0.5), 5000, 1.2))
    assert 2 <= len(at) <= 4


def test_without_limits_nobody_waits_and_nothing_is_kept() -> None:
    limiter = RateLimiter(0, 0)
    started = time.monotonic()
    asyncio.run(sent(limiter, 10**9, 0.1))
    assert time.monotonic() - started < 1
    assert not limiter._reservations


def test_whoever_gives_up_waiting_lets_the_next_one_go() -> None:
    async def work() -> None:
        limiter = RateLimiter(1, 0, window_s=0.3)
        await limiter.reserve(0)
        waiting = asyncio.create_task(limiter.reserve(0))
        await asyncio.sleep(0.05)
        waiting.cancel()
        await asyncio.wait_for(limiter.reserve(0), 2)

    asyncio.run(work())
