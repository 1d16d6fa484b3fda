"""Checks of a quarter's themes that look at what rests in the database, so that they can be run again at any time."""

import warnings
from collections.abc import Callable

import dagster as dg
import sqlalchemy as sa

from ftm_assets.analysis.themes import ThemeSettings
from ftm_assets.assets.cross_firm_themes import cross_firm_themes
from ftm_assets.partitions import quarters
from ftm_assets.storage import tables as t
from ftm_assets.storage.database import Database
from ftm_assets.storage.queries import quarter_progress, themes_of_quarter

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
    """Every firm with a call in the quarter went into its themes; WARN with the firms that did not."""
    with database.transaction() as connection:
        status = quarter_progress(connection, context.partition_key)
    return dg.AssetCheckResult(
        passed=not status.firms_to_do,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={
            "firms expected": status.n_expected,
            "firms present": status.n_expected - len(status.firms_to_do),
            "firms missing": list(status.firms_to_do[:N_SHOWN]),
        },
    )


@_quarter_check
def themes_current(context: dg.AssetCheckExecutionContext, database: dg.ResourceParam[Database]) -> dg.AssetCheckResult:
    """The published themes rest on the summaries of now; Dagster itself does not compare beyond 100 partitions."""
    with database.transaction() as connection:
        status = quarter_progress(connection, context.partition_key)
    return dg.AssetCheckResult(
        passed=status.themes.current,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"run": status.themes.run_number or 0, "firms changed": list(status.themes.changed_firms[:N_SHOWN])},
    )


@_quarter_check
def theme_rules(context: dg.AssetCheckExecutionContext, database: dg.ResourceParam[Database]) -> dg.AssetCheckResult:
    """Every published theme has enough firms, and none is one firm's, counted anew from its topics."""
    with database.transaction() as connection:
        settings = ThemeSettings(**_theme_settings(connection, context.partition_key))
        broken = [
            theme.theme_id
            for theme in themes_of_quarter(connection, context.partition_key)
            if theme.n_firms < settings.min_firms or theme.top_firm_share > settings.max_firm_share
        ]
    return dg.AssetCheckResult(passed=not broken, metadata={"breaking the rules": broken[:N_SHOWN]})


def _theme_settings(connection: sa.Connection, quarter: str) -> dict[str, object]:
    versions = connection.scalar(
        sa.select(t.ThemeRun.versions)
        .where(t.ThemeRun.quarter == quarter)
        .order_by(t.ThemeRun.run_number.desc())
        .limit(1)
    )
    return dict((versions or {}).get("settings", {}))
