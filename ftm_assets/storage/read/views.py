"""Every view: what people and most of the code read instead of joining the tables themselves.

They are a promise: a column is added, but neither renamed nor removed without an entry in the changelog. A migration
creates them with a copy of its own; if you change something here, add the next one. Name, meaning and source of a
column are written once, in one line, and the meaning is the column's comment in the database.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ftm_assets.storage.stages import STAGES
from ftm_assets.storage.stages.base import FirmStage


@dataclass(frozen=True)
class View:
    """A view of the database.

    columns: name -> what it selects, and what it means
    source:  the rest of the query, from its FROM on
    """

    name: str
    comment: str
    columns: Mapping[str, tuple[str, str]]
    source: str

    @property
    def query(self) -> str:
        """The query behind it."""
        selected = ",\n    ".join(f"{expression} AS {name}" for name, (expression, _) in self.columns.items())
        return f"SELECT\n    {selected}\n{self.source.strip()}"

    @property
    def statements(self) -> tuple[str, ...]:
        """What creates it, with a comment on itself and on every column."""
        return (
            f"CREATE VIEW {self.name} AS\n{self.query}",
            f"COMMENT ON VIEW {self.name} IS {_literal(self.comment)}",
            *(
                f"COMMENT ON COLUMN {self.name}.{column} IS {_literal(meaning)}"
                for column, (_, meaning) in self.columns.items()
            ),
        )


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


_FIRM = {
    "firm_key": ("firms.partition_key", "key of the firm, which never changes"),
    "firm_name": ("f.name", "name of the firm as of that quarter"),
    "ticker": ("f.ticker", "ticker as of that quarter; null if the source has none"),
    "gvkey": ("f.gvkey", "Compustat's identifier as of that quarter; null if the source has none"),
    "permno": ("f.permno", "CRSP's identifier as of that quarter; null if the source has none"),
}
_THEME = {
    "theme_number": ("m.theme_number", "number of the theme in its quarter; null if it is in none"),
    "theme_id": ("themes.theme_id", "the theme; null if it is in none"),
    "theme_label": ("themes.label", "label of the theme; null if it is in none"),
}

# Left joins, although a sentence always has its call, its turn and its firm: Postgres leaves out those that a query
# does not ask for (decision 115). The order matters, too: Postgres plans the first eight tables together, so those come
# first by whose columns people choose rows.
SENTENCE_CONTEXT = View(
    name="sentence_context",
    comment="One row for each sentence, with its call, speaker, topic and theme.",
    columns={
        "quarter": ("s.quarter", "calendar quarter of the call"),
        "sentence_id": ("s.sentence_id", "company id, transcript id and position"),
        "company_id": ("s.company_id", "the firm, as the source numbers it"),
        **_FIRM,
        "transcript_id": ("s.transcript_id", "the version of the call"),
        "call_date": ("calls.call_date", "day of the call in UTC"),
        "available_at": ("calls.available_at", "when this version of the call could be read; null if unknown"),
        "component_order": ("s.component_order", "turn of the speaker, as the source counts"),
        "position": ("s.position", "position of the sentence, from 0 within the call"),
        "start_char": ("s.start_char", "first character in the text of the turn, from 0"),
        "end_char": ("s.end_char", "one past the last character in the text of the turn"),
        "person": ("components.person", "name of the speaker"),
        "role": ("s.role", "role of the speaker: executive, analyst, unknown"),
        "section": ("s.section", "section of the call: prepared, qa, unknown"),
        "utterance_type": ("s.utterance_type", "role and section in one word: remark, answer, question, unknown"),
        "exchange": ("s.exchange", "the question with its answers, from 1 within the call; null outside of any"),
        "boilerplate": ("s.boilerplate", "why the sentence is not modelled; null if it is"),
        "text": ("s.text", "the sentence as spoken"),
        "topic_number": ("a.topic_number", "number of the topic in its firm and quarter; null if it is in none"),
        "topic_id": ("topics.topic_id", "the topic; null if it is in none"),
        "topic_label": ("topics.label", "label of the topic; null if it is in none"),
        "rank": ("a.rank", "1 for the sentence that represents the topic best; null if it is in none"),
        "probability": ("a.probability", "share of the clustering runs that agree; null if it is not modelled"),
        **_THEME,
    },
    source="""
FROM sentences AS s
LEFT JOIN topic_sentences AS a ON (a.quarter, a.sentence_id) = (s.quarter, s.sentence_id)
LEFT JOIN topics ON (topics.quarter, topics.company_id, topics.topic_number)
                  = (a.quarter, a.company_id, a.topic_number)
LEFT JOIN theme_topics AS m ON (m.quarter, m.company_id, m.live_topic_number)
                             = (a.quarter, a.company_id, a.topic_number)
LEFT JOIN themes ON (themes.quarter, themes.theme_number) = (m.quarter, m.theme_number)
LEFT JOIN firms ON firms.company_id = s.company_id
LEFT JOIN firm_quarters AS f ON (f.quarter, f.company_id) = (s.quarter, s.company_id)
LEFT JOIN calls ON (calls.quarter, calls.transcript_id, calls.company_id)
                 = (s.quarter, s.transcript_id, s.company_id)
LEFT JOIN components ON (components.quarter, components.transcript_id, components.company_id,
                         components.component_order)
                      = (s.quarter, s.transcript_id, s.company_id, s.component_order)
""",
)

# Left joins for the same reason.
TOPIC_CONTEXT = View(
    name="topic_context",
    comment="One row for each topic of a firm, with its summary and theme.",
    columns={
        "quarter": ("topics.quarter", "calendar quarter of the calls"),
        "topic_id": ("topics.topic_id", "company id, quarter and topic number"),
        "company_id": ("topics.company_id", "the firm, as the source numbers it"),
        **_FIRM,
        "topic_number": ("topics.topic_number", "number of the topic in its firm and quarter; 0 is the largest"),
        "topic_label": ("topics.label", "the first keywords that share no word"),
        "keywords": ("topics.keywords", "keywords of the topic, most distinctive first"),
        "n_sentences": ("topics.n_sentences", "sentences in the topic"),
        "topic_title": ("s.title", "the topic in a few words; null for keywords"),
        "summary": ("s.text", "the topic in a sentence or two; null until it is summarized"),
        "summary_source": ("s.source", "who wrote the summary: keywords or model"),
        "summary_model": ("s.model", "the language model that wrote the summary; null for keywords"),
        "evidence": ("s.evidence", "ids of the sentences that the summary rests on"),
        **_THEME,
        "similarity": ("m.similarity", "cosine of the topic to the centroid of the theme; null if it is in none"),
    },
    source="""
FROM topics
LEFT JOIN topic_summaries AS s ON (s.quarter, s.company_id, s.topic_number)
                                = (topics.quarter, topics.company_id, topics.topic_number)
LEFT JOIN theme_topics AS m ON (m.quarter, m.company_id, m.live_topic_number)
                             = (topics.quarter, topics.company_id, topics.topic_number)
LEFT JOIN themes ON (themes.quarter, themes.theme_number) = (m.quarter, m.theme_number)
LEFT JOIN firms ON firms.company_id = topics.company_id
LEFT JOIN firm_quarters AS f ON (f.quarter, f.company_id) = (topics.quarter, topics.company_id)
""",
)

CURRENT_THEMES = View(
    name="current_themes",
    comment="One row for each theme of the current run of its quarter; retired themes are left out.",
    columns={
        "quarter": ("themes.quarter", "calendar quarter of the calls"),
        "theme_id": ("themes.theme_id", "quarter and theme number"),
        "theme_number": ("themes.theme_number", "given when the theme is first found, never given again"),
        "run_number": ("themes.run_number", "the current run of the quarter"),
        "published_at": ("latest.published_at", "when the current run was published"),
        "label": ("themes.label", "the first keywords that share no word"),
        "keywords": ("themes.keywords", "keywords of the theme, most distinctive first"),
        "title": ("themes.title", "the theme in a few words; null for keywords"),
        "description": ("themes.description", "the theme in a few sentences; null if there is none"),
        "description_source": ("themes.description_source", "who wrote the description: keywords or model"),
        "description_model": ("themes.description_model", "the language model that wrote it; null for keywords"),
        "n_firms": ("themes.n_firms", "firms with a topic in the theme"),
        "n_topics": ("themes.n_topics", "topics in the theme"),
        "n_sentences": ("coalesce(themes.n_sentences, 0)", "sentences of its topics when it was last published"),
        "top_firm_share": ("themes.top_firm_share", "largest share of its topics that one firm holds"),
        "concentration": ("themes.concentration", "Herfindahl index of its topics over firms: 1 for one firm"),
        "stability": ("themes.stability", "how much of it other seeds and fewer firms find; null if not measured"),
    },
    source="""
FROM themes
JOIN theme_runs AS latest ON (latest.quarter, latest.run_number) = (themes.quarter, themes.run_number)
WHERE NOT EXISTS (
    SELECT FROM theme_runs AS later WHERE later.quarter = latest.quarter AND later.run_number > latest.run_number
)
""",
)


def firm_status(stages: Sequence[FirmStage[Any]]) -> View:
    """How far each firm is, stage by stage in this order."""
    values = ", ".join(
        f"({order}, '{stage.name}', '{stage.built_from}')" for order, stage in enumerate(stages, start=1)
    )
    return View(
        name="firm_status",
        comment="One row for each firm with a call in a quarter and each stage: whether the stage is up to date.",
        columns={
            "quarter": ("f.quarter", "calendar quarter of the calls"),
            "company_id": ("f.company_id", "the firm, as the source numbers it"),
            "firm_key": _FIRM["firm_key"],
            "stage": ("stages.stage", "the stage, named as its asset"),
            "stage_order": ("stages.stage_order", "1 for the first stage"),
            "status": (
                "CASE WHEN own.stage IS NULL THEN 'missing'"
                " WHEN own.input_hash IS DISTINCT FROM input.content_hash THEN 'stale' ELSE 'current' END",
                "current, stale (made from something else than is there now) or missing",
            ),
            "content_hash": ("own.content_hash", "hash of the rows of the stage; null if it is missing"),
            "input_hash": ("own.input_hash", "hash of the rows that the stage was made from; null if it is missing"),
            "provenance": ("own.provenance", "code, encoder and settings that made the stage; null if it is missing"),
            "seconds": ("own.seconds", "how long making it took; null if it was not measured"),
            "written_at": ("own.written_at", "when the stage was written; null if it is missing"),
        },
        source=f"""
FROM firm_quarters AS f
CROSS JOIN (VALUES {values}) AS stages (stage_order, stage, made_from)
LEFT JOIN firms ON firms.company_id = f.company_id
LEFT JOIN materializations AS own ON (own.quarter, own.company_id, own.stage)
                                   = (f.quarter, f.company_id, stages.stage)
LEFT JOIN materializations AS input ON (input.quarter, input.company_id, input.stage)
                                     = (f.quarter, f.company_id, stages.made_from)
""",
    )


FIRM_STATUS = firm_status(STAGES)

# Counted firm by firm, because only then Postgres looks into the partition of the quarter alone.
FIRM_THEME_PANEL = View(
    name="firm_theme_panel",
    comment="One row for each firm with a call in a quarter and each current theme of the quarter, zeros included.",
    columns={
        "quarter": ("f.quarter", "calendar quarter of the calls"),
        "company_id": ("f.company_id", "the firm, as the source numbers it"),
        **_FIRM,
        "n_calls": ("held.n_calls", "calls that are modelled; versions of a call count once"),
        "call_date": ("held.call_date", "day of the call in UTC, of several calls the last; null if none is modelled"),
        "theme_number": ("of_theme.theme_number", "number of the theme in its quarter"),
        "theme_id": ("of_theme.theme_id", "the theme"),
        "theme_label": ("of_theme.theme_label", "label of the theme"),
        "n_topics": ("of_theme.n_topics", "topics of the firm in the theme"),
        "n_sentences": ("of_theme.n_sentences", "sentences of the firm in the theme"),
        "n_modelled": ("modelled.n", "sentences of the firm that are modelled, in a theme or not"),
        "share": ("of_theme.n_sentences::float / nullif(modelled.n, 0)", "n_sentences / n_modelled; null for none"),
        "up_to_date": (
            "used.up_to_date",
            "false if the firm has changed since the themes were made: its zeros then mean nothing",
        ),
    },
    source="""
FROM firm_quarters AS f
JOIN firms ON firms.company_id = f.company_id
CROSS JOIN LATERAL (
    SELECT count(*) AS n_calls, max(c.call_date) AS call_date FROM calls AS c
    WHERE (c.quarter, c.company_id) = (f.quarter, f.company_id) AND c.superseded_by IS NULL
) AS held
CROSS JOIN LATERAL (
    SELECT count(*) AS n FROM sentences AS s
    WHERE (s.quarter, s.company_id) = (f.quarter, f.company_id) AND s.boilerplate IS NULL
) AS modelled
CROSS JOIN LATERAL (
    SELECT count(*) > 0 AS up_to_date
    FROM theme_inputs AS i JOIN materializations AS now USING (quarter, company_id, content_hash)
    WHERE (i.quarter, i.company_id) = (f.quarter, f.company_id) AND now.stage = 'topic_summaries'
) AS used
CROSS JOIN LATERAL (
    SELECT themes.theme_number, themes.theme_id, themes.label AS theme_label, count(t.topic_number) AS n_topics,
           coalesce(sum(t.n_sentences), 0) AS n_sentences
    FROM current_themes AS themes
    LEFT JOIN topic_context AS t ON (t.quarter, t.company_id, t.theme_number)
                                  = (f.quarter, f.company_id, themes.theme_number)
    WHERE themes.quarter = f.quarter GROUP BY themes.theme_number, themes.theme_id, themes.label
) AS of_theme
""",
)

# Those that others read come first.
VIEWS = (SENTENCE_CONTEXT, TOPIC_CONTEXT, CURRENT_THEMES, FIRM_STATUS, FIRM_THEME_PANEL)
