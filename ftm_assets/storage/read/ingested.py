"""What was ingested: firms, their calls, and the rows of sources that were left out or repaired."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from datetime import date, datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ftm_assets.analysis.sentences import is_known_component, is_known_speaker
from ftm_assets.storage.schema import tables as t
from ftm_assets.storage.schema.rows import rows_as

_NO_TYPE = ("", "unknown")


@dataclass(frozen=True)
class FirmRow:
    """A firm under its latest name."""

    company_id: int
    partition_key: str
    name: str
    ticker: str | None


@dataclass(frozen=True)
class CallRow:
    """A call, and how much of it was modelled and is in topics."""

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
    return rows_as(FirmRow, rows)


def calls(connection: Connection, quarter: str, company_id: int | None = None) -> list[CallRow]:
    """Calls of a quarter, superseded versions included, each with its own counts."""
    rows = connection.execute(
        sa.text(
            """
            SELECT c.quarter, firms.partition_key AS firm_key, c.transcript_id, c.call_date, c.call_at, c.headline,
                   c.superseded_by,
                   (SELECT count(*) FROM components AS k
                    WHERE (k.quarter, k.transcript_id, k.company_id) = (c.quarter, c.transcript_id, c.company_id)
                   ) AS n_components,
                   count(s.sentence_id) AS n_sentences,
                   count(s.sentence_id) FILTER (WHERE s.boilerplate IS NULL) AS n_modelled,
                   count(a.topic_number) AS n_in_topics
            FROM calls AS c
            JOIN firms USING (company_id)
            LEFT JOIN sentences AS s ON (s.quarter, s.transcript_id, s.company_id)
                                      = (c.quarter, c.transcript_id, c.company_id)
            LEFT JOIN topic_sentences AS a ON (a.quarter, a.sentence_id) = (s.quarter, s.sentence_id)
            WHERE c.quarter = :quarter AND (CAST(:company AS bigint) IS NULL OR c.company_id = :company)
            GROUP BY c.quarter, firms.partition_key, c.transcript_id, c.company_id
            ORDER BY firm_key, c.call_date, c.transcript_id
            """
        ),
        {"quarter": quarter, "company": company_id},
    )
    return rows_as(CallRow, rows)


def rejects(connection: Connection, source: str | None = None) -> list[RejectRow]:
    """Rows that were left out or repaired: all, or those of a source and of the files below it."""
    found = sa.select(
        t.Reject.source, t.Reject.row_number, t.Reject.column, t.Reject.value, t.Reject.reason, t.Reject.kept
    )
    if source is not None:
        below = t.Reject.source.startswith(source.rstrip("/") + "/", autoescape=True)
        found = found.where((t.Reject.source == source) | below)
    in_order = found.order_by(t.Reject.source, t.Reject.row_number, t.Reject.reason)
    return rows_as(RejectRow, connection.execute(in_order))


_MAX_TYPES_NAMED = 3


def unknown_types(connection: Connection, quarter: str) -> list[str]:
    """Warnings about types that tell neither part of the call nor role: a sentence for each such column.

    Numbers are reported, and names if their column has none that is known; a type that is empty or says that it is
    unknown is not.
    """
    # Decision 121: numbers are not translated.
    columns = (
        (t.Component.type_name, is_known_component, "component", "'Presenter Speech', 'Question' or 'Answer'"),
        (t.Component.speaker_type, is_known_speaker, "speaker", "'Executives', 'Analysts' or 'Operator'"),
    )
    warnings = []
    for column, is_known, what, names in columns:
        n_rows = sa.func.count().label("n_rows")
        found = connection.execute(
            sa.select(column.label("value"), n_rows)
            .where(t.Component.quarter == quarter)
            .group_by(column)
            .order_by(n_rows.desc(), column)
        ).all()
        unknown = [row for row in found if not is_known(row.value) and row.value.strip().casefold() not in _NO_TYPE]
        if any(is_known(row.value) for row in found):
            unknown = [row for row in unknown if not re.search(r"[^\W\d_]", row.value)]
        if unknown:
            listed = ", ".join(f"{row.value!r} in {row.n_rows:,} rows" for row in unknown[:_MAX_TYPES_NAMED])
            more = f" and {len(unknown) - _MAX_TYPES_NAMED} more" if len(unknown) > _MAX_TYPES_NAMED else ""
            warnings.append(
                f"{quarter} has {what} types that are not known: {listed}{more}; give the column of type names, such "
                f"as {names}, not of ids, and load it again"
            )
    return warnings


def archived(connection: Connection, quarters: Collection[str]) -> set[str]:
    """Those of the quarters whose sentences have no vectors any more."""
    return set(
        connection.scalars(
            sa.select(t.Quarter.quarter).where(t.Quarter.quarter.in_(quarters), t.Quarter.archived_at.is_not(None))
        )
    )
