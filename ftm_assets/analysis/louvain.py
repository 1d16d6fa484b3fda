"""Communities of a weighted graph by the Louvain algorithm (Blondel et al. 2008, arXiv:0803.0476).

The same communities as scikit-network's `Louvain` with modularity, shuffled rows and that seed, bit by bit
(`ftm_assets_tests/analysis/test_louvain.py`). Its inner loop keeps a C++ set for each row and holds the interpreter's
lock; this one does neither, so that the many runs of a consensus take a third of the time and may go side by side.
"""

import numpy as np
from numba import njit
from scipy.sparse import csr_matrix

# Decision 84.
_LEAST_GAIN = np.float32(1e-3)  # Of modularity, below which a pass over the rows, or a level, is the last.


def louvain(graph: csr_matrix, resolution: float, seed: int) -> np.ndarray:
    """The community of each row, largest first: (n,) int64.

    graph: (n, n) float64, symmetric, weights above 0, at least one of them
    """
    order = np.random.RandomState(seed).permutation(graph.shape[0])
    level = graph[order][:, order]
    degrees = level.dot(np.ones(len(order)))
    weights = degrees / degrees.sum()
    level = level + level.T
    level = level / level.data.sum()
    found = np.arange(len(order))
    while True:
        labels, gain = _move(
            np.arange(level.shape[0]),
            level.indptr,
            level.indices,
            level.data.astype(np.float32),
            weights.astype(np.float32),
            level.diagonal().astype(np.float32),
            np.float32(resolution),
            _LEAST_GAIN,
        )
        labels = np.unique(labels, return_inverse=True)[1]
        found = labels[found]
        members = csr_matrix((np.ones(len(labels), bool), (np.arange(len(labels)), labels)))
        level = members.T.tocsr().dot(level.dot(members))
        weights = members.T.dot(weights)
        if level.shape[0] == 1 or gain <= _LEAST_GAIN:
            break
    communities = np.empty(len(order), np.int64)
    communities[order] = _by_size(found)
    return communities


def _by_size(labels: np.ndarray) -> np.ndarray:
    sizes = np.bincount(labels)
    places = np.empty(len(sizes), np.int64)
    places[np.argsort(-sizes)] = np.arange(len(sizes))
    found: np.ndarray = places[labels]
    return found


@njit(nogil=True)
def _move(
    labels: np.ndarray,
    starts: np.ndarray,
    neighbours: np.ndarray,
    data: np.ndarray,
    weights: np.ndarray,
    loops: np.ndarray,
    resolution: np.float32,
    least_gain: np.float32,
) -> tuple[np.ndarray, np.float32]:
    """Each row in turn to the neighbours' community that gains most modularity, until a pass gains too little.

    All in float32, sums in the order of the rows: of equal gains the lowest label wins.
    """
    two, zero = np.float32(2), np.float32(0)
    held = weights.copy()  # By each community.
    near = np.zeros_like(weights)  # Weight between the row and each community; zero again after the row.
    touched = np.empty(len(neighbours) + 1, np.int64)
    gain = zero
    while True:
        gain_of_pass = zero
        for row in range(len(labels)):
            own = labels[row]
            n_touched = 0
            for edge in range(starts[row], starts[row + 1]):
                label = labels[neighbours[edge]]
                if near[label] == zero:
                    touched[n_touched] = label
                    n_touched += 1
                near[label] += data[edge]
            share = resolution * weights[row]
            lost = two * (near[own] - loops[row])
            lost -= share * (held[own] - weights[row])
            lost -= share * (held[own] - weights[row])
            most, best = zero, own
            for place in range(n_touched):
                label = touched[place]
                if label != own:
                    gained = two * near[label]
                    gained -= share * held[label]
                    gained -= share * held[label]
                    gained -= lost
                    if gained > most or (gained == most and most > zero and label < best):
                        most, best = gained, label
            for place in range(n_touched):
                near[touched[place]] = zero
            if best != own:
                gain_of_pass += most
                labels[row] = best
                held[own] -= weights[row]
                held[best] += weights[row]
        gain += gain_of_pass
        if gain_of_pass <= least_gain:
            return labels, gain
