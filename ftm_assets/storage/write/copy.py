"""Rows into a table by binary COPY, the fast way in: text costs 15 KB and 0.3 ms for a row with a vector."""

from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa
from pgvector import HalfVector
from pgvector.sqlalchemy import HALFVEC, Vector
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.engine import Connection

from ftm_assets.text_safety import as_stored

_POSTGRES_TYPES: tuple[tuple[type[Any], str], ...] = (
    # Subclasses stand before their bases.
    (Vector, "vector"),
    (HALFVEC, "halfvec"),
    (sa.ARRAY, "text[]"),
    (JSONB, "jsonb"),
    (sa.BigInteger, "int8"),
    (sa.SmallInteger, "int2"),
    (sa.Integer, "int4"),
    (sa.Boolean, "bool"),
    (sa.Float, "float8"),
    (sa.DateTime, "timestamptz"),
    (sa.Date, "date"),
    (sa.String, "text"),
)


def copy_rows(connection: Connection, table: sa.Table, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> int:
    """Append rows, values in the order of `columns`, inside the connection's transaction; returns how many.

    Postgres cannot hold every text: NUL is removed, a lone surrogate becomes U+FFFD. Vectors of any float go into
    `halfvec` columns, rounded to the nearest. An array may be any sequence.
    """
    driver: Any = connection.connection.driver_connection
    names = ", ".join(f'"{name}"' for name in columns)
    types = [table.c[name].type for name in columns]
    halved = [place for place, kind in enumerate(types) if isinstance(kind, HALFVEC)]
    arrays = [place for place, kind in enumerate(types) if isinstance(kind, sa.ARRAY)]
    n_rows = 0
    with (
        driver.cursor() as cursor,
        # Decision 20: pgvector's SQLAlchemy type sends text and is 20 times slower.
        cursor.copy(f'COPY "{table.name}" ({names}) FROM STDIN WITH (FORMAT BINARY)') as copy,
    ):
        copy.set_types(list(map(_postgres_type, types)))
        for row in rows:
            values = [as_stored(value) if isinstance(value, str) else value for value in row]
            # Decision 78: bytes and foreign keys are what a row costs.
            for place in halved:
                values[place] = _halved(values[place])
            for place in arrays:
                values[place] = _as_list(values[place])
            copy.write_row(values)
            n_rows += 1
    return n_rows


def _postgres_type(column_type: sa.types.TypeEngine[Any]) -> str:
    return next(name for kind, name in _POSTGRES_TYPES if isinstance(column_type, kind))


def _halved(vector: Any) -> HalfVector | None:
    # psycopg would take an array for a `vector`, whatever the column is.
    return None if vector is None else HalfVector(vector)


def _as_list(array: Any) -> list[Any] | None:
    # psycopg would take a tuple for a composite value.
    return None if array is None else list(array)
