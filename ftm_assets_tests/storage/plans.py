"""How Postgres carries out what a function asks."""

from collections.abc import Callable

import sqlalchemy as sa
from sqlalchemy.engine import Connection


def plans(connection: Connection, ask: Callable[[Connection], object]) -> str:
    """The plan of each query of the function, in order."""
    asked: list[tuple[str, object]] = []

    def note(_connection: object, _cursor: object, statement: str, parameters: object, *_: object) -> None:
        asked.append((statement, parameters))

    sa.event.listen(connection, "before_cursor_execute", note)
    ask(connection)
    sa.event.remove(connection, "before_cursor_execute", note)
    return "\n".join(
        line
        for statement, parameters in asked
        for line in connection.exec_driver_sql(f"EXPLAIN {statement}", parameters).scalars()  # type: ignore[arg-type]
    )
