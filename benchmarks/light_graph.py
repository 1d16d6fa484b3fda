"""The graph with a topic model that takes next to no time: what is left is what a run costs beside its work."""

from collections.abc import Sequence

import numpy as np

from ftm_assets import definitions
from ftm_assets.analysis.clustering import TopicModelResult
from ftm_assets.analysis.communities import CommunityModel


class LightModel:
    """Documents in turn to one of ten topics."""

    def fit_transform(self, documents: Sequence[Sequence[str]], embeddings: np.ndarray) -> TopicModelResult:
        """See `TopicModel`."""
        n_topics = min(10, max(1, len(documents) // 4))
        assignments = np.arange(len(documents), dtype=np.int64) % n_topics
        keywords = tuple((f"topic{number}",) for number in range(n_topics))
        return TopicModelResult(assignments, np.ones(len(documents), np.float32), keywords)


CommunityModel.fit_transform = LightModel().fit_transform  # type: ignore[method-assign,assignment]
defs = definitions.defs
defs.get_repository_def()
