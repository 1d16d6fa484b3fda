import pytest

from ftm_assets.processes import backoff
from ftm_assets.processes.backoff import RestartBackoff


class Clock:
    """Time as a test says."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(backoff, "time", clock)
    return clock


def test_who_ends_soon_again_and_again_waits_longer_each_time_and_not_for_ever(clock: Clock) -> None:
    waits = RestartBackoff(healthy_s=10.0, longest_s=5.0, _started_at=clock.now)
    assert [waits.ended() for _ in range(2000)][:5] == [0, 1, 3, 5, 5]


def test_who_had_gone_well_is_started_at_once(clock: Clock) -> None:
    waits = RestartBackoff(healthy_s=10.0, _started_at=clock.now)
    waits.ended(), waits.ended()
    waits.started()
    clock.now += 10
    assert waits.ended() == 0
