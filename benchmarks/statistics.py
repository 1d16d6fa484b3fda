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
    """Median and range of repetitions; the fewer there are, the less they mean."""

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


def nearness_recall(found: Sequence[Sequence[float]], exact: Sequence[Sequence[float]], tolerance: float) -> float:
    """Share of the k nearest that a search has found, over all queries, told by cosine: equally near is as good.

    found, exact: cosines of what each query found, and of its k nearest
    tolerance:    how much less near still counts, for vectors that are rounded
    raises:       ValueError where there is nothing to find
    """
    wanted = sum(map(len, exact))
    if not wanted:
        raise ValueError("the exact searches have found nothing")
    near = zip(found, exact, strict=True)
    return sum(sum(cosine >= min(best) - tolerance for cosine in cosines) for cosines, best in near) / wanted
