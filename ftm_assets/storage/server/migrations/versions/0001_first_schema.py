"""First schema."""

import sqlalchemy as sa
from alembic import op
from pgvector.sqlalchemy import Vector
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("CREATE EXTENSION IF NOT EXISTS vector")
    op.create_table(
        "firms",
        sa.Column("company_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("partition_key", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("company_id", name="pk_firms"),
        sa.UniqueConstraint("partition_key", name="uq_firms_partition_key"),
    )
    op.create_table(
        "quarters",
        sa.Column("quarter", sa.Text(), nullable=False),
        sa.Column("encoder", sa.Text(), nullable=True),
        sa.Column("encoder_revision", sa.Text(), nullable=True),
        sa.CheckConstraint("quarter ~ '^[0-9]{4}Q[1-4]$'", name="ck_quarters_quarter_format"),
        sa.PrimaryKeyConstraint("quarter", name="pk_quarters"),
    )
    op.create_table(
        "rejects",
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("row_number", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("column", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("transcript_id", sa.BigInteger(), nullable=True),
        sa.Column("kept", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("source", "row_number", "reason", name="pk_rejects"),
    )
    op.create_table(
        "firm_quarters",
        sa.Column("quarter", sa.Text(), nullable=False),
        sa.Column("company_id", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("ticker", sa.Text(), nullable=True),
        sa.Column("gvkey", sa.Text(), nullable=True),
        sa.Column("permno", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["company_id"], ["firms.company_id"], name="fk_firm_quarters_firms"),
        sa.ForeignKeyConstraint(["quarter"], ["quarters.quarter"], name="fk_firm_quarters_quarters"),
        sa.PrimaryKeyConstraint("quarter", "company_id", name="pk_firm_quarters"),
    )
    op.create_index("ix_firm_quarters_company_id", "firm_quarters", ["company_id"], unique=False)
    op.create_table(
        "theme_runs",
        sa.Column("quarter", sa.Text(), nullable=False),
        sa.Column("run_number", sa.Integer(), nullable=False),
        sa.Column("inputs_hash", sa.Text(), nullable=False),
        sa.Column("content_hash", sa.Text(), nullable=False),
        sa.Column("n_firms_expected", sa.Integer(), nullable=False),
        sa.Column("n_firms", sa.Integer(), nullable=False),
        sa.Column("n_topics", sa.Integer(), nullable=False),
        sa.Column("rejected", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("versions", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("as_of", sa.DateTime(timezone=True), nullable=True),
        sa.Column("published_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["quarter"], ["quarters.quarter"], name="fk_theme_runs_quarters"),
        sa.PrimaryKeyConstraint("quarter", "run_number", name="pk_theme_runs"),
    )
    op.create_table(
        "calls",
        sa.Column("quarter", sa.Text(), nullable=False),
        sa.Column("transcript_id", sa.BigInteger(), nullable=False),
        sa.Column("company_id", sa.BigInteger(), nullable=False),
        sa.Column("call_date", sa.Date(), nullable=False),
        sa.Column("call_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("available_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("headline", sa.Text(), nullable=False),
        sa.Column("fiscal_year", sa.SmallInteger(), nullable=True),
        sa.Column("fiscal_quarter", sa.SmallInteger(), nullable=True),
        sa.Column("event_id", sa.BigInteger(), nullable=True),
        sa.Column("event_type", sa.Text(), nullable=True),
        sa.Column("collection_type", sa.Text(), nullable=True),
        sa.Column("presentation_type", sa.Text(), nullable=True),
        sa.Column("superseded_by", sa.BigInteger(), nullable=True),
        sa.Column("content_hash", sa.Text(), nullable=False),
        sa.Column("text_hash", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["quarter", "company_id"],
            ["firm_quarters.quarter", "firm_quarters.company_id"],
            name="fk_calls_firm_quarters",
        ),
        sa.PrimaryKeyConstraint("quarter", "transcript_id", name="pk_calls"),
        sa.UniqueConstraint("transcript_id", name="uq_calls_transcript_id"),
    )
    op.create_index("ix_calls_quarter_company_id", "calls", ["quarter", "company_id"], unique=False)
    op.create_table(
        "stages",
        sa.Column("quarter", sa.Text(), nullable=False),
        sa.Column("company_id", sa.BigInteger(), nullable=False),
        sa.Column("stage", sa.Text(), nullable=False),
        sa.Column("content_hash", sa.Text(), nullable=False),
        sa.Column("built_from", sa.Text(), nullable=True),
        sa.Column("versions", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("written_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["quarter", "company_id"],
            ["firm_quarters.quarter", "firm_quarters.company_id"],
            name="fk_stages_firm_quarters",
        ),
        sa.PrimaryKeyConstraint("quarter", "company_id", "stage", name="pk_stages"),
    )
    op.create_table(
        "theme_inputs",
        sa.Column("quarter", sa.Text(), nullable=False),
        sa.Column("company_id", sa.BigInteger(), nullable=False),
        sa.Column("run_number", sa.Integer(), nullable=False),
        sa.Column("content_hash", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["company_id"], ["firms.company_id"], name="fk_theme_inputs_firms"),
        sa.ForeignKeyConstraint(
            ["quarter", "run_number"],
            ["theme_runs.quarter", "theme_runs.run_number"],
            name="fk_theme_inputs_theme_runs",
        ),
        sa.PrimaryKeyConstraint("quarter", "company_id", name="pk_theme_inputs"),
    )
    op.create_index("ix_theme_inputs_company_id", "theme_inputs", ["company_id"], unique=False)
    op.create_index("ix_theme_inputs_quarter_run_number", "theme_inputs", ["quarter", "run_number"], unique=False)
    op.create_table(
        "themes",
        sa.Column("quarter", sa.Text(), nullable=False),
        sa.Column("theme_number", sa.Integer(), nullable=False),
        sa.Column(
            "theme_id",
            sa.Text(),
            sa.Computed(
                "'theme_' || quarter || '_' || lpad(theme_number::text, greatest(3, length(theme_number::text)), '0')",
                persisted=True,
            ),
            nullable=False,
        ),
        sa.Column("run_number", sa.Integer(), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("keywords", sa.ARRAY(sa.Text()), nullable=False),
        sa.Column("n_firms", sa.Integer(), nullable=False),
        sa.Column("n_topics", sa.Integer(), nullable=False),
        sa.Column("top_firm_share", sa.Double(), nullable=False),
        sa.Column("centroid", Vector(768), nullable=False),
        sa.ForeignKeyConstraint(
            ["quarter", "run_number"], ["theme_runs.quarter", "theme_runs.run_number"], name="fk_themes_theme_runs"
        ),
        sa.PrimaryKeyConstraint("quarter", "theme_number", name="pk_themes"),
        sa.UniqueConstraint("theme_id", name="uq_themes_theme_id"),
    )
    op.create_index("ix_themes_quarter_run_number", "themes", ["quarter", "run_number"], unique=False)
    op.create_table(
        "topics",
        sa.Column("quarter", sa.Text(), nullable=False),
        sa.Column("company_id", sa.BigInteger(), nullable=False),
        sa.Column("topic_number", sa.SmallInteger(), nullable=False),
        sa.Column(
            "topic_id",
            sa.Text(),
            sa.Computed("company_id::text || '_' || quarter || '_' || topic_number::text", persisted=True),
            nullable=False,
        ),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("keywords", sa.ARRAY(sa.Text()), nullable=False),
        sa.Column("n_sentences", sa.Integer(), nullable=False),
        sa.Column("centroid", Vector(768), nullable=False),
        sa.ForeignKeyConstraint(
            ["quarter", "company_id"],
            ["firm_quarters.quarter", "firm_quarters.company_id"],
            name="fk_topics_firm_quarters",
        ),
        sa.PrimaryKeyConstraint("quarter", "company_id", "topic_number", name="pk_topics"),
        sa.UniqueConstraint("topic_id", name="uq_topics_topic_id"),
    )
    op.create_table(
        "components",
        sa.Column("quarter", sa.Text(), nullable=False),
        sa.Column("transcript_id", sa.BigInteger(), nullable=False),
        sa.Column("component_order", sa.Integer(), nullable=False),
        sa.Column("type_name", sa.Text(), nullable=False),
        sa.Column("speaker_type", sa.Text(), nullable=False),
        sa.Column("person", sa.Text(), nullable=False),
        sa.Column("component_id", sa.BigInteger(), nullable=True),
        sa.Column("person_id", sa.BigInteger(), nullable=True),
        sa.Column("text", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["quarter", "transcript_id"], ["calls.quarter", "calls.transcript_id"], name="fk_components_calls"
        ),
        sa.PrimaryKeyConstraint("quarter", "transcript_id", "component_order", name="pk_components"),
    )
    op.create_table(
        "theme_topics",
        sa.Column("quarter", sa.Text(), nullable=False),
        sa.Column("company_id", sa.BigInteger(), nullable=False),
        sa.Column("topic_number", sa.SmallInteger(), nullable=False),
        sa.Column("live_topic_number", sa.SmallInteger(), nullable=True),
        sa.Column("theme_number", sa.Integer(), nullable=False),
        sa.Column("topic_label", sa.Text(), nullable=False),
        sa.Column("similarity", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["quarter", "company_id", "live_topic_number"],
            ["topics.quarter", "topics.company_id", "topics.topic_number"],
            name="fk_theme_topics_topics",
            ondelete="SET NULL (live_topic_number)",
        ),
        sa.ForeignKeyConstraint(
            ["quarter", "theme_number"], ["themes.quarter", "themes.theme_number"], name="fk_theme_topics_themes"
        ),
        sa.PrimaryKeyConstraint("quarter", "company_id", "topic_number", name="pk_theme_topics"),
    )
    op.create_index(
        "ix_theme_topics_quarter_company_id_live_topic_number",
        "theme_topics",
        ["quarter", "company_id", "live_topic_number"],
        unique=False,
    )
    op.create_index("ix_theme_topics_quarter_theme_number", "theme_topics", ["quarter", "theme_number"], unique=False)
    op.create_table(
        "topic_summaries",
        sa.Column("quarter", sa.Text(), nullable=False),
        sa.Column("company_id", sa.BigInteger(), nullable=False),
        sa.Column("topic_number", sa.SmallInteger(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=True),
        sa.Column("evidence", sa.ARRAY(sa.Text()), nullable=False),
        sa.Column("embedding", Vector(768), nullable=False),
        sa.ForeignKeyConstraint(
            ["quarter", "company_id", "topic_number"],
            ["topics.quarter", "topics.company_id", "topics.topic_number"],
            name="fk_topic_summaries_topics",
        ),
        sa.PrimaryKeyConstraint("quarter", "company_id", "topic_number", name="pk_topic_summaries"),
    )
    op.create_table(
        "sentences",
        sa.Column("quarter", sa.Text(), nullable=False),
        sa.Column("sentence_id", sa.Text(), nullable=False),
        sa.Column("company_id", sa.BigInteger(), nullable=False),
        sa.Column("transcript_id", sa.BigInteger(), nullable=False),
        sa.Column("component_order", sa.Integer(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("start_char", sa.Integer(), nullable=False),
        sa.Column("end_char", sa.Integer(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("section", sa.Text(), nullable=False),
        sa.Column("boilerplate", sa.Text(), nullable=True),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("embedding", Vector(768), nullable=False),
        sa.ForeignKeyConstraint(
            ["quarter", "company_id"],
            ["firm_quarters.quarter", "firm_quarters.company_id"],
            name="fk_sentences_firm_quarters",
        ),
        sa.ForeignKeyConstraint(
            ["quarter", "transcript_id", "component_order"],
            ["components.quarter", "components.transcript_id", "components.component_order"],
            name="fk_sentences_components",
        ),
        sa.PrimaryKeyConstraint("quarter", "sentence_id", name="pk_sentences"),
        postgresql_partition_by="LIST (quarter)",
    )
    op.create_index("ix_sentences_quarter_company_id", "sentences", ["quarter", "company_id"], unique=False)
    op.create_index(
        "ix_sentences_quarter_transcript_id_component_order",
        "sentences",
        ["quarter", "transcript_id", "component_order"],
        unique=False,
    )
    op.create_table(
        "topic_sentences",
        sa.Column("quarter", sa.Text(), nullable=False),
        sa.Column("sentence_id", sa.Text(), nullable=False),
        sa.Column("company_id", sa.BigInteger(), nullable=False),
        sa.Column("raw_topic", sa.SmallInteger(), nullable=False),
        sa.Column("topic_number", sa.SmallInteger(), nullable=True),
        sa.Column("probability", sa.Double(), nullable=False),
        sa.Column("rank", sa.SmallInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["quarter", "company_id", "topic_number"],
            ["topics.quarter", "topics.company_id", "topics.topic_number"],
            name="fk_topic_sentences_topics",
        ),
        sa.ForeignKeyConstraint(
            ["quarter", "sentence_id"],
            ["sentences.quarter", "sentences.sentence_id"],
            name="fk_topic_sentences_sentences",
        ),
        sa.PrimaryKeyConstraint("quarter", "sentence_id", name="pk_topic_sentences"),
    )
    op.create_index(
        "ix_topic_sentences_quarter_company_id_topic_number",
        "topic_sentences",
        ["quarter", "company_id", "topic_number"],
        unique=False,
    )


def downgrade() -> None:
    op.drop_index("ix_topic_sentences_quarter_company_id_topic_number", table_name="topic_sentences")
    op.drop_table("topic_sentences")
    op.drop_index("ix_sentences_quarter_transcript_id_component_order", table_name="sentences")
    op.drop_index("ix_sentences_quarter_company_id", table_name="sentences")
    op.drop_table("sentences")
    op.drop_table("topic_summaries")
    op.drop_index("ix_theme_topics_quarter_theme_number", table_name="theme_topics")
    op.drop_index("ix_theme_topics_quarter_company_id_live_topic_number", table_name="theme_topics")
    op.drop_table("theme_topics")
    op.drop_table("components")
    op.drop_table("topics")
    op.drop_index("ix_themes_quarter_run_number", table_name="themes")
    op.drop_table("themes")
    op.drop_index("ix_theme_inputs_quarter_run_number", table_name="theme_inputs")
    op.drop_index("ix_theme_inputs_company_id", table_name="theme_inputs")
    op.drop_table("theme_inputs")
    op.drop_table("stages")
    op.drop_index("ix_calls_quarter_company_id", table_name="calls")
    op.drop_table("calls")
    op.drop_table("theme_runs")
    op.drop_index("ix_firm_quarters_company_id", table_name="firm_quarters")
    op.drop_table("firm_quarters")
    op.drop_table("rejects")
    op.drop_table("quarters")
    op.drop_table("firms")
