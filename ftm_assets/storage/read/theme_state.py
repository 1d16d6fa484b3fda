"""How the published themes of a quarter stand to what is in the database now: firms, summaries, settings."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ftm_assets.analysis.themes import ThemeSettings
from ftm_assets.storage.schema import tables as t
from ftm_assets.storage.schema.rows import rows_as
from ftm_assets.storage.stages import THEME_INPUT

# Firms whose stages all rest on one another, with the hash of their summaries.
_COMPLETE = f"""
    SELECT quarter, company_id, max(content_hash) FILTER (WHERE stage = '{THEME_INPUT.name}') AS content_hash
    FROM firm_status GROUP BY quarter, company_id HAVING bool_and(status = 'current')
"""  # noqa: S608  (a name of ours)


@dataclass(frozen=True)
class ThemeState:
    """How the published themes of a quarter stand to the summaries that are there now.

    run_number:    of the current run, None if nothing was published
    changed_firms: keys of the firms that came, went or changed since
    """

    run_number: int | None
    changed_firms: tuple[str, ...]

    @property
    def current(self) -> bool:
        """Whether a run is there and rests on exactly the summaries of now."""
        return self.run_number is not None and not self.changed_firms


@dataclass(frozen=True)
class ThemeCounts:
    """How far a quarter and its themes are, in firms.

    n_complete: expected firms with nothing to do
    n_changed:  firms that came, went or changed since the themes were made; all complete ones before the first themes
    """

    quarter: str
    n_expected: int
    n_complete: int
    n_changed: int
    published: bool

    @property
    def n_to_do(self) -> int:
        """Expected firms with a stage that is missing or stale."""
        return self.n_expected - self.n_complete

    @property
    def due(self) -> bool:
        """Whether all firms are complete and the themes do not rest on what is there."""
        return not self.n_to_do and not (self.published and not self.n_changed)

    @property
    def current(self) -> bool:
        """Whether themes are published that rest on all expected firms, as they are now."""
        return not self.n_to_do and self.published and not self.n_changed


@dataclass(frozen=True)
class ThemeCoverage:
    """Which expected firms the published themes of a quarter were made from; none, where nothing was published.

    missing: keys of the others
    """

    published: bool
    n_expected: int
    missing: tuple[str, ...]


def current_run(connection: Connection, quarter: str) -> sa.Row[Any] | None:
    """The row of the published run, None where nothing was published."""
    newest_first = t.ThemeRun.run_number.desc()
    return connection.execute(
        sa.select(t.ThemeRun).where(t.ThemeRun.quarter == quarter).order_by(newest_first).limit(1)
    ).first()


def current_summaries(connection: Connection, quarter: str) -> dict[int, str]:
    """Company id -> content hash of the summaries, for the firms whose stages all rest on one another."""
    found = connection.execute(
        sa.text(f"SELECT * FROM ({_COMPLETE}) AS complete WHERE quarter = :quarter ORDER BY company_id"),  # noqa: S608  (a constant)
        {"quarter": quarter},
    )
    return {row.company_id: row.content_hash for row in found}


def theme_inputs(connection: Connection, quarter: str) -> dict[int, str]:
    """Company id -> content hash of the summaries that the current run was made from."""
    found = connection.execute(
        sa.select(t.ThemeInput.company_id, t.ThemeInput.content_hash).where(t.ThemeInput.quarter == quarter)
    )
    return {row.company_id: row.content_hash for row in found}


def theme_settings(connection: Connection, quarter: str) -> ThemeSettings:
    """The settings that the published themes were made with; the defaults where nothing was published."""
    run = current_run(connection, quarter)
    return ThemeSettings() if run is None else ThemeSettings(**run.provenance["settings"])


def n_expected(connection: Connection, quarter: str) -> int:
    """Firms with a call in the quarter."""
    return connection.execute(
        sa.select(sa.func.count()).select_from(t.FirmQuarter).where(t.FirmQuarter.quarter == quarter)
    ).scalar_one()


def theme_state(connection: Connection, quarter: str, summaries: Mapping[int, str] | None = None) -> ThemeState:
    """Whether the published themes rest on the summaries of now, and if not, which firms differ.

    summaries: what `current_summaries` returns, if you have it already
    """
    run = current_run(connection, quarter)
    if run is None:
        return ThemeState(None, ())
    used = theme_inputs(connection, quarter)
    now = current_summaries(connection, quarter) if summaries is None else summaries
    changed = {firm for firm in used.keys() | now.keys() if used.get(firm) != now.get(firm)}
    keys = connection.scalars(
        sa.select(t.Firm.partition_key).where(t.Firm.company_id.in_(changed)).order_by(t.Firm.partition_key)
    )
    return ThemeState(run.run_number, tuple(keys))


def theme_counts(connection: Connection) -> list[ThemeCounts]:
    """How far each quarter with calls is, in order of quarters; counted in the database, so you may ask often."""
    rows = connection.execute(
        sa.text(
            f"""
            WITH complete AS ({_COMPLETE}), firms AS (
                SELECT quarter, count(now.content_hash) AS n_complete,
                       count(*) FILTER (WHERE now.content_hash IS DISTINCT FROM used.content_hash) AS n_changed
                FROM complete AS now FULL JOIN theme_inputs AS used USING (quarter, company_id) GROUP BY quarter
            )
            SELECT quarter, count(*) AS n_expected, coalesce(max(n_complete), 0) AS n_complete,
                   coalesce(max(n_changed), 0) AS n_changed, quarter IN (SELECT quarter FROM theme_runs) AS published
            FROM firm_quarters LEFT JOIN firms USING (quarter) GROUP BY quarter ORDER BY quarter
            """  # noqa: S608  (a constant)
        )
    )
    return rows_as(ThemeCounts, rows)


def theme_coverage(connection: Connection, quarter: str) -> ThemeCoverage:
    """Which firms with a call in the quarter are in its published themes, whatever became of them since."""
    firms = connection.execute(
        sa.select(t.Firm.partition_key, t.ThemeInput.company_id.is_not(None).label("present"))
        .join(t.FirmQuarter, t.FirmQuarter.company_id == t.Firm.company_id)
        .outerjoin(
            t.ThemeInput,
            (t.ThemeInput.quarter == t.FirmQuarter.quarter) & (t.ThemeInput.company_id == t.FirmQuarter.company_id),
        )
        .where(t.FirmQuarter.quarter == quarter)
        .order_by(t.Firm.partition_key)
    ).all()
    missing = tuple(firm.partition_key for firm in firms if not firm.present)
    return ThemeCoverage(current_run(connection, quarter) is not None, len(firms), missing)


def themes_breaking_rules(
    connection: Connection, quarter: str, min_firms: int, max_firm_share: float
) -> tuple[str, ...]:
    """Ids of the published themes that have too few firms, or too large a share of their topics from one firm.

    Counted from the topics, whatever the themes say of themselves.
    """
    found = connection.scalars(
        sa.text(
            """
            WITH firms AS (
                SELECT theme_number, company_id, count(*) AS n FROM theme_topics WHERE quarter = :quarter GROUP BY 1, 2
            ), spread AS (
                SELECT theme_number, count(*) AS n_firms, max(n)::float / sum(n) AS share FROM firms GROUP BY 1
            )
            SELECT theme_id FROM themes JOIN spread USING (theme_number)
            WHERE quarter = :quarter AND (spread.n_firms < :min_firms OR share > :share) ORDER BY theme_number
            """
        ),
        {"quarter": quarter, "min_firms": min_firms, "share": max_firm_share},
    )
    return tuple(found)
