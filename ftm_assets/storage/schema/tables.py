"""Every table, key and index; the only place where they are written.

The way up is firm_quarters <- calls <- components <- sentences <- topic_sentences -> topics <- theme_topics -> themes.
No foreign key cascades into another asset's rows: code that replaces rows also deletes what was derived from them, in
the same transaction. Decision 10.
"""

from datetime import date, datetime
from typing import Any

from pgvector.sqlalchemy import HALFVEC, Vector
from sqlalchemy import (
    ARRAY,
    BigInteger,
    CheckConstraint,
    Computed,
    DateTime,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    Text,
    UniqueConstraint,
    func,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from ftm_assets.analysis.vectors import DIMENSIONS

# Search indexes belong to a quarter, and no migration creates them. Decision 72.
SEARCH_INDEX_PREFIX = "hnsw_"


class Base(DeclarativeBase):
    """All tables of the `ftm` database."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012  (SQLAlchemy reads it from the class)
        str: Text,
        datetime: DateTime(timezone=True),
        dict[str, Any]: JSONB,
        list[str]: ARRAY(Text),
    }


# Decision 12.
class Quarter(Base):
    """A calendar quarter and the one encoder that its sentences share."""

    __tablename__ = "quarters"
    __table_args__ = (CheckConstraint("quarter ~ '^[0-9]{4}Q[1-4]$'", name="quarter_format"),)

    quarter: Mapped[str] = mapped_column(primary_key=True)
    encoder: Mapped[str | None]
    encoder_revision: Mapped[str | None]
    archived_at: Mapped[datetime | None] = mapped_column(
        doc="when the vectors of its sentences were dropped; null if they were not"
    )


class Firm(Base):
    """A firm. Its key in the Dagster UI is made when the firm is first loaded, and never changes."""

    __tablename__ = "firms"

    company_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    partition_key: Mapped[str] = mapped_column(unique=True)


class FirmQuarter(Base):
    """A firm with a call in the quarter, under its name and identifiers as of that quarter."""

    __tablename__ = "firm_quarters"

    quarter: Mapped[str] = mapped_column(ForeignKey("quarters.quarter"), primary_key=True)
    company_id: Mapped[int] = mapped_column(ForeignKey("firms.company_id"), primary_key=True, index=True)
    name: Mapped[str]
    ticker: Mapped[str | None]
    gvkey: Mapped[str | None]
    permno: Mapped[int | None] = mapped_column(BigInteger)


# Decision 11: a row for each stage, so that a new stage needs no new column.
class Materialization(Base):
    """The provenance of a firm-quarter's stage: what it holds, what it was built from, by which code and settings."""

    __tablename__ = "materializations"
    __table_args__ = (
        ForeignKeyConstraint(["quarter", "company_id"], ["firm_quarters.quarter", "firm_quarters.company_id"]),
    )

    quarter: Mapped[str] = mapped_column(primary_key=True)
    company_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    stage: Mapped[str] = mapped_column(primary_key=True)
    content_hash: Mapped[str]
    input_hash: Mapped[str | None]
    provenance: Mapped[dict[str, Any]]
    # Decision 51.
    seconds: Mapped[float | None] = mapped_column(
        doc="from the start of reading the inputs to the write; null where it was not measured"
    )
    written_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Call(Base):
    """A version of a call. Only the modelled one keeps its text here.

    `superseded_by` names the version that is modelled instead. It is null for the modelled version, and a version's own
    id if no version of the event was known by the day of `as_of`.
    """

    __tablename__ = "calls"
    __table_args__ = (
        ForeignKeyConstraint(["quarter", "company_id"], ["firm_quarters.quarter", "firm_quarters.company_id"]),
        # Decision 118: a joint call is a call of each of its firms, under one transcript id.
        UniqueConstraint("transcript_id", "company_id"),
        Index(None, "quarter", "company_id"),
    )

    quarter: Mapped[str] = mapped_column(primary_key=True)
    transcript_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    company_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    call_date: Mapped[date]
    call_at: Mapped[datetime | None]
    available_at: Mapped[datetime | None]
    headline: Mapped[str]
    fiscal_year: Mapped[int | None] = mapped_column(SmallInteger)
    fiscal_quarter: Mapped[int | None] = mapped_column(SmallInteger)
    event_id: Mapped[int | None] = mapped_column(BigInteger)
    event_type: Mapped[str | None]
    collection_type: Mapped[str | None]
    presentation_type: Mapped[str | None]
    # Decision 14: superseded versions keep their row, not their text.
    superseded_by: Mapped[int | None] = mapped_column(BigInteger)
    content_hash: Mapped[str]
    text_hash: Mapped[str] = mapped_column(doc="of what its sentences are made from; the rest may change without them")
    source: Mapped[str]
    # Decision 122.
    repairs: Mapped[dict[str, Any]] = mapped_column(
        server_default="{}", doc="kind of damage -> turns of the source that had it when the call was last written"
    )


class Component(Base):
    """A speaker's turn, as the source has it once damaged text is repaired."""

    __tablename__ = "components"
    __table_args__ = (
        ForeignKeyConstraint(
            ["quarter", "transcript_id", "company_id"], ["calls.quarter", "calls.transcript_id", "calls.company_id"]
        ),
    )

    quarter: Mapped[str] = mapped_column(primary_key=True, doc="calendar quarter of the call")
    transcript_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, doc="the version of the call")
    company_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, doc="the firm")
    component_order: Mapped[int] = mapped_column(
        Integer, primary_key=True, doc="place in the call, as the source counts"
    )
    type_name: Mapped[str] = mapped_column(doc="as the source writes it; the section of a sentence is made from it")
    speaker_type: Mapped[str] = mapped_column(doc="as the source writes it; the role of a sentence is made from it")
    person: Mapped[str] = mapped_column(doc="who speaks")
    component_id: Mapped[int | None] = mapped_column(BigInteger, doc="the source's id of the turn, if it has one")
    person_id: Mapped[int | None] = mapped_column(BigInteger, doc="the source's id of the person, if it has one")
    text: Mapped[str] = mapped_column(doc="what was said; damaged text is repaired")


class Sentence(Base):
    """A sentence as spoken, where it stands in its turn, and its vector. Partitioned by quarter."""

    __tablename__ = "sentences"
    __table_args__ = (
        ForeignKeyConstraint(["quarter", "company_id"], ["firm_quarters.quarter", "firm_quarters.company_id"]),
        ForeignKeyConstraint(
            ["quarter", "transcript_id", "company_id", "component_order"],
            [
                "components.quarter",
                "components.transcript_id",
                "components.company_id",
                "components.component_order",
            ],
        ),
        Index(None, "quarter", "company_id"),
        Index(None, "quarter", "transcript_id", "company_id", "component_order"),
        # Decision 21.
        {"postgresql_partition_by": "LIST (quarter)"},
    )

    quarter: Mapped[str] = mapped_column(primary_key=True, doc="calendar quarter of the call")
    sentence_id: Mapped[str] = mapped_column(primary_key=True, doc="company id, transcript id and position")
    company_id: Mapped[int] = mapped_column(BigInteger, doc="the firm")
    transcript_id: Mapped[int] = mapped_column(BigInteger, doc="the version of the call")
    component_order: Mapped[int] = mapped_column(Integer, doc="the turn")
    position: Mapped[int] = mapped_column(Integer, doc="counts from 0 within the call")
    start_char: Mapped[int] = mapped_column(Integer, doc="first character in the component's text, from 0")
    end_char: Mapped[int] = mapped_column(Integer, doc="one past the last character in the component's text")
    role: Mapped[str] = mapped_column(doc="executive, analyst, unknown")
    section: Mapped[str] = mapped_column(doc="prepared, qa, unknown")
    # Decision 50: a stored column, because Postgres before 18 has no other kind.
    utterance_type: Mapped[str] = mapped_column(
        Computed(
            "CASE WHEN role = 'executive' AND section = 'prepared' THEN 'remark'"
            " WHEN role = 'executive' AND section = 'qa' THEN 'answer'"
            " WHEN role = 'analyst' THEN 'question' ELSE 'unknown' END",
            persisted=True,
        ),
        doc="remark (an executive's, prepared), answer (an executive's, in Q&A), question (an analyst's), unknown",
    )
    exchange: Mapped[int | None] = mapped_column(
        SmallInteger, doc="the question with its answers, from 1 within the call; null outside of any"
    )
    boilerplate: Mapped[str | None] = mapped_column(
        doc="why it is not modelled: greeting, thanks, congratulations, hand-over, introduction, forward-looking, "
        "non-GAAP, webcast, too short, commonplace; null if it is"
    )
    boilerplate_similarity: Mapped[float | None] = mapped_column(
        doc="cosine to the nearest sentence that any firm could say; null where it was not measured"
    )
    text: Mapped[str] = mapped_column(doc="as spoken")
    embedding: Mapped[Any | None] = mapped_column(
        # Decision 77: half precision takes less than half of the room; topics agree at an ARI of .999.
        HALFVEC(DIMENSIONS),
        doc="unit length, padded with zeros to 768, in half precision; null in archived quarters",
    )


class Topic(Base):
    """A topic of one firm in one quarter; the centroid is the unit-length mean of its sentences."""

    __tablename__ = "topics"
    __table_args__ = (
        ForeignKeyConstraint(["quarter", "company_id"], ["firm_quarters.quarter", "firm_quarters.company_id"]),
    )

    quarter: Mapped[str] = mapped_column(primary_key=True, doc="calendar quarter of the calls")
    company_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, doc="the firm")
    topic_number: Mapped[int] = mapped_column(
        SmallInteger, primary_key=True, doc="0 is the largest topic; holds as long as the rows do"
    )
    topic_id: Mapped[str] = mapped_column(
        Computed("company_id::text || '_' || quarter || '_' || topic_number::text", persisted=True),
        unique=True,
        doc="company id, quarter and topic number",
    )
    label: Mapped[str] = mapped_column(doc="the first keywords that share no word")
    keywords: Mapped[list[str]] = mapped_column(doc="most distinctive first")
    n_sentences: Mapped[int] = mapped_column(Integer, doc="sentences in the topic")
    centroid: Mapped[Any] = mapped_column(Vector(DIMENSIONS), nullable=False, doc="unit-length mean of its sentences")


class TopicSentence(Base):
    """The topic of a modelled sentence: `raw_topic` as clustered (-1 noise), `topic_number` after re-assignment."""

    __tablename__ = "topic_sentences"
    __table_args__ = (
        ForeignKeyConstraint(["quarter", "sentence_id"], ["sentences.quarter", "sentences.sentence_id"]),
        ForeignKeyConstraint(
            ["quarter", "company_id", "topic_number"], ["topics.quarter", "topics.company_id", "topics.topic_number"]
        ),
        Index(None, "quarter", "company_id", "topic_number"),
    )

    quarter: Mapped[str] = mapped_column(primary_key=True)
    sentence_id: Mapped[str] = mapped_column(primary_key=True)
    company_id: Mapped[int] = mapped_column(BigInteger)
    raw_topic: Mapped[int] = mapped_column(SmallInteger)
    topic_number: Mapped[int | None] = mapped_column(SmallInteger)
    probability: Mapped[float]
    rank: Mapped[int | None] = mapped_column(
        SmallInteger, doc="1 for the sentence nearest to the centroid; null for noise"
    )


class TopicSummary(Base):
    """A summary of a topic in one or two sentences, who wrote it (`source`), and the sentences it rests on."""

    __tablename__ = "topic_summaries"
    __table_args__ = (
        ForeignKeyConstraint(
            ["quarter", "company_id", "topic_number"], ["topics.quarter", "topics.company_id", "topics.topic_number"]
        ),
    )

    quarter: Mapped[str] = mapped_column(primary_key=True, doc="calendar quarter of the calls")
    company_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, doc="the firm")
    topic_number: Mapped[int] = mapped_column(SmallInteger, primary_key=True, doc="the topic")
    title: Mapped[str | None] = mapped_column(doc="the topic in a few words, null for keywords")
    text: Mapped[str] = mapped_column(doc="the topic in a sentence or two")
    source: Mapped[str] = mapped_column(doc="keywords, or model where a language model wrote it")
    reason: Mapped[str | None] = mapped_column(doc="why it is made of keywords, null where a language model wrote it")
    model: Mapped[str | None] = mapped_column(doc="the language model, null for keywords")
    evidence: Mapped[list[str]] = mapped_column(doc="ids of the sentences it rests on")
    embedding: Mapped[Any] = mapped_column(
        Vector(DIMENSIONS), nullable=False, doc="of the text, unit length, padded with zeros to 768"
    )


# Decision 16: headers of all runs are kept, members of the current run only.
class ThemeRun(Base):
    """A published theme run of a quarter. The one with the highest number is the current one."""

    __tablename__ = "theme_runs"

    quarter: Mapped[str] = mapped_column(ForeignKey("quarters.quarter"), primary_key=True)
    run_number: Mapped[int] = mapped_column(Integer, primary_key=True)
    input_hash: Mapped[str]
    content_hash: Mapped[str]
    n_firms_expected: Mapped[int] = mapped_column(Integer)
    n_firms: Mapped[int] = mapped_column(Integer)
    n_topics: Mapped[int] = mapped_column(Integer)
    rejected: Mapped[dict[str, Any]]
    provenance: Mapped[dict[str, Any]]
    attrition: Mapped[dict[str, Any] | None] = mapped_column(
        doc="what became of the quarter's sentences when the run was published, by utterance type; null if unknown"
    )
    seconds: Mapped[float | None] = mapped_column(
        doc="from the start of reading the inputs to the write; null where it was not measured"
    )
    as_of: Mapped[datetime | None] = mapped_column(doc="when the latest of its calls became available; null if unknown")
    published_at: Mapped[datetime] = mapped_column(server_default=func.now())


class ThemeInput(Base):
    """The summaries that the current theme run was built from, one hash a firm."""

    __tablename__ = "theme_inputs"
    __table_args__ = (
        ForeignKeyConstraint(["quarter", "run_number"], ["theme_runs.quarter", "theme_runs.run_number"]),
        Index(None, "quarter", "run_number"),
    )

    quarter: Mapped[str] = mapped_column(primary_key=True)
    company_id: Mapped[int] = mapped_column(ForeignKey("firms.company_id"), primary_key=True, index=True)
    run_number: Mapped[int] = mapped_column(Integer)
    content_hash: Mapped[str]


class Theme(Base):
    """A theme of a quarter. Its number is given once; a theme not seen in the current run is retired, not deleted."""

    __tablename__ = "themes"
    __table_args__ = (
        ForeignKeyConstraint(["quarter", "run_number"], ["theme_runs.quarter", "theme_runs.run_number"]),
        Index(None, "quarter", "run_number"),
    )

    quarter: Mapped[str] = mapped_column(primary_key=True, doc="calendar quarter of the calls")
    theme_number: Mapped[int] = mapped_column(
        Integer, primary_key=True, doc="given when the theme is first found, never given again"
    )
    theme_id: Mapped[str] = mapped_column(
        Computed(
            # lpad() alone would cut the fourth digit off.
            "'theme_' || quarter || '_' || lpad(theme_number::text, greatest(3, length(theme_number::text)), '0')",
            persisted=True,
        ),
        unique=True,
        doc="quarter and theme number",
    )
    run_number: Mapped[int] = mapped_column(
        Integer, doc="the last run that found it; below the current one the theme is retired"
    )
    label: Mapped[str] = mapped_column(doc="the first keywords that share no word")
    keywords: Mapped[list[str]] = mapped_column(doc="most distinctive first")
    n_firms: Mapped[int] = mapped_column(Integer, doc="firms with a topic in it")
    n_topics: Mapped[int] = mapped_column(Integer, doc="topics in it")
    # Decision 107: counts are those of the day when the themes were published.
    n_sentences: Mapped[int | None] = mapped_column(
        Integer, doc="sentences of its topics when it was last published; null of themes retired before it was counted"
    )
    top_firm_share: Mapped[float] = mapped_column(doc="largest share of its topics that one firm holds")
    concentration: Mapped[float | None] = mapped_column(
        doc="Herfindahl index of its topics over firms: 1 for one firm, 1/n for n equal ones; null if it is not known"
    )
    stability: Mapped[float | None] = mapped_column(
        doc="mean best Jaccard over other seeds and over deletions of 10 % of the firms; null where it was not measured"
    )
    centroid: Mapped[Any] = mapped_column(Vector(DIMENSIONS), nullable=False, doc="unit-length mean of its topics")
    title: Mapped[str | None] = mapped_column(doc="the theme in a few words, null for keywords")
    description: Mapped[str | None] = mapped_column(doc="the theme in a few sentences, null if there is none")
    description_source: Mapped[str | None] = mapped_column(doc="keywords, or model where a language model wrote it")
    description_model: Mapped[str | None] = mapped_column(doc="the language model, null for keywords")
    description_embedding: Mapped[Any | None] = mapped_column(
        Vector(DIMENSIONS), doc="of the description, unit length, padded with zeros to 768; null if no model wrote one"
    )


class ThemeTopic(Base):
    """A topic in a theme of the current run; `live_topic_number` is null once the topic was replaced."""

    __tablename__ = "theme_topics"
    __table_args__ = (
        ForeignKeyConstraint(["quarter", "theme_number"], ["themes.quarter", "themes.theme_number"]),
        ForeignKeyConstraint(
            ["quarter", "company_id", "live_topic_number"],
            ["topics.quarter", "topics.company_id", "topics.topic_number"],
            # Decision 15: themes outlive the topics they were made from.
            ondelete="SET NULL (live_topic_number)",
        ),
        Index(None, "quarter", "theme_number"),
        # Decision 22: every referencing column set has an index.
        Index(None, "quarter", "company_id", "live_topic_number"),
    )

    quarter: Mapped[str] = mapped_column(primary_key=True)
    company_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    topic_number: Mapped[int] = mapped_column(SmallInteger, primary_key=True)
    live_topic_number: Mapped[int | None] = mapped_column(SmallInteger)
    theme_number: Mapped[int] = mapped_column(Integer)
    topic_label: Mapped[str]
    similarity: Mapped[float]


class Reject(Base):
    """A row of a source that was left out (`kept` false) or repaired before it was loaded, and why."""

    __tablename__ = "rejects"

    source: Mapped[str] = mapped_column(primary_key=True)
    row_number: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    reason: Mapped[str] = mapped_column(primary_key=True)
    column: Mapped[str]
    value: Mapped[str]
    transcript_id: Mapped[int | None] = mapped_column(BigInteger)
    kept: Mapped[bool]


class LlmCall(Base):
    """A question to the language model that is or may be paid, and its reply; outlives the quarter's rows.

    A question is asked again, under the next number, only where nothing of use came of the last one. States:
    sent (under way, or lost with its process), answered, rejected (of no use, paid), refused (by the model or the
    provider), lost (the connection broke before the whole reply was there; it may have been paid), failed (not paid).
    """

    __tablename__ = "llm_calls"
    __table_args__ = (Index(None, "quarter", "state"),)

    key: Mapped[str] = mapped_column(primary_key=True, doc="content hash of model, prompt, messages and reply's form")
    number: Mapped[int] = mapped_column(SmallInteger, primary_key=True, doc="1, or how often it had to be paid")
    quarter: Mapped[str] = mapped_column(doc="calendar quarter that pays")
    run: Mapped[str] = mapped_column(doc="run that pays, empty if none does")
    prompt: Mapped[str] = mapped_column(doc="name and version of the prompt")
    model: Mapped[str] = mapped_column(doc="as asked")
    model_answered: Mapped[str | None] = mapped_column(doc="as answered")
    training_cutoff: Mapped[date | None] = mapped_column(
        doc="until when the model has read, as the price list states it; null if it does not"
    )
    request: Mapped[dict[str, Any]] = mapped_column(doc="messages, form of the reply and its longest length")
    reply: Mapped[str | None]
    state: Mapped[str] = mapped_column(doc="sent, answered, rejected, refused, lost, failed")
    tokens_in: Mapped[int | None] = mapped_column(Integer, doc="as the provider counts; null where it did not say")
    tokens_cached: Mapped[int | None] = mapped_column(Integer, doc="those of them that it had from earlier requests")
    tokens_out: Mapped[int | None] = mapped_column(Integer)
    dollars: Mapped[float | None] = mapped_column(
        doc="an upper bound while it is sent or lost, then the price; null if the model's price is unknown"
    )
    latency_s: Mapped[float | None] = mapped_column(doc="of the request that was answered")
    attempts: Mapped[int] = mapped_column(SmallInteger, doc="requests sent under this number")
    error: Mapped[str | None] = mapped_column(doc="why the reply is of no use, or the last failure")
    sender: Mapped[int] = mapped_column(BigInteger, doc="of the process that sends; it holds the lock of this number")
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class LlmSpending(Base):
    """What a quarter, or a run, has spent or put aside for questions under way: sums of `llm_calls`, kept at hand."""

    __tablename__ = "llm_spending"

    kind: Mapped[str] = mapped_column(primary_key=True, doc="quarter or run")
    payer: Mapped[str] = mapped_column(primary_key=True, doc="the quarter, or the run's id")
    dollars: Mapped[float]
