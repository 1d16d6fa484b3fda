"""Voices and exchanges of sentences, the funnel of a theme run, what themes are worth, seconds of stages."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # A stored column is computed for the rows that are there, so the leaf of each quarter is written again.
    op.add_column(
        "sentences",
        sa.Column(
            "voice",
            sa.Text(),
            sa.Computed(
                "CASE WHEN role = 'executive' AND section = 'prepared' THEN 'remark'"
                " WHEN role = 'executive' AND section = 'qa' THEN 'answer'"
                " WHEN role = 'analyst' THEN 'question' ELSE 'unknown' END",
                persisted=True,
            ),
            nullable=False,
        ),
    )
    op.add_column("sentences", sa.Column("exchange", sa.SmallInteger(), nullable=True))
    op.add_column("stages", sa.Column("seconds", sa.Double(), nullable=True))
    op.add_column("theme_runs", sa.Column("funnel", postgresql.JSONB(astext_type=sa.Text()), nullable=True))
    op.add_column("theme_runs", sa.Column("seconds", sa.Double(), nullable=True))
    op.add_column("themes", sa.Column("concentration", sa.Double(), nullable=True))
    op.add_column("themes", sa.Column("stability", sa.Double(), nullable=True))
    # The sentences that are there know no exchange: they are to be made again, and what rests on them.
    op.execute("UPDATE stages SET built_from = NULL WHERE stage = 'firm_sentences'")


def downgrade() -> None:
    op.drop_column("themes", "stability")
    op.drop_column("themes", "concentration")
    op.drop_column("theme_runs", "seconds")
    op.drop_column("theme_runs", "funnel")
    op.drop_column("stages", "seconds")
    op.drop_column("sentences", "exchange")
    op.drop_column("sentences", "voice")
