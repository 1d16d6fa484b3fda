"""What a firm said about each of its topics, in a sentence or two."""

import dagster as dg
from pydantic import Field

from ftm_assets.analysis.sentences import Sentences
from ftm_assets.analysis.topic_summaries import Summaries, evidence_of
from ftm_assets.analysis.topics import Topics
from ftm_assets.assets.metadata import (
    OWNERS,
    Materialized,
    Metadata,
    column_schema,
    cost_metadata,
    drop_none,
    look_ahead_metadata,
    markdown_table,
)
from ftm_assets.encoder import Encoder
from ftm_assets.llm.guardrails import NameBlocklist
from ftm_assets.llm.prompts.topic_summaries import PROMPT
from ftm_assets.llm.protocol import LanguageModel
from ftm_assets.llm.topic_summaries import SummarySettings, WrittenSummaries, summarize
from ftm_assets.partition_key import PartitionKey
from ftm_assets.partitions import firm_quarters
from ftm_assets.storage.read.llm_spending import look_ahead_of
from ftm_assets.storage.schema import tables
from ftm_assets.storage.server.database import Database
from ftm_assets.storage.stages.summaries import find_reusable_summaries

SUMMARIZED = "every_topic_summarized"


class SummaryConfig(SummarySettings, dg.Config):
    """Launchpad form of `SummarySettings`, and which topics are summarized."""

    only_missing: bool = Field(False, description="summarize only topics that no language model has summarized yet")


@dg.asset(
    partitions_def=firm_quarters,
    io_manager_key="pgvector",
    dagster_type=dg.Any,
    check_specs=[
        dg.AssetCheckSpec(
            SUMMARIZED, asset="topic_summaries", description="One summary a topic; WARN for those made of keywords."
        )
    ],
    owners=OWNERS,
    kinds={"python", "postgres"},
    code_version=f"4, {PROMPT.id}",
    metadata={"dagster/column_schema": column_schema(tables.TopicSummary)},
)
def topic_summaries(
    context: dg.AssetExecutionContext,
    config: SummaryConfig,
    database: dg.ResourceParam[Database],
    encoder: dg.ResourceParam[Encoder],
    language_model: dg.ResourceParam[LanguageModel],
    firm_topics: Topics,
    firm_sentences: Sentences,
) -> Materialized:
    """A summary of each topic, who wrote it, and the sentences it is based on.

    The language model writes it, if one is configured; without a usable reply it is made of keywords, with the reason.
    A summary by a model stays until a model writes another, or the topics change.
    """
    key = PartitionKey.parse(context.partition_key)
    with database.transaction() as connection:
        before = find_reusable_summaries(connection, key.quarter, key.firm, firm_topics.content_hash)
    written = summarize(
        topics=evidence_of(firm_topics, firm_sentences),
        blocklist=NameBlocklist.for_firm(firm_sentences),
        model=language_model,
        quarter=key.quarter,
        run=context.run.run_id,
        before=before,
        settings=config,
        only_missing=config.only_missing,
    )
    # After the language model, so that the encoder serves others while this run waits for replies.
    vectors = encoder.encode([summary.text for summary in written.summaries])
    # Without `only_missing`: it does not change how a summary is made. Decision 96.
    settings = config.model_dump(include=set(SummarySettings.model_fields))
    summaries = Summaries.for_topics(
        firm_topics, written.summaries, vectors, (encoder.name, encoder.revision), settings
    )
    with database.transaction() as connection:
        first_call = min((call.call_date for call in firm_sentences.calls), default=None)
        look_ahead = look_ahead_of(connection, written.reply_keys, first_call)
    return dg.MaterializeResult(
        value=summaries,
        data_version=dg.DataVersion(summaries.content_hash),
        metadata={**summaries_metadata(summaries, written), **look_ahead_metadata(look_ahead)},
        check_results=[check_summarized(summaries, firm_topics)],
    )


def summaries_metadata(summaries: Summaries, written: WrittenSummaries) -> Metadata:
    """Counts by source and by reason, what the language model cost, and the texts."""
    return drop_none(
        {
            "n_summaries": len(summaries.summaries),
            "by keywords": summaries.n_by_keywords,
            "by model": len(summaries.summaries) - summaries.n_by_keywords,
            "by keywords because": dict(summaries.reasons) or None,
            "reason": summaries.reason,
            **cost_metadata(written.cost),
            "summaries": markdown_table(
                ["topic", "source", "title", "summary"],
                [(s.topic_number, s.source, s.title or "", s.text) for s in summaries.summaries],
            ),
        }
    )


def check_summarized(summaries: Summaries, topics: Topics) -> dg.AssetCheckResult:
    """An error if a topic has no summary, a warning if some are made of keywords."""
    missing = {t.topic_number for t in topics.topics} - {s.topic_number for s in summaries.summaries if s.text}
    return dg.AssetCheckResult(
        passed=not missing and not summaries.n_by_keywords,
        check_name=SUMMARIZED,
        severity=dg.AssetCheckSeverity.ERROR if missing else dg.AssetCheckSeverity.WARN,
        metadata={
            "without summary": sorted(missing),
            "by keywords": summaries.n_by_keywords,
            "because": sorted({s.reason for s in summaries.summaries if s.reason}),
        },
    )
