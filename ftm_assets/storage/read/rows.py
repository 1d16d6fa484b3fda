"""Rows of a query as values of a type."""

from collections.abc import Callable
from typing import Any, TypeVar

import sqlalchemy as sa

T = TypeVar("T")


def rows_as(kind: Callable[..., T], rows: sa.Result[Any]) -> list[T]:
    """Each row as a value of this type: columns go to the fields of their names. raises: TypeError if these differ"""
    return [kind(**row._mapping) for row in rows]
