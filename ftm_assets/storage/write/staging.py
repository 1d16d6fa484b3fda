"""The staging table: a source's rows are loaded into it, checked against each other, and read firm by firm.

Postgres groups them, so memory does not grow with the source and the order of its rows does not matter. Decision 13.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from itertools import groupby
from operator import attrgetter

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ftm_assets.analysis.source_values import checked_rows
from ftm_assets.analysis.text_repair import LOST
from ftm_assets.analysis.transcripts import Call, Component, Reject, quarter_dates
from ftm_assets.errors import FtmError
from ftm_assets.storage.schema import tables as t
from ftm_assets.storage.write.copy import copy_rows

MAX_REJECTS = 10_000
_ROWS_AT_A_TIME = 500
_N_CUT, _SHORTEST_CUT = 5, 100

_staging = sa.Table(
    "staging",
    sa.MetaData(),
    sa.Column("row_number", sa.BigInteger()),
    sa.Column("company_id", sa.BigInteger()),
    sa.Column("company_name", sa.Text()),
    sa.Column("ticker", sa.Text()),
    sa.Column("gvkey", sa.Text()),
    sa.Column("permno", sa.BigInteger()),
    sa.Column("transcript_id", sa.BigInteger()),
    sa.Column("headline", sa.Text()),
    sa.Column("call_date", sa.Date()),
    sa.Column("call_at", sa.DateTime(timezone=True)),
    sa.Column("created_at", sa.DateTime(timezone=True)),
    sa.Column("event_id", sa.BigInteger()),
    sa.Column("event_type", sa.Text()),
    sa.Column("collection_type", sa.Text()),
    sa.Column("presentation_type", sa.Text()),
    sa.Column("component_order", sa.Integer()),
    sa.Column("component_id", sa.BigInteger()),
    sa.Column("type_name", sa.Text()),
    sa.Column("speaker_type", sa.Text()),
    sa.Column("person", sa.Text()),
    sa.Column("person_id", sa.BigInteger()),
    sa.Column("text", sa.Text()),
    sa.Column("source", sa.Text()),
    sa.Column("repairs", sa.ARRAY(sa.Text())),
    prefixes=["TEMPORARY"],
    postgresql_on_commit="DROP",
)
# As the documentation names them; a source of your own has other names.
_TEXT_COLUMNS = {
    "text": "componenttext",
    "company_name": "companyname",
    "person": "transcriptpersonname",
    "headline": "headline",
}
_N_SHOWN = 80
_COLUMNS = tuple(f.name for f in fields(Component))
# Files in the order of their names whatever the database's language is, their rows as they stand.
_IN_ORDER = 'source COLLATE "C", row_number'


class TooManyRejects(FtmError):
    """So many rows are unusable that the source is probably not what it should be."""

    def __init__(self, source: str, last: Reject) -> None:
        super().__init__(
            f"{last.source or source}: more than {MAX_REJECTS:,} rows cannot be used, sound ones such as repeats and "
            f"joint calls not counted; one is row {last.row_number} ({last.column} {last.value!r}: {last.reason}); "
            "nothing was loaded. Check what its columns hold."
        )


@dataclass
class Rejects:
    """The rejects of a source as they come. All are counted; of repairs and sound rows only the first are kept."""

    source: str
    noted: list[Reject] = field(default_factory=list)
    n_rejected: int = 0
    n_repaired: int = 0
    n_sound: int = 0

    def add(self, reject: Reject, is_sound: bool = False) -> None:
        """Note a reject; a sound row, which another load takes, does not make a source unusable.

        raises: TooManyRejects
        """
        if reject.kept:
            self.n_repaired += 1
        else:
            self.n_rejected += 1
            self.n_sound += is_sound
        if self.n_rejected - self.n_sound > MAX_REJECTS:
            raise TooManyRejects(self.source, reject)
        # A file in another encoding is repaired in every row, and usable all the same. Decision 119.
        if (self.n_repaired if reject.kept else self.n_sound) <= MAX_REJECTS:
            self.noted.append(reject)

    def note(self, remark: Reject) -> None:
        """Note what is remarkable about a call that is loaded as it is; it counts as neither rejected nor repaired."""
        self.noted.append(remark)


def load_staging(connection: Connection, quarter: str, rows: Iterable[Component | Reject], rejects: Rejects) -> int:
    """Load all rows into the temporary table `staging`, which ends with the transaction; returns how many there were.

    raises: TooManyRejects, and whatever reading the source raises
    """
    connection.execute(sa.schema.CreateTable(_staging))
    n_loaded = copy_rows(connection, _staging, _COLUMNS, _loaded(quarter, rows, rejects))
    connection.execute(sa.text("CREATE INDEX ON staging (company_id, transcript_id, component_order, row_number)"))
    connection.execute(sa.text("ANALYZE staging"))
    return n_loaded + rejects.n_rejected


def deduplicate(connection: Connection, rejects: Rejects) -> tuple[int, int]:
    """Delete repeated components; returns how many were equal to the first, and how many joint calls there are.

    raises: TooManyRejects
    """
    _delete_old_rejects(connection, rejects)
    return _drop_duplicates(connection, rejects), _note_joint_calls(connection, rejects)


def cut_texts(connection: Connection, quarter: str) -> list[str]:
    """What is to be said if the texts are cut: at least _N_CUT different ones end at the length of the longest.

    Texts below _SHORTEST_CUT characters are not looked at: short ones are equally long by chance.
    """
    found = connection.execute(
        sa.text(
            """
            SELECT length(text) AS n_chars, count(DISTINCT text) AS n_texts FROM staging
            WHERE length(text) = (SELECT max(length(text)) FROM staging) GROUP BY 1
            """
        )
    ).first()
    if found is None or found.n_chars < _SHORTEST_CUT or found.n_texts < _N_CUT:
        return []
    return [
        f"{quarter}: {found.n_texts:,} different texts end at {found.n_chars:,} characters, and none is longer: they "
        "are probably cut, as in a preview or by a spreadsheet; load the whole texts"
    ]


def drop_staging(connection: Connection) -> None:
    """Drop the staging table."""
    connection.execute(sa.schema.DropTable(_staging))


def _loaded(quarter: str, rows: Iterable[Component | Reject], rejects: Rejects) -> Iterator[tuple[object, ...]]:
    values = attrgetter(*_COLUMNS)
    first, last = quarter_dates(quarter)
    reported = None
    for row in checked_rows(rows):
        if isinstance(row, Reject):
            rejects.add(row)
            reported = (row.source, row.row_number)
        elif first <= row.call_date <= last:
            # The one place that the texts of every source pass.
            repaired = row.repaired()
            if repaired.repairs and not (reported == (row.source, row.row_number) and [*repaired.repairs] == [LOST]):
                rejects.add(_repair_reject(row, repaired))
            yield values(repaired)
        else:
            reason = f"not a day of {quarter}; a source yields rows of the quarter it is asked for"
            day = str(row.call_date)
            reject = Reject(row.row_number, "mostimportantdateutc", day, reason, row.transcript_id, source=row.source)
            rejects.add(reject, is_sound=True)


def _repair_reject(damaged: Component, repaired: Component) -> Reject:
    """What was done to a row with damaged texts, or could not be done, with the place where the damage begins."""
    reason = "damaged text: " + ", ".join(repaired.repairs)
    changed = [name for name in _TEXT_COLUMNS if getattr(damaged, name) != getattr(repaired, name)]
    name = changed[0] if changed else "text"
    before, after = getattr(damaged, name), getattr(repaired, name) if changed else ""
    place = next((at for at, (one, other) in enumerate(zip(before, after, strict=False)) if one != other), 0)
    part = before[max(0, place - _N_SHOWN // 2) : place + _N_SHOWN // 2]
    shown = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in part)
    return Reject(
        row_number=damaged.row_number,
        column=_TEXT_COLUMNS[name],
        value=shown,
        reason=reason,
        transcript_id=damaged.transcript_id,
        kept=True,
        source=damaged.source,
    )


def _delete_old_rejects(connection: Connection, rejects: Rejects) -> None:
    """Delete the rejects that an earlier reading found among these rows."""
    connection.execute(
        sa.text(
            """
            DELETE FROM rejects WHERE (source, row_number) IN (
                SELECT coalesce(nullif(source, ''), :source), row_number FROM staging
                UNION ALL
                SELECT * FROM unnest(CAST(:sources AS text[]), CAST(:rows AS bigint[]))
            )
            """
        ),
        {
            "source": rejects.source,
            "sources": [reject.source or rejects.source for reject in rejects.noted],
            "rows": [reject.row_number for reject in rejects.noted],
        },
    )


def _note_joint_calls(connection: Connection, rejects: Rejects) -> int:
    """Note each transcript that is a call of several firms, once, with all of them; returns how many there are."""
    # Decision 118.
    joint = connection.execute(
        sa.text(
            f"""
            WITH claims AS (
                SELECT transcript_id, company_id FROM staging
                UNION
                SELECT transcript_id, company_id FROM calls
                WHERE transcript_id IN (SELECT transcript_id FROM staging)
            ), joint AS (
                SELECT transcript_id, array_agg(company_id ORDER BY company_id) AS firms FROM claims
                GROUP BY transcript_id HAVING count(*) > 1
            )
            SELECT DISTINCT ON (transcript_id) transcript_id, firms, source, row_number
            FROM joint JOIN staging USING (transcript_id) ORDER BY transcript_id, {_IN_ORDER}
            """  # noqa: S608  (the text is a constant of this module)
        )
    ).all()
    for call in joint:
        reason = f"transcript {call.transcript_id} is a joint call; it is loaded for each of these firms"
        firms = ", ".join(map(str, call.firms))
        rejects.note(
            Reject(call.row_number, "companyid", firms, reason, call.transcript_id, kept=True, source=call.source)
        )
    return len(joint)


def _drop_duplicates(connection: Connection, rejects: Rejects) -> int:
    """Keep the first of each component; returns how many later ones are the same, those with another text rejected."""
    later = connection.execute(
        sa.text(
            f"""
            WITH ranked AS (
                SELECT ctid, row_number() OVER same AS rank, first_value(row_number) OVER same AS first_row,
                       nullif(first_value(source) OVER same, source) AS first_source,
                       text = first_value(text) OVER same AS same_text
                FROM staging
                WINDOW same AS (PARTITION BY company_id, transcript_id, component_order ORDER BY {_IN_ORDER}, ctid)
            ), gone AS (
                DELETE FROM staging USING ranked WHERE staging.ctid = ranked.ctid AND rank > 1
                RETURNING source, row_number, transcript_id, component_order, first_source, first_row, same_text
            )
            SELECT *, count(*) FILTER (WHERE same_text) OVER () AS n_same
            FROM gone ORDER BY same_text, {_IN_ORDER} LIMIT :most
            """  # noqa: S608  (the text is a constant of this module)
        ),
        {"most": MAX_REJECTS + 1},
    ).all()
    for row in later:
        if not row.same_text:
            first = f"row {row.first_row}" + (f" of {row.first_source}" if row.first_source else "")
            reason = f"{first} has the same component with another text"
            order = str(row.component_order)
            rejects.add(Reject(row.row_number, "componentorder", order, reason, row.transcript_id, source=row.source))
    return later[0].n_same if later else 0


def iter_firms(connection: Connection) -> Iterator[tuple[int, list[Call]]]:
    """The firms of the source, each with its calls in order of their day."""
    in_order = sa.select(_staging).order_by(_staging.c.company_id, _staging.c.transcript_id, _staging.c.component_order)
    # Streamed: the rows stay on the server.
    options = {"stream_results": True, "max_row_buffer": _ROWS_AT_A_TIME}
    with connection.execute(in_order, execution_options=options) as found:
        components = (Component(**row) for row in found.mappings())
        for company_id, firm in groupby(components, key=attrgetter("company_id")):
            calls = [Call(tuple(group)) for _, group in groupby(firm, key=attrgetter("transcript_id"))]
            yield company_id, sorted(calls, key=lambda call: (call.head.call_date, call.transcript_id))


def write_rejects(connection: Connection, rejects: Rejects) -> None:
    """Store the rejects, each row and reason once."""
    columns = ("row_number", "reason", "column", "value", "transcript_id", "kept")
    values, row = attrgetter(*columns), attrgetter("source", "row_number", "reason")
    rejects.noted.sort(key=row)
    copy_rows(
        connection,
        t.Reject.__table__,  # type: ignore[arg-type]
        ["source", *columns],
        ((source or rejects.source, *values(next(same))) for (source, *_), same in groupby(rejects.noted, row)),
    )
