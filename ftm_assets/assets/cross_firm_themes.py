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
    column_schema,
    cost_metadata,
    drop_none,
    look_ahead_metadata,
    markdown_table,
)
from ftm_assets.encoder import Encoder
from ftm_assets.llm.prompts.theme_descriptions import PROMPT
from ftm_assets.llm.protocol import LanguageModel
from ftm_assets.llm.theme_descriptions import ThemeDescriptions, describe, embed
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

    A theme that is found again keeps its id; one that is not is retired. A firm that is missing or stale is left out,
    and the check `quarter_coverage` says so. A language model, if one is configured, only describes the themes.
    """
    themes = find_themes(topic_summaries, config)
    written = describe(themes, topic_summaries, language_model, context.run.run_id)
    vectors = embed(written.descriptions, encoder.encode)
    themes = replace(themes, descriptions=written.descriptions, description_embeddings=vectors)
    with database.transaction() as connection:
        first = first_call(connection, topic_summaries.quarter)
        look_ahead = look_ahead_of(connection, written.reply_keys, first)
    return dg.MaterializeResult(
        value=themes,
        data_version=dg.DataVersion(themes.content_hash),
        metadata={**themes_metadata(themes), **descriptions_metadata(written), **look_ahead_metadata(look_ahead)},
    )


def format_stability(stability: float | None) -> str:
    """A theme's stability as text."""
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
                    theme.theme_number,
                    theme.n_firms,
                    theme.n_topics,
                    f"{theme.top_firm_share:.0%}",
                    format_stability(theme.stability),
                    theme.label,
                    description.title or "",
                )
                for theme, description in zip(themes.themes, themes.descriptions, strict=True)
            ],
        ),
    }


def descriptions_metadata(written: ThemeDescriptions) -> Metadata:
    """Descriptions by source and by reason, and what the language model cost."""
    n_by_model = sum(description.source == "model" for description in written.descriptions)
    return drop_none(
        {
            "described by model": n_by_model,
            "described by keywords": len(written.descriptions) - n_by_model,
            "by keywords because": dict(Counter(map(kind_of, written.reasons.values()))) or None,
            **cost_metadata(written.cost),
        }
    )
