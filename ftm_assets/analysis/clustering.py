"""Clusters of unit vectors and the words that tell them apart: what topic models take, give and are steered by."""

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
_BLOCK_ROWS, _BLOCK_CELLS = 1024, 2**24
_MANY_ROWS = 4096
_MOST_THREADS = 8  # Each holds a block of cosines, or a graph.
_GROUPS_A_NEIGHBOUR = 20
_MOST_CANDIDATES = 8  # Rows that are looked at exactly, by the number of neighbours.
_ITSELF = -1.0


class ClusterSettings(BaseModel, frozen=True):
    """What steers clustering and naming; each level has a class of its own with its own defaults."""

    model: Literal["communities", "bertopic"] = Field(
        "communities", description="consensus of graph communities, or BERTopic (UMAP and HDBSCAN)"
    )
    n_neighbors: int = Field(12, ge=2, le=200, description="communities: nearest neighbours that a row is joined to")
    granularity: float = Field(
        0.2, gt=0, le=10, description="communities: resolution over the square root of the rows; more, smaller clusters"
    )
    agreement: float = Field(
        0.7, ge=0.5, lt=1, description="communities: share of runs above which two neighbours belong together"
    )
    n_runs: int = Field(
        20, ge=2, le=100, description="communities: runs, each with another seed and without a tenth of the rows"
    )
    n_keywords: int = Field(
        10, ge=3, le=50, description="keywords kept for each cluster; themes are also judged by them"
    )
    keyword_support: float = Field(
        0.1, ge=0, le=1, description="communities: least share of a cluster's documents, or firms, that say a keyword"
    )
    seed: int = Field(42, ge=0, le=2**32 - 1, description="same input, same seed, same clusters")


@dataclass(frozen=True)
class TopicModelResult:
    """Clusters of n documents, largest first.

    assignments:   (n,) int64 in -1..k-1, -1 for outliers
    probabilities: (n,) float32 in 0..1, how firmly a document belongs to its cluster; 0 for outliers
    keywords:      k tuples of terms, most telling first
    stability:     (k,) float64 in 0..1, how well a cluster comes back under other seeds and without some of the
                   documents; None where nobody looked
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

        documents:  the terms of each, as often as it says them
        embeddings: (n, d) float32 of unit length, row i belongs to document i
        """
        ...


def nearest_neighbours(embeddings: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest rows of each row by cosine distance, itself first; ties go to the lower row.

    embeddings: (n, d) float32 of unit length    returns: indices (n, k) int32, distances (n, k) float32
    Exact, in float64 rounded to six decimals: the last bits differ between machines and must not decide who is a
    neighbour. Of many rows, float32 first tells which may be among the nearest.
    """
    # Columns of nothing but zeros: shorter vectors are padded.
    rows = np.ascontiguousarray(embeddings[:, embeddings.any(axis=0)])
    n = len(rows)
    indices = np.empty((n, k), np.int32)
    distances = np.empty((n, k), np.float32)
    step = max(1, min(_BLOCK_ROWS, _BLOCK_CELLS // max(n, 1)))
    find = _nearest_of_many if n >= _MANY_ROWS else _nearest

    def fill(start: int) -> None:
        block = slice(start, min(start + step, n))
        indices[block], distances[block] = find(rows, block, k)

    side_by_side(fill, range(0, n, step), n)
    return indices, distances


def side_by_side(act: Callable[[T], R], on: Iterable[T], n_rows: int) -> list[R]:
    """What an action that lets go of the interpreter's lock gives for each, in order; of many rows on all cores.

    Within a firm nothing is gained: its lane has one core, and the other lanes have the others.
    """
    if n_rows < _MANY_ROWS:
        return [act(each) for each in on]
    n_threads = min(_MOST_THREADS, len(os.sched_getaffinity(0)))
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(n_threads) as threads:
        return list(threads.map(act, on))


def _nearest(rows: np.ndarray, block: slice, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices and distances of the k nearest rows of a block of rows."""
    n = len(rows)
    away = np.round(np.clip(1 - rows[block].astype(np.float64) @ rows.astype(np.float64).T, 0, 2), 6)
    away[np.arange(len(away)), np.arange(block.start, block.stop)] = _ITSELF
    ordered = away + np.arange(n) * _places(n)
    nearest = np.argpartition(ordered, k - 1, axis=1)[:, :k] if k < n else np.tile(np.arange(n), (len(away), 1))
    order = np.argsort(np.take_along_axis(ordered, nearest, axis=1), axis=1)
    indices = np.take_along_axis(nearest, order, axis=1)
    return indices, np.clip(np.take_along_axis(away, indices, axis=1), 0, None)


def _nearest_of_many(rows: np.ndarray, block: slice, k: int) -> tuple[np.ndarray, np.ndarray]:
    """As `_nearest`, which it is where too many rows are as near as the nearest, as when firms repeat each other."""
    n, d = rows.shape
    cosines = rows[block] @ rows.T
    cosines[np.arange(len(cosines)), np.arange(block.start, block.stop)] = -_ITSELF
    # The k-th largest of the maxima of groups is at most the k-th largest of all, and cheaper to find.
    n_groups = min(_GROUPS_A_NEIGHBOUR * k, n)
    most = cosines[:, :n_groups].copy()
    for start in range(n_groups, n - n_groups + 1, n_groups):
        np.maximum(most, cosines[:, start : start + n_groups], out=most)
    least = np.partition(most, n_groups - k, axis=1)[:, n_groups - k]
    # By how much float32 may be off, twice, and the last decimal.
    places, others = np.nonzero(cosines >= (least - (2 * d * 2.0**-24 + 2e-6))[:, None])
    if len(places) > _MOST_CANDIDATES * len(cosines) * k:
        return _nearest(rows, block, k)
    exact = np.einsum("ij,ij->i", rows[block][places], rows[others], dtype=np.float64, casting="same_kind")
    away = np.round(np.clip(1 - exact, 0, 2), 6)
    away[others == places + block.start] = _ITSELF
    order = np.lexsort((away + others * _places(n), places))
    first = np.searchsorted(places, np.arange(len(cosines)))
    chosen = order[first[:, None] + np.arange(k)]
    return others[chosen], np.clip(away[chosen], 0, None)


def _places(n: int) -> float:
    """Per row far below the last decimal that counts, and enough to let the lower of two equals win."""
    return 1e-7 / max(n, 1)


def find_keywords(
    documents: Sequence[Sequence[str]],
    assignments: np.ndarray,
    n_terms: int,
    support: float,
    groups: Sequence[Hashable] | None = None,
) -> tuple[tuple[str, ...], ...]:
    """The n terms that tell each cluster from the others.

    By class-based TF-IDF (Grootendorst 2022, arXiv:2203.05794), times the root of the cluster's part in all mentions of
    the term: in the few documents of a firm, rarity alone tells clusters apart too little.

    assignments: (n,) int in -1..k-1, one a document; outliers count towards what is said everywhere
    support:     least share of a cluster's groups that must say a term, and at least two of them where it has more
    groups:      who speaks in each document; None: each stands alone, and where no term is shared all count
    returns:     k tuples, most telling first; of equals the longer one says more, else the alphabet decides
    """
    k = int(assignments.max(initial=-1)) + 1
    counts: list[Counter[str]] = [Counter() for _ in range(k)]
    speakers: list[dict[str, set[Hashable]]] = [{} for _ in range(k)]
    present: list[set[Hashable]] = [set() for _ in range(k)]
    everywhere: Counter[str] = Counter()
    speaking = range(len(documents)) if groups is None else groups
    for terms, cluster, group in zip(documents, assignments.tolist(), speaking, strict=True):
        everywhere.update(terms)
        if cluster >= 0:
            counts[cluster].update(terms)
            present[cluster].add(group)
            for term in set(terms):
                speakers[cluster].setdefault(term, set()).add(group)
    average = sum(map(Counter.total, counts)) / max(k, 1)
    found = []
    for cluster in range(k):
        needed = max(min(2, len(present[cluster])), support * len(present[cluster]))
        total = counts[cluster].total()
        said: Mapping[str, int] = {
            term: n for term, n in counts[cluster].items() if len(speakers[cluster][term]) >= needed
        }
        if groups is None and not said:
            said = counts[cluster]
        scores = {
            term: n / total * math.log(1 + average / everywhere[term]) * math.sqrt(n / everywhere[term])
            for term, n in said.items()
        }
        ranked = sorted(scores, key=lambda term: (-round(scores[term], 12), -len(term.split()), term))
        found.append(tuple(ranked[:n_terms]))
    return tuple(found)


def label(keywords: Sequence[str], n_terms: int = 3) -> str:
    """A short name from the first keywords, `wage inflation, hiring, overtime`; `unnamed` where there is none.

    No word comes twice, be it with an s, and of a word and a pair that holds it the pair is taken.
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
