"""Vectors on their way out of Postgres."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import sqlalchemy as sa
from pgvector.sqlalchemy import HALFVEC

from ftm_assets.analysis.vectors import DIMENSIONS


def binary(vector: sa.SQLColumnExpression[Any]) -> sa.ColumnElement[bytes]:
    """A vector in the form that `vectors_of` takes; as text it would take eight times as long to read."""
    kind = vector.type  # type: ignore[attr-defined]
    send = sa.func.halfvec_send if isinstance(kind, HALFVEC) else sa.func.vector_send
    return send(vector, type_=sa.LargeBinary)


def vectors_of(rows: Sequence[bytes]) -> np.ndarray:
    """Vectors as `binary` selects them, one below the other: (n, 768) float32, also for n = 0."""
    # Four bytes of header, then big-endian floats, of two bytes each in a `halfvec`.
    width = (len(rows[0]) - 4) // DIMENSIONS if rows else 4
    floats = np.frombuffer(b"".join(row[4:] for row in rows), f">f{width}")
    return floats.reshape(len(rows), DIMENSIONS).astype(np.float32)
