"""BERTopic behind the `TopicModel` protocol, with every step exact and seeded."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal

import numpy as np

from ftm_assets.analysis.clustering import MIN_DOCUMENTS, ClusterSettings, TopicModelResult, nearest_neighbours

_PLACEHOLDERS = ("", " ")  # BERTopic fails on fewer than two terms.
# Decision 29.
_SEPARATOR = "\x1f"  # BERTopic joins a cluster's documents; terms cut beforehand cannot run across their borders.


@dataclass(frozen=True)
class BERTopicParameters:
    """Parameters of UMAP and HDBSCAN; topics and themes have a set each.

    n_neighbors, n_components, min_dist: of UMAP
    min_samples, cluster_selection:      of HDBSCAN; more samples, more noise; fine (leaf) or stable (eom) clusters
    """

    n_neighbors: int
    n_components: int
    min_dist: float
    cluster_selection: Literal["leaf", "eom"]
    min_samples: int = 2
    # At n = 450, 200 epochs end within the seed-to-seed spread of the 500 that UMAP would run.
    # Decision 30.
    n_epochs: int = 200


FIRM = BERTopicParameters(n_neighbors=15, n_components=10, min_dist=0.0, cluster_selection="leaf")
QUARTER = BERTopicParameters(n_neighbors=30, n_components=15, min_dist=0.05, cluster_selection="eom")


@dataclass(frozen=True)
class BERTopicModel:
    """BERTopic (Grootendorst 2022, arXiv:2203.05794): UMAP, then HDBSCAN, then class-based TF-IDF.

    Deterministic: exact neighbours in float64, every step seeded, one thread.
    """

    settings: ClusterSettings
    parameters: BERTopicParameters
    min_cluster_size: int

    def fit_transform(self, documents: Sequence[Sequence[str]], embeddings: np.ndarray) -> TopicModelResult:
        """See `TopicModel`. raises: ValueError with fewer than four documents, which nothing can reduce."""
        # Imported here, because the graph must load without them.
        from bertopic import BERTopic
        from bertopic.dimensionality import BaseDimensionalityReduction
        from hdbscan import HDBSCAN
        from sklearn.feature_extraction.text import CountVectorizer
        from threadpoolctl import threadpool_limits

        if len(documents) < MIN_DOCUMENTS:
            raise ValueError(f"{len(documents)} documents are too few to cluster")
        terms = sorted({*_PLACEHOLDERS, *chain.from_iterable(documents)})
        with threadpool_limits(1), warnings.catch_warnings():
            # A cluster without terms is an empty row, a term that no document has is an empty column.
            warnings.simplefilter("ignore", RuntimeWarning)
            model = BERTopic(
                umap_model=BaseDimensionalityReduction(),
                hdbscan_model=HDBSCAN(
                    min_cluster_size=self.min_cluster_size,
                    min_samples=self.parameters.min_samples,
                    cluster_selection_method=self.parameters.cluster_selection,
                    core_dist_n_jobs=1,
                ),
                vectorizer_model=CountVectorizer(analyzer=_split_terms, vocabulary=terms),
                language="multilingual",  # "english" would drop every character that is not a letter or digit.
            )
            texts = [_SEPARATOR.join([*of_document, ""]) for of_document in documents]
            topics, probabilities = model.fit_transform(texts, reduce(embeddings, self.parameters, self.settings.seed))
        assignments = np.asarray(topics, np.int64)
        # One row for each cluster in order of its number; the row of the outliers, if there are any, is the first.
        scores = model.c_tf_idf_[1:] if assignments.min() < 0 else model.c_tf_idf_
        return TopicModelResult(
            assignments=assignments,
            probabilities=np.where(assignments >= 0, probabilities, 0).astype(np.float32),
            keywords=tuple(_best_terms(row.indices, row.data, terms, self.settings.n_keywords) for row in scores),
        )


def _split_terms(text: str) -> list[str]:
    return [term for term in map(str.strip, text.split(_SEPARATOR)) if term]


def _best_terms(columns: np.ndarray, scores: np.ndarray, terms: Sequence[str], n: int) -> tuple[str, ...]:
    """The n terms of highest score; of equals the longer one, else the alphabet decides."""
    named = ((terms[column], score) for column, score in zip(columns.tolist(), scores.tolist(), strict=True))
    ranked = sorted((-score, -len(term.split()), term) for term, score in named if score > 0)
    return tuple(term for *_, term in ranked[:n])


def reduce(embeddings: np.ndarray, parameters: BERTopicParameters, seed: int) -> np.ndarray:
    """Unit vectors in few dimensions, near ones kept near (UMAP, McInnes et al. 2018, arXiv:1802.03426).

    embeddings: (n >= 4, d) float32 of unit length    returns: (n, min(n_components, n - 2)) float32
    """
    from umap import UMAP

    n = len(embeddings)
    n_neighbors = min(parameters.n_neighbors, n - 1)
    with warnings.catch_warnings():
        # We never call transform() on new data, and results follow the seed only with one thread.
        warnings.filterwarnings("ignore", message=".*(transform|n_jobs).*")
        reducer = UMAP(
            n_neighbors=n_neighbors,
            n_components=min(parameters.n_components, n - 2),
            min_dist=parameters.min_dist,
            n_epochs=parameters.n_epochs,
            metric="cosine",
            random_state=seed,
            # The spectral start uses a generator without seed when texts repeat each other.
            # Decision 32.
            init="pca",
            n_jobs=1,
            precomputed_knn=nearest_neighbours(embeddings, n_neighbors),
            force_approximation_algorithm=True,  # Otherwise UMAP ignores these neighbours when n < 4096.
        )
        reduced: np.ndarray = reducer.fit_transform(embeddings)
    return reduced
