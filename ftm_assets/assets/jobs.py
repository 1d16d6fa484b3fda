"""The jobs a person starts: calls of a quarter, one firm's quarter, a quarter's themes."""

import dagster as dg
from dagster._core.storage.dagster_run import NOT_FINISHED_STATUSES
from dagster._core.storage.tags import PARTITION_NAME_TAG

ingest_quarter = dg.define_asset_job(
    "ingest_quarter",
    selection=["transcripts"],
    description="Load the calls of a quarter from a transcript source.",
)
firm_quarter = dg.define_asset_job(
    "firm_quarter",
    selection=["firm_sentences", "firm_topics", "topic_summaries"],
    description="Sentences, topics and summaries of one firm in one quarter, in one run.",
)
ONLY_MISSING = {"ops": {"topic_summaries": {"config": {"only_missing": True}}}}
firm_summaries = dg.define_asset_job(
    "firm_summaries",
    selection=["topic_summaries"],
    config=ONLY_MISSING,
    description="Summaries alone of one firm in one quarter, and only those that a language model has not written yet.",
)
quarter_themes = dg.define_asset_job(
    "quarter_themes",
    selection=["cross_firm_themes"],
    description="Themes of a quarter from the summaries that are there, whatever became of the other firms.",
)


def themes_in_work(instance: dg.DagsterInstance, quarter: str) -> bool:
    """Whether some run makes the quarter's themes, or will once it leaves Dagster's queue."""
    of_quarter = dg.RunsFilter(tags={PARTITION_NAME_TAG: quarter}, statuses=list(NOT_FINISHED_STATUSES))
    themes = dg.AssetKey("cross_firm_themes")
    return any(
        run.job_name == quarter_themes.name or themes in (run.asset_selection or ())
        for run in instance.get_runs(of_quarter)
    )
