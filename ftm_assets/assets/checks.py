"""Checks of a quarter's themes. They read the database, so you can run them again at any time."""

import warnings
from collections.abc import Callable

import dagster as dg

from ftm_assets.assets.cross_firm_themes import cross_firm_themes
from ftm_assets.partitions import quarters
from ftm_assets.storage.read.theme_state import theme_coverage, theme_settings, theme_state, themes_breaking_rules
from ftm_assets.storage.server.database import Database

N_SHOWN = 50


def _quarter_check(function: Callable[..., dg.AssetCheckResult]) -> dg.AssetChecksDefinition:
    with warnings.catch_warnings():
        # In preview; without it the UI would run a check without asking for the quarter.
        warnings.simplefilter("ignore", dg.PreviewWarning)
        return dg.asset_check(asset=cross_firm_themes, partitions_def=quarters)(function)


@_quarter_check
def quarter_coverage(
    context: dg.AssetCheckExecutionContext, database: dg.ResourceParam[Database]
) -> dg.AssetCheckResult:
    """The published themes were made from every firm with a call in the quarter; WARN with the firms left out."""
    with database.transaction() as connection:
        coverage = theme_coverage(connection, context.partition_key)
    return dg.AssetCheckResult(
        passed=coverage.published and not coverage.missing,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={
            "published": coverage.published,
            "firms expected": coverage.n_expected,
            "firms present": coverage.n_expected - len(coverage.missing),
            "firms missing": list(coverage.missing[:N_SHOWN]),
        },
    )


# Decision 8: Dagster does not notice that a firm behind a theme has changed.
@_quarter_check
def themes_current(context: dg.AssetCheckExecutionContext, database: dg.ResourceParam[Database]) -> dg.AssetCheckResult:
    """The published themes were made from the current summaries; Dagster compares no more than 100 partitions."""
    with database.transaction() as connection:
        state = theme_state(connection, context.partition_key)
    return dg.AssetCheckResult(
        passed=state.current,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"run": state.run_number or 0, "firms changed": list(state.changed_firms[:N_SHOWN])},
    )


@_quarter_check
def theme_rules(context: dg.AssetCheckExecutionContext, database: dg.ResourceParam[Database]) -> dg.AssetCheckResult:
    """Every published theme has enough firms and no dominant one, counted from its topics."""
    with database.transaction() as connection:
        settings = theme_settings(connection, context.partition_key)
        coverage = theme_coverage(connection, context.partition_key)
        fewest = settings.fewest_firms(coverage.n_expected - len(coverage.missing))
        broken = themes_breaking_rules(connection, context.partition_key, fewest, settings.max_firm_share)
    return dg.AssetCheckResult(passed=not broken, metadata={"breaking the rules": list(broken[:N_SHOWN])})
