"""How far a quarter is, and how much is in it."""

from dataclasses import dataclass, fields
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ftm_assets.analysis.themes import input_hash
from ftm_assets.storage.maintain.search_index import IndexState, index_states, search_index_ready
from ftm_assets.storage.read.attrition import Attrition, count_attrition
from ftm_assets.storage.read.llm_spending import LookAhead, Spending, look_ahead, spending
from ftm_assets.storage.read.text_sources import SummarySource, summary_sources
from ftm_assets.storage.schema import tables as t
from ftm_assets.storage.write.themes import ThemeState, current_summaries, theme_state


@dataclass(frozen=True)
class StageProgress:
    """Where a firm stands: `current`, `stale` (built from something else than is there now) or `missing`, by stage."""

    firm_key: str
    firm_sentences: str
    firm_topics: str
    topic_summaries: str

    @property
    def complete(self) -> bool:
        """Whether nothing is left to do."""
        return (self.firm_sentences, self.firm_topics, self.topic_summaries) == ("current",) * 3


@dataclass(frozen=True, kw_only=True)
class QuarterProgress:
    """How far a quarter is, against the firms that have a call in it."""

    quarter: str
    n_expected: int
    firms: tuple[StageProgress, ...]
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
    """How far a quarter is, and how much is in it; every count has its denominator beside it.

    n_configurations:   different versions and settings behind one stage, at most; 1 where all firms were made alike
    sources:     who wrote summaries of topics and descriptions of themes
    indexed:     whether themes, topics and, in a quarter that is not archived, sentences have their vector indexes
    archived_at: when the vectors of its sentences were dropped
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

    @property
    def outlier_share(self) -> float:
        """Share of the modelled sentences in no topic; 0 where there is none."""
        return 1 - self.n_in_topics / self.n_modelled if self.n_modelled else 0.0


@dataclass(frozen=True, kw_only=True)
class QuarterDetail(QuarterStatus):
    """The status of a quarter, with what became of its sentences by utterance type, and what its language model took.

    look_ahead: models that may have known what came after the quarter's first call
    indexes:   the vector indexes of themes, topics and sentences
    """

    attrition: Attrition
    spending: tuple[Spending, ...]
    look_ahead: tuple[LookAhead, ...]
    indexes: tuple[IndexState, ...]


def quarters_with_calls(connection: Connection) -> list[str]:
    """Quarters that hold at least one firm, in order."""
    return list(connection.scalars(sa.select(t.FirmQuarter.quarter).distinct().order_by(t.FirmQuarter.quarter)))


def quarter_progress(connection: Connection, quarter: str) -> QuarterProgress:
    """What is done of a quarter and what is not, firm by firm; for numbers alone see `themes.theme_counts`."""
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
    progress = quarter_progress(connection, quarter)
    return QuarterStatus(
        quarter=quarter,
        n_expected=progress.n_expected,
        firms=progress.firms,
        themes=progress.themes,
        input_hash=progress.input_hash,
        n_calls=counts.n_calls,
        n_superseded=counts.n_superseded,
        n_components=counts.n_components,
        n_sentences=counts.n_sentences,
        n_modelled=counts.n_modelled,
        n_in_topics=counts.n_in_topics,
        n_topics=counts.n_topics,
        n_by_keywords=counts.n_by_keywords,
        n_themes=counts.n_themes,
        n_topics_in_themes=counts.n_topics_in_themes,
        encoder=counts.encoder,
        archived_at=counts.archived_at,
        n_configurations=counts.n_configurations,
        sources=tuple(summary_sources(connection, quarter)),
        indexed=search_index_ready(connection, quarter),
    )


def quarter_detail(connection: Connection, quarter: str) -> QuarterDetail:
    """The status of one quarter with its attrition, which takes seven times as long to count as all of the rest."""
    status = quarter_status(connection, quarter)
    return QuarterDetail(
        **{field.name: getattr(status, field.name) for field in fields(status)},
        attrition=count_attrition(connection, quarter),
        spending=tuple(spending(connection, quarter)),
        look_ahead=tuple(look_ahead(connection, quarter)),
        indexes=tuple(index_states(connection, quarter)),
    )


def _progress(connection: Connection, quarter: str) -> list[StageProgress]:
    rows = connection.execute(
        sa.text(
            """
            SELECT firms.partition_key,
                   CASE WHEN s.stage IS NULL THEN 'missing' WHEN s.input_hash IS DISTINCT FROM c.content_hash
                        THEN 'stale' ELSE 'current' END,
                   CASE WHEN p.stage IS NULL THEN 'missing' WHEN p.input_hash IS DISTINCT FROM s.content_hash
                        THEN 'stale' ELSE 'current' END,
                   CASE WHEN m.stage IS NULL THEN 'missing' WHEN m.input_hash IS DISTINCT FROM p.content_hash
                        THEN 'stale' ELSE 'current' END
            FROM firm_quarters AS f
            JOIN firms USING (company_id)
            LEFT JOIN materializations AS c
                ON (c.quarter, c.company_id, c.stage) = (f.quarter, f.company_id, 'transcripts')
            LEFT JOIN materializations AS s
                ON (s.quarter, s.company_id, s.stage) = (f.quarter, f.company_id, 'firm_sentences')
            LEFT JOIN materializations AS p
                ON (p.quarter, p.company_id, p.stage) = (f.quarter, f.company_id, 'firm_topics')
            LEFT JOIN materializations AS m
                ON (m.quarter, m.company_id, m.stage) = (f.quarter, f.company_id, 'topic_summaries')
            WHERE f.quarter = :quarter ORDER BY firms.partition_key
            """
        ),
        {"quarter": quarter},
    )
    return [StageProgress(*row) for row in rows]
