"""The graph with a topic model that takes no time and obeys orders; what daemon, webserver and lanes load in the tests.

Importing it changes the model for the whole process, so tests do not import it.
"""

from collections.abc import Sequence

import dagster as dg
import numpy as np

from ftm_assets import definitions
from ftm_assets.analysis.clustering import TopicModelResult
from ftm_assets.analysis.communities import CommunityModel
from ftm_assets_tests.fakes import FirstWordModel
from ftm_assets_tests.launcher.faults import obey


class ObedientModel(FirstWordModel):
    def fit_transform(self, documents: Sequence[Sequence[str]], embeddings: np.ndarray) -> TopicModelResult:
        obey([" ".join(terms) for terms in documents], "lane")
        return super().fit_transform(documents, embeddings)


CommunityModel.fit_transform = ObedientModel(n_keywords=3).fit_transform  # type: ignore[method-assign,assignment]

# Without the sensor: a run of the themes takes a process of its own, and no test is about them.
defs = dg.Definitions(
    assets=definitions.defs.assets,
    jobs=definitions.defs.jobs,
    resources=definitions.defs.resources,
    executor=definitions.defs.executor,
    loggers=definitions.defs.loggers,
)
defs.get_repository_def()
