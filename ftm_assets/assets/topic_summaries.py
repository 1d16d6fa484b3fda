"""What a firm said about each of its topics, in a sentence or two."""

import dagster as dg

from ftm_assets.analysis.sentences import Sentences
from ftm_assets.analysis.summaries import Summaries, Summarizer, evidence_of
from ftm_assets.analysis.topics import Topics
from ftm_assets.assets.metadata import OWNERS, Materialized, Metadata, column_schema, known, markdown_table
from ftm_assets.partitions import firm_quarters
from ftm_assets.resources.encoder import Encoder
from ftm_assets.storage import tables

SUMMARIZED = "every_topic_summarized"


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
    code_version="2",
    metadata={"dagster/column_schema": column_schema(tables.TopicSummary)},
)
def topic_summaries(
    encoder: dg.ResourceParam[Encoder],
    summarizer: dg.ResourceParam[Summarizer],
    firm_topics: Topics,
    firm_sentences: Sentences,
) -> Materialized:
    """A summary of each topic, who wrote it, and the sentences it rests on."""
    written = summarizer.summarize(evidence_of(firm_topics, firm_sentences))
    vectors = encoder.encode([summary.text for summary in written])
    summaries = Summaries.of(firm_topics, written, vectors, (encoder.name, encoder.revision))
    return dg.MaterializeResult(
        value=summaries,
        data_version=dg.DataVersion(summaries.content_hash),
        metadata=summaries_metadata(summaries),
        check_results=[check_summarized(summaries, firm_topics)],
    )


def summaries_metadata(summaries: Summaries) -> Metadata:
    """Counts by source, and the texts."""
    return known(
        {
            "n_summaries": len(summaries.summaries),
            "by keywords": summaries.n_by_keywords,
            "reason": summaries.reason,
            "summaries": markdown_table(
                ["topic", "source", "summary"], [(s.topic_number, s.source, s.text) for s in summaries.summaries]
            ),
        }
    )


def check_summarized(summaries: Summaries, topics: Topics) -> dg.AssetCheckResult:
    """No topic is without summary (an error), and a language model wrote them all (else a warning)."""
    missing = {t.topic_number for t in topics.topics} - {s.topic_number for s in summaries.summaries if s.text}
    return dg.AssetCheckResult(
        passed=not missing and not summaries.n_by_keywords,
        check_name=SUMMARIZED,
        severity=dg.AssetCheckSeverity.ERROR if missing else dg.AssetCheckSeverity.WARN,
        metadata={"without summary": sorted(missing), "by keywords": summaries.n_by_keywords},
    )
