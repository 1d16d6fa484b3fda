import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ftm_assets.analysis import bertopic_model
from ftm_assets.analysis.bertopic_model import FIRM, QUARTER, BERTopicModel, BERTopicParameters, reduce
from ftm_assets.analysis.clustering import TopicModelResult, label, nearest_neighbours
from ftm_assets.analysis.content_hash import content_hash
from ftm_assets.analysis.themes import ThemeSettings, find_themes
from ftm_assets.analysis.topics import TopicSettings, fit_topics
from ftm_assets.analysis.vectors import unit_rows
from ftm_assets_tests.analysis.planted import SUBJECTS, Documents, planted, subjects_of
from ftm_assets_tests.analysis.test_themes import scattered
from ftm_assets_tests.analysis.test_topics import about


def fit(documents: Documents, vectors: np.ndarray, n: int | None = None) -> TopicModelResult:
    return BERTopicModel(TopicSettings(), FIRM, 6).fit_transform(documents[:n], vectors[:n])


@pytest.fixture(scope="module")
def found() -> TopicModelResult:
    """Clusters of eighty planted documents."""
    return fit(*planted(80))


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Any]]:
    """What UMAP and HDBSCAN are built with."""
    # Here and not above: these imports take three seconds, and every process of the tests reads this file.
    import hdbscan
    import umap

    built: dict[str, dict[str, Any]] = {}

    def recorded(name: str, step: Callable[..., Any]) -> Callable[..., Any]:
        def build(**options: Any) -> Any:
            built[name] = options
            return step(**options)

        return build

    monkeypatch.setattr(umap, "UMAP", recorded("umap", umap.UMAP))
    monkeypatch.setattr(hdbscan, "HDBSCAN", recorded("hdbscan", hdbscan.HDBSCAN))
    return built


# --- the same input, the same clusters


def test_the_same_input_gives_the_same_clusters(found: TopicModelResult) -> None:
    again = fit(*planted(80))
    assert again.assignments.tolist() == found.assignments.tolist()
    assert again.probabilities.tolist() == found.probabilities.tolist()
    assert again.keywords == found.keywords


def test_the_order_of_numbers_drawn_before_does_not_matter() -> None:
    _, vectors = planted(40)
    first = reduce(vectors, FIRM, 42)
    np.random.seed(7)
    np.random.rand(100)
    assert np.array_equal(reduce(vectors, FIRM, 42), first)


def test_another_seed_gives_another_reduction() -> None:
    _, vectors = planted(40)
    assert not np.array_equal(reduce(vectors, FIRM, 1), reduce(vectors, FIRM, 2))


@pytest.mark.slow
def test_a_fresh_process_with_other_threads_gives_the_same_clusters() -> None:
    program = """
from ftm_assets.analysis.content_hash import content_hash
from ftm_assets_tests.analysis.planted import planted
from ftm_assets_tests.analysis.test_bertopic_model import fit
found = fit(*planted(450, d=384, spread=1.5))
print(content_hash(found.assignments, found.probabilities, found.keywords))
"""
    threads = "1" if (os.cpu_count() or 1) > 1 else "2"
    names = ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"]
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


def test_a_firm_can_be_modelled_with_it() -> None:
    found = fit_topics(about(60, ("freight", "wage", "lease")), TopicSettings(model="bertopic"))
    assert {topic.keywords[0].split()[0] for topic in found.topics} == {"freight", "lease", "wage"}


def test_a_quarter_can_be_modelled_with_it() -> None:
    found = find_themes(scattered(), ThemeSettings(model="bertopic"))
    assert {theme.keywords[0].split()[0] for theme in found.themes} == {"wages", "freight", "leases"}
    assert {theme.stability for theme in found.themes} == {None}


def test_no_cluster_mixes_subjects_and_few_documents_are_left_out(found: TopicModelResult) -> None:
    subjects = subjects_of(found.assignments)
    assert sum(map(len, subjects)) == len(set.union(*subjects)) == len(found.sizes)
    assert found.sizes.sum() > 0.9 * 80


def test_a_cluster_is_named_by_what_only_it_says(found: TopicModelResult) -> None:
    assert {words[0] for words in found.keywords} == set(SUBJECTS)
    assert found.labels == tuple(label(words) for words in found.keywords)


def test_the_largest_cluster_comes_first_and_noise_is_firm_in_nothing() -> None:
    documents, vectors = planted(120)
    keep = [i for i in range(120) if i % 4 < 2 or i < 60]
    noise = unit_rows(np.random.default_rng(5).normal(size=(10, vectors.shape[1])))
    found = fit([*(documents[i] for i in keep), *[("alone",)] * 10], np.concatenate([vectors[keep], noise]))
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
    found = fit([(f"rail{i % 4}x", f"barge{i % 4}x", f"rail{i % 4}x barge{i % 4}x") for i in range(40)], vectors)
    assert set(found.keywords) == {(f"rail{i}x barge{i}x", f"barge{i}x", f"rail{i}x") for i in range(4)}


@pytest.mark.parametrize("term", ["r&d", "firm's", "year-over-year", "o\u2019brien", "covid-19", "café", "u.s.", "5g"])
def test_a_keyword_survives_as_it_was_cut(term: str) -> None:
    _, vectors = planted(40)
    found = fit([(term, SUBJECTS[i % 4]) for i in range(40)], vectors)
    assert all(term in words for words in found.keywords)


def test_of_equally_telling_terms_the_longer_one_comes_first_then_the_alphabet_decides() -> None:
    _, vectors = planted(40)
    documents: Documents = [("zinc", "supply", "chain", "supply chain"), ("b", "a")] * 20
    found = fit(documents, vectors[[i - i % 4 + i % 2 for i in range(40)]])
    assert set(found.keywords) == {("supply chain", "chain", "supply", "zinc"), ("a", "b")}


@pytest.mark.parametrize("words", [[()] * 4, [("cost",)] * 4, [("freight",), (), (), ("wages",)]])
def test_too_few_words_are_no_reason_to_fail(words: Documents) -> None:
    _, vectors = planted(40)
    found = fit(words * 10, vectors)
    assert found.sizes.tolist() == [10, 10, 10, 10]
    known_terms = [term for terms in words for term in terms]
    assert sorted(words[0] for words in found.keywords if words) == sorted(known_terms)
    assert found.labels.count("unnamed") == 4 - len(known_terms)


# --- few or equal documents


@pytest.mark.parametrize("parameters", [FIRM, QUARTER])
@pytest.mark.parametrize("n", range(4, 21))
def test_few_documents_do_not_crash(n: int, parameters: BERTopicParameters) -> None:
    found = BERTopicModel(TopicSettings(), parameters, 2).fit_transform(*planted(n))
    assert found.assignments.shape == found.probabilities.shape == (n,)
    assert len(found.sizes) == len(found.keywords) == len(found.labels)


@pytest.mark.parametrize("n", [4, 20, 80])
def test_identical_documents_do_not_crash(n: int) -> None:
    found = fit([("same", "words")] * n, unit_rows(np.ones((n, 32))))
    assert found.assignments.shape == (n,)


@pytest.mark.parametrize("n", [0, 1, 3])
def test_what_nothing_can_reduce_is_refused(n: int) -> None:
    documents, vectors = planted(8)
    with pytest.raises(ValueError, match=f"{n} documents are too few to cluster"):
        fit(documents, vectors, n)


def test_the_reduced_space_has_fewer_dimensions_than_documents() -> None:
    _, vectors = planted(6)
    assert reduce(vectors, FIRM, 42).shape == (6, 4)
    _, vectors = planted(40)
    reduced = reduce(vectors, FIRM, 42)
    assert reduced.shape == (40, 10)
    assert reduced.dtype == np.float32


# --- the settings are used


@pytest.mark.parametrize(
    ("settings", "parameters"),
    [
        (TopicSettings(), FIRM),
        (ThemeSettings(), QUARTER),
        (TopicSettings(n_keywords=4, seed=9), BERTopicParameters(7, 3, 0.2, "eom", min_samples=4, n_epochs=20)),
    ],
)
def test_settings_and_parameters_reach_their_step(
    settings: TopicSettings | ThemeSettings, parameters: BERTopicParameters, steps: dict[str, dict[str, Any]]
) -> None:
    found = BERTopicModel(settings, parameters, 11).fit_transform(*planted(80))
    indices, distances = steps["umap"].pop("precomputed_knn")
    assert indices.shape == distances.shape == (80, parameters.n_neighbors)
    assert steps["umap"] == {
        "n_neighbors": parameters.n_neighbors,
        "n_components": parameters.n_components,
        "min_dist": parameters.min_dist,
        "n_epochs": parameters.n_epochs,
        "random_state": settings.seed,
        "init": "pca",
        "metric": "cosine",
        "n_jobs": 1,
        "force_approximation_algorithm": True,
    }
    assert steps["hdbscan"] == {
        "min_cluster_size": 11,
        "min_samples": parameters.min_samples,
        "cluster_selection_method": parameters.cluster_selection,
        "core_dist_n_jobs": 1,
    }
    assert max(map(len, found.keywords)) == min(settings.n_keywords, 9)


def test_the_two_levels_have_parameters_of_their_own() -> None:
    assert replace(FIRM, n_neighbors=30, n_components=15, min_dist=0.05, cluster_selection="eom") == QUARTER


def test_the_neighbours_that_are_given_are_the_ones_that_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    _, vectors = planted(40)
    true = reduce(vectors, FIRM, 42)
    wrong = nearest_neighbours(unit_rows(np.random.default_rng(0).normal(size=(40, 8))), 15)
    monkeypatch.setattr(bertopic_model, "nearest_neighbours", lambda embeddings, k: wrong)
    assert not np.array_equal(reduce(vectors, FIRM, 42), true)
