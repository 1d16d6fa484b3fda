"""Old quarters may go without the vectors of their sentences."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("quarters", sa.Column("archived_at", sa.DateTime(timezone=True), nullable=True))
    op.alter_column("sentences", "embedding", nullable=True)


def downgrade() -> None:
    # Fails where a quarter is archived: its vectors have to be made again first.
    op.alter_column("sentences", "embedding", nullable=False)
    op.drop_column("quarters", "archived_at")
