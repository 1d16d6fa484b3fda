import numpy as np
import pytest

from ftm_assets.analysis.vectors import DIMENSIONS, centroids, in_plane, pad, unit_rows


def test_rows_become_one_long_and_a_zero_row_stays_zero() -> None:
    rows = unit_rows(np.array([[3, 4], [0, 0], [0, -2]]))
    assert np.allclose(rows, np.array([[0.6, 0.8], [0, 0], [0, -1]]))
    assert rows.dtype == np.float32


def test_padding_changes_no_inner_product() -> None:
    # Whole numbers, so that no sum is rounded, in whatever order it is taken.
    vectors = np.random.default_rng(1).integers(-9, 10, (20, 384)).astype(np.float32)
    padded = pad(vectors)
    assert padded.shape == (20, DIMENSIONS)
    assert padded.dtype == np.float32
    assert not padded[:, 384:].any()
    assert np.array_equal(padded @ padded.T, vectors @ vectors.T)
    assert np.array_equal(np.square(padded).sum(axis=1), np.square(vectors).sum(axis=1))


def test_full_width_is_left_as_it_is() -> None:
    vectors = np.ones((2, DIMENSIONS), np.float32)
    assert np.array_equal(pad(vectors), vectors)
    assert pad(np.zeros((0, 3), np.float32)).shape == (0, DIMENSIONS)


def test_more_dimensions_than_the_tables_hold_are_refused() -> None:
    with pytest.raises(ValueError, match="769"):
        pad(np.ones((1, DIMENSIONS + 1), np.float32))


def test_noise_does_not_move_a_centroid() -> None:
    embeddings = np.array([[1, 0], [1, 0], [0, 9]], np.float32)
    assert centroids(embeddings, np.array([0, 0, -1])).tolist() == [[1, 0]]


def test_a_centroid_is_the_mean_at_unit_length_in_order_of_the_labels() -> None:
    embeddings = np.array([[0, 2], [1, 0], [0, 1], [1, 0]], np.float32)
    found = centroids(embeddings, np.array([1, 0, 0, 0]))
    assert np.allclose(found, np.array([[2 / 5**0.5, 1 / 5**0.5], [0, 1]]))
    assert found.dtype == np.float32


def test_no_label_gives_no_centroid() -> None:
    assert centroids(np.ones((2, 3), np.float32), np.array([-1, -1])).shape == (0, 3)
    assert centroids(np.zeros((0, 3), np.float32), np.zeros(0, np.int64)).shape == (0, 3)


def test_vectors_that_cancel_out_have_no_direction() -> None:
    assert centroids(np.array([[1, 0], [-1, 0]], np.float32), np.array([0, 0])).tolist() == [[0, 0]]


def test_labels_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="2 embeddings for 3 labels"):
        centroids(np.ones((2, 3), np.float32), np.array([0, 0, 0]))
    with pytest.raises(ValueError, match="no member for label 1"):
        centroids(np.ones((2, 3), np.float32), np.array([0, 2]))


def test_a_plane_keeps_what_distinguishes_rows() -> None:
    wide = np.array([[3, 0, 0, 9], [-3, 0, 0, 9], [0, 1, 0, 9], [0, -1, 0, 9]], np.float32)
    places, kept = in_plane(wide)
    assert np.abs(places - [[3, 0], [-3, 0], [0, 1], [0, -1]]).max() < 1e-9
    assert kept == pytest.approx(1)
    deep = np.array([[2, 0, 0], [-2, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]], np.float32)
    assert in_plane(deep)[1] == pytest.approx((8 + 2) / (8 + 2 + 2))


def test_a_plane_lies_the_same_way_up_for_the_same_rows() -> None:
    rows = np.random.default_rng(1).normal(size=(20, 5)).astype(np.float32)
    assert np.array_equal(in_plane(rows)[0], in_plane(rows)[0])
    assert np.abs(in_plane(-rows)[0] + in_plane(rows)[0]).max() < 1e-9


@pytest.mark.parametrize("n_rows", [0, 1, 2, 3])
def test_rows_that_do_not_differ_lie_at_the_origin(n_rows: int) -> None:
    places, kept = in_plane(np.ones((n_rows, 768), np.float32))
    assert (places.tolist(), kept) == ([[0, 0]] * n_rows, 0)
