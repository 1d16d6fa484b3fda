"""What Postgres knows of its tables, by which it chooses how to read them."""

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.orm import DeclarativeBase


def analyze(connection: Connection, *tables: type[DeclarativeBase]) -> None:
    """Let Postgres look at what these tables hold now, inside the connection's transaction.

    Of a quarter that came since it last looked Postgres believes that it has no rows, and reads all of it for each
    firm or topic. By itself it looks a minute later, if a tenth of the table is new, which the eleventh quarter is not.
    A table that is being looked at already, or gets an index, is passed over: to wait for that could be in vain.
    """
    # Decision 108.
    connection.execute(sa.text(f"ANALYZE (SKIP_LOCKED) {', '.join(table.__tablename__ for table in tables)}"))
