"""What people ask: how far a quarter is, its themes, and the way from a theme down to its sentences and back up."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import date, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ftm_assets.analysis.themes import inputs_hash
from ftm_assets.storage import tables as t
from ftm_assets.storage.funnel import Funnel, count_funnel
from ftm_assets.storage.spending import Hindsight, Spending, hindsight, spending
from ftm_assets.storage.summaries import SummarySource, summary_sources
from ftm_assets.storage.themes import ThemeState, current_summaries, theme_state

_SENTENCE_ID = re.compile(r"[0-9]+_([0-9]{1,18})_[0-9]+")


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
    inputs_hash: str

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

    n_recipes: different versions and settings behind one stage, at most; 1 where all firms were made alike
    sources:   who wrote summaries of topics and descriptions of themes
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
    n_recipes: int
    sources: tuple[SummarySource, ...] = ()

    @property
    def outlier_share(self) -> float:
        """Share of the modelled sentences in no topic; 0 where there is none."""
        return 1 - self.n_in_topics / self.n_modelled if self.n_modelled else 0.0


@dataclass(frozen=True, kw_only=True)
class QuarterDetail(QuarterStatus):
    """The status of a quarter, with what became of its sentences by voice, and what its language model took.

    hindsight: models that may have known what came after the quarter's first call
    """

    funnel: Funnel
    spending: tuple[Spending, ...]
    hindsight: tuple[Hindsight, ...]


@dataclass(frozen=True)
class FirmRow:
    """A firm under its latest name."""

    company_id: int
    partition_key: str
    name: str
    ticker: str | None


@dataclass(frozen=True)
class ThemeRow:
    """A published theme; what is counted is counted from its topics.

    n_sentences:   of its topics; those that were replaced since hold none
    concentration: Herfindahl index of its topics over firms, 1 for one firm
    stability:     None where it was not measured
    title, description, description_model: by a language model, None where none wrote any
    """

    quarter: str
    theme_id: str
    theme_number: int
    label: str
    keywords: tuple[str, ...]
    n_firms: int
    n_topics: int
    n_sentences: int
    top_firm_share: float
    concentration: float
    stability: float | None
    title: str | None = None
    description: str | None = None
    description_model: str | None = None


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
    title: str | None = None
    model: str | None = None


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
    voice: str
    exchange: int | None
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
        sa.text(
            """
            SELECT DISTINCT ON (partition_key) company_id, partition_key, name, ticker
            FROM firms JOIN firm_quarters USING (company_id) ORDER BY partition_key, quarter DESC
            """
        )
    )
    return [FirmRow(*row) for row in rows]


def quarter_progress(connection: Connection, quarter: str) -> QuarterProgress:
    """What is done of a quarter and what is not, firm by firm; for numbers alone see `themes.theme_counts`."""
    firms = tuple(_progress(connection, quarter))
    summaries = current_summaries(connection, quarter)
    return QuarterProgress(
        quarter=quarter,
        n_expected=len(firms),
        firms=firms,
        themes=theme_state(connection, quarter, summaries),
        inputs_hash=inputs_hash(summaries),
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
                (SELECT max(encoder || '@' || encoder_revision) AS encoder
                    FROM quarters WHERE quarter = :quarter) AS quarters,
                (SELECT coalesce(max(n), 0) AS n_recipes FROM
                    -- The reason for an empty partition is no part of the recipe.
                    (SELECT count(DISTINCT versions - 'reason') AS n FROM stages
                        WHERE quarter = :quarter AND stage <> 'transcripts' GROUP BY stage) AS by_stage) AS recipes
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
        inputs_hash=progress.inputs_hash,
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
        n_recipes=counts.n_recipes,
        sources=tuple(summary_sources(connection, quarter)),
    )


def quarter_detail(connection: Connection, quarter: str) -> QuarterDetail:
    """The status of one quarter with its funnel, which takes seven times as long to count as all of the rest."""
    status = quarter_status(connection, quarter)
    return QuarterDetail(
        **{field.name: getattr(status, field.name) for field in fields(status)},
        funnel=count_funnel(connection, quarter),
        spending=tuple(spending(connection, quarter)),
        hindsight=tuple(hindsight(connection, quarter)),
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
                SELECT theme_number, m.company_id, count(*) AS n, sum(topics.n_sentences) AS n_sentences
                FROM theme_topics AS m
                LEFT JOIN topics ON (topics.quarter, topics.company_id, topics.topic_number)
                                  = (m.quarter, m.company_id, m.live_topic_number)
                WHERE m.quarter = :quarter GROUP BY 1, 2
            ), sizes AS (
                SELECT theme_number, count(*) AS firms, sum(n)::int AS topics,
                       coalesce(sum(n_sentences), 0)::int AS sentences,
                       max(n)::float / sum(n) AS top_share, sum(n * n)::float / sum(n) ^ 2 AS herfindahl
                FROM firm_counts GROUP BY 1
            )
            SELECT themes.quarter, theme_id, theme_number, label, keywords,
                   firms AS n_firms, topics AS n_topics, sentences AS n_sentences,
                   top_share AS top_firm_share, herfindahl AS concentration, stability, title,
                   CASE description_source WHEN 'model' THEN description END AS description, description_model
            FROM themes JOIN sizes USING (theme_number)
            WHERE themes.quarter = :quarter ORDER BY firms DESC, topics DESC, theme_number
            """
        ),
        {"quarter": quarter},
    )
    return [ThemeRow(**{**row._mapping, "keywords": tuple(row.keywords)}) for row in rows]


def topics_of_theme(connection: Connection, theme_id: str) -> list[TopicRow]:
    """Down one step: the topics of a theme, nearest to its centroid first."""
    return _topics(
        connection,
        """
        SELECT quarter, company_id, topic_number, live_topic_number, topic_label AS label, theme_id, similarity
        FROM themes JOIN theme_topics USING (quarter, theme_number) WHERE theme_id = :theme_id
        """,
        {"theme_id": theme_id},
        "similarity DESC, partition_key, topic_number",
    )


def topics_of_firm(connection: Connection, quarter: str, company_id: int) -> list[TopicRow]:
    """A firm's topics in a quarter, largest first, each with its theme: down from the firm, up to the themes."""
    return _topics(
        connection,
        """
        SELECT topics.quarter, topics.company_id, topics.topic_number, topics.topic_number AS live_topic_number,
               topics.label, theme_id, similarity
        FROM topics
        LEFT JOIN theme_topics AS m ON (m.quarter, m.company_id, m.live_topic_number)
                                     = (topics.quarter, topics.company_id, topics.topic_number)
        LEFT JOIN themes ON (themes.quarter, themes.theme_number) = (m.quarter, m.theme_number)
        WHERE topics.quarter = :quarter AND topics.company_id = :company_id
        """,
        {"quarter": quarter, "company_id": company_id},
        "topic_number",
    )


def topics_without_theme(connection: Connection, quarter: str, limit: int | None = None) -> list[TopicRow]:
    """Topics that are in no theme, those of most sentences first."""
    return _topics(
        connection,
        """
        SELECT quarter, company_id, topic_number, topic_number AS live_topic_number, label,
               NULL AS theme_id, NULL::float AS similarity
        FROM topics
        WHERE quarter = :quarter AND NOT EXISTS (
            SELECT FROM theme_topics AS m WHERE (m.quarter, m.company_id, m.live_topic_number)
                                              = (topics.quarter, topics.company_id, topics.topic_number)
        )
        ORDER BY n_sentences DESC, company_id, topic_number LIMIT :limit
        """,
        {"quarter": quarter, "limit": limit},
        "n_sentences DESC, chosen.company_id, chosen.topic_number",
    )


def _topics(connection: Connection, chosen: str, values: dict[str, Any], order: str) -> list[TopicRow]:
    """The topics that a query has chosen, with all that is known of those that are live."""
    rows = connection.execute(
        sa.text(
            f"""
            SELECT chosen.quarter, chosen.company_id || '_' || chosen.quarter || '_' || chosen.topic_number,
                   partition_key, coalesce(name, partition_key), chosen.topic_number, chosen.label,
                   n_sentences, text, source, theme_id, similarity, live_topic_number IS NOT NULL, title, model
            FROM ({chosen}) AS chosen
            JOIN firms USING (company_id)
            -- A firm whose calls were deleted is still in the published themes.
            LEFT JOIN firm_quarters USING (quarter, company_id)
            LEFT JOIN topics ON (topics.quarter, topics.company_id, topics.topic_number)
                              = (chosen.quarter, chosen.company_id, live_topic_number)
            LEFT JOIN topic_summaries AS s ON (s.quarter, s.company_id, s.topic_number)
                                            = (chosen.quarter, chosen.company_id, live_topic_number)
            ORDER BY {order}
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
        """
        SELECT quarter, sentence_id, rank AS place FROM topic_sentences
        WHERE quarter = :quarter AND company_id = :company_id AND topic_number = :topic_number
        """,
        {"quarter": quarter, "company_id": company_id, "topic_number": topic_number},
        limit,
    )


def sentences_of_theme(connection: Connection, theme_id: str, limit: int | None = None) -> list[SentenceRow]:
    """Down two steps: the sentences of a theme, each firm's best ones first, so that a few show many firms."""
    return _sentences(
        connection,
        """
        SELECT a.quarter, sentence_id, row_number() OVER (ORDER BY rank, similarity DESC, sentence_id) AS place
        FROM themes
        JOIN theme_topics AS m USING (quarter, theme_number)
        JOIN topic_sentences AS a ON (a.quarter, a.company_id, a.topic_number)
                                   = (m.quarter, m.company_id, m.live_topic_number)
        WHERE theme_id = :theme_id
        """,
        {"theme_id": theme_id},
        limit,
    )


def sentences(connection: Connection, sentence_ids: Sequence[str]) -> list[SentenceRow]:
    """Up from sentences: each with its call, topic and theme, in order of the ids; unknown ids are left out."""
    call_of = {found[0]: int(found[1]) for found in map(_SENTENCE_ID.fullmatch, sentence_ids) if found}
    return _sentences(
        connection,
        # The call tells the quarter, and so the only leaf to look into.
        """
        SELECT quarter, sentence_id, sentence_id AS place
        FROM unnest(CAST(:ids AS text[]), CAST(:calls AS bigint[])) AS given (sentence_id, transcript_id)
        JOIN calls USING (transcript_id)
        """,
        {"ids": list(call_of), "calls": list(call_of.values())},
        None,
    )


def sentences_of(connection: Connection, identifier: str, limit: int | None = None) -> list[SentenceRow]:
    """The sentences of a theme or a topic, or the one sentence, that has this id; none if nothing has it."""
    if identifier.startswith("theme_"):
        return sentences_of_theme(connection, identifier, limit)
    topic = connection.execute(
        sa.select(t.Topic.quarter, t.Topic.company_id, t.Topic.topic_number).where(t.Topic.topic_id == identifier)
    ).first()
    return sentences_of_topic(connection, *topic, limit) if topic else sentences(connection, [identifier])


def _sentences(connection: Connection, chosen: str, values: dict[str, Any], limit: int | None) -> list[SentenceRow]:
    """The sentences that a query has chosen, with all that stands above them, in order of their `place`."""
    rows = connection.execute(
        sa.text(
            f"""
            -- Chosen first: Postgres finds the best order for eight tables only, and joins the others as written.
            WITH chosen AS MATERIALIZED (SELECT * FROM ({chosen}) AS found ORDER BY place LIMIT :limit)
            SELECT s.quarter, s.sentence_id, firms.partition_key, f.name, c.call_date,
                   s.transcript_id, s.component_order, s.start_char, s.end_char, k.person, s.role, s.section,
                   s.voice, s.exchange, s.boilerplate, a.topic_number, topics.label, a.rank, a.probability,
                   themes.theme_id, s.text
            FROM chosen
            JOIN sentences AS s USING (quarter, sentence_id)
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
            ORDER BY chosen.place
            """  # noqa: S608  (the text is a constant of this module)
        ),
        {**values, "limit": limit},
    )
    return [SentenceRow(*row) for row in rows]


def rejects(connection: Connection, source: str | None = None) -> list[RejectRow]:
    """Rows that were left out or repaired: all, or those of a source and of the files below it."""
    found = sa.select(
        t.Reject.source, t.Reject.row_number, t.Reject.column, t.Reject.value, t.Reject.reason, t.Reject.kept
    )
    if source is not None:
        below = t.Reject.source.startswith(source.rstrip("/") + "/", autoescape=True)
        found = found.where((t.Reject.source == source) | below)
    in_order = found.order_by(t.Reject.source, t.Reject.row_number, t.Reject.reason)
    return [RejectRow(*row) for row in connection.execute(in_order)]
