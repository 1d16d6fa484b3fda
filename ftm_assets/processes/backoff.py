"""How long to wait before a process that has ended is started again."""

import time
from dataclasses import dataclass, field

_MAX_EXPONENT = 30  # A process may crash for months; a float has its limits.


@dataclass
class RestartBackoff:
    """Growing pauses for a process that ends soon after each start; none for one that ran well before it ended.

    healthy_s: a process that ran this long counts as healthy
    longest_s: the longest pause
    """

    healthy_s: float = 120.0
    longest_s: float = 60.0
    _started_at: float = field(default_factory=time.monotonic)
    _n_crashes: int = 0

    def started(self) -> None:
        """The process was started, now."""
        self._started_at = time.monotonic()

    def ended(self) -> float:
        """Seconds to wait now that it has ended: 0, 1, 3, 7, ... with each crash that comes soon after a start."""
        soon = time.monotonic() - self._started_at < self.healthy_s
        self._n_crashes = self._n_crashes + 1 if soon else 1
        exponent = min(self._n_crashes - 1, _MAX_EXPONENT)
        return min(self.longest_s, 2.0**exponent - 1)
