"""Clusters as communities of a graph of nearest neighbours: the consensus of many runs.

Within each run, the Louvain algorithm (Blondel et al. 2008, arXiv:0803.0476) divides the graph. Runs differ in their
seed and in the rows they leave out. The result is their consensus (evidence accumulation, Fred & Jain 2005): neighbours
that share a community in most of the runs that hold both. Only pairs of neighbours are counted, so memory grows with
the rows and not with their square.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from scipy.sparse import csr_matrix, triu
from scipy.sparse.csgraph import connected_components

from ftm_assets.analysis.clustering import (
    MIN_DOCUMENTS,
    ClusterSettings,
    TopicModelResult,
    find_keywords,
    map_in_threads,
    nearest_neighbours,
)
from ftm_assets.analysis.vectors import unit_rows

N_PARTS = 10  # A run leaves out one of them.
_ABSENT = -1
LEFT_OUT = -2
_LEAST_WEIGHT = 1e-3  # Of neighbours at any distance.


def warm_up() -> None:
    """Import and compile what a fit needs, so that the next fit in this process, or in a fork of it, starts at once."""
    vectors = unit_rows(np.random.default_rng(0).normal(size=(60, 32)).astype(np.float32))
    CommunityModel(ClusterSettings(), min_size=5).fit_transform([["term"]] * len(vectors), vectors)


@dataclass(frozen=True)
class CommunityModel:
    """A `TopicModel` by consensus over many runs of community detection.

    Deterministic: exact neighbours in float64, every step seeded.

    min_size: fewest documents of a cluster
    groups:   the group of each document, such as its firm. A run leaves out whole groups, and keywords are counted by
              group; None: each document is a group
    n_refits: repetitions that measure the clusters' stability, with other seeds and without about a tenth of the groups
    """

    settings: ClusterSettings
    min_size: int
    groups: Sequence[int] | None = None
    n_refits: int = 0

    def fit_transform(self, documents: Sequence[Sequence[str]], embeddings: np.ndarray) -> TopicModelResult:
        """See `TopicModel`. raises: ValueError with fewer than four documents"""
        n = len(documents)
        if n < MIN_DOCUMENTS:
            raise ValueError(f"{n} documents are too few to cluster")
        settings, parts = self.settings, self._parts(n)
        graph = neighbour_graph(embeddings, settings.n_neighbors)
        runs = self._runs(graph, parts, np.ones(n, bool), settings.seed)
        assignments = largest_first(consensus(graph, runs, settings.agreement), self.min_size)
        refits = []
        # Decision 56: stability is measured by doing it again, not by comparing the runs of the consensus.
        for refit in range(self.n_refits):
            kept = parts != refit % N_PARTS
            reruns = self._runs(graph, parts, kept, settings.seed + 1 + refit)
            refitted = largest_first(consensus(graph, reruns, settings.agreement), self.min_size)
            refits.append(np.where(kept, refitted, LEFT_OUT))
        return TopicModelResult(
            assignments=assignments,
            probabilities=membership_strength(assignments, runs),
            keywords=find_keywords(documents, assignments, settings.n_keywords, settings.keyword_support, self.groups),
            stability=stability(assignments, refits) if refits else None,
        )

    def _runs(self, graph: csr_matrix, parts: np.ndarray, kept: np.ndarray, seed: int) -> list[np.ndarray]:
        resolution = self.settings.granularity * math.sqrt(kept.sum())
        n_runs = self.settings.n_runs

        def divide(run: int) -> np.ndarray:
            return communities(graph, kept & (parts != run % N_PARTS), resolution, (seed * n_runs + run) % 2**32)

        return map_in_threads(divide, range(n_runs), graph.shape[0])

    def _parts(self, n: int) -> np.ndarray:
        """The part of each row, by its group alone: adding or removing a group moves no other."""
        if self.groups is None:
            return np.arange(n) % N_PARTS
        digests = (blake2b(str(group).encode(), digest_size=8).digest() for group in self.groups)
        return np.array([int.from_bytes(digest, "big") % N_PARTS for digest in digests])


def neighbour_graph(embeddings: np.ndarray, n_neighbors: int) -> csr_matrix:
    """Graph that joins rows if one is among the nearest of the other; the weight is the fourth power of their cosine.

    The mean of all rows, which they have in common, is subtracted first (Mu & Viswanath 2018, arXiv:1702.01417). Rows
    whose weights add up to more than the median row's are scaled down towards it. Otherwise rows that are much alike
    would hold most of the graph's weight, and a community may hold only a part of it that shrinks with the resolution.

    embeddings: (n, d) float32 of unit length    returns: (n, n) float64, symmetric, nothing on the diagonal
    """
    n = len(embeddings)
    # Decision 54: what all rows have in common says nothing about any.
    centred = unit_rows(embeddings - embeddings.mean(axis=0, dtype=np.float64))
    indices, distances = nearest_neighbours(centred, min(n_neighbors + 1, n))
    starts = np.repeat(np.arange(n), indices.shape[1] - 1)
    weights = np.maximum(1 - distances[:, 1:].ravel().astype(np.float64), _LEAST_WEIGHT) ** 4
    directed = csr_matrix((weights, (starts, indices[:, 1:].ravel())), (n, n))
    graph = directed.maximum(directed.T).tocoo()
    strength = np.asarray(graph.sum(axis=1)).ravel()
    scale = np.sqrt(np.minimum(1, np.median(strength) / strength))
    return csr_matrix((graph.data * (scale[graph.row] * scale[graph.col]), (graph.row, graph.col)), (n, n))


def communities(graph: csr_matrix, present: np.ndarray, resolution: float, seed: int) -> np.ndarray:
    """The community of each row that is present, -1 for the others: (n,) int32."""
    from ftm_assets.analysis.louvain import louvain

    found = np.full(graph.shape[0], _ABSENT, np.int32)
    rows = np.flatnonzero(present)
    part = graph[rows][:, rows].tocsr()
    if part.nnz:
        found[rows] = louvain(part, resolution, seed)
    return found


# Decision 53: consensus of many runs instead of UMAP and HDBSCAN.
def consensus(graph: csr_matrix, runs: Sequence[np.ndarray], threshold: float) -> np.ndarray:
    """Connected components of the neighbours that share a community in more than this share of the runs: (n,) int32.

    Only runs that hold both neighbours count.
    """
    edges = triu(graph, k=1).tocoo()
    together, held = np.zeros(edges.nnz), np.zeros(edges.nnz)
    for run in runs:
        one, other = run[edges.row], run[edges.col]
        both = (one != _ABSENT) & (other != _ABSENT)
        held += both
        together += both & (one == other)
    joined = together > threshold * np.maximum(held, 1)
    pairs = csr_matrix((joined[joined], (edges.row[joined], edges.col[joined])), graph.shape)
    found: np.ndarray = connected_components(pairs, directed=False)[1]
    return found


def largest_first(found: np.ndarray, min_size: int) -> np.ndarray:
    """Clusters numbered by size, of equals the one with the lower first row; smaller ones are -1: (n,) int64."""
    numbers, first, sizes = np.unique(found, return_index=True, return_counts=True)
    order = np.lexsort((first, -sizes))
    order = order[sizes[order] >= min_size]
    new = np.full(len(numbers), -1, np.int64)
    new[order] = np.arange(len(order))
    return new[np.searchsorted(numbers, found)]


def membership_strength(assignments: np.ndarray, runs: Sequence[np.ndarray]) -> np.ndarray:
    """Share of the runs in which a row is in the community that holds most of its cluster; 0 for outliers.

    Only runs that hold the row count.
    returns: (n,) float32
    """
    k = int(assignments.max(initial=-1)) + 1
    inside, held = np.zeros(len(assignments)), np.zeros(len(assignments))
    for run in runs:
        rows = np.flatnonzero((assignments >= 0) & (run != _ABSENT))
        if len(rows):
            counts = np.zeros((k, run.max() + 1), np.int64)
            np.add.at(counts, (assignments[rows], run[rows]), 1)
            inside[rows] += run[rows] == counts.argmax(axis=1)[assignments[rows]]
            held[rows] += 1
    return (inside / np.maximum(held, 1)).astype(np.float32)


def stability(assignments: np.ndarray, others: Sequence[np.ndarray]) -> np.ndarray:
    """Mean over other clusterings of each cluster's best Jaccard similarity there (Hennig 2007).

    others:  (n,) int each; -1 for outliers, LEFT_OUT for rows that a clustering was made without, which are ignored
    returns: (k,) float64 in 0..1; 0 for a cluster whose rows were all left out everywhere
    """
    k = int(assignments.max(initial=-1)) + 1
    best, n_compared = np.zeros(k), np.zeros(k)
    for other in others:
        given = other != LEFT_OUT
        here, there = assignments[given], other[given]
        inside, clustered = here >= 0, there >= 0
        counts = np.zeros((k, int(there.max(initial=-1)) + 1))
        np.add.at(counts, (here[inside & clustered], there[inside & clustered]), 1)
        sizes = np.bincount(here[inside], minlength=k)[:, None]
        unions = sizes + np.bincount(there[clustered], minlength=counts.shape[1]) - counts
        best += (counts / np.maximum(unions, 1)).max(axis=1, initial=0)
        n_compared += np.where(sizes[:, 0] > 0, 1, 0)
    found: np.ndarray = best / np.maximum(n_compared, 1)
    return found
