"""Clusters of unit vectors and the words that tell them apart: the `TopicModel` protocol and BERTopic behind it."""

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal, Protocol

import numpy as np
from pydantic import BaseModel, Field

from ftm_assets.analysis.vectors import unit_rows

MIN_DOCUMENTS = 4
_BLOCK_ROWS = 1024
_NEVER_SAID = ("", " ")  # BERTopic fails on fewer than two terms.
_BETWEEN = "\x1f"  # BERTopic joins a cluster's documents; terms cut beforehand cannot run across their borders.


class ClusterSettings(BaseModel, frozen=True):
    """What steers reduction and clustering; each level has a class of its own with its own defaults."""

    n_neighbors: int = Field(15, ge=2, le=200, description="UMAP: neighbours that shape the reduced space")
    n_components: int = Field(10, ge=2, le=100, description="UMAP: dimensions of the reduced space")
    min_dist: float = Field(0.0, ge=0, lt=1, description="UMAP: smallest distance between reduced points")
    # At n = 450, 200 epochs land inside the seed-to-seed spread of the 500 that UMAP would run.
    n_epochs: int = Field(200, ge=10, le=2000, description="UMAP: optimization epochs")
    min_samples: int = Field(
        2, ge=1, le=100, description="HDBSCAN: neighbours that make a dense point; more, more noise"
    )
    cluster_selection: Literal["leaf", "eom"] = Field(
        "leaf", description="HDBSCAN: fine (leaf) or stable (eom) clusters"
    )
    n_keywords: int = Field(10, ge=3, le=50, description="keywords kept for each cluster")
    seed: int = Field(42, ge=0, le=2**32 - 1, description="same input, same seed, same clusters")


@dataclass(frozen=True)
class TopicModelResult:
    """Clusters of n documents, largest first.

    assignments:   (n,) int64 in -1..k-1, -1 for outliers
    probabilities: (n,) float32 in 0..1, how firmly a document belongs to its cluster; 0 for outliers
    keywords:      k tuples of terms, most telling first
    """

    assignments: np.ndarray
    probabilities: np.ndarray
    keywords: tuple[tuple[str, ...], ...]

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

    def fit_transform(self, documents: Sequence[str], embeddings: np.ndarray) -> TopicModelResult:
        """Clusters of the documents; row i of `embeddings`, (n, d) float32 of unit length, belongs to document i."""
        ...


Analyzer = Callable[[str], Iterable[str]]


@dataclass(frozen=True)
class BERTopicModel:
    """BERTopic (Grootendorst 2022, arXiv:2203.05794): UMAP, then HDBSCAN, then class-based TF-IDF.

    Deterministic: exact neighbours in float64, every step seeded, one thread.
    """

    settings: ClusterSettings
    min_cluster_size: int
    analyzer: Analyzer

    def fit_transform(self, documents: Sequence[str], embeddings: np.ndarray) -> TopicModelResult:
        """See `TopicModel`. raises: ValueError with fewer than four documents, which nothing can reduce."""
        # Imported here, because the graph must load without them.
        from bertopic import BERTopic
        from bertopic.dimensionality import BaseDimensionalityReduction
        from hdbscan import HDBSCAN
        from sklearn.feature_extraction.text import CountVectorizer
        from threadpoolctl import threadpool_limits

        if len(documents) < MIN_DOCUMENTS:
            raise ValueError(f"{len(documents)} documents are too few to cluster")
        cut = [list(self.analyzer(document)) for document in documents]
        terms = sorted({*_NEVER_SAID, *chain.from_iterable(cut)})
        with threadpool_limits(1), warnings.catch_warnings():
            # A cluster without terms is an empty row, a term that nobody says an empty column.
            warnings.simplefilter("ignore", RuntimeWarning)
            model = BERTopic(
                umap_model=BaseDimensionalityReduction(),
                hdbscan_model=HDBSCAN(
                    min_cluster_size=self.min_cluster_size,
                    min_samples=self.settings.min_samples,
                    cluster_selection_method=self.settings.cluster_selection,
                    core_dist_n_jobs=1,
                ),
                vectorizer_model=CountVectorizer(analyzer=_split_terms, vocabulary=terms),
                language="multilingual",  # For English it would drop every character that is not a letter or digit.
            )
            texts = [_BETWEEN.join([*of_document, ""]) for of_document in cut]
            topics, probabilities = model.fit_transform(texts, reduce(embeddings, self.settings))
        assignments = np.asarray(topics, np.int64)
        # One row for each cluster in order of its number, that of the outliers, where there are any, first.
        scores = model.c_tf_idf_[int(assignments.min() < 0) :]
        return TopicModelResult(
            assignments,
            np.where(assignments >= 0, probabilities, 0).astype(np.float32),
            tuple(_most_telling(row.indices, row.data, terms, self.settings.n_keywords) for row in scores),
        )


def warm_up() -> None:
    """Import and compile what a fit needs, so that the next one in this process, or in a fork of it, begins at once."""
    vectors = unit_rows(np.random.default_rng(0).normal(size=(60, 32)).astype(np.float32))
    documents = [f"subject{row % 4} said" for row in range(len(vectors))]
    BERTopicModel(ClusterSettings(), min_cluster_size=5, analyzer=str.split).fit_transform(documents, vectors)


def _split_terms(text: str) -> list[str]:
    return [term for term in map(str.strip, text.split(_BETWEEN)) if term]


def _most_telling(columns: np.ndarray, scores: np.ndarray, terms: Sequence[str], n: int) -> tuple[str, ...]:
    """The n terms of highest score; of equals the longer one says more, else the alphabet decides."""
    named = ((terms[column], score) for column, score in zip(columns.tolist(), scores.tolist(), strict=True))
    ranked = sorted((-score, -len(term.split()), term) for term, score in named if score > 0)
    return tuple(term for *_, term in ranked[:n])


def reduce(embeddings: np.ndarray, settings: ClusterSettings) -> np.ndarray:
    """Unit vectors in few dimensions, near ones kept near (UMAP, McInnes et al. 2018, arXiv:1802.03426).

    embeddings: (n >= 4, d) float32 of unit length    returns: (n, min(n_components, n - 2)) float32
    """
    from umap import UMAP

    n = len(embeddings)
    n_neighbors = min(settings.n_neighbors, n - 1)
    with warnings.catch_warnings():
        # Nobody calls transform() on new data, and one thread is what makes the seed hold.
        warnings.filterwarnings("ignore", message=".*(transform|n_jobs).*")
        reducer = UMAP(
            n_neighbors=n_neighbors,
            n_components=min(settings.n_components, n - 2),
            min_dist=settings.min_dist,
            n_epochs=settings.n_epochs,
            metric="cosine",
            random_state=settings.seed,
            # The spectral start draws on a generator that no seed reaches as soon as texts repeat each other.
            init="pca",
            n_jobs=1,
            precomputed_knn=nearest_neighbours(embeddings, n_neighbors),
            force_approximation_algorithm=True,  # Without it UMAP drops the neighbours it is given when n < 4096.
        )
        reduced: np.ndarray = reducer.fit_transform(embeddings)
    return reduced


def nearest_neighbours(embeddings: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest rows of each row by cosine distance, itself first; ties go to the lower row.

    embeddings: (n, d) of unit length    returns: indices (n, k) int32, distances (n, k) float32
    Rounded to six decimals: the last bits differ between machines and must not decide who is a neighbour.
    """
    rows = embeddings.astype(np.float64)
    indices = np.empty((len(rows), k), np.int32)
    distances = np.empty((len(rows), k), np.float32)
    for start in range(0, len(rows), _BLOCK_ROWS):
        block = slice(start, min(start + _BLOCK_ROWS, len(rows)))
        away = np.round(np.clip(1 - rows[block] @ rows.T, 0, 2), 6)
        away[np.arange(block.stop - start), np.arange(start, block.stop)] = -1
        indices[block] = np.argsort(away, axis=1, kind="stable")[:, :k]
        distances[block] = np.clip(np.take_along_axis(away, indices[block], axis=1), 0, None)
    return indices, distances


def label(keywords: Sequence[str], n_terms: int = 3) -> str:
    """The first keywords that share no word with one before them, `wage inflation, hiring, overtime`; or `unnamed`."""
    chosen: list[str] = []
    seen: set[str] = set()
    for term in keywords:
        if len(chosen) < n_terms and seen.isdisjoint(term.split()):
            chosen.append(term)
            seen.update(term.split())
    return ", ".join(chosen) or "unnamed"
