import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from ftm_assets.analysis import communities
from ftm_assets.analysis.clustering import ClusterSettings, TopicModelResult, label
from ftm_assets.analysis.communities import (
    LEFT_OUT,
    N_PARTS,
    CommunityModel,
    consensus,
    largest_first,
    membership_strength,
    neighbour_graph,
    stability,
    warm_up,
)
from ftm_assets.analysis.content_hash import content_hash
from ftm_assets.analysis.themes import ThemeSettings
from ftm_assets.analysis.topics import TopicSettings
from ftm_assets.analysis.vectors import unit_rows
from ftm_assets_tests.analysis.planted import SUBJECTS, planted, subjects_of


def fit(n: int = 80, spread: float = 0.2, d: int = 32, **changes: Any) -> TopicModelResult:
    """Clusters of planted documents; the changes are those of the model."""
    model = {"settings": TopicSettings(), "min_size": 6, **changes}
    return CommunityModel(**model).fit_transform(*planted(n, d, spread))


def digest(found: TopicModelResult) -> str:
    return content_hash(found.assignments, found.probabilities, found.keywords, found.stability)


@pytest.fixture(scope="module")
def found() -> TopicModelResult:
    """Clusters of eighty planted documents, fitted five times more for their stability."""
    return fit(n_refits=5)


@pytest.fixture(scope="module")
def vague() -> TopicModelResult:
    """Clusters of documents that scatter so widely that many stay outside."""
    return fit(200, spread=1.5)


def on_circle(*degrees: float) -> np.ndarray:
    angles = np.radians(degrees)
    return np.column_stack([np.cos(angles), np.sin(angles)]).astype(np.float32)


def path(n: int) -> csr_matrix:
    """Rows in a line, each a neighbour of the one before."""
    rows = np.arange(n - 1)
    return csr_matrix((np.ones(2 * n - 2), (np.r_[rows, rows + 1], np.r_[rows + 1, rows])), (n, n))


def runs_of(*runs: list[int]) -> list[np.ndarray]:
    return [np.array(run) for run in runs]


# --- the graph


def test_neighbours_are_joined_by_the_fourth_power_of_their_cosine() -> None:
    graph = neighbour_graph(on_circle(0, 10, 180, 190), 1).toarray()
    weight = np.cos(np.radians(10)) ** 4
    assert np.allclose(graph, weight * np.array([[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]]), atol=1e-5)


def test_rows_are_joined_where_only_one_of_them_is_near_to_the_other() -> None:
    # The mean is at the origin. The row at 80 is nearest to the one at 30; that one has a nearer neighbour.
    graph = neighbour_graph(on_circle(0, 30, 80, 180, 210, 260), 1)
    assert graph[1, 0] and graph[1, 2]
    assert (graph != graph.T).nnz == 0
    assert not graph.diagonal().any()


def test_what_every_row_says_is_taken_off_first() -> None:
    # All but equal as they are, opposite beside their mean; opposites are neighbours all the same, but barely.
    graph = neighbour_graph(unit_rows(np.array([[10, 1], [10, 1], [10, -1], [10, -1]], float)), 2).toarray()
    assert [graph[0, 1], graph[2, 3]] == pytest.approx([1, 1], abs=1e-5)
    assert 0 < graph[0, 2] < 1e-9


def test_where_there_are_fewer_rows_than_neighbours_all_are_joined() -> None:
    assert neighbour_graph(on_circle(0, 90, 200), 12).nnz == 3 * 2


def test_a_run_gives_communities_to_who_is_present_and_has_neighbours() -> None:
    line = path(7).tolil()
    line[3, 2] = line[2, 3] = 0  # 0-1-2 3-4-5-6
    found = communities.communities(line.tocsr(), np.array([1, 1, 1, 1, 1, 1, 0], bool), 1, seed=1)
    assert found[0] == found[1] == found[2] != found[3] == found[4] == found[5]
    assert found[6] == -1
    nobody = communities.communities(line.tocsr(), np.arange(7) == 2, 1, seed=1)
    assert nobody.tolist() == [-1] * 7


# --- what the runs agree on


def test_neighbours_belong_together_where_most_runs_say_so() -> None:
    runs = runs_of([0, 0, 1, 1], [5, 5, 5, 5], [0, 0, 1, 2])
    assert consensus(path(4), runs, 0.5).tolist() == [0, 0, 1, 1]
    assert consensus(path(4), runs, 0.3).tolist() == [0, 0, 0, 0]
    assert consensus(path(4), runs, 0.7).tolist() == [0, 0, 1, 2]


def test_the_share_of_runs_has_to_be_above_the_agreement() -> None:
    runs = runs_of([0, 0], [0, 0], [0, 0], [0, 1])
    assert consensus(path(2), runs, 0.74).tolist() == [0, 0]
    assert consensus(path(2), runs, 0.75).tolist() == [0, 1]


def test_a_run_that_left_one_of_the_two_out_has_no_say() -> None:
    assert consensus(path(2), runs_of([0, 0], [0, -1], [-1, 0], [-1, -1]), 0.75).tolist() == [0, 0]
    assert consensus(path(2), runs_of([0, -1], [-1, -1]), 0.75).tolist() == [0, 1]


def test_rows_that_are_no_neighbours_are_not_asked_about() -> None:
    assert consensus(csr_matrix((3, 3)), runs_of([0, 0, 0]), 0.5).tolist() == [0, 1, 2]


def test_clusters_are_numbered_by_size_then_by_their_first_row_and_small_ones_are_outliers() -> None:
    clusters = largest_first(np.array([5, 5, 9, 9, 9, 7, 2, 2]), 2)
    assert clusters.tolist() == [1, 1, 0, 0, 0, -1, 2, 2]
    assert clusters.dtype == np.int64
    assert largest_first(np.array([5, 5, 9, 9, 9]), 4).tolist() == [-1] * 5


def test_a_row_is_as_firm_as_the_runs_in_which_it_stays_with_its_cluster() -> None:
    clusters = np.array([0, 0, 0, -1])
    held = membership_strength(clusters, runs_of([0, 0, 1, 1], [0, 0, 0, 0]))
    assert held.tolist() == [1, 1, 0.5, 0]
    assert held.dtype == np.float32


def test_a_run_that_left_a_row_out_does_not_make_it_less_firm() -> None:
    assert membership_strength(np.array([0, 0, 0]), runs_of([0, 0, -1], [1, 1, 1], [-1, -1, -1])).tolist() == [1, 1, 1]
    assert membership_strength(np.array([0, 0]), runs_of([-1, 0])).tolist() == [0, 1]


# --- stability


CLUSTERS = np.array([0, 0, 0, 0, 1, 1, -1, -1])


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ([0, 0, 0, 0, 1, 1, -1, -1], [1, 1]),
        ([1, 1, 1, 1, 0, 0, -1, -1], [1, 1]),  # Other numbers.
        ([0, 0, 1, 1, 2, 2, -1, -1], [0.5, 1]),  # Halves: each is half of it.
        ([0, 0, 0, 0, 0, 0, -1, -1], [4 / 6, 2 / 6]),
        ([0, 0, 0, 0, 1, 1, 1, 1], [1, 0.5]),  # Outliers came in.
        ([-1] * 8, [0, 0]),
        ([0, 0, LEFT_OUT, LEFT_OUT, 1, 1, -1, LEFT_OUT], [1, 1]),  # Who was not asked counts nowhere.
        ([0, 1, LEFT_OUT, LEFT_OUT, 2, 2, -1, -1], [0.5, 1]),
    ],
)
def test_a_cluster_is_as_stable_as_the_best_likeness_that_is_found_again(
    other: list[int], expected: list[float]
) -> None:
    assert stability(CLUSTERS, runs_of(other)).tolist() == pytest.approx(expected)


def test_stability_is_the_mean_over_all_refits() -> None:
    refits = runs_of([0, 0, 0, 0, 1, 1, -1, -1], [0, 0, 1, 1, -1, -1, -1, -1])
    assert stability(CLUSTERS, refits).tolist() == [0.75, 0.5]
    assert stability(np.full(8, -1), refits).shape == (0,)


def test_a_refit_that_left_a_whole_cluster_out_tells_nothing_about_it() -> None:
    refits = runs_of([0, 0, 0, 0, LEFT_OUT, LEFT_OUT, -1, -1], [0, 0, 0, 0, 1, 1, -1, -1])
    assert stability(CLUSTERS, refits).tolist() == [1, 1]
    assert stability(CLUSTERS, refits[:1]).tolist() == [1, 0]


def test_clear_clusters_are_stable_and_nobody_looks_without_refits(
    found: TopicModelResult, vague: TopicModelResult
) -> None:
    assert found.stability is not None
    assert found.stability.shape == found.sizes.shape
    assert found.stability.min() > 0.9
    assert vague.stability is None


def test_vague_clusters_are_less_stable_than_clear_ones(found: TopicModelResult) -> None:
    refitted = fit(200, spread=1.5, n_refits=5).stability
    assert found.stability is not None and refitted is not None
    assert 0 <= refitted.min() < refitted.mean() < found.stability.mean() <= 1


# --- the clusters


def test_no_cluster_mixes_subjects_and_few_documents_are_left_out(found: TopicModelResult) -> None:
    subjects = subjects_of(found.assignments)
    assert sum(map(len, subjects)) == len(set.union(*subjects)) == len(found.sizes)
    assert found.sizes.sum() > 0.9 * 80


def test_a_cluster_is_named_by_what_only_it_says(found: TopicModelResult) -> None:
    assert {words[0] for words in found.keywords} == set(SUBJECTS)
    assert found.labels == tuple(label(words) for words in found.keywords)


def test_the_largest_cluster_comes_first_and_outliers_are_firm_in_nothing(vague: TopicModelResult) -> None:
    sizes = vague.sizes.tolist()
    assert len(sizes) > 1 and min(sizes) >= 6
    assert sizes == sorted(sizes, reverse=True)
    assert sum(sizes) == (vague.assignments >= 0).sum() < 200
    assert vague.assignments.dtype == np.int64
    assert vague.probabilities.dtype == np.float32
    assert not vague.probabilities[vague.assignments < 0].any()
    assert (vague.probabilities[vague.assignments >= 0] > 0).all()
    assert vague.probabilities.max() <= 1


@pytest.mark.parametrize("words", [[()] * 4, [("cost",)] * 4, [("freight",), (), (), ("wages",)]])
def test_too_few_words_are_no_reason_to_fail(words: list[tuple[str, ...]]) -> None:
    _, vectors = planted(80)
    found = CommunityModel(TopicSettings(), 6).fit_transform(words * 20, vectors)
    assert subjects_of(found.assignments) == subjects_of(fit().assignments)
    assert found.labels.count("unnamed") == sum(not terms for terms in words) * len(found.sizes) / 4


@pytest.mark.parametrize("settings", [TopicSettings(), ThemeSettings()])
@pytest.mark.parametrize("n", [4, 5, 6, 7, 9, 12, 16, 20])
def test_few_documents_do_not_crash(n: int, settings: ClusterSettings) -> None:
    found = fit(n, settings=settings, min_size=2, groups=[i // 2 for i in range(n)], n_refits=3)
    assert found.assignments.shape == found.probabilities.shape == (n,)
    assert len(found.sizes) == len(found.keywords) == len(found.labels)


@pytest.mark.parametrize("n", [4, 20, 80])
def test_identical_documents_do_not_crash(n: int) -> None:
    vectors = unit_rows(np.ones((n, 32)))
    found = CommunityModel(TopicSettings(), 2, n_refits=2).fit_transform([("same", "words")] * n, vectors)
    assert found.assignments.shape == (n,)
    assert found.stability is not None and np.isfinite(found.stability).all()


@pytest.mark.parametrize("n", [0, 1, 3])
def test_too_few_documents_are_refused(n: int) -> None:
    documents, vectors = planted(8)
    with pytest.raises(ValueError, match=f"{n} documents are too few to cluster"):
        CommunityModel(TopicSettings(), 2).fit_transform(documents[:n], vectors[:n])


# --- the same input, the same clusters


def test_the_same_input_gives_the_same_clusters(found: TopicModelResult) -> None:
    np.random.seed(7)
    np.random.rand(100)
    assert digest(fit(n_refits=5)) == digest(found)


def hard() -> str:
    """What many documents come to that scatter widely and are said by several firms."""
    groups = [i % 30 for i in range(450)]
    return digest(fit(450, spread=1.5, d=384, settings=ThemeSettings(), min_size=5, groups=groups, n_refits=2))


def test_a_fresh_process_with_other_threads_gives_the_same_clusters() -> None:
    program = "from ftm_assets_tests.analysis.test_communities import hard; print(hard())"
    threads = "1" if (os.cpu_count() or 1) > 1 else "2"
    names = ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"]
    fresh = subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, **dict.fromkeys(names, threads), "PYTHONHASHSEED": "7"},
        stdout=subprocess.PIPE,
        text=True,
    )
    here = hard()
    there, _ = fresh.communicate()
    assert there.strip() == here


def test_warming_up_leaves_nothing_behind(found: TopicModelResult) -> None:
    warm_up()
    assert digest(fit(n_refits=5)) == digest(found)


# --- groups


def parts_of(groups: Sequence[int]) -> dict[int, set[int]]:
    """The parts that each group's documents are in."""
    parts = CommunityModel(TopicSettings(), 2, groups)._parts(len(groups))
    return {group: {int(part) for each, part in zip(groups, parts, strict=True) if each == group} for group in groups}


def test_a_group_is_in_one_part_whoever_comes_or_goes() -> None:
    groups = [*range(40), *range(40)]
    before = parts_of(groups)
    assert all(len(parts) == 1 for parts in before.values())
    assert set.union(*before.values()) == set(range(N_PARTS))
    without = [group for group in reversed(groups) if group != 17]
    assert parts_of(without) == {group: parts for group, parts in before.items() if group != 17}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[np.ndarray, float, int]]:
    """Who was present, resolution and seed of each run."""
    calls: list[tuple[np.ndarray, float, int]] = []
    original = communities.communities

    def recorded(graph: csr_matrix, present: np.ndarray, resolution: float, seed: int) -> np.ndarray:
        calls.append((present, resolution, seed))
        return original(graph, present, resolution, seed)

    monkeypatch.setattr(communities, "communities", recorded)
    return calls


def test_a_run_leaves_out_all_documents_of_a_group_or_none(asked: list[tuple[np.ndarray, float, int]]) -> None:
    groups = np.arange(80) % 8
    fit(groups=groups.tolist(), n_refits=2)
    for present, _, _ in asked:
        assert all(len(set(present[groups == group].tolist())) == 1 for group in range(8))
    left_out = {group for present, _, _ in asked[:10] for group in groups[~present].tolist()}
    assert left_out == set(range(8)), "each group is missing once"


def test_without_groups_each_run_leaves_out_another_part_of_the_documents(
    asked: list[tuple[np.ndarray, float, int]],
) -> None:
    fit()
    missing = [np.flatnonzero(~present).tolist() for present, _, _ in asked]
    assert missing == [list(range(part, 80, 10)) for part in range(10)] * 2


def test_a_refit_does_without_another_part_and_with_other_seeds(asked: list[tuple[np.ndarray, float, int]]) -> None:
    fit(n_refits=3)
    assert len(asked) == 20 * 4
    assert len({seed for _, _, seed in asked}) == 80
    for refit in range(3):
        of_refit = [present for present, _, _ in asked[20 * (refit + 1) : 20 * (refit + 2)]]
        assert not any(present[refit::10].any() for present in of_refit)
    assert {resolution for _, resolution, _ in asked[20:]} == {TopicSettings().granularity * 72**0.5}


@pytest.mark.parametrize("n", [12, 50])
@pytest.mark.parametrize("spread", [0.0, 0.3])
def test_what_is_said_again_and_again_is_one_cluster(n: int, spread: float) -> None:
    # Its members are much nearer to each other than those of the other clusters.
    chance = np.random.default_rng(0)
    subjects = unit_rows(chance.normal(size=(28, 384)))
    others = subjects[np.arange(400) % 28] + chance.normal(scale=0.95 / 384**0.5, size=(400, 384))
    repeated = unit_rows(chance.normal(size=(1, 384))) + chance.normal(scale=spread / 384**0.5, size=(n, 384))
    vectors = unit_rows(np.concatenate([others, repeated]))
    found = CommunityModel(TopicSettings(), 6).fit_transform([("term",)] * len(vectors), vectors).assignments
    [cluster] = set(found[400:].tolist())
    assert cluster >= 0
    assert (found == cluster).sum() == n


def test_a_keyword_of_one_group_alone_names_no_cluster_of_several() -> None:
    documents, vectors = planted(80)
    acme = [(*terms, "acme", "acme") if i < 40 else terms for i, terms in enumerate(documents)]
    groups = [i // 40 for i in range(80)]
    of_each = CommunityModel(TopicSettings(), 6).fit_transform(acme, vectors)
    of_two = CommunityModel(TopicSettings(), 6, groups).fit_transform(acme, vectors)
    assert all("acme" in words for words in of_each.keywords)
    assert not any("acme" in words for words in of_two.keywords)


# --- the settings are used


@pytest.mark.parametrize("settings", [TopicSettings(), ThemeSettings(n_runs=4, granularity=0.5, seed=3)])
def test_seed_runs_and_granularity_reach_the_runs(
    settings: ClusterSettings, asked: list[tuple[np.ndarray, float, int]]
) -> None:
    fit(settings=settings)
    assert [seed for _, _, seed in asked] == [settings.seed * settings.n_runs + run for run in range(settings.n_runs)]
    assert {resolution for _, resolution, _ in asked} == {settings.granularity * 80**0.5}


def test_the_largest_seed_is_no_reason_to_fail(asked: list[tuple[np.ndarray, float, int]]) -> None:
    fit(settings=TopicSettings(seed=2**32 - 1), n_refits=2)
    assert all(0 <= seed < 2**32 for _, _, seed in asked)


def _same_keywords(found: TopicModelResult) -> object:
    return found.keywords


def _same_clusters(found: TopicModelResult) -> object:
    return found.assignments.tolist(), found.probabilities.tolist()


@pytest.mark.parametrize(
    ("change", "outcome"),
    [
        ({"n_neighbors": 5}, _same_clusters),
        ({"granularity": 0.6}, _same_clusters),
        ({"agreement": 0.95}, _same_clusters),
        ({"n_runs": 4}, _same_clusters),
        ({"seed": 43}, _same_clusters),
        ({"n_keywords": 3}, _same_keywords),
        ({"keyword_support": 0.5}, _same_keywords),
    ],
)
def test_every_setting_changes_something(
    change: dict[str, Any], outcome: Callable[[TopicModelResult], object], vague: TopicModelResult
) -> None:
    assert outcome(fit(200, spread=1.5, settings=TopicSettings(**change))) != outcome(vague)


def test_higher_agreement_and_larger_least_size_leave_more_outside(vague: TopicModelResult) -> None:
    strict = fit(200, spread=1.5, settings=TopicSettings(agreement=0.95))
    assert strict.sizes.sum() < vague.sizes.sum()
    large = fit(200, spread=1.5, min_size=int(vague.sizes.max()))
    assert large.sizes.tolist() == [n for n in vague.sizes.tolist() if n == vague.sizes.max()]


def test_finer_granularity_gives_more_clusters() -> None:
    coarse, fine = (fit(200, min_size=2, settings=TopicSettings(granularity=value)) for value in (0.05, 0.5))
    assert len(coarse.sizes) == 4 < len(fine.sizes)
