"""The jobs a person starts: calls of a quarter, one firm's quarter, a quarter's themes, its search index."""

import dagster as dg
from dagster._core.storage.dagster_run import NOT_FINISHED_STATUSES
from dagster._core.storage.tags import PARTITION_NAME_TAG

from ftm_assets.storage.stages import STAGES, SUMMARIES

ingest_quarter = dg.define_asset_job(
    "ingest_quarter",
    selection=["transcripts"],
    description="Load the calls of a quarter from a transcript source.",
)
firm_quarter = dg.define_asset_job(
    "firm_quarter",
    selection=[stage.name for stage in STAGES],
    description="Sentences, topics and summaries of one firm in one quarter, in one run.",
)
ONLY_MISSING = {"ops": {SUMMARIES.name: {"config": {"only_missing": True}}}}
firm_summaries = dg.define_asset_job(
    "firm_summaries",
    selection=[SUMMARIES.name],
    config=ONLY_MISSING,
    description="Summaries alone of one firm in one quarter, and only those that a language model has not written yet.",
)
quarter_themes = dg.define_asset_job(
    "quarter_themes",
    selection=["cross_firm_themes"],
    description="Themes of a quarter from the summaries that are there, whatever became of the other firms.",
)
quarter_index = dg.define_asset_job(
    "quarter_index",
    selection=["search_index"],
    description="Vector indexes of a quarter, as far as they are missing, broken or built with other settings.",
)


def themes_in_work(instance: dg.DagsterInstance, quarter: str) -> bool:
    """Whether some run makes the quarter's themes, or will once it leaves Dagster's queue."""
    return _in_work(instance, quarter, quarter_themes.name, "cross_firm_themes")


def index_in_work(instance: dg.DagsterInstance, quarter: str) -> bool:
    """Whether some run builds the quarter's search index, or will once it leaves Dagster's queue."""
    return _in_work(instance, quarter, quarter_index.name, "search_index")


def _in_work(instance: dg.DagsterInstance, quarter: str, job: str, asset: str) -> bool:
    of_quarter = dg.RunsFilter(tags={PARTITION_NAME_TAG: quarter}, statuses=list(NOT_FINISHED_STATUSES))
    return any(
        run.job_name == job or dg.AssetKey(asset) in (run.asset_selection or ())
        for run in instance.get_runs(of_quarter)
    )
