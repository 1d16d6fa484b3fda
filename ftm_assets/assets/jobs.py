"""The jobs a person starts: calls of a quarter, one firm's quarter, a quarter's themes."""

import dagster as dg

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
quarter_themes = dg.define_asset_job(
    "quarter_themes",
    selection=["cross_firm_themes"],
    description="Themes of a quarter from the summaries that are there, whatever became of the other firms.",
)
