import numpy as np
import pytest
from scipy.sparse import csr_matrix
from sknetwork.clustering import Louvain

from ftm_assets.analysis.communities import neighbour_graph
from ftm_assets.analysis.louvain import louvain
from ftm_assets_tests.analysis.planted import planted


def published(graph: csr_matrix, resolution: float, seed: int) -> list[int]:
    """The communities that scikit-network finds."""
    model = Louvain(resolution=resolution, random_state=seed, shuffle_nodes=True)
    found: list[int] = model.fit_predict(graph).tolist()
    return found


@pytest.mark.parametrize(("n", "spread", "resolution"), [(60, 0.2, 1.0), (400, 1.5, 4.0), (2000, 1.0, 3.0)])
def test_the_communities_are_those_of_the_published_library(n: int, spread: float, resolution: float) -> None:
    graph = neighbour_graph(planted(n, 32, spread)[1], 12)
    for seed in range(5):
        assert louvain(graph, resolution, seed).tolist() == published(graph, resolution, seed)


def test_equal_weights_fall_out_as_in_the_published_library() -> None:
    ring = csr_matrix(np.roll(np.eye(30), 1, axis=1) + np.roll(np.eye(30), -1, axis=1))
    for seed in range(5):
        assert louvain(ring, 1.0, seed).tolist() == published(ring, 1.0, seed)


def test_two_groups_without_a_path_between_them_are_two_communities_the_larger_one_first() -> None:
    graph = np.zeros((7, 7))
    graph[:3, :3] = graph[3:, 3:] = 1
    np.fill_diagonal(graph, 0)
    assert louvain(csr_matrix(graph), 1.0, 0).tolist() == [1, 1, 1, 0, 0, 0, 0]


def test_an_edge_is_one_community() -> None:
    assert louvain(csr_matrix([[0.0, 1.0], [1.0, 0.0]]), 1.0, 0).tolist() == [0, 0]
