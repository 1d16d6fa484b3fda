"""Table statistics, by which Postgres chooses its plans. Decision 108."""

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.orm import DeclarativeBase


def analyze(connection: Connection, *tables: type[DeclarativeBase]) -> None:
    """Update the statistics of these tables, inside the connection's transaction.

    Postgres believes that a quarter loaded since the last ANALYZE has no rows, and reads all of it for each firm or
    topic. Autovacuum runs only if a tenth of the table is new, which the eleventh quarter is not. A table that is being
    analyzed already, or gets an index, is skipped, because the wait could be long.
    """
    connection.execute(sa.text(f"ANALYZE (SKIP_LOCKED) {', '.join(table.__tablename__ for table in tables)}"))
