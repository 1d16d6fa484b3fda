import numpy as np
import pytest
from pydantic import ValidationError

from ftm_assets.analysis import clustering
from ftm_assets.analysis.clustering import (
    ClusterSettings,
    TopicModelResult,
    find_keywords,
    label,
    nearest_neighbours,
)
from ftm_assets.analysis.themes import ThemeSettings
from ftm_assets.analysis.topics import TopicSettings
from ftm_assets_tests.analysis.planted import planted

# --- neighbours


def test_a_row_is_its_own_nearest_neighbour_and_ties_go_to_the_lower_row() -> None:
    rows = np.array([[0, 1], [1, 0], [1, 0], [1, 0]], np.float32)
    indices, distances = nearest_neighbours(rows, 3)
    assert indices.tolist() == [[0, 1, 2], [1, 2, 3], [2, 1, 3], [3, 1, 2]]
    assert distances.tolist() == [[0, 1, 1], [0, 0, 0], [0, 0, 0], [0, 0, 0]]
    assert indices.dtype == np.int32
    assert distances.dtype == np.float32


def test_of_many_equals_the_lowest_rows_are_the_neighbours() -> None:
    indices, distances = nearest_neighbours(np.tile(np.array([1, 0], np.float32), (2000, 1)), 3)
    assert indices[[0, 1, 2, 1999]].tolist() == [[0, 1, 2], [1, 0, 2], [2, 0, 1], [1999, 0, 1]]
    assert not distances.any()


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


@pytest.mark.parametrize("n_alike", [0, 5, 900])
def test_neighbours_of_many_rows_are_those_of_few(n_alike: int, monkeypatch: pytest.MonkeyPatch) -> None:
    _, vectors = planted(1300)
    vectors[100 : 100 + n_alike] = vectors[0]
    few = nearest_neighbours(vectors, 15)
    monkeypatch.setattr(clustering, "_MANY_ROWS", 1000)
    many = nearest_neighbours(vectors, 15)
    assert np.array_equal(many[0], few[0])
    assert np.array_equal(many[1], few[1])


def test_columns_of_zeros_move_no_neighbour() -> None:
    _, vectors = planted(200)
    padded = np.hstack([vectors, np.zeros((200, 16), np.float32)])
    assert np.array_equal(nearest_neighbours(padded, 15)[0], nearest_neighbours(vectors, 15)[0])


# --- the terms that tell clusters apart


def keywords_of(
    *documents: str, clusters: list[int], groups: list[int] | None = None, n_terms: int = 10, support: float = 0
) -> tuple[tuple[str, ...], ...]:
    """Keywords of documents whose terms are separated by spaces; each is a group of its own by default."""
    terms = [document.split() for document in documents]
    return find_keywords(terms, np.array(clusters, np.int64), n_terms, support, groups or range(len(terms)))


def test_what_only_one_cluster_says_tells_more_than_what_all_say() -> None:
    found = keywords_of("cost freight", "cost freight", "cost wages", "cost wages", clusters=[0, 0, 1, 1])
    assert found == (("freight", "cost"), ("wages", "cost"))


def test_what_outliers_say_is_said_everywhere() -> None:
    within = ("rain snow", "rain snow")
    assert keywords_of(*within, clusters=[0, 0]) == (("rain", "snow"),)
    assert keywords_of(*within, "rain", "rain", clusters=[0, 0, -1, -1]) == (("snow", "rain"),)


def test_a_term_of_one_group_alone_tells_nothing_of_a_cluster_of_several() -> None:
    documents = ("freight acme acme", "freight acme", "freight")
    assert keywords_of(*documents, clusters=[0, 0, 0], groups=[1, 1, 2]) == (("freight",),)
    assert keywords_of(*documents, clusters=[0, 0, 0], groups=[1, 1, 1]) == (("acme", "freight"),)


def test_a_term_needs_its_share_of_the_groups_of_its_cluster() -> None:
    documents = ["freight ports ships"] * 2 + ["freight ports"] + ["freight"] * 7
    found = [keywords_of(*documents, clusters=[0] * 10, support=support) for support in (0.2, 0.21, 0.31)]
    assert found == [(("freight", "ports", "ships"),), (("freight", "ports"),), (("freight",),)]


def test_groups_of_other_clusters_lend_no_support() -> None:
    found = keywords_of("freight ports", "freight", "ports", "ports", clusters=[0, 0, 1, 1])
    assert found == (("freight",), ("ports",))


def test_of_equally_telling_terms_the_longer_one_comes_first_then_the_alphabet_decides() -> None:
    documents = [["zinc", "supply", "chain", "supply chain"]] * 2
    found = find_keywords(documents, np.array([0, 0]), 10, 0, [1, 2])
    assert found == (("supply chain", "chain", "supply", "zinc"),)
    assert find_keywords(documents, np.array([0, 0]), 2, 0, [1, 2]) == (("supply chain", "chain"),)


def test_a_cluster_without_words_has_no_terms() -> None:
    assert keywords_of("", "", "freight", "freight", clusters=[0, 0, 1, 1]) == ((), ("freight",))
    assert keywords_of("freight", "wages", clusters=[-1, -1]) == ()
    assert keywords_of(clusters=[]) == ()


def test_a_document_without_a_group_is_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        find_keywords([["freight"], ["wages"]], np.array([0, 0]), 3, 0, [1])


# --- labels


@pytest.mark.parametrize(
    ("keywords", "expected"),
    [
        (("wage inflation", "wage", "inflation", "hiring", "overtime", "labor"), "wage inflation, hiring, overtime"),
        # The pair says more than the word that stands before it.
        (("chain", "supply chain", "supply", "ports"), "supply chain, ports"),
        (("stores", "rents", "store", "rent", "malls"), "stores, rents, malls"),
        (("rate", "interest rate", "rate cut", "cut"), "interest rate, cut"),
        # Both pairs share a word; the second leaves its other one.
        (("gas", "natural gas", "gas prices", "prices"), "natural gas, prices"),
        (("freight",), "freight"),
        ((), "unnamed"),
    ],
)
def test_a_label_repeats_no_word(keywords: tuple[str, ...], expected: str) -> None:
    assert label(keywords) == expected


def test_a_label_has_as_many_terms_as_asked_for() -> None:
    assert label(("a", "b", "c"), n_terms=2) == "a, b"


def test_a_result_counts_and_names_its_clusters() -> None:
    found = TopicModelResult(
        np.array([1, 0, -1, 0]), np.ones(4, np.float32), (("wage inflation", "wage"), (), ("rain",))
    )
    assert found.sizes.tolist() == [2, 1, 0]
    assert found.labels == ("wage inflation", "unnamed", "rain")
    assert found.stability is None


# --- settings


def test_the_two_levels_have_defaults_of_their_own() -> None:
    common = set(ClusterSettings.model_fields)
    topics, themes = TopicSettings().model_dump(include=common), ThemeSettings().model_dump(include=common)
    assert {name for name in common if topics[name] != themes[name]} == {
        "agreement",
        "n_neighbors",
        "granularity",
        "keyword_support",
        "n_runs",
    }


@pytest.mark.parametrize("level", [TopicSettings, ThemeSettings])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model", "k-means"),
        ("n_neighbors", 1),
        ("n_neighbors", 201),
        ("granularity", 0),
        ("granularity", 10.1),
        ("agreement", 0.49),
        ("agreement", 1),
        ("n_runs", 1),
        ("n_runs", 101),
        ("n_keywords", 2),
        ("keyword_support", -0.1),
        ("keyword_support", 1.1),
        ("seed", -1),
        ("seed", 2**32),
    ],
)
def test_settings_outside_their_bounds_are_refused(level: type[ClusterSettings], name: str, value: object) -> None:
    with pytest.raises(ValidationError, match=name):
        level.model_validate({name: value})
