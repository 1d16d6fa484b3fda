from collections.abc import Iterator
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from pgvector import HalfVector
from pgvector.sqlalchemy import HALFVEC, Vector
from sqlalchemy.dialects.postgresql import JSONB

from ftm_assets.storage.schema.tables import Base
from ftm_assets.storage.server.database import Database
from ftm_assets.storage.write.copy import copy_rows

KINDS = sa.Table(
    "kinds",
    sa.MetaData(),
    sa.Column("order", sa.Integer, primary_key=True),
    sa.Column("small", sa.SmallInteger),
    sa.Column("big", sa.BigInteger),
    sa.Column("yes", sa.Boolean),
    sa.Column("float", sa.Double),
    sa.Column("day", sa.Date),
    sa.Column("instant", sa.DateTime(timezone=True)),
    sa.Column("text", sa.Text),
    sa.Column("words", sa.ARRAY(sa.Text)),
    sa.Column("facts", JSONB),
    sa.Column("vector", Vector(3)),
    sa.Column("half", HALFVEC(3)),
)
NAMES = [column.name for column in KINDS.c]
ROW: tuple[Any, ...] = (
    *(1, -(2**15), 2**63 - 1, True, 0.1, date(1900, 1, 1), datetime(2021, 11, 1, 21, 5, 30, tzinfo=UTC)),
    *("é 💰", ["a", "", 'b"{,}'], {"n": [1, None, "x"]}, [1.0, 0.0, -0.5]),
    [0.0, 1.0, -0.25],
)


@pytest.fixture
def kinds(database: Database) -> Database:
    """A database with a table that has a column of every kind."""
    with database.transaction() as connection:
        KINDS.create(connection)
    return database


def stored(database: Database) -> list[tuple[object, ...]]:
    with database.transaction() as connection:
        rows = connection.execute(sa.select(KINDS).order_by(KINDS.c.order)).all()
    return [tuple(map(plain, row)) for row in rows]


def plain(value: object) -> object:
    """Vectors as lists, all else as it is."""
    match value:
        case np.ndarray():
            return value.tolist()
        case HalfVector():
            return value.to_list()
    return value


def copy(database: Database, *rows: tuple[object, ...], columns: list[str] = NAMES) -> int:
    with database.transaction() as connection:
        return copy_rows(connection, KINDS, columns, rows)


def test_a_value_of_every_kind_comes_back_as_it_was(kinds: Database) -> None:
    assert copy(kinds, ROW) == 1
    assert stored(kinds) == [ROW]


def test_every_kind_may_be_null(kinds: Database) -> None:
    copy(kinds, (2, *[None] * 11))
    assert stored(kinds) == [(2, *[None] * 11)]


def test_numbers_and_vectors_of_numpy_are_as_good_as_those_of_python(kinds: Database) -> None:
    row = (np.int64(3), np.int16(4), np.int64(5), True, np.float64(0.5), None, None, None, None, None)
    copy(kinds, (*row, np.array([1, 2, 3], np.float32), np.array([1, 0.1, 3], np.float32)))
    assert stored(kinds) == [(*row, [1.0, 2.0, 3.0], [1.0, float(np.float16(0.1)), 3.0])]


def test_columns_may_come_in_any_order_and_others_stay_empty(kinds: Database) -> None:
    assert copy(kinds, ("b", 2), ("a", 1), columns=["text", "order"]) == 2
    assert [(row[0], row[7], row[8]) for row in stored(kinds)] == [(1, "a", None), (2, "b", None)]


def test_no_rows_are_no_rows(kinds: Database) -> None:
    assert copy(kinds) == 0
    assert stored(kinds) == []


def test_a_text_loses_only_what_postgres_cannot_hold(kinds: Database) -> None:
    texts = {
        "\0": "",
        "a\0b\0": "ab",
        "\ud83d": "\ufffd",
        "caf\udce9 \0!": "caf\ufffd !",
        "\\N": "\\N",
        "\\.": "\\.",
        "\t\r\n\x01\x7f\u2028\ufeff\uffff": "\t\r\n\x01\x7f\u2028\ufeff\uffff",
        "💰e\u0301": "💰e\u0301",
    }
    copy(kinds, *enumerate(texts), columns=["order", "text"])
    assert [row[7] for row in stored(kinds)] == list(texts.values())


def test_rows_that_break_off_are_not_kept(kinds: Database) -> None:
    def rows() -> Iterator[tuple[object, ...]]:
        yield 1, "a"
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"), kinds.transaction() as connection:
        copy_rows(connection, KINDS, ["order", "text"], rows())
    assert stored(kinds) == []


def test_a_value_that_does_not_fit_is_refused(kinds: Database) -> None:
    with pytest.raises(Exception, match="expected 3 dimensions, not 2"):
        copy(kinds, (1, [1.0, 2.0]), columns=["order", "vector"])
    assert stored(kinds) == []


def test_every_column_of_the_schema_is_of_a_kind_that_can_be_copied(database: Database) -> None:
    with database.transaction() as connection:
        for table in Base.metadata.sorted_tables:
            assert copy_rows(connection, table, [c.name for c in table.c if c.computed is None], []) == 0
