"""What people ask: how far a quarter is, its themes, and the way from a theme down to its sentences and back up."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ftm_assets.analysis.themes import inputs_hash
from ftm_assets.storage import tables as t
from ftm_assets.storage.themes import ThemeState, current_summaries, n_expected, theme_state


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


@dataclass(frozen=True)
class QuarterStatus:
    """How far a quarter is, against the firms that have a call in it; every count has its denominator beside it."""

    quarter: str
    n_expected: int
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
    n_recipes: int
    firms: tuple[StageProgress, ...]
    themes: ThemeState
    inputs_hash: str

    @property
    def n_complete(self) -> int:
        """Expected firms with nothing to do."""
        return self.n_expected - len(self.firms_to_do)

    @property
    def firms_to_do(self) -> tuple[str, ...]:
        """Keys of the expected firms with a stage that is missing or stale."""
        return tuple(firm.firm_key for firm in self.firms if not firm.complete)

    @property
    def outlier_share(self) -> float:
        """Share of the modelled sentences in no topic; 0 where there is none."""
        return 1 - self.n_in_topics / self.n_modelled if self.n_modelled else 0.0


@dataclass(frozen=True)
class FirmRow:
    """A firm under its latest name."""

    company_id: int
    partition_key: str
    name: str
    ticker: str | None


@dataclass(frozen=True)
class ThemeRow:
    """A published theme; counts are made from its topics."""

    quarter: str
    theme_id: str
    theme_number: int
    label: str
    keywords: tuple[str, ...]
    n_firms: int
    n_topics: int
    top_firm_share: float


@dataclass(frozen=True)
class TopicRow:
    """A topic with its firm, its summary and, if it has one, its theme. `live` is False once it was replaced."""

    quarter: str
    topic_id: str
    firm_key: str
    firm_name: str
    topic_number: int
    label: str
    n_sentences: int | None
    summary: str | None
    source: str | None
    theme_id: str | None
    similarity: float | None
    live: bool


@dataclass(frozen=True)
class SentenceRow:
    """A sentence with all that stands above it."""

    quarter: str
    sentence_id: str
    firm_key: str
    firm_name: str
    call_date: date
    transcript_id: int
    component_order: int
    start_char: int
    end_char: int
    person: str
    role: str
    section: str
    boilerplate: str | None
    topic_number: int | None
    topic_label: str | None
    rank: int | None
    probability: float | None
    theme_id: str | None
    text: str


@dataclass(frozen=True)
class CallRow:
    """A call and how much of it went where."""

    quarter: str
    firm_key: str
    transcript_id: int
    call_date: date
    call_at: datetime | None
    headline: str
    superseded_by: int | None
    n_components: int
    n_sentences: int
    n_modelled: int
    n_in_topics: int


@dataclass(frozen=True)
class RejectRow:
    """A row of a source that was left out or repaired."""

    source: str
    row_number: int
    column: str
    value: str
    reason: str
    kept: bool


def quarters_with_calls(connection: Connection) -> list[str]:
    """Quarters that hold at least one firm, in order."""
    return list(connection.scalars(sa.select(t.FirmQuarter.quarter).distinct().order_by(t.FirmQuarter.quarter)))


def firms(connection: Connection) -> list[FirmRow]:
    """Every firm, under the name of its latest quarter, by partition key."""
    rows = connection.execute(
        sa.select(t.Firm.company_id, t.Firm.partition_key, t.FirmQuarter.name, t.FirmQuarter.ticker)
        .join(t.FirmQuarter, t.FirmQuarter.company_id == t.Firm.company_id)
        .distinct(t.Firm.partition_key)
        .order_by(t.Firm.partition_key, t.FirmQuarter.quarter.desc())
    )
    return [FirmRow(*row) for row in rows]


def quarter_status(connection: Connection, quarter: str) -> QuarterStatus:
    """How far a quarter is, from its rows alone."""
    one = connection.execute(
        sa.text(
            """
            SELECT (SELECT count(*) FROM calls WHERE quarter = :q AND superseded_by IS NULL) AS n_calls,
                   (SELECT count(*) FROM calls WHERE quarter = :q AND superseded_by IS NOT NULL) AS n_superseded,
                   (SELECT count(*) FROM components WHERE quarter = :q) AS n_components,
                   (SELECT count(*) FROM sentences WHERE quarter = :q) AS n_sentences,
                   (SELECT count(*) FROM sentences WHERE quarter = :q AND boilerplate IS NULL) AS n_modelled,
                   (SELECT count(topic_number) FROM topic_sentences WHERE quarter = :q) AS n_in_topics,
                   (SELECT count(*) FROM topics WHERE quarter = :q) AS n_topics,
                   (SELECT count(*) FROM topic_summaries WHERE quarter = :q AND source = 'keywords') AS n_by_keywords,
                   (SELECT count(*) FROM themes WHERE quarter = :q AND run_number =
                        (SELECT max(run_number) FROM theme_runs WHERE quarter = :q)) AS n_themes,
                   (SELECT count(*) FROM theme_topics WHERE quarter = :q) AS n_topics_in_themes,
                   (SELECT encoder || '@' || encoder_revision FROM quarters WHERE quarter = :q) AS encoder,
                   (SELECT coalesce(max(n), 0) FROM (SELECT count(DISTINCT versions - 'reason') AS n FROM stages
                        WHERE quarter = :q AND stage <> 'transcripts' GROUP BY stage) AS by_stage) AS n_recipes
            """
        ),
        {"q": quarter},
    ).one()
    return QuarterStatus(
        quarter=quarter,
        n_expected=n_expected(connection, quarter),
        **one._mapping,
        firms=tuple(_progress(connection, quarter)),
        themes=theme_state(connection, quarter),
        inputs_hash=inputs_hash(current_summaries(connection, quarter)),
    )


def _progress(connection: Connection, quarter: str) -> list[StageProgress]:
    rows = connection.execute(
        sa.text(
            """
            SELECT firms.partition_key,
                   CASE WHEN s.stage IS NULL THEN 'missing' WHEN s.built_from IS DISTINCT FROM c.content_hash
                        THEN 'stale' ELSE 'current' END,
                   CASE WHEN p.stage IS NULL THEN 'missing' WHEN p.built_from IS DISTINCT FROM s.content_hash
                        THEN 'stale' ELSE 'current' END,
                   CASE WHEN m.stage IS NULL THEN 'missing' WHEN m.built_from IS DISTINCT FROM p.content_hash
                        THEN 'stale' ELSE 'current' END
            FROM firm_quarters AS f
            JOIN firms USING (company_id)
            LEFT JOIN stages AS c ON (c.quarter, c.company_id, c.stage) = (f.quarter, f.company_id, 'transcripts')
            LEFT JOIN stages AS s ON (s.quarter, s.company_id, s.stage) = (f.quarter, f.company_id, 'firm_sentences')
            LEFT JOIN stages AS p ON (p.quarter, p.company_id, p.stage) = (f.quarter, f.company_id, 'firm_topics')
            LEFT JOIN stages AS m ON (m.quarter, m.company_id, m.stage) = (f.quarter, f.company_id, 'topic_summaries')
            WHERE f.quarter = :quarter ORDER BY firms.partition_key
            """
        ),
        {"quarter": quarter},
    )
    return [StageProgress(*row) for row in rows]


def calls(connection: Connection, quarter: str, company_id: int | None = None) -> list[CallRow]:
    """Calls of a quarter, superseded versions included, each with its own counts."""
    rows = connection.execute(
        sa.text(
            """
            SELECT c.quarter, firms.partition_key, c.transcript_id, c.call_date, c.call_at, c.headline, c.superseded_by,
                   (SELECT count(*) FROM components AS k
                    WHERE (k.quarter, k.transcript_id) = (c.quarter, c.transcript_id)),
                   count(s.sentence_id), count(s.sentence_id) FILTER (WHERE s.boilerplate IS NULL),
                   count(a.topic_number)
            FROM calls AS c
            JOIN firms USING (company_id)
            LEFT JOIN sentences AS s ON (s.quarter, s.transcript_id) = (c.quarter, c.transcript_id)
            LEFT JOIN topic_sentences AS a ON (a.quarter, a.sentence_id) = (s.quarter, s.sentence_id)
            WHERE c.quarter = :quarter AND (CAST(:company AS bigint) IS NULL OR c.company_id = :company)
            GROUP BY c.quarter, firms.partition_key, c.transcript_id ORDER BY 2, 4, 3
            """
        ),
        {"quarter": quarter, "company": company_id},
    )
    return [CallRow(*row) for row in rows]


def themes_of_quarter(connection: Connection, quarter: str) -> list[ThemeRow]:
    """The current themes, those of most firms first."""
    rows = connection.execute(
        sa.text(
            """
            WITH firm_counts AS (
                SELECT theme_number, company_id, count(*) AS n FROM theme_topics WHERE quarter = :quarter GROUP BY 1, 2
            ), sizes AS (
                SELECT theme_number, count(*) AS firms, sum(n)::int AS topics, max(n)::float / sum(n) AS top_share
                FROM firm_counts GROUP BY 1
            )
            SELECT themes.quarter, theme_id, theme_number, label, keywords,
                   firms AS n_firms, topics AS n_topics, top_share AS top_firm_share
            FROM themes JOIN sizes USING (theme_number)
            WHERE themes.quarter = :quarter ORDER BY firms DESC, topics DESC, theme_number
            """
        ),
        {"quarter": quarter},
    )
    return [ThemeRow(**{**row._mapping, "keywords": tuple(row.keywords)}) for row in rows]


def topics_of_theme(connection: Connection, theme_id: str) -> list[TopicRow]:
    """Down one step: the topics of a theme, nearest to its centroid first."""
    return _topics(connection, "themes.theme_id = :theme_id", {"theme_id": theme_id}, "similarity DESC, 3, 5")


def topics_of_firm(connection: Connection, quarter: str, company_id: int) -> list[TopicRow]:
    """A firm's topics in a quarter, largest first, each with its theme: down from the firm, up to the themes."""
    return _topics(
        connection,
        "topics.quarter = :quarter AND topics.company_id = :company_id",
        {"quarter": quarter, "company_id": company_id},
        "topic_number",
    )


def _topics(connection: Connection, where: str, values: dict[str, Any], order: str) -> list[TopicRow]:
    side = "theme_topics AS m LEFT JOIN topics" if "theme_id" in values else "topics LEFT JOIN theme_topics AS m"
    rows = connection.execute(
        sa.text(
            f"""
            SELECT coalesce(topics.quarter, m.quarter) AS quarter,
                   coalesce(topics.topic_id, m.company_id || '_' || m.quarter || '_' || m.topic_number) AS topic_id,
                   firms.partition_key, firm_quarters.name,
                   coalesce(topics.topic_number, m.topic_number) AS topic_number,
                   coalesce(topics.label, m.topic_label), topics.n_sentences, s.text, s.source, themes.theme_id,
                   m.similarity, topics.topic_id IS NOT NULL AS live
            FROM {side} ON (m.quarter, m.company_id, m.live_topic_number)
                         = (topics.quarter, topics.company_id, topics.topic_number)
            LEFT JOIN themes ON (themes.quarter, themes.theme_number) = (m.quarter, m.theme_number)
            LEFT JOIN topic_summaries AS s ON (s.quarter, s.company_id, s.topic_number)
                                            = (topics.quarter, topics.company_id, topics.topic_number)
            JOIN firms ON firms.company_id = coalesce(topics.company_id, m.company_id)
            LEFT JOIN firm_quarters ON (firm_quarters.quarter, firm_quarters.company_id)
                                     = (coalesce(topics.quarter, m.quarter), firms.company_id)
            WHERE {where} ORDER BY {order}
            """  # noqa: S608  (both texts are constants of this module)
        ),
        values,
    )
    return [TopicRow(*row) for row in rows]


def sentences_of_topic(
    connection: Connection, quarter: str, company_id: int, topic_number: int, limit: int | None = None
) -> list[SentenceRow]:
    """Down one step: the sentences of a topic, nearest to its centroid first."""
    return _sentences(
        connection,
        "a.quarter = :quarter AND a.company_id = :company_id AND a.topic_number = :topic_number",
        {"quarter": quarter, "company_id": company_id, "topic_number": topic_number},
        "a.rank",
        limit,
    )


def sentences_of_theme(connection: Connection, theme_id: str, limit: int | None = None) -> list[SentenceRow]:
    """Down two steps: the sentences of a theme, each firm's best ones first, so that a few show many firms."""
    return _sentences(
        connection, "themes.theme_id = :theme_id", {"theme_id": theme_id}, "a.rank, m.similarity DESC, 3", limit
    )


def sentences(connection: Connection, sentence_ids: Sequence[str]) -> list[SentenceRow]:
    """Up from sentences: each with its call, topic and theme."""
    return _sentences(connection, "s.sentence_id = ANY(:ids)", {"ids": list(sentence_ids)}, "s.sentence_id", None)


def sentences_of(connection: Connection, identifier: str, limit: int | None = None) -> list[SentenceRow]:
    """The sentences of a theme or a topic, or the one sentence, that has this id; none if nothing has it."""
    if identifier.startswith("theme_"):
        return sentences_of_theme(connection, identifier, limit)
    topic = connection.execute(
        sa.select(t.Topic.quarter, t.Topic.company_id, t.Topic.topic_number).where(t.Topic.topic_id == identifier)
    ).first()
    return sentences_of_topic(connection, *topic, limit) if topic else sentences(connection, [identifier])


def _sentences(
    connection: Connection, where: str, values: dict[str, Any], order: str, limit: int | None
) -> list[SentenceRow]:
    rows = connection.execute(
        sa.text(
            f"""
            SELECT s.quarter, s.sentence_id, firms.partition_key, f.name, c.call_date,
                   s.transcript_id, s.component_order, s.start_char, s.end_char, k.person, s.role, s.section, s.boilerplate, a.topic_number, topics.label,
                   a.rank, a.probability, themes.theme_id, s.text
            FROM sentences AS s
            JOIN firms USING (company_id)
            JOIN firm_quarters AS f ON (f.quarter, f.company_id) = (s.quarter, s.company_id)
            JOIN calls AS c ON (c.quarter, c.transcript_id) = (s.quarter, s.transcript_id)
            JOIN components AS k ON (k.quarter, k.transcript_id, k.component_order)
                                  = (s.quarter, s.transcript_id, s.component_order)
            LEFT JOIN topic_sentences AS a ON (a.quarter, a.sentence_id) = (s.quarter, s.sentence_id)
            LEFT JOIN topics ON (topics.quarter, topics.company_id, topics.topic_number)
                              = (a.quarter, a.company_id, a.topic_number)
            LEFT JOIN theme_topics AS m ON (m.quarter, m.company_id, m.live_topic_number)
                                         = (a.quarter, a.company_id, a.topic_number)
            LEFT JOIN themes ON (themes.quarter, themes.theme_number) = (m.quarter, m.theme_number)
            WHERE {where} ORDER BY {order} LIMIT :limit
            """  # noqa: S608  (both texts are constants of this module)
        ),
        {**values, "limit": limit},
    )
    return [SentenceRow(*row) for row in rows]


def rejects(connection: Connection, source: str | None = None) -> list[RejectRow]:
    """Rows that were left out or repaired, of one source or of all."""
    found = sa.select(
        t.Reject.source, t.Reject.row_number, t.Reject.column, t.Reject.value, t.Reject.reason, t.Reject.kept
    ).order_by(t.Reject.source, t.Reject.row_number)
    return [RejectRow(*row) for row in connection.execute(found.where(t.Reject.source == source) if source else found)]
