"""The jobs: load a quarter, process one firm's quarter, make a quarter's themes, build its search index."""

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
    description="Summaries of one firm in one quarter, only those that no language model has written yet.",
)
quarter_themes = dg.define_asset_job(
    "quarter_themes",
    selection=["cross_firm_themes"],
    description="Themes of a quarter from the summaries it has, even if some firms have failed or are missing.",
)
quarter_index = dg.define_asset_job(
    "quarter_index",
    selection=["search_index"],
    description="Vector indexes of a quarter that are missing, invalid or built with other settings.",
)


def themes_in_work(instance: dg.DagsterInstance, quarter: str) -> bool:
    """Whether a run that makes the quarter's themes is running or queued."""
    return _in_work(instance, quarter, quarter_themes.name, "cross_firm_themes")


def index_in_work(instance: dg.DagsterInstance, quarter: str) -> bool:
    """Whether a run that builds the quarter's search index is running or queued."""
    return _in_work(instance, quarter, quarter_index.name, "search_index")


def _in_work(instance: dg.DagsterInstance, quarter: str, job: str, asset: str) -> bool:
    of_quarter = dg.RunsFilter(tags={PARTITION_NAME_TAG: quarter}, statuses=list(NOT_FINISHED_STATUSES))
    return any(
        run.job_name == job or dg.AssetKey(asset) in (run.asset_selection or ())
        for run in instance.get_runs(of_quarter)
    )
