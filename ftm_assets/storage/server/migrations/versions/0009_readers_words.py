"""Tables and columns carry the names that the field uses; no row changes."""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

# Table, old column, new column.
COLUMNS = (
    ("materializations", "built_from", "input_hash"),
    ("materializations", "versions", "provenance"),
    ("theme_runs", "inputs_hash", "input_hash"),
    ("theme_runs", "versions", "provenance"),
    ("theme_runs", "funnel", "attrition"),
    ("sentences", "voice", "utterance_type"),
    ("sentences", "platitude", "boilerplate_similarity"),
)


def upgrade() -> None:
    op.rename_table("stages", "materializations")
    op.execute("ALTER TABLE materializations RENAME CONSTRAINT pk_stages TO pk_materializations")
    op.execute(
        "ALTER TABLE materializations RENAME CONSTRAINT fk_stages_firm_quarters TO fk_materializations_firm_quarters"
    )
    for table, before, now in COLUMNS:
        op.alter_column(table, before, new_column_name=now)


def downgrade() -> None:
    for table, before, now in reversed(COLUMNS):
        op.alter_column(table, now, new_column_name=before)
    op.execute(
        "ALTER TABLE materializations RENAME CONSTRAINT fk_materializations_firm_quarters TO fk_stages_firm_quarters"
    )
    op.execute("ALTER TABLE materializations RENAME CONSTRAINT pk_materializations TO pk_stages")
    op.rename_table("materializations", "stages")
