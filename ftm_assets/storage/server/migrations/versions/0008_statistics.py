"""What Postgres knows keeps up with a quarter while its firms are made, however many quarters there are.

Autovacuum looks at a table again when a tenth of it is new, which a quarter beyond the tenth is not. Until then
Postgres believes that the quarter has no rows, and reads all of them for each firm. What some hundred firms write
is enough.
"""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

ROWS = {
    "firm_quarters": 300,
    "calls": 300,
    "components": 30_000,
    "stages": 1_000,
    "topics": 3_000,
    "topic_summaries": 3_000,
    "topic_sentences": 30_000,
}


def upgrade() -> None:
    for table, rows in ROWS.items():
        op.execute(
            f"ALTER TABLE {table} SET (autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = {rows})"
        )


def downgrade() -> None:
    for table in ROWS:
        op.execute(f"ALTER TABLE {table} RESET (autovacuum_analyze_scale_factor, autovacuum_analyze_threshold)")
