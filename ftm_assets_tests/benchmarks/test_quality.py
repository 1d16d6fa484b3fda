"""The measures behind `python -m benchmarks quality`, on what can be counted by hand."""

import math

import pytest

from benchmarks.quality.measures import Coherence, diversity, survival, words_of


def npmi(texts: list[str], *words: str) -> float:
    return Coherence([[{word} for word in text.split()] for text in texts], set(words), window=4).npmi(words)


def test_words_that_always_come_together_cohere_and_those_that_never_do_do_not() -> None:
    assert npmi(["supply chain", "wages"], "supply", "chain") == 1
    assert npmi(["supply chain", "wages"], "supply", "wages") == -1


def test_words_that_meet_as_often_as_chance_has_it_are_at_zero() -> None:
    assert npmi(["a b", "a", "b", ""], "a", "b") == pytest.approx(0)


def test_a_word_alone_has_no_coherence() -> None:
    assert math.isnan(npmi(["supply chain"], "supply"))


def test_windows_overlap_by_half_and_cross_no_border() -> None:
    # Windows of four, each two words on: a b c d, c d e f.
    assert npmi(["a b c d e f", "x"], "c", "d") == pytest.approx(1)
    assert npmi(["a b c d e f", "x"], "a", "e") == -1
    assert npmi(["a b c d e f", "x"], "a", "c") == pytest.approx(math.log(3 / 2) / math.log(3))
    assert npmi(["a", "b"], "a", "b") == -1


def test_diversity_counts_different_keywords() -> None:
    assert diversity([("a", "b"), ("a", "c")]) == 0.75
    assert diversity([("a", "b", "z"), ("a", "c", "z")], n=2) == 0.75
    assert math.isnan(diversity([]))


def test_survival_is_the_mean_of_the_best_overlaps() -> None:
    before = [{1, 2}, {3, 4}]
    assert survival(before, [{1, 2}, {3}, {4, 5, 6}]) == pytest.approx((1 + 1 / 2) / 2)
    assert survival(before, []) == 0
    assert math.isnan(survival([], before))


def test_words_of_keywords_come_once_and_in_order() -> None:
    assert words_of(("supply chain", "chain", "ports"), n=3) == ["supply", "chain", "ports"]
