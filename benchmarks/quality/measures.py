"""What a table of topic models compares: coherence, diversity, stability, agreement with a known truth."""

from collections.abc import Collection, Iterable, Sequence, Set
from itertools import combinations

import numpy as np
from scipy.sparse import csr_matrix

WINDOW = 110  # Words; as in Röder et al. 2015.
N_WORDS = 10


def words_of(keywords: Sequence[str], n: int = N_WORDS) -> list[str]:
    """The first n different words of the keywords, in order; a keyword of two words counts as both."""
    return list(dict.fromkeys(word for keyword in keywords for word in keyword.split()))[:n]


class Coherence:
    """Normalized pointwise mutual information of words in windows (Bouma 2009, Lau et al. 2014).

    texts:      of the reference corpus, word by word, each in every way to cut it; no window crosses to the next text
    vocabulary: the words that will be asked about
    window:     tokens; each window begins half a window after the one before
    """

    def __init__(
        self, texts: Iterable[Sequence[Collection[str]]], vocabulary: Collection[str], window: int = WINDOW
    ) -> None:
        self._column = {word: column for column, word in enumerate(sorted(vocabulary))}
        step = window // 2
        pairs: set[tuple[int, int]] = set()
        self._n_windows = 0
        for text in texts:
            n = max(1, -(-len(text) // step) - 1)
            for place, ways in enumerate(text):
                for column in {self._column[way] for way in ways if way in self._column}:
                    last = min(place // step, n - 1)
                    pairs.add((self._n_windows + last, column))
                    pairs.add((self._n_windows + max(0, place // step - 1), column))
            self._n_windows += n
        rows, columns = np.array(sorted(pairs), np.int64).reshape(-1, 2).T
        held_by = csr_matrix((np.ones(len(rows)), (rows, columns)), (self._n_windows, len(self._column)))
        self._together = (held_by.T @ held_by).tocsr()

    def npmi(self, words: Sequence[str]) -> float:
        """Mean over the pairs of words, -1 to 1; a pair that no window holds counts -1. nan with fewer than two."""
        pairs = list(combinations([self._column[word] for word in words], 2))
        return float(np.mean([self._of_pair(one, other) for one, other in pairs])) if pairs else float("nan")

    def _of_pair(self, one: int, other: int) -> float:
        together = float(self._together[one, other]) / self._n_windows
        if not together:
            return -1.0
        apart = self._together[one, one] * self._together[other, other] / self._n_windows**2
        return 1.0 if together == 1 else float(np.log(together / apart) / -np.log(together))


def diversity(groups: Sequence[Sequence[str]], n: int = N_WORDS) -> float:
    """Share of different ones among the first n keywords of all groups (Dieng et al. 2020)."""
    first = [keyword for keywords in groups for keyword in keywords[:n]]
    return len(set(first)) / len(first) if first else float("nan")


def survival(before: Sequence[Set[object]], after: Sequence[Set[object]]) -> float:
    """Mean over the sets before of the best Jaccard similarity with a set after (Hennig 2007). nan without any.

    Where fewer members took part afterwards, leave the others out of `before`.
    """
    if not before:
        return float("nan")
    return float(np.mean([max((len(a & b) / len(a | b) for b in after), default=0.0) for a in before if a]))
