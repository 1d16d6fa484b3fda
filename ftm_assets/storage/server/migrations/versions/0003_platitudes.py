"""How near each sentence is to a platitude."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("sentences", sa.Column("platitude", sa.Double(), nullable=True))
    # Sentences that are there were not measured, and topics hold platitudes: they are to be made again.
    op.execute("UPDATE stages SET built_from = NULL WHERE stage IN ('firm_sentences', 'firm_topics')")


def downgrade() -> None:
    op.drop_column("sentences", "platitude")
