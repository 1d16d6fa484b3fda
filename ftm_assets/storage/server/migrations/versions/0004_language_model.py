"""The ledger of the language model, titles of summaries, descriptions of themes."""

import sqlalchemy as sa
from alembic import op
from pgvector.sqlalchemy import Vector
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "llm_calls",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("number", sa.SmallInteger(), nullable=False),
        sa.Column("quarter", sa.Text(), nullable=False),
        sa.Column("run", sa.Text(), nullable=False),
        sa.Column("prompt", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("model_answered", sa.Text(), nullable=True),
        sa.Column("training_cutoff", sa.Date(), nullable=True),
        sa.Column("request", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("reply", sa.Text(), nullable=True),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("tokens_in", sa.Integer(), nullable=True),
        sa.Column("tokens_cached", sa.Integer(), nullable=True),
        sa.Column("tokens_out", sa.Integer(), nullable=True),
        sa.Column("dollars", sa.Double(), nullable=True),
        sa.Column("latency_s", sa.Double(), nullable=True),
        sa.Column("attempts", sa.SmallInteger(), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("sender", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("key", "number", name="pk_llm_calls"),
    )
    op.create_index("ix_llm_calls_quarter_state", "llm_calls", ["quarter", "state"])
    op.create_table(
        "llm_spending",
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("payer", sa.Text(), nullable=False),
        sa.Column("dollars", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("kind", "payer", name="pk_llm_spending"),
    )
    op.add_column("topic_summaries", sa.Column("title", sa.Text(), nullable=True))
    op.add_column("topic_summaries", sa.Column("reason", sa.Text(), nullable=True))
    op.add_column("themes", sa.Column("title", sa.Text(), nullable=True))
    op.add_column("themes", sa.Column("description", sa.Text(), nullable=True))
    op.add_column("themes", sa.Column("description_source", sa.Text(), nullable=True))
    op.add_column("themes", sa.Column("description_model", sa.Text(), nullable=True))
    op.add_column("themes", sa.Column("description_embedding", Vector(768), nullable=True))


def downgrade() -> None:
    op.drop_column("themes", "description_embedding")
    op.drop_column("themes", "description_model")
    op.drop_column("themes", "description_source")
    op.drop_column("themes", "description")
    op.drop_column("themes", "title")
    op.drop_column("topic_summaries", "reason")
    op.drop_column("topic_summaries", "title")
    op.drop_table("llm_spending")
    op.drop_index("ix_llm_calls_quarter_state", table_name="llm_calls")
    op.drop_table("llm_calls")
