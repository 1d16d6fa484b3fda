"""Asset `firm_topics`: the topics of one firm in one quarter."""

import dagster as dg

from ftm_assets.analysis.sentences import Sentences
from ftm_assets.analysis.topics import Topics, TopicSettings, fit_topics
from ftm_assets.assets.metadata import OWNERS, Materialized, Metadata, column_schema, drop_none, markdown_table
from ftm_assets.partitions import firm_quarters
from ftm_assets.storage.schema import tables

OUTLIERS = "outlier_share"
MAX_OUTLIER_SHARE = 0.6


# Decision 9: settings stand next to the function they steer.
class TopicConfig(TopicSettings, dg.Config):
    """Launchpad form of `TopicSettings`."""


@dg.asset(
    partitions_def=firm_quarters,
    io_manager_key="pgvector",
    dagster_type=dg.Any,
    # Decision 7: a separate check would be one more step in each of 3,000 runs.
    check_specs=[
        dg.AssetCheckSpec(
            OUTLIERS,
            asset="firm_topics",
            description=f"WARN when over {MAX_OUTLIER_SHARE:.0%} of the sentences have no topic.",
        )
    ],
    owners=OWNERS,
    kinds={"python", "scikitlearn", "postgres"},
    code_version="3",
    metadata={"dagster/column_schema": column_schema(tables.Topic)},
)
def firm_topics(config: TopicConfig, firm_sentences: Sentences) -> Materialized:
    """Topics of one firm's calls in one quarter, with their sentences, the most representative ranked first."""
    topics = fit_topics(firm_sentences, config)
    return dg.MaterializeResult(
        value=topics,
        data_version=dg.DataVersion(topics.content_hash),
        metadata=topics_metadata(topics),
        check_results=[check_outliers(topics, config.min_sentences)],
    )


def topics_metadata(topics: Topics) -> Metadata:
    """Counts, outlier share and the topics by size."""
    return drop_none(
        {
            "n_topics": len(topics.topics),
            "n_modelled": len(topics.members),
            "outlier share": round(topics.outlier_share, 4),
            "reason": topics.reason,
            "topics": markdown_table(
                ["topic", "sentences", "label", "keywords"],
                [(x.topic_number, x.n_sentences, x.label, ", ".join(x.keywords)) for x in topics.topics],
            ),
        }
    )


def check_outliers(topics: Topics, min_sentences: int) -> dg.AssetCheckResult:
    """Most sentences belong to a topic, unless the firm has too few sentences for topics."""
    return dg.AssetCheckResult(
        passed=len(topics.members) < min_sentences or topics.outlier_share <= MAX_OUTLIER_SHARE,
        check_name=OUTLIERS,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"outlier share": topics.outlier_share},
    )
