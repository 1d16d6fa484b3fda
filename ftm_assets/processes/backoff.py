"""How long to wait before what has ended is started again."""

import time
from dataclasses import dataclass, field

_MANY = 30  # Whoever ends again and again does so for months; a float has its limits.


@dataclass
class RestartBackoff:
    """Ever longer pauses for a process that ends soon after each start; none for one that had gone well.

    sound_s:   who lived longer had gone well
    longest_s: the longest pause
    """

    sound_s: float = 120.0
    longest_s: float = 60.0
    _started_at: float = field(default_factory=time.monotonic)
    _n_deaths: int = 0

    def started(self) -> None:
        """It was started, now."""
        self._started_at = time.monotonic()

    def ended(self) -> float:
        """Seconds to wait now that it has ended: 0, 1, 3, 7, ... with each death that comes soon."""
        soon = time.monotonic() - self._started_at < self.sound_s
        self._n_deaths = self._n_deaths + 1 if soon else 1
        return min(self.longest_s, 2.0 ** min(self._n_deaths - 1, _MANY) - 1)
