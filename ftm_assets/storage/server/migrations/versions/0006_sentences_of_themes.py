"""Themes keep how many sentences their topics had, so that a list of them counts nothing."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("themes", sa.Column("n_sentences", sa.Integer(), nullable=True))
    op.execute(
        """
        WITH firms AS (
            SELECT m.quarter, m.theme_number, m.company_id, count(*) AS n, sum(topics.n_sentences) AS n_sentences
            FROM theme_topics AS m
            LEFT JOIN topics ON (topics.quarter, topics.company_id, topics.topic_number)
                              = (m.quarter, m.company_id, m.live_topic_number)
            GROUP BY 1, 2, 3
        ), counted AS (
            SELECT quarter, theme_number, sum(n * n)::float / sum(n) ^ 2 AS concentration,
                   coalesce(sum(n_sentences), 0) AS n_sentences
            FROM firms GROUP BY 1, 2
        )
        UPDATE themes SET concentration = counted.concentration, n_sentences = counted.n_sentences
        FROM counted WHERE (themes.quarter, themes.theme_number) = (counted.quarter, counted.theme_number)
        """
    )


def downgrade() -> None:
    op.drop_column("themes", "n_sentences")
