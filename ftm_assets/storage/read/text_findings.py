"""Calls of a quarter whose text was damaged, or is such that little or nothing of it is modelled."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ftm_assets.analysis.language import NOT_ENGLISH
from ftm_assets.storage.schema.rows import rows_as

NOTHING_MODELLED = "no sentence is modelled"
_FEWEST_SENTENCES = 10


@dataclass(frozen=True)
class TextFinding:
    """What is wrong, or was, with the text of a modelled call.

    finding: a kind of damage of `analysis.text_repair`, `not English (de)`, or NOTHING_MODELLED
    n:       how many of the call's turns or sentences
    of:      turns or sentences
    """

    firm_key: str
    transcript_id: int
    finding: str
    n: int
    of: str

    @property
    def is_left_out(self) -> bool:
        """Whether the call's sentences are not modelled."""
        return self.of == "sentences"


def text_findings(connection: Connection, quarter: str) -> list[TextFinding]:
    """What is wrong, or was, with the texts of the quarter's modelled calls, by firm and call."""
    rows = connection.execute(
        sa.text(
            """
            SELECT partition_key AS firm_key, transcript_id, finding, n, "of" FROM (
                SELECT company_id, transcript_id, kind AS finding, CAST(n AS int) AS n, 'turns' AS "of"
                FROM calls, jsonb_each_text(repairs) AS each (kind, n)
                WHERE quarter = :quarter AND superseded_by IS NULL
                UNION ALL
                SELECT company_id, transcript_id,
                       coalesce(min(boilerplate) FILTER (WHERE starts_with(boilerplate, :foreign)), :nothing),
                       count(*), 'sentences'
                FROM sentences WHERE quarter = :quarter GROUP BY company_id, transcript_id
                HAVING bool_or(starts_with(boilerplate, :foreign))
                    OR count(*) >= :fewest AND count(*) = count(boilerplate)
            ) AS found JOIN firms USING (company_id)
            ORDER BY firm_key, transcript_id, "of", finding
            """
        ),
        {
            "quarter": quarter,
            "foreign": f"{NOT_ENGLISH} (",
            "nothing": NOTHING_MODELLED,
            "fewest": _FEWEST_SENTENCES,
        },
    )
    return rows_as(TextFinding, rows)


def damage_summary(findings: Iterable[TextFinding]) -> str:
    """The kinds of damage with the number of turns and calls; empty if there was none."""
    damaged = [finding for finding in findings if not finding.is_left_out]
    turns: Counter[str] = Counter()
    for finding in damaged:
        turns[finding.finding] += finding.n
    n_calls = len({finding.transcript_id for finding in damaged})
    kinds = ", ".join(f"{kind} ({_counted(n, 'turn')})" for kind, n in turns.most_common())
    return f"damaged text in {_counted(n_calls, 'call')}: {kinds}" if damaged else ""


def left_out(findings: Iterable[TextFinding]) -> list[str]:
    """Calls of which no sentence is modelled, each with the reason."""
    return [
        f"{finding.firm_key} ({finding.finding}, {_counted(finding.n, 'sentence')} of call {finding.transcript_id})"
        for finding in findings
        if finding.is_left_out
    ]


def _counted(n: int, what: str) -> str:
    return f"{n:,} {what}" if n == 1 else f"{n:,} {what}s"
