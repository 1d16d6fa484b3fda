"""What topic models have in common: settings, results, exact nearest neighbours, keywords and labels."""

import math
import os
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

import numpy as np
from pydantic import BaseModel, Field
from threadpoolctl import threadpool_limits

T = TypeVar("T")
R = TypeVar("R")

MIN_DOCUMENTS = 4
_BLOCK_ROWS = 1024
_BLOCK_CELLS = 2**24
# Decision 85: from here on float32 finds the candidates and float64 decides.
_MANY_ROWS = 4096
_MAX_THREADS = 8  # Each holds a block of cosines, or a graph.
_GROUPS_PER_NEIGHBOUR = 20
_MAX_CANDIDATES = 8  # Rows per neighbour that are compared in float64.
_SELF = -1.0  # Distance of a row to itself, below any other.


class ClusterSettings(BaseModel, frozen=True):
    """Settings of clustering and naming; topics and themes have a class each, with defaults of their own."""

    model: Literal["communities", "bertopic"] = Field(
        "communities", description="consensus of graph communities, or BERTopic (UMAP and HDBSCAN)"
    )
    n_neighbors: int = Field(12, ge=2, le=200, description="communities: nearest neighbours that a row is joined to")
    granularity: float = Field(
        0.2,
        gt=0,
        le=10,
        description="communities: resolution scale, times the square root of the rows; higher gives smaller clusters",
    )
    agreement: float = Field(
        0.7,
        ge=0.5,
        lt=1,
        description="communities: consensus threshold, share of runs that must join two neighbours",
    )
    n_runs: int = Field(
        20,
        ge=2,
        le=100,
        description="communities: runs, each with another seed and without a tenth of the rows",
    )
    n_keywords: int = Field(
        10, ge=3, le=50, description="keywords of each cluster; a theme whose topics share too few of them is rejected"
    )
    keyword_support: float = Field(
        0.1, ge=0, le=1, description="communities: least share of a cluster's documents, or firms, that use a keyword"
    )
    seed: int = Field(42, ge=0, le=2**32 - 1, description="same input, same seed, same clusters")


@dataclass(frozen=True)
class TopicModelResult:
    """Clusters of n documents, largest first.

    assignments:   (n,) int64 in -1..k-1, -1 for outliers
    probabilities: (n,) float32 in 0..1, membership strength of a document in its cluster; 0 for outliers
    keywords:      k tuples of terms, the best first
    stability:     (k,) float64 in 0..1, how well a cluster comes back under other seeds and without some of the
                   documents; None if not measured
    """

    assignments: np.ndarray
    probabilities: np.ndarray
    keywords: tuple[tuple[str, ...], ...]
    stability: np.ndarray | None = None

    @property
    def sizes(self) -> np.ndarray:
        """(k,) int64, documents in each cluster."""
        return np.bincount(self.assignments[self.assignments >= 0], minlength=len(self.keywords))

    @property
    def labels(self) -> tuple[str, ...]:
        """One short name for each cluster, from its keywords."""
        return tuple(label(words) for words in self.keywords)


class TopicModel(Protocol):
    """Anything that clusters documents given their embeddings."""

    def fit_transform(self, documents: Sequence[Sequence[str]], embeddings: np.ndarray) -> TopicModelResult:
        """Clusters of the documents.

        documents:  the terms of each, repeated as often as they occur
        embeddings: (n, d) float32 of unit length, row i belongs to document i
        """
        ...


def nearest_neighbours(embeddings: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest rows of each row by cosine distance, itself first; ties go to the lower row.

    embeddings: (n, d) float32 of unit length    returns: indices (n, k) int32, distances (n, k) float32
    Exact, in float64 rounded to six decimals: the last bits differ between machines and must not decide who is a
    neighbour. Of many rows, float32 first finds the candidates.
    """
    # Without the columns of zeros: shorter vectors are padded.
    rows = np.ascontiguousarray(embeddings[:, embeddings.any(axis=0)])
    n = len(rows)
    indices = np.empty((n, k), np.int32)
    distances = np.empty((n, k), np.float32)
    step = max(1, min(_BLOCK_ROWS, _BLOCK_CELLS // max(n, 1)))
    find = _nearest_of_many if n >= _MANY_ROWS else _nearest

    def fill(start: int) -> None:
        block = slice(start, min(start + step, n))
        indices[block], distances[block] = find(rows, block, k)

    map_in_threads(fill, range(0, n, step), n)
    return indices, distances


def map_in_threads(function: Callable[[T], R], items: Iterable[T], n_rows: int) -> list[R]:
    """`function` of each item, in order; with many rows on all cores.

    The function has to release the interpreter's lock. A firm has few rows and gains nothing: its lane has one core,
    and other lanes have the others.
    """
    if n_rows < _MANY_ROWS:
        return [function(item) for item in items]
    n_threads = min(_MAX_THREADS, len(os.sched_getaffinity(0)))
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(n_threads) as threads:
        return list(threads.map(function, items))


def _nearest(rows: np.ndarray, block: slice, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices and distances of the k nearest rows of a block of rows."""
    n = len(rows)
    away = np.round(np.clip(1 - rows[block].astype(np.float64) @ rows.astype(np.float64).T, 0, 2), 6)
    away[np.arange(len(away)), np.arange(block.start, block.stop)] = _SELF
    ordered = away + np.arange(n) * _places(n)
    nearest = np.argpartition(ordered, k - 1, axis=1)[:, :k] if k < n else np.tile(np.arange(n), (len(away), 1))
    order = np.argsort(np.take_along_axis(ordered, nearest, axis=1), axis=1)
    indices = np.take_along_axis(nearest, order, axis=1)
    return indices, np.clip(np.take_along_axis(away, indices, axis=1), 0, None)


def _nearest_of_many(rows: np.ndarray, block: slice, k: int) -> tuple[np.ndarray, np.ndarray]:
    """As `_nearest`, with candidates found in float32. Falls back to `_nearest` if there are too many candidates, as
    when firms repeat each other.
    """
    n, d = rows.shape
    cosines = rows[block] @ rows.T
    cosines[np.arange(len(cosines)), np.arange(block.start, block.stop)] = -_SELF
    # The k-th largest of the maxima of groups is at most the k-th largest of all, and cheaper to find.
    n_groups = min(_GROUPS_PER_NEIGHBOUR * k, n)
    most = cosines[:, :n_groups].copy()
    for start in range(n_groups, n - n_groups + 1, n_groups):
        np.maximum(most, cosines[:, start : start + n_groups], out=most)
    least = np.partition(most, n_groups - k, axis=1)[:, n_groups - k]
    # Twice the error of float32, and the last decimal.
    places, others = np.nonzero(cosines >= (least - (2 * d * 2.0**-24 + 2e-6))[:, None])
    if len(places) > _MAX_CANDIDATES * len(cosines) * k:
        return _nearest(rows, block, k)
    exact = np.einsum("ij,ij->i", rows[block][places], rows[others], dtype=np.float64, casting="same_kind")
    away = np.round(np.clip(1 - exact, 0, 2), 6)
    away[others == places + block.start] = _SELF
    order = np.lexsort((away + others * _places(n), places))
    first = np.searchsorted(places, np.arange(len(cosines)))
    chosen = order[first[:, None] + np.arange(k)]
    return others[chosen], np.clip(away[chosen], 0, None)


def _places(n: int) -> float:
    """Tie break per row: far below the last decimal that counts, and enough to let the lower of two equal rows win."""
    return 1e-7 / max(n, 1)


def find_keywords(
    documents: Sequence[Sequence[str]],
    assignments: np.ndarray,
    n_terms: int,
    support: float,
    groups: Sequence[Hashable] | None = None,
) -> tuple[tuple[str, ...], ...]:
    """The n terms that set each cluster apart from the others.

    By class-based TF-IDF (Grootendorst 2022, arXiv:2203.05794), times the root of the cluster's share of all mentions
    of the term: in the few documents of a firm, rarity alone hardly separates clusters.

    assignments: (n,) int in -1..k-1, one a document; terms of outliers count among all mentions
    support:     least share of a cluster's groups that must use a term, and at least two if it has several groups
    groups:      the group of each document, such as its firm; None: each document is a group, and a cluster whose
                 documents share no term may take any
    returns:     k tuples, the best first; of equals the longer term, else the alphabet decides
    """
    k = int(assignments.max(initial=-1)) + 1
    counts: list[Counter[str]] = [Counter() for _ in range(k)]
    users: list[dict[str, set[Hashable]]] = [{} for _ in range(k)]  # Term -> groups that use it.
    present: list[set[Hashable]] = [set() for _ in range(k)]
    everywhere: Counter[str] = Counter()
    group_of = range(len(documents)) if groups is None else groups
    for terms, cluster, group in zip(documents, assignments.tolist(), group_of, strict=True):
        everywhere.update(terms)
        if cluster >= 0:
            counts[cluster].update(terms)
            present[cluster].add(group)
            for term in set(terms):
                users[cluster].setdefault(term, set()).add(group)
    average = sum(map(Counter.total, counts)) / max(k, 1)
    found = []
    for cluster in range(k):
        needed = max(min(2, len(present[cluster])), support * len(present[cluster]))
        total = counts[cluster].total()
        supported: Mapping[str, int] = {
            term: n for term, n in counts[cluster].items() if len(users[cluster][term]) >= needed
        }
        if groups is None and not supported:
            supported = counts[cluster]
        scores = {
            term: n / total * math.log(1 + average / everywhere[term]) * math.sqrt(n / everywhere[term])
            for term, n in supported.items()
        }
        ranked = sorted(scores, key=lambda term: (-round(scores[term], 12), -len(term.split()), term))
        found.append(tuple(ranked[:n_terms]))
    return tuple(found)


def label(keywords: Sequence[str], n_terms: int = 3) -> str:
    """A short name from the first keywords, `wage inflation, hiring, overtime`; `unnamed` where there is none.

    No word appears twice, with or without a final s. A pair is preferred to a word that it contains.
    """
    chosen: list[str] = []
    seen: set[str] = set()
    for keyword in keywords:
        pairs = (longer for longer in keywords if " " in longer and keyword in longer.split())
        term = next((each for each in pairs if seen.isdisjoint(_stems(each))), keyword)
        if len(chosen) < n_terms and seen.isdisjoint(_stems(term)):
            chosen.append(term)
            seen.update(_stems(term))
    return ", ".join(chosen) or "unnamed"


def _stems(term: str) -> set[str]:
    return {word.rstrip("s") for word in term.split()}
