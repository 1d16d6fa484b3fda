"""A call is known by transcript and company: a joint call is a call of each of its firms. Decision 118.

No content hash changes, so nothing is made again.
"""

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

CALL, CALL_BEFORE = ("quarter", "transcript_id", "company_id"), ("quarter", "transcript_id")

SENTENCE_CONTEXT = """
CREATE OR REPLACE VIEW sentence_context AS SELECT
    s.quarter, s.sentence_id, s.company_id, firms.partition_key AS firm_key, f.name AS firm_name, f.ticker,
    f.gvkey, f.permno, s.transcript_id, calls.call_date, calls.available_at, s.component_order, s.position,
    s.start_char, s.end_char, components.person, s.role, s.section, s.utterance_type, s.exchange, s.boilerplate,
    s.text, a.topic_number, topics.topic_id, topics.label AS topic_label, a.rank, a.probability, m.theme_number,
    themes.theme_id, themes.label AS theme_label
FROM sentences AS s
LEFT JOIN topic_sentences AS a ON (a.quarter, a.sentence_id) = (s.quarter, s.sentence_id)
LEFT JOIN topics ON (topics.quarter, topics.company_id, topics.topic_number)
                  = (a.quarter, a.company_id, a.topic_number)
LEFT JOIN theme_topics AS m ON (m.quarter, m.company_id, m.live_topic_number)
                             = (a.quarter, a.company_id, a.topic_number)
LEFT JOIN themes ON (themes.quarter, themes.theme_number) = (m.quarter, m.theme_number)
LEFT JOIN firms ON firms.company_id = s.company_id
LEFT JOIN firm_quarters AS f ON (f.quarter, f.company_id) = (s.quarter, s.company_id)
LEFT JOIN calls ON ({calls}) = ({call})
LEFT JOIN components ON ({components}, components.component_order) = ({call}, s.component_order)
"""


def upgrade() -> None:
    _drop_keys()
    op.execute("ALTER TABLE components ADD COLUMN company_id bigint")
    op.execute(
        """
        UPDATE components AS k SET company_id = c.company_id FROM calls AS c
        WHERE (c.quarter, c.transcript_id) = (k.quarter, k.transcript_id)
        """
    )
    op.execute("ALTER TABLE components ALTER COLUMN company_id SET NOT NULL")
    op.execute("ALTER TABLE calls DROP CONSTRAINT uq_calls_transcript_id")
    op.create_unique_constraint("uq_calls_transcript_id_company_id", "calls", ["transcript_id", "company_id"])
    op.drop_index("ix_sentences_quarter_transcript_id_component_order", "sentences")
    op.create_index(
        "ix_sentences_quarter_transcript_id_company_id_component_order", "sentences", [*CALL, "component_order"]
    )
    _add_keys(CALL)
    _join_calls(CALL)


def downgrade() -> None:
    """Fails while there is a joint call, which the schema before cannot hold."""
    op.create_unique_constraint("uq_calls_transcript_id", "calls", ["transcript_id"])
    op.execute("ALTER TABLE calls DROP CONSTRAINT uq_calls_transcript_id_company_id")
    _drop_keys()
    _join_calls(CALL_BEFORE)
    op.drop_column("components", "company_id")
    op.drop_index("ix_sentences_quarter_transcript_id_company_id_component_order", "sentences")
    op.create_index(
        "ix_sentences_quarter_transcript_id_component_order", "sentences", [*CALL_BEFORE, "component_order"]
    )
    _add_keys(CALL_BEFORE)


def _drop_keys() -> None:
    op.execute("ALTER TABLE sentences DROP CONSTRAINT fk_sentences_components")
    op.execute("ALTER TABLE components DROP CONSTRAINT fk_components_calls")
    op.execute("ALTER TABLE components DROP CONSTRAINT pk_components")
    op.execute("ALTER TABLE calls DROP CONSTRAINT pk_calls")


def _add_keys(call: tuple[str, ...]) -> None:
    turn = [*call, "component_order"]
    op.create_primary_key("pk_calls", "calls", list(call))
    op.create_primary_key("pk_components", "components", turn)
    op.create_foreign_key("fk_components_calls", "components", "calls", list(call), list(call))
    op.create_foreign_key("fk_sentences_components", "sentences", "components", turn, turn)


def _join_calls(columns: tuple[str, ...]) -> None:
    sides = {
        name: ", ".join(f"{table}.{column}" for column in columns)
        for name, table in (("calls", "calls"), ("components", "components"), ("call", "s"))
    }
    op.execute(SENTENCE_CONTEXT.format(**sides))
