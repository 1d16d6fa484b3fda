"""What a stage of a firm-quarter is: its name, the value it holds, the tables of its rows, how it is read."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Generic, Protocol, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ftm_assets.errors import FtmError
from ftm_assets.storage.schema import tables as t


class UnknownFirm(FtmError):
    """A firm key that no ingested call has brought."""

    def __init__(self, firm_key: str) -> None:
        super().__init__(
            f"firm {firm_key!r} is not in the database; materialize transcripts of one of its quarters first"
        )


class StageNotMaterialized(FtmError):
    """A stage is read before it was written."""

    def __init__(self, stage: str, quarter: str, firm_key: str) -> None:
        super().__init__(f"{stage} of firm {firm_key!r} in {quarter} is not there; materialize it first")


@dataclass(frozen=True)
class FirmQuarter:
    """A partition of the firm assets. `has_call` is False for a firm that is known, but has no call in the quarter."""

    quarter: str
    firm_key: str
    company_id: int
    has_call: bool


def find_firm_quarter(connection: Connection, quarter: str, firm_key: str) -> FirmQuarter:
    """The firm-quarter of a partition key. raises: UnknownFirm"""
    found = connection.execute(
        sa.select(t.Firm.company_id, t.FirmQuarter.company_id.is_not(None).label("has_call"))
        .outerjoin(t.FirmQuarter, (t.FirmQuarter.company_id == t.Firm.company_id) & (t.FirmQuarter.quarter == quarter))
        .where(t.Firm.partition_key == firm_key)
    ).first()
    if found is None:
        raise UnknownFirm(firm_key)
    return FirmQuarter(quarter, firm_key, found.company_id, found.has_call)


class StageValue(Protocol):
    """What an asset returns for a stage, and what it knows of its own making."""

    @property
    def content_hash(self) -> str:
        """Hash of the rows, and of all else that the next stages read."""

    @property
    def input_hash(self) -> str:
        """Content hash of the value that it was made from."""

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Encoder, settings, and the reason why it is empty, in JSON."""


@dataclass(frozen=True)
class Provenance:
    """Where stored rows come from: what they hold, what they were built from, by what, and how long that took.

    details: code version, encoder, settings and the reason for an empty partition; the column `provenance`
    seconds: from the start of reading the inputs to the write; None where it was not measured
    """

    content_hash: str
    input_hash: str | None
    details: Mapping[str, Any]
    seconds: float | None = None

    @classmethod
    def of(cls, value: StageValue, seconds: float | None = None, **details: object) -> "Provenance":
        """The provenance of a value. `details` come from its maker, such as the version of the code."""
        return cls(value.content_hash, value.input_hash, {**details, **value.provenance}, seconds)


@dataclass(frozen=True)
class TableRows:
    """Rows for one table, their values in the order of the columns."""

    table: type[t.Base]
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]


Value = TypeVar("Value", bound=StageValue)


@dataclass(frozen=True)
class FirmStage(Generic[Value]):
    """A stage of a firm-quarter.

    name:       of the asset, and of the stage in `materializations`
    value_type: what the asset returns
    built_from: name of the stage whose content hash is the input hash of this one
    tables:     its tables, those that others refer to first
    rows:       the rows of a value, in order of the tables; none for a firm without a call
    read:       the value of a firm-quarter. raises: StageNotMaterialized
    encoder:    name and revision of what made its vectors; None for a stage without vectors of the quarter's encoder
    """

    name: str
    value_type: type[Value]
    built_from: str
    tables: tuple[type[t.Base], ...]
    rows: Callable[[FirmQuarter, Value], Iterable[TableRows]]
    read: Callable[[Connection, FirmQuarter], Value]
    encoder: Callable[[Value], tuple[str, str]] | None = None


def rows_of(where: FirmQuarter, table: type[t.Base], row_type: type, items: Iterable[object]) -> TableRows:
    """Rows of a table whose columns have the names of a dataclass's fields, under the key of the firm-quarter."""
    names = [field.name for field in fields(row_type)]
    key = (where.quarter, where.company_id)
    rows = [(*key, *(getattr(item, name) for name in names)) for item in items]
    return TableRows(table, ["quarter", "company_id", *names], rows)


def with_vectors(rows: TableRows, column: str, vectors: Iterable[object]) -> TableRows:
    """The rows with one vector more in each. raises: ValueError if there are more or fewer vectors than rows"""
    with_vector = [(*row, vector) for row, vector in zip(rows.rows, vectors, strict=True)]
    return TableRows(rows.table, [*rows.columns, column], with_vector)


def find_provenance(connection: Connection, quarter: str, company_id: int, stage: str) -> Provenance | None:
    """What is recorded of a stage; None if it was not written."""
    found = connection.execute(
        sa.select(t.Materialization).where(
            *of_firm_quarter(t.Materialization, quarter, company_id), t.Materialization.stage == stage
        )
    ).first()
    return found and Provenance(found.content_hash, found.input_hash, found.provenance, found.seconds)


def read_provenance(connection: Connection, where: FirmQuarter, stage: str) -> Provenance:
    """What is recorded of a stage. raises: StageNotMaterialized"""
    found = find_provenance(connection, where.quarter, where.company_id, stage)
    if found is None:
        raise StageNotMaterialized(stage, where.quarter, where.firm_key)
    return found


def of_firm_quarter(table: type[t.Base], quarter: str, company_id: int) -> tuple[sa.ColumnElement[bool], ...]:
    """The condition that a row belongs to the firm-quarter."""
    columns = table.__table__.c
    return columns.quarter == quarter, columns.company_id == company_id


CALL_ORDER = (t.Call.call_date, t.Call.transcript_id)


def same_call(table: type[t.Component] | type[t.Sentence]) -> sa.ColumnElement[bool]:
    """The condition that joins a component or a sentence to its call."""
    return sa.and_(
        t.Call.quarter == table.quarter,
        t.Call.transcript_id == table.transcript_id,
        t.Call.company_id == table.company_id,
    )


def columns_of(table: type[t.Base], row_type: type) -> list[sa.ColumnElement[Any]]:
    """The columns of a table with the names of a dataclass's fields."""
    return [table.__table__.c[field.name] for field in fields(row_type)]
