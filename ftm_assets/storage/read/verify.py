"""Whether the tables of a quarter agree with each other, and with the source that it was loaded from."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ftm_assets.analysis.source_values import checked_rows
from ftm_assets.analysis.transcripts import Component, Reject
from ftm_assets.storage.read.ingested import archived
from ftm_assets.storage.stages import SENTENCES, STAGES
from ftm_assets.storage.stages.base import find_firm_quarter
from ftm_assets.text_safety import as_stored

# What Python's `str.split` splits at: sentences are cut at it, and only it may lie between two of them.
_WHITESPACE = r"[\s\u001c-\u001f\u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]"
# A name, what is expected and what is found; where nothing is known to expect, the check is left out.
_CHECKS = (
    (
        "sentences are where they say in their turn",
        "SELECT count(*) FROM sentences WHERE quarter = :quarter",
        """
        SELECT count(*) FROM sentences AS s
        JOIN components AS c USING (quarter, transcript_id, company_id, component_order)
        WHERE quarter = :quarter AND substr(c.text, s.start_char + 1, s.end_char - s.start_char) = s.text
        """,
    ),
    (
        "sentences are in order, apart, and numbered without a gap",
        "SELECT count(*) FROM sentences WHERE quarter = :quarter",
        """
        SELECT count(*) FROM (
            SELECT position = row_number() OVER call - 1 AND start_char >= coalesce(lag(end_char) OVER turn, 0) AS fine
            FROM sentences WHERE quarter = :quarter
            WINDOW call AS (PARTITION BY company_id, transcript_id ORDER BY position),
                   turn AS (PARTITION BY company_id, transcript_id, component_order ORDER BY position)
        ) AS s WHERE fine
        """,
    ),
    (
        "characters of turns, operators' aside, are in sentences",
        """
        SELECT coalesce(sum(length(regexp_replace(c.text, :whitespace, '', 'g'))), 0)
        FROM components AS c JOIN materializations AS m USING (quarter, company_id)
        WHERE quarter = :quarter AND m.stage = 'firm_sentences'
          AND lower(btrim(c.speaker_type)) <> 'operator'
          AND NOT (lower(btrim(c.speaker_type)) IN ('', 'unknown') AND c.type_name ILIKE '%operator message%')
        """,
        """
        SELECT coalesce(sum(length(regexp_replace(text, :whitespace, '', 'g'))), 0)
        FROM sentences WHERE quarter = :quarter
        """,
    ),
    (
        "vectors have length one",
        "SELECT count(embedding) FROM sentences WHERE quarter = :quarter",
        """
        SELECT count(*) FROM sentences
        WHERE quarter = :quarter AND abs(vector_norm(embedding::vector) - 1) < 0.001
        """,
    ),
    (
        "firms have every stage",
        "SELECT count(*) FROM firm_quarters WHERE quarter = :quarter",
        """
        SELECT count(*) FROM (
            SELECT company_id FROM materializations WHERE quarter = :quarter AND stage = ANY(:stages)
            GROUP BY company_id HAVING count(*) = cardinality(:stages)
        ) AS complete
        """,
    ),
    (
        "stages were made from what is there now",
        "SELECT count(*) FROM materializations WHERE quarter = :quarter AND stage = ANY(:stages)",
        """
        SELECT count(*) FROM materializations AS made JOIN materializations AS input USING (quarter, company_id)
        WHERE quarter = :quarter AND input.content_hash = made.input_hash
          AND (made.stage, input.stage) IN (SELECT * FROM unnest(CAST(:stages AS text[]), CAST(:inputs AS text[])))
        """,
    ),
    (
        "modelled sentences have an assignment",
        """
        SELECT count(*) FROM sentences JOIN materializations AS m USING (quarter, company_id)
        WHERE quarter = :quarter AND boilerplate IS NULL AND m.stage = 'firm_topics'
        """,
        "SELECT count(*) FROM topic_sentences WHERE quarter = :quarter",
    ),
    (
        "assignments are of modelled sentences",
        "SELECT count(*) FROM topic_sentences WHERE quarter = :quarter",
        """
        SELECT count(*) FROM topic_sentences JOIN sentences USING (quarter, sentence_id, company_id)
        WHERE quarter = :quarter AND boilerplate IS NULL
        """,
    ),
    (
        "topics have as many sentences as they count",
        "SELECT coalesce(sum(n_sentences), 0) FROM topics WHERE quarter = :quarter",
        "SELECT count(*) FROM topic_sentences WHERE quarter = :quarter AND topic_number IS NOT NULL",
    ),
    (
        "topics rank their sentences from 1 on without a gap",
        "SELECT count(*) FROM topics WHERE quarter = :quarter",
        """
        SELECT count(*) FROM (
            SELECT company_id, topic_number FROM topic_sentences
            WHERE quarter = :quarter AND topic_number IS NOT NULL GROUP BY company_id, topic_number
            HAVING count(DISTINCT rank) = count(*) AND min(rank) = 1 AND max(rank) = count(*)
        ) AS ranked
        """,
    ),
    (
        "topics have a summary",
        "SELECT count(*) FROM topics WHERE quarter = :quarter",
        """
        SELECT count(*) FROM topics JOIN topic_summaries AS s USING (quarter, company_id, topic_number)
        WHERE quarter = :quarter AND s.text <> ''
        """,
    ),
    (
        "themes were made from all topics",
        "SELECT count(*) FROM topics WHERE quarter = :quarter",
        "SELECT n_topics FROM theme_runs WHERE quarter = :quarter AND run_number = :run",
    ),
    (
        "themes were made from the summaries of all firms, as they are now",
        "SELECT count(*) FROM firm_quarters WHERE quarter = :quarter",
        """
        SELECT count(*) FROM theme_inputs AS i JOIN materializations AS m USING (quarter, company_id)
        WHERE quarter = :quarter AND i.run_number = :run
          AND m.stage = 'topic_summaries' AND m.content_hash = i.content_hash
        """,
    ),
    (
        "themes have as many topics as they count",
        "SELECT coalesce(sum(n_topics), 0) FROM themes WHERE quarter = :quarter AND run_number = :run",
        "SELECT count(*) FROM theme_topics WHERE quarter = :quarter",
    ),
    (
        "themes have as many firms as they count",
        "SELECT coalesce(sum(n_firms), 0) FROM themes WHERE quarter = :quarter AND run_number = :run",
        """
        SELECT count(*) FROM (SELECT DISTINCT theme_number, company_id FROM theme_topics WHERE quarter = :quarter) AS f
        """,
    ),
    (
        "topics of themes are there, with the label that the themes saw",
        "SELECT count(*) FROM theme_topics WHERE quarter = :quarter",
        """
        SELECT count(*) FROM theme_topics AS m JOIN topics AS t
        ON (t.quarter, t.company_id, t.topic_number) = (m.quarter, m.company_id, m.live_topic_number)
        WHERE m.quarter = :quarter AND t.label = m.topic_label AND m.live_topic_number = m.topic_number
        """,
    ),
    (
        "sentences in themes are as many as when they were published",
        """
        SELECT (attrition->'all'->>'n_in_themes')::int FROM theme_runs
        WHERE quarter = :quarter AND run_number = :run
        """,
        """
        SELECT count(*) FROM topic_sentences AS s JOIN theme_topics AS m
        ON (m.quarter, m.company_id, m.live_topic_number) = (s.quarter, s.company_id, s.topic_number)
        WHERE s.quarter = :quarter
        """,
    ),
)


@dataclass(frozen=True)
class Comparison:
    """Two numbers that are equal if all is well."""

    check: str
    n_expected: int
    n_found: int

    @property
    def is_equal(self) -> bool:
        """Whether they are."""
        return self.n_expected == self.n_found


def verify_quarter(connection: Connection, quarter: str) -> Iterator[Comparison]:
    """Every check of a quarter's tables, one after another; what is not made yet counts as 0.

    Content hashes are computed again from the rows of each firm, which takes most of the time.
    """
    run = sa.text("SELECT max(run_number) FROM theme_runs WHERE quarter = :quarter")
    values = {
        "quarter": quarter,
        "run": connection.scalar(run, {"quarter": quarter}),
        "stages": [stage.name for stage in STAGES],
        "inputs": [stage.built_from for stage in STAGES],
        "whitespace": _WHITESPACE,
    }
    for name, expected_query, found_query in _CHECKS:
        expected = connection.scalar(sa.text(expected_query), values)
        if expected is not None:
            yield Comparison(name, int(expected), int(connection.scalar(sa.text(found_query), values) or 0))
    yield from _compare_hashes(connection, quarter)


def compare_source(connection: Connection, quarter: str, rows: Iterable[Component | Reject]) -> Iterator[Comparison]:
    """What a source holds of a quarter against what the database has of the same calls.

    Versions of a call that are not modelled have no text in the database, and are left out.
    """
    texts: dict[tuple[int, int, int], bytes] = {}
    for row in checked_rows(rows):
        if isinstance(row, Component):
            texts.setdefault(
                (row.company_id, row.transcript_id, row.component_order), _digest(as_stored(row.repaired().text))
            )
    in_source = {(company_id, transcript_id) for company_id, transcript_id, _ in texts}
    wanted = {
        "quarter": quarter,
        "companies": [company_id for company_id, _ in in_source],
        "transcripts": [transcript_id for _, transcript_id in in_source],
    }
    calls = connection.execute(
        sa.text(
            """
            SELECT company_id, transcript_id, superseded_by IS NOT NULL AS is_superseded FROM calls
            WHERE quarter = :quarter AND (company_id, transcript_id) IN (
                SELECT * FROM unnest(CAST(:companies AS bigint[]), CAST(:transcripts AS bigint[]))
            )
            """
        ),
        wanted,
    ).all()
    yield Comparison("calls of the source are there", len(in_source), len(calls))
    superseded = {(call.company_id, call.transcript_id) for call in calls if call.is_superseded}
    expected = {place: digest for place, digest in texts.items() if place[:2] not in superseded}
    turns = connection.execute(
        sa.text(
            """
            SELECT company_id, transcript_id, component_order, text FROM components
            WHERE quarter = :quarter AND (company_id, transcript_id) IN (
                SELECT * FROM unnest(CAST(:companies AS bigint[]), CAST(:transcripts AS bigint[]))
            )
            """
        ),
        wanted,
        execution_options={"yield_per": 1000},
    )
    n_same = sum(
        expected.get((turn.company_id, turn.transcript_id, turn.component_order)) == _digest(turn.text)
        for turn in turns
    )
    yield Comparison("turns of the source are there, with the same text", len(expected), n_same)


def _compare_hashes(connection: Connection, quarter: str) -> Iterator[Comparison]:
    """The rows of each firm against the content hash recorded with them; archived sentences have no vectors."""
    is_archived = bool(archived(connection, [quarter]))
    for stage in STAGES:
        if stage is SENTENCES and is_archived:
            continue
        recorded = connection.execute(
            sa.text(
                """
                SELECT partition_key, content_hash FROM materializations JOIN firms USING (company_id)
                WHERE quarter = :quarter AND stage = :stage ORDER BY partition_key
                """
            ),
            {"quarter": quarter, "stage": stage.name},
        ).all()
        n_same = sum(
            stage.read(connection, find_firm_quarter(connection, quarter, firm.partition_key)).content_hash
            == firm.content_hash
            for firm in recorded
        )
        yield Comparison(f"rows of {stage.name} have the content hash that is recorded", len(recorded), n_same)


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=12).digest()
