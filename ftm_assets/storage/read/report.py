"""The contents of a quarter's report: its published themes, the attrition of its sentences, how it was made."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

import numpy as np
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ftm_assets.analysis.themes import ThemeSettings
from ftm_assets.errors import FtmError
from ftm_assets.storage.read import queries
from ftm_assets.storage.read.attrition import Attrition
from ftm_assets.storage.read.queries import FirmRow, QuarterDetail, SentenceRow, ThemeRow, TopicRow
from ftm_assets.storage.read.theme_state import current_run, theme_coverage
from ftm_assets.storage.schema import tables as t
from ftm_assets.storage.schema.rows import rows_as
from ftm_assets.storage.schema.vectors import binary, vectors_of

N_EXAMPLES = 3
N_WITHOUT_THEME = 15


class NoThemes(FtmError):
    """A report needs themes, and none are published."""

    def __init__(self, quarter: str) -> None:
        super().__init__(f"no themes were published for {quarter} yet; make them with: ftm backfill {quarter}")


@dataclass(frozen=True)
class ThemeRun:
    """A published theme run.

    rejected:   reason -> clusters that became no theme
    provenance: code, encoder and settings that made it
    attrition:  of the day when it was published; None for runs from before it was stored
    """

    run_number: int
    published_at: datetime
    as_of: datetime | None
    n_firms: int
    n_topics: int
    rejected: Mapping[str, int]
    provenance: Mapping[str, Any]
    attrition: Attrition | None
    seconds: float | None

    @property
    def settings(self) -> ThemeSettings:
        """The settings that made it."""
        return ThemeSettings(**self.provenance["settings"])


@dataclass(frozen=True)
class StageSeconds:
    """How long a stage took over the firms of a quarter; None if it was measured for none of them."""

    stage: str
    n_firms: int
    n_measured: int
    total_s: float | None
    median_s: float | None
    longest_s: float | None


@dataclass(frozen=True)
class Configuration:
    """Versions and settings of a stage, and for how many firms of the quarter they made it."""

    stage: str
    n_firms: int
    provenance: Mapping[str, Any]


@dataclass(frozen=True)
class ReportedTheme:
    """A theme with sentences that show what it is about."""

    row: ThemeRow
    examples: tuple[SentenceRow, ...]


@dataclass(frozen=True)
class QuarterReport:
    """A quarter's current theme run and everything that it was made from.

    themes:        those of most firms first
    centroids:     (k, 768) float32, row i belongs to themes[i]
    missing:       firms with a call in the quarter that the themes were made without
    without_theme: the largest topics in no theme
    """

    status: QuarterDetail
    run: ThemeRun
    themes: tuple[ReportedTheme, ...]
    centroids: np.ndarray
    missing: tuple[FirmRow, ...]
    without_theme: tuple[TopicRow, ...]
    stages: tuple[StageSeconds, ...]
    configurations: tuple[Configuration, ...]

    @property
    def quarter(self) -> str:
        """The quarter that it is about."""
        return self.status.quarter

    @cached_property
    def attrition(self) -> Attrition:
        """The attrition of the day when the themes were published or, if that is unknown, of now."""
        return self.run.attrition or self.status.attrition

    @property
    def n_present(self) -> int:
        """Firms with a call in the quarter that the themes were made from."""
        return self.status.n_expected - len(self.missing)

    @property
    def n_outside(self) -> int:
        """Topics of the run that are in no theme."""
        return self.run.n_topics - self.status.n_topics_in_themes

    @property
    def n_measured(self) -> int:
        """Themes whose stability was measured."""
        return sum(theme.row.stability is not None for theme in self.themes)

    def share_of_modelled(self, theme: ThemeRow) -> float:
        """Part of the quarter's modelled sentences that is in the theme, both as they are now."""
        return theme.n_sentences / self.status.n_modelled if self.status.n_modelled else 0.0


def read_report(connection: Connection, quarter: str) -> QuarterReport:
    """Everything in the report, as of one moment. Call it first in the connection's transaction. raises: NoThemes"""
    connection.execute(sa.text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
    run = published_run(connection, quarter)
    if run is None:
        raise NoThemes(quarter)
    themes = queries.themes_of_quarter(connection, quarter)
    missing = set(theme_coverage(connection, quarter).missing)
    return QuarterReport(
        status=queries.quarter_detail(connection, quarter),
        run=run,
        themes=tuple(
            ReportedTheme(theme, tuple(queries.sentences_of_theme(connection, theme.theme_id, N_EXAMPLES)))
            for theme in themes
        ),
        centroids=centroids_of(connection, quarter, [theme.theme_number for theme in themes]),
        missing=tuple(firm for firm in queries.firms(connection) if firm.partition_key in missing),
        without_theme=tuple(queries.topics_without_theme(connection, quarter, N_WITHOUT_THEME)),
        stages=tuple(stage_seconds(connection, quarter)),
        configurations=tuple(configurations(connection, quarter)),
    )


def published_run(connection: Connection, quarter: str) -> ThemeRun | None:
    """The published run of a quarter, None where nothing was published."""
    row = current_run(connection, quarter)
    if row is None:
        return None
    return ThemeRun(
        run_number=row.run_number,
        published_at=row.published_at,
        as_of=row.as_of,
        n_firms=row.n_firms,
        n_topics=row.n_topics,
        rejected=row.rejected,
        provenance=row.provenance,
        attrition=Attrition.from_json(row.attrition) if row.attrition else None,
        seconds=row.seconds,
    )


def centroids_of(connection: Connection, quarter: str, theme_numbers: Sequence[int]) -> np.ndarray:
    """(k, 768) float32: the centroids of these themes, in their order."""
    rows = connection.execute(
        sa.select(t.Theme.theme_number, binary(t.Theme.centroid).label("centroid")).where(
            t.Theme.quarter == quarter, t.Theme.theme_number.in_(theme_numbers)
        )
    )
    found = {row.theme_number: row.centroid for row in rows}
    return vectors_of([found[number] for number in theme_numbers])


def stage_seconds(connection: Connection, quarter: str) -> list[StageSeconds]:
    """How long each stage took, over the firms that have it, in order of the graph."""
    rows = connection.execute(
        sa.text(
            """
            SELECT stage, count(*) AS n_firms, count(seconds) AS n_measured, sum(seconds) AS total_s,
                   percentile_cont(0.5) WITHIN GROUP (ORDER BY seconds) AS median_s, max(seconds) AS longest_s
            FROM firm_status WHERE quarter = :quarter AND status <> 'missing'
            GROUP BY stage, stage_order ORDER BY stage_order
            """
        ),
        {"quarter": quarter},
    )
    return rows_as(StageSeconds, rows)


def configurations(connection: Connection, quarter: str) -> list[Configuration]:
    """The versions and settings that made the stages, in order of the graph, those of most firms first."""
    rows = connection.execute(
        sa.text(
            """
            -- The reason for an empty partition is not part of the configuration.
            SELECT stage, count(*) AS n_firms, provenance - 'reason' AS provenance
            FROM firm_status WHERE quarter = :quarter AND status <> 'missing'
            GROUP BY stage, stage_order, provenance - 'reason'
            ORDER BY stage_order, n_firms DESC, provenance - 'reason'
            """
        ),
        {"quarter": quarter},
    )
    return rows_as(Configuration, rows)
