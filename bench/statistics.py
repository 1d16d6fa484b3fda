"""Figures of repeated measurements: percentiles, median and spread, ratios."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


def percentiles(values: Sequence[float], *wanted: float) -> tuple[float, ...]:
    """The percentiles asked for, linear between neighbours. raises: ValueError if there are no values"""
    if not values:
        raise ValueError("no values, so no percentiles")
    return tuple(np.percentile(np.asarray(values, np.float64), wanted).tolist())


@dataclass(frozen=True)
class Summary:
    """Median and range of repetitions; their number tells how much to think of them."""

    median: float
    least: float
    most: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Summary":
        """Of at least one value. raises: ValueError if there are none"""
        median, least, most = percentiles(values, 50, 0, 100)
        return cls(median, least, most, len(values))

    def shown(self, digits: int = 0) -> str:
        """`median (least to most)`."""
        return f"{self.median:,.{digits}f} ({self.least:,.{digits}f} to {self.most:,.{digits}f})"


def recall(found: Sequence[Sequence[object]], exact: Sequence[Sequence[object]]) -> float:
    """Share of what an exact search finds that the other found, over all queries. raises: ValueError on no result"""
    wanted = sum(map(len, exact))
    if not wanted:
        raise ValueError("the exact searches have found nothing")
    return sum(len(set(a) & set(b)) for a, b in zip(found, exact, strict=True)) / wanted
