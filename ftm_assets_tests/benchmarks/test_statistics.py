"""The figures that benchmarks print, on what can be counted by hand."""

import pytest

from benchmarks.statistics import Summary, nearness_recall, percentiles


def test_percentiles_lie_between_their_neighbours() -> None:
    assert percentiles([1, 2, 3, 4, 5], 0, 50, 95) == pytest.approx((1, 3, 4.8))


def test_of_nothing_there_are_no_percentiles() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentiles([], 50)


def test_repetitions_are_told_by_their_median_and_range() -> None:
    assert Summary.of([3, 1, 2]) == Summary(median=2, least=1, most=3, n=3)
    assert Summary.of([3000, 1000, 2000]).shown() == "2,000 (1,000 to 3,000)"


def test_recall_counts_what_is_as_near_as_the_nearest() -> None:
    exact = [[0.9, 0.8], [0.7, 0.7]]
    assert nearness_recall([[0.9, 0.8], [0.7, 0.6]], exact, 0) == 0.75
    assert nearness_recall([[0.9, 0.8], [0.7]], exact, 0) == 0.75
    assert nearness_recall([[0.9, 0.8], [0.7, 0.6999]], exact, 0.001) == 1


def test_recall_of_nothing_is_no_number() -> None:
    with pytest.raises(ValueError, match="found nothing"):
        nearness_recall([[]], [[]], 0)
