import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import hdbscan
import numpy as np
import pytest
import umap
from pydantic import ValidationError

from ftm_assets.analysis import clustering
from ftm_assets.analysis.clustering import (
    BERTopicModel,
    ClusterSettings,
    TopicModelResult,
    label,
    nearest_neighbours,
    reduce,
)
from ftm_assets.analysis.content import content_hash
from ftm_assets.analysis.themes import ThemeSettings
from ftm_assets.analysis.topics import TopicSettings
from ftm_assets.analysis.vectors import unit_rows
from ftm_assets.analysis.words import terms

SUBJECTS = ("freight", "wages", "leases", "tariffs")


def planted(n: int, d: int = 32, spread: float = 0.2) -> tuple[list[str], np.ndarray]:
    """Documents about four subjects in turn, and vectors scattered around a direction for each."""
    chance = np.random.default_rng(3)
    centres = unit_rows(chance.normal(size=(len(SUBJECTS), d)))
    subjects = np.arange(n) % len(SUBJECTS)
    vectors = unit_rows(centres[subjects] + chance.normal(scale=spread / d**0.5, size=(n, d)))
    return [f"{SUBJECTS[subject]} costs number{i % 7}" for i, subject in enumerate(subjects)], vectors


def model(settings: ClusterSettings | None = None, min_cluster_size: int = 6) -> BERTopicModel:
    return BERTopicModel(settings or TopicSettings(), min_cluster_size, str.split)


def fit(documents: Sequence[str], vectors: np.ndarray, n: int | None = None) -> TopicModelResult:
    return model().fit_transform(list(documents)[:n], vectors[:n])


@pytest.fixture(scope="module")
def found() -> TopicModelResult:
    """Clusters of eighty planted documents."""
    return fit(*planted(80))


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Any]]:
    """What UMAP and HDBSCAN are built with."""
    built: dict[str, dict[str, Any]] = {}

    def recorded(name: str, step: Callable[..., Any]) -> Callable[..., Any]:
        def build(**options: Any) -> Any:
            built[name] = options
            return step(**options)

        return build

    monkeypatch.setattr(umap, "UMAP", recorded("umap", umap.UMAP))
    monkeypatch.setattr(hdbscan, "HDBSCAN", recorded("hdbscan", hdbscan.HDBSCAN))
    return built


# --- neighbours


def test_a_row_is_its_own_nearest_neighbour_and_ties_go_to_the_lower_row() -> None:
    rows = np.array([[0, 1], [1, 0], [1, 0], [1, 0]], np.float32)
    indices, distances = nearest_neighbours(rows, 3)
    assert indices.tolist() == [[0, 1, 2], [1, 2, 3], [2, 1, 3], [3, 1, 2]]
    assert distances.tolist() == [[0, 1, 1], [0, 0, 0], [0, 0, 0], [0, 0, 0]]
    assert indices.dtype == np.int32
    assert distances.dtype == np.float32


def test_neighbours_come_nearest_first() -> None:
    angles = np.radians([0, 40, 10, 180])
    rows = np.column_stack([np.cos(angles), np.sin(angles)]).astype(np.float32)
    indices, distances = nearest_neighbours(rows, 4)
    assert indices[0].tolist() == [0, 2, 1, 3]
    assert np.allclose(distances[0], 1 - np.cos(angles[[0, 2, 1, 3]]), atol=1e-6)


def test_differences_beyond_the_sixth_decimal_decide_nothing() -> None:
    rows = np.array([[1, 0], [0.6, 0.8], [0.6 + 1e-7, 0.8]])
    assert nearest_neighbours(rows, 3)[0][0].tolist() == [0, 1, 2]


def test_many_blocks_agree_with_one(monkeypatch: pytest.MonkeyPatch) -> None:
    _, vectors = planted(1300)
    many = nearest_neighbours(vectors, 15)
    monkeypatch.setattr(clustering, "_BLOCK_ROWS", 10_000)
    one = nearest_neighbours(vectors, 15)
    assert np.array_equal(many[0], one[0])
    assert np.array_equal(many[1], one[1])
    assert many[0][:, 0].tolist() == list(range(1300))


# --- the same input, the same clusters


def test_the_same_input_gives_the_same_clusters(found: TopicModelResult) -> None:
    again = fit(*planted(80))
    assert again.assignments.tolist() == found.assignments.tolist()
    assert again.probabilities.tolist() == found.probabilities.tolist()
    assert again.keywords == found.keywords


def test_the_order_of_numbers_drawn_before_does_not_matter() -> None:
    _, vectors = planted(40)
    first = reduce(vectors, TopicSettings())
    np.random.seed(7)
    np.random.rand(100)
    assert np.array_equal(reduce(vectors, TopicSettings()), first)


def test_another_seed_gives_another_reduction() -> None:
    _, vectors = planted(40)
    assert not np.array_equal(reduce(vectors, TopicSettings(seed=1)), reduce(vectors, TopicSettings(seed=2)))


def test_a_fresh_process_with_other_threads_gives_the_same_clusters() -> None:
    program = """
from ftm_assets.analysis.content import content_hash
from ftm_assets_tests.analysis.test_clustering import fit, planted
found = fit(*planted(450, d=384, spread=1.5))
print(content_hash(found.assignments, found.probabilities, found.keywords))
"""
    threads = "1" if (os.cpu_count() or 1) > 1 else "2"
    names = "OMP_NUM_THREADS OPENBLAS_NUM_THREADS MKL_NUM_THREADS NUMBA_NUM_THREADS".split()
    fresh = subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, **dict.fromkeys(names, threads)},
        stdout=subprocess.PIPE,
        text=True,
    )
    here = fit(*planted(450, d=384, spread=1.5))
    there, _ = fresh.communicate()
    assert there.strip() == content_hash(here.assignments, here.probabilities, here.keywords)
    assert len(here.sizes) > 1


# --- the clusters


def test_no_cluster_mixes_subjects_and_few_documents_are_left_out(found: TopicModelResult) -> None:
    subjects = [set(found.assignments[start :: len(SUBJECTS)].tolist()) - {-1} for start in range(len(SUBJECTS))]
    assert sum(map(len, subjects)) == len(set.union(*subjects)) == len(found.sizes)
    assert found.sizes.sum() > 0.9 * 80


def test_a_cluster_is_named_by_what_only_it_says(found: TopicModelResult) -> None:
    assert {words[0] for words in found.keywords} == set(SUBJECTS)
    assert found.labels == tuple(label(words) for words in found.keywords)


def test_the_largest_cluster_comes_first_and_noise_is_firm_in_nothing() -> None:
    documents, vectors = planted(120)
    keep = [i for i in range(120) if i % 4 < 2 or i < 60]
    noise = unit_rows(np.random.default_rng(5).normal(size=(10, vectors.shape[1])))
    found = fit([*(documents[i] for i in keep), *["alone"] * 10], np.concatenate([vectors[keep], noise]))
    sizes = found.sizes.tolist()
    assert sizes == sorted(sizes, reverse=True)
    assert sum(sizes) == (found.assignments >= 0).sum() < len(keep) + 10
    assert found.assignments.dtype == np.int64
    assert found.probabilities.dtype == np.float32
    assert not found.probabilities[found.assignments < 0].any()
    assert (found.probabilities[found.assignments >= 0] > 0).all()
    assert found.probabilities.max() <= 1


def test_keywords_never_span_two_documents() -> None:
    _, vectors = planted(40)
    with_pairs = BERTopicModel(TopicSettings(), 6, partial(terms, names=()))
    found = with_pairs.fit_transform([f"rail{i % 4}x barge{i % 4}x" for i in range(40)], vectors)
    assert set(found.keywords) == {(f"rail{i}x barge{i}x", f"barge{i}x", f"rail{i}x") for i in range(4)}


@pytest.mark.parametrize("term", ["r&d", "firm's", "year-over-year", "o\u2019brien", "covid-19", "café", "u.s.", "5g"])
def test_a_keyword_survives_as_it_was_cut(term: str) -> None:
    _, vectors = planted(40)
    found = fit([f"{term} {SUBJECTS[i % 4]}" for i in range(40)], vectors)
    assert all(term in words for words in found.keywords)


def test_of_equally_telling_terms_the_longer_one_comes_first_then_the_alphabet_decides() -> None:
    _, vectors = planted(40)
    cut = BERTopicModel(TopicSettings(), 6, str.splitlines)
    documents = ["zinc\nsupply\nchain\nsupply chain", "b\na"] * 20
    found = cut.fit_transform(documents, vectors[[i - i % 4 + i % 2 for i in range(40)]])
    assert set(found.keywords) == {("supply chain", "chain", "supply", "zinc"), ("a", "b")}


@pytest.mark.parametrize("documents", [[""] * 40, ["cost"] * 40, ["freight", "", "", "wages"] * 10])
def test_too_few_words_are_no_reason_to_fail(documents: list[str]) -> None:
    _, vectors = planted(40)
    found = fit(documents, vectors)
    assert found.sizes.tolist() == [10, 10, 10, 10]
    said = [document for document in documents[:4] if document]
    assert sorted(words[0] for words in found.keywords if words) == sorted(said)
    assert found.labels.count("unnamed") == 4 - len(said)


# --- few or equal documents


@pytest.mark.parametrize("settings", [TopicSettings(), ThemeSettings()])
@pytest.mark.parametrize("n", range(4, 21))
def test_few_documents_do_not_crash(n: int, settings: ClusterSettings) -> None:
    documents, vectors = planted(n)
    found = model(settings, min_cluster_size=2).fit_transform(documents, vectors)
    assert found.assignments.shape == found.probabilities.shape == (n,)
    assert len(found.sizes) == len(found.keywords) == len(found.labels)


@pytest.mark.parametrize("n", [4, 20, 80])
def test_identical_documents_do_not_crash(n: int) -> None:
    found = fit(["the same words"] * n, unit_rows(np.ones((n, 32))))
    assert found.assignments.shape == (n,)


@pytest.mark.parametrize("n", [0, 1, 3])
def test_what_nothing_can_reduce_is_refused(n: int) -> None:
    documents, vectors = planted(8)
    with pytest.raises(ValueError, match=f"{n} documents are too few to cluster"):
        fit(documents, vectors, n)


def test_the_reduced_space_has_fewer_dimensions_than_documents() -> None:
    _, vectors = planted(6)
    assert reduce(vectors, TopicSettings()).shape == (6, 4)
    _, vectors = planted(40)
    reduced = reduce(vectors, TopicSettings())
    assert reduced.shape == (40, 10)
    assert reduced.dtype == np.float32


# --- the settings are used


@pytest.mark.parametrize(
    "settings",
    [
        TopicSettings(),
        ThemeSettings(),
        TopicSettings(
            n_neighbors=7,
            n_components=3,
            min_dist=0.2,
            n_epochs=20,
            min_samples=4,
            cluster_selection="eom",
            n_keywords=4,
            seed=9,
        ),
        ThemeSettings(
            n_neighbors=8,
            n_components=4,
            min_dist=0.3,
            n_epochs=30,
            min_samples=5,
            cluster_selection="leaf",
            n_keywords=5,
            seed=10,
        ),
    ],
)
def test_every_setting_of_either_level_reaches_its_step(
    settings: ClusterSettings, steps: dict[str, dict[str, Any]]
) -> None:
    documents, vectors = planted(80)
    found = model(settings, min_cluster_size=11).fit_transform(documents, vectors)
    indices, distances = steps["umap"].pop("precomputed_knn")
    assert indices.shape == distances.shape == (80, settings.n_neighbors)
    assert steps["umap"] == {
        "n_neighbors": settings.n_neighbors,
        "n_components": settings.n_components,
        "min_dist": settings.min_dist,
        "n_epochs": settings.n_epochs,
        "random_state": settings.seed,
        "init": "pca",
        "metric": "cosine",
        "n_jobs": 1,
        "force_approximation_algorithm": True,
    }
    assert steps["hdbscan"] == {
        "min_cluster_size": 11,
        "min_samples": settings.min_samples,
        "cluster_selection_method": settings.cluster_selection,
        "core_dist_n_jobs": 1,
    }
    assert max(map(len, found.keywords)) == min(settings.n_keywords, 9)


def test_the_neighbours_that_are_given_are_the_ones_that_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    _, vectors = planted(40)
    true = reduce(vectors, TopicSettings())
    wrong = nearest_neighbours(unit_rows(np.random.default_rng(0).normal(size=(40, 8))), 15)
    monkeypatch.setattr(clustering, "nearest_neighbours", lambda embeddings, k: wrong)
    assert not np.array_equal(reduce(vectors, TopicSettings()), true)


def test_the_two_levels_have_defaults_of_their_own() -> None:
    common = set(ClusterSettings.model_fields)
    topics, themes = TopicSettings().model_dump(include=common), ThemeSettings().model_dump(include=common)
    assert {name for name in common if topics[name] != themes[name]} == {
        "n_neighbors",
        "n_components",
        "min_dist",
        "cluster_selection",
    }


@pytest.mark.parametrize("level", [TopicSettings, ThemeSettings])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n_neighbors", 1),
        ("n_neighbors", 201),
        ("n_components", 1),
        ("min_dist", -0.1),
        ("min_dist", 1),
        ("n_epochs", 9),
        ("min_samples", 0),
        ("cluster_selection", "best"),
        ("n_keywords", 2),
        ("seed", -1),
    ],
)
def test_settings_outside_their_bounds_are_refused(level: type[ClusterSettings], name: str, value: object) -> None:
    with pytest.raises(ValidationError, match=name):
        level(**{name: value})


# --- labels


@pytest.mark.parametrize(
    ("keywords", "expected"),
    [
        (("wage inflation", "wage", "inflation", "hiring", "overtime", "labor"), "wage inflation, hiring, overtime"),
        (("chain", "supply chain", "supply", "ports"), "chain, supply, ports"),
        (("freight",), "freight"),
        ((), "unnamed"),
    ],
)
def test_a_label_repeats_no_word(keywords: tuple[str, ...], expected: str) -> None:
    assert label(keywords) == expected


def test_a_label_has_as_many_terms_as_asked_for() -> None:
    assert label(("a", "b", "c"), n_terms=2) == "a, b"
