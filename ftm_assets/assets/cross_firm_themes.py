"""What many firms talked about in a quarter."""

import dagster as dg

from ftm_assets.analysis.themes import QuarterTopics, Themes, ThemeSettings, find_themes
from ftm_assets.assets.metadata import OWNERS, Materialized, Metadata, column_schema, markdown_table
from ftm_assets.partitions import one_quarter, quarters
from ftm_assets.storage import tables


class ThemeConfig(ThemeSettings, dg.Config):
    """Launchpad form of `ThemeSettings`."""


@dg.asset(
    partitions_def=quarters,
    ins={"topic_summaries": dg.AssetIn(partition_mapping=one_quarter)},
    io_manager_key="pgvector",
    owners=OWNERS,
    kinds={"python", "scikitlearn", "postgres"},
    code_version="3",
    metadata={"dagster/column_schema": column_schema(tables.Theme)},
)
def cross_firm_themes(config: ThemeConfig, topic_summaries: QuarterTopics) -> Materialized:
    """Themes of the quarter: topics of several firms that say the same thing. Publishing replaces the run before.

    A theme that is found again keeps its id; one that is not is retired. A firm that is missing or behind is left
    out, and the check `quarter_coverage` says so.
    """
    themes = find_themes(topic_summaries, config)
    return dg.MaterializeResult(
        value=themes, data_version=dg.DataVersion(themes.content_hash), metadata=themes_metadata(themes)
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
        "clustered by": themes.versions["theme_input"],
        "themes": markdown_table(
            ["theme", "firms", "topics", "largest firm", "stability", "label"],
            [
                (x.theme_number, x.n_firms, x.n_topics, f"{x.top_firm_share:.0%}", shown(x.stability), x.label)
                for x in themes.themes
            ],
        ),
    }
