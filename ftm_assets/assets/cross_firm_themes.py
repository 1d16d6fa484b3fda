"""What many firms talked about in a quarter."""

from collections import Counter
from dataclasses import replace

import dagster as dg

from ftm_assets.analysis.themes import QuarterTopics, Themes, ThemeSettings, find_themes
from ftm_assets.analysis.topic_summaries import kind_of
from ftm_assets.assets.metadata import (
    OWNERS,
    Materialized,
    Metadata,
    bill_metadata,
    column_schema,
    known,
    look_ahead_metadata,
    markdown_table,
)
from ftm_assets.encoder import Encoder
from ftm_assets.llm.prompts.theme_descriptions import PROMPT
from ftm_assets.llm.protocol import LanguageModel
from ftm_assets.llm.theme_descriptions import Described, describe, embed
from ftm_assets.partitions import one_quarter, quarters
from ftm_assets.storage.read.llm_spending import first_call, look_ahead_of
from ftm_assets.storage.schema import tables
from ftm_assets.storage.server.database import Database


class ThemeConfig(ThemeSettings, dg.Config):
    """Launchpad form of `ThemeSettings`."""


@dg.asset(
    partitions_def=quarters,
    ins={"topic_summaries": dg.AssetIn(partition_mapping=one_quarter)},
    io_manager_key="pgvector",
    owners=OWNERS,
    kinds={"python", "scikitlearn", "postgres"},
    code_version=f"5, {PROMPT.id}",
    metadata={"dagster/column_schema": column_schema(tables.Theme)},
)
def cross_firm_themes(
    context: dg.AssetExecutionContext,
    config: ThemeConfig,
    database: dg.ResourceParam[Database],
    encoder: dg.ResourceParam[Encoder],
    language_model: dg.ResourceParam[LanguageModel],
    topic_summaries: QuarterTopics,
) -> Materialized:
    """Themes of the quarter: topics of several firms that say the same thing. Publishing replaces the run before.

    A theme that is found again keeps its id; one that is not is retired. A firm that is missing or behind is left
    out, and the check `quarter_coverage` says so. A language model, where one is configured, describes themes that are
    found already: it decides nothing.
    """
    themes = find_themes(topic_summaries, config)
    described = describe(themes, topic_summaries, language_model, context.run.run_id)
    vectors = embed(described.descriptions, encoder.encode)
    themes = replace(themes, descriptions=described.descriptions, description_embeddings=vectors)
    with database.transaction() as connection:
        knowing = look_ahead_of(connection, described.keys, first_call(connection, topic_summaries.quarter))
    return dg.MaterializeResult(
        value=themes,
        data_version=dg.DataVersion(themes.content_hash),
        metadata={**themes_metadata(themes), **descriptions_metadata(described), **look_ahead_metadata(knowing)},
    )


def shown(stability: float | None) -> str:
    """A stability to read."""
    return "not measured" if stability is None else f"{stability:.2f}"


def themes_metadata(themes: Themes) -> Metadata:
    """Counts with their denominators, what was left out and why, and the largest themes."""
    return {
        "n_themes": len(themes.themes),
        "firms expected": themes.n_expected,
        "firms present": len(themes.firm_hashes),
        "topics": themes.n_topics,
        "topics in themes": len(themes.members),
        "topics in no cluster": themes.n_noise,
        "clusters rejected": dict(themes.rejected),
        "clustered by": themes.provenance["theme_input"],
        "themes": markdown_table(
            ["theme", "firms", "topics", "largest firm", "stability", "label", "title"],
            [
                (
                    *(x.theme_number, x.n_firms, x.n_topics, f"{x.top_firm_share:.0%}", shown(x.stability), x.label),
                    described.title or "",
                )
                for x, described in zip(themes.themes, themes.descriptions, strict=True)
            ],
        ),
    }


def descriptions_metadata(described: Described) -> Metadata:
    """Descriptions by source and by reason, and what the language model took."""
    n_by_model = sum(description.source == "model" for description in described.descriptions)
    return known(
        {
            "described by model": n_by_model,
            "described by keywords": len(described.descriptions) - n_by_model,
            "by keywords because": dict(Counter(map(kind_of, described.reasons.values()))) or None,
            **bill_metadata(described.bill),
        }
    )
