"""Rows of a query as values of a type."""

from collections.abc import Iterable
from dataclasses import fields
from typing import Any, TypeVar

T = TypeVar("T")


def rows_as(row_type: type[T], rows: Iterable[Any]) -> list[T]:
    """A dataclass of each row, filled by the names of its fields; arrays become tuples, other columns are left out.

    raises: KeyError if a field has no column
    """
    names = [field.name for field in fields(row_type)]  # type: ignore[arg-type]
    return [row_type(**{name: _frozen(row._mapping[name]) for name in names}) for row in rows]


def _frozen(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value
