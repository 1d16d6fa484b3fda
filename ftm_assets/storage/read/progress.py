"""How far a quarter is, and how much is in it."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ftm_assets.analysis.themes import input_hash
from ftm_assets.storage.read.attrition import Attrition, count_attrition
from ftm_assets.storage.read.llm_spending import LookAhead, Spending, look_ahead, spending
from ftm_assets.storage.read.search_index import IndexState, index_states, search_index_ready
from ftm_assets.storage.read.text_findings import TextFinding, text_findings
from ftm_assets.storage.read.text_sources import SummarySource, summary_sources
from ftm_assets.storage.read.theme_state import ThemeState, current_summaries, theme_state
from ftm_assets.storage.schema import tables as t


@dataclass(frozen=True)
class FirmProgress:
    """How far a firm is.

    stages: stage, in order of the graph -> `current`, `stale` (made from something else than is there now), `missing`
    """

    firm_key: str
    stages: Mapping[str, str]

    @property
    def complete(self) -> bool:
        """Whether nothing is left to do."""
        return set(self.stages.values()) <= {"current"}

    @property
    def missing(self) -> tuple[str, ...]:
        """Stages that were not made yet."""
        return tuple(stage for stage, status in self.stages.items() if status == "missing")

    @property
    def stale(self) -> tuple[str, ...]:
        """Stages that were made from something else than is there now."""
        return tuple(stage for stage, status in self.stages.items() if status == "stale")


@dataclass(frozen=True, kw_only=True)
class QuarterProgress:
    """How far a quarter is, against the firms that have a call in it."""

    quarter: str
    n_expected: int
    firms: tuple[FirmProgress, ...]
    themes: ThemeState
    input_hash: str

    @property
    def n_complete(self) -> int:
        """Expected firms with nothing to do."""
        return self.n_expected - len(self.firms_to_do)

    @property
    def firms_to_do(self) -> tuple[str, ...]:
        """Keys of the expected firms with a stage that is missing or stale."""
        return tuple(firm.firm_key for firm in self.firms if not firm.complete)


@dataclass(frozen=True, kw_only=True)
class QuarterStatus(QuarterProgress):
    """How far a quarter is, and how much is in it; every count comes with its denominator.

    n_configurations: most different versions and settings behind one stage; 1 if all firms were made in the same way
    sources:          who wrote summaries of topics and descriptions of themes
    indexed:          whether themes, topics and, unless the quarter is archived, sentences have their vector indexes
    archived_at:      when the vectors of its sentences were dropped
    text_findings:    calls with damaged text, and those of which nothing is modelled
    """

    n_calls: int
    n_superseded: int
    n_components: int
    n_sentences: int
    n_modelled: int
    n_in_topics: int
    n_topics: int
    n_by_keywords: int
    n_themes: int
    n_topics_in_themes: int
    encoder: str | None
    n_configurations: int
    sources: tuple[SummarySource, ...] = ()
    indexed: bool = False
    archived_at: datetime | None = None
    text_findings: tuple[TextFinding, ...] = ()

    @property
    def outlier_share(self) -> float:
        """Share of the modelled sentences in no topic; 0 where there is none."""
        return 1 - self.n_in_topics / self.n_modelled if self.n_modelled else 0.0


@dataclass(frozen=True, kw_only=True)
class QuarterDetail(QuarterStatus):
    """The status of a quarter, with the attrition of its sentences and what its language model cost.

    look_ahead: models that may have read what came after the quarter's first call
    indexes:    the vector indexes of themes, topics and sentences
    """

    attrition: Attrition
    spending: tuple[Spending, ...]
    look_ahead: tuple[LookAhead, ...]
    indexes: tuple[IndexState, ...]


def quarters_with_calls(connection: Connection) -> list[str]:
    """Quarters that hold at least one firm, in order."""
    return list(connection.scalars(sa.select(t.FirmQuarter.quarter).distinct().order_by(t.FirmQuarter.quarter)))


def quarter_progress(connection: Connection, quarter: str) -> QuarterProgress:
    """What is done of a quarter and what is not, firm by firm; for numbers alone see `theme_state.theme_counts`."""
    firms = tuple(_progress(connection, quarter))
    summaries = current_summaries(connection, quarter)
    return QuarterProgress(
        quarter=quarter,
        n_expected=len(firms),
        firms=firms,
        themes=theme_state(connection, quarter, summaries),
        input_hash=input_hash(summaries),
    )


def quarter_status(connection: Connection, quarter: str) -> QuarterStatus:
    """What is done of a quarter and how much is in it, from its rows alone."""
    counts = connection.execute(
        sa.text(
            """
            SELECT * FROM
                (SELECT count(*) FILTER (WHERE superseded_by IS NULL) AS n_calls, count(superseded_by) AS n_superseded
                    FROM calls WHERE quarter = :quarter) AS calls,
                (SELECT count(*) AS n_components FROM components WHERE quarter = :quarter) AS components,
                (SELECT count(*) AS n_sentences, count(*) FILTER (WHERE boilerplate IS NULL) AS n_modelled
                    FROM sentences WHERE quarter = :quarter) AS sentences,
                (SELECT count(topic_number) AS n_in_topics FROM topic_sentences WHERE quarter = :quarter) AS members,
                (SELECT count(*) AS n_topics FROM topics WHERE quarter = :quarter) AS topics,
                (SELECT count(*) AS n_by_keywords FROM topic_summaries
                    WHERE quarter = :quarter AND source = 'keywords') AS summaries,
                (SELECT count(DISTINCT theme_number) AS n_themes, count(*) AS n_topics_in_themes
                    FROM theme_topics WHERE quarter = :quarter) AS themes,
                (SELECT max(encoder || '@' || encoder_revision) AS encoder, max(archived_at) AS archived_at
                    FROM quarters WHERE quarter = :quarter) AS quarters,
                (SELECT coalesce(max(n), 0) AS n_configurations FROM
                    -- The reason for an empty partition is no part of the configuration.
                    (SELECT count(DISTINCT provenance - 'reason') AS n FROM materializations
                        WHERE quarter = :quarter AND stage <> 'transcripts' GROUP BY stage) AS by_stage
                ) AS configurations
            """
        ),
        {"quarter": quarter},
    ).one()
    return QuarterStatus(
        **_fields_of(quarter_progress(connection, quarter)),
        **counts._mapping,
        sources=tuple(summary_sources(connection, quarter)),
        indexed=search_index_ready(connection, quarter),
        text_findings=tuple(text_findings(connection, quarter)),
    )


def quarter_detail(connection: Connection, quarter: str) -> QuarterDetail:
    """The status of one quarter with its attrition, which takes seven times as long to count as all of the rest."""
    return QuarterDetail(
        **_fields_of(quarter_status(connection, quarter)),
        attrition=count_attrition(connection, quarter),
        spending=tuple(spending(connection, quarter)),
        look_ahead=tuple(look_ahead(connection, quarter)),
        indexes=tuple(index_states(connection, quarter)),
    )


def _fields_of(progress: QuarterProgress) -> dict[str, Any]:
    return {field.name: getattr(progress, field.name) for field in fields(progress)}


def _progress(connection: Connection, quarter: str) -> list[FirmProgress]:
    rows = connection.execute(
        sa.text(
            """
            SELECT firm_key, stage, status FROM firm_status WHERE quarter = :quarter ORDER BY firm_key, stage_order
            """
        ),
        {"quarter": quarter},
    )
    stages: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for row in rows:
        stages[row.firm_key][row.stage] = row.status
    return [FirmProgress(firm_key, of_firm) for firm_key, of_firm in stages.items()]
