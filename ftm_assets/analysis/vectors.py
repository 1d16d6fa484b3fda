"""Vectors as they are stored: unit length, zero-padded to one width."""

import numpy as np

# Decision 19: one width for every encoder; shorter vectors are padded with zeros.
DIMENSIONS = 768


def unit_rows(vectors: np.ndarray) -> np.ndarray:
    """Each row scaled to length one; a zero row stays zero.

    vectors: (n, d) floats    returns: (n, d) float32
    """
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(lengths == 0, 1, lengths)).astype(np.float32)


def pad(vectors: np.ndarray) -> np.ndarray:
    """Rows widened to 768 with zeros; cosine and inner product stay exactly the same.

    vectors: (n, d <= 768) float32    returns: (n, 768) float32
    """
    padded = np.zeros((len(vectors), DIMENSIONS), np.float32)
    padded[:, : vectors.shape[1]] = vectors
    return padded


def in_half_precision(vectors: np.ndarray) -> np.ndarray:
    """Each number rounded to half precision, in which sentences are stored.

    vectors: (n, d) floats    returns: (n, d) float32
    """
    return vectors.astype(np.float16).astype(np.float32)


def centroids(embeddings: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Unit-length mean embedding of each cluster; noise (label -1) is left out.

    embeddings: (n, d) float32    labels: (n,) int in -1..k-1
    returns:    (k, d) float32, row i belongs to label i
    raises:     ValueError if the lengths differ or some label below k has no member
    """
    if len(embeddings) != len(labels):
        raise ValueError(f"{len(embeddings)} embeddings for {len(labels)} labels")
    k = int(labels.max(initial=-1)) + 1
    sizes = np.bincount(labels[labels >= 0], minlength=k)
    if not sizes.all():
        raise ValueError(f"no member for label {int(np.flatnonzero(sizes == 0)[0])}")
    sums = np.zeros((k, embeddings.shape[1]), np.float64)
    np.add.at(sums, labels[labels >= 0], embeddings[labels >= 0].astype(np.float64))
    return unit_rows(sums / np.maximum(sizes, 1)[:, None])


def in_plane(vectors: np.ndarray) -> tuple[np.ndarray, float]:
    """First two principal components of each row, and the share of the variance that they keep (Pearson 1901).

    The sign of each axis is that of its largest weight, so that the same rows always give the same picture.

    vectors: (n, d) floats    returns: (n, 2) float64 around the origin, and a share; 0 if all rows are equal
    """
    places = np.zeros((len(vectors), 2))
    if not len(vectors):
        return places, 0.0
    centred = vectors.astype(np.float64) - vectors.astype(np.float64).mean(axis=0)
    _, scales, axes = np.linalg.svd(centred, full_matrices=False)
    largest = np.abs(axes).argmax(axis=1)
    kept = (centred @ axes.T * np.sign(axes[np.arange(len(axes)), largest]))[:, :2]
    places[:, : kept.shape[1]] = kept
    variance = float((scales**2).sum())
    return places, float((scales[:2] ** 2).sum()) / variance if variance else 0.0
