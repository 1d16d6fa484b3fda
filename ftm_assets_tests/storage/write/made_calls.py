"""Calls of two fictional firms, in versions, for tests of what is loaded."""

from dataclasses import replace
from datetime import date
from typing import Any

from ftm_assets.analysis.transcripts import Component, Reject
from ftm_assets_tests.fakes import at, component

NEXT_QUARTER = "2022Q1"
DERIVED = ("sentences", "topics", "topic_sentences", "topic_summaries")


def call(transcript_id: int, *texts: str, company_id: int = 7, day: int = 1, **changes: object) -> list[Component]:
    """A call of the given firm on that day of November 2021, a component for each text."""
    names = {7: ("Acme Inc.", "ACME"), 8: ("Bolt AG", "BOLT")}
    name, ticker = names.get(company_id, (f"Firm {company_id}", None))
    facts = {"company_id": company_id, "company_name": name, "ticker": ticker, "call_date": date(2021, 11, day)}
    return [
        component(
            text,
            transcript_id=transcript_id,
            component_order=order,
            row_number=100 * transcript_id + order,
            **{**facts, **changes},
        )
        for order, text in enumerate(texts)
    ]


def version(transcript_id: int, hour: int, text: str = "Freight costs rose a lot.", **changes: object) -> Component:
    """A version of the call of 1 November, made at that hour of 2 November; event 1 unless told otherwise."""
    facts: dict[str, Any] = {"event_id": 1, "created_at": at(2, hour), **changes}
    return call(transcript_id, text, **facts)[0]


def two_firms() -> list[Component]:
    """Acme with two calls, Bolt with one."""
    return [
        *call(70, "Freight costs rose a lot.", "Steel costs fell a bit."),
        *call(71, "Freight costs rose again.", day=20),
        *call(80, "Demand for bolts was strong.", company_id=8),
    ]


def corrected(rows: list[Component], transcript_id: int, **changes: object) -> list[Component]:
    """The rows with something changed in every component of one call."""
    return [replace(row, **changes) if row.transcript_id == transcript_id else row for row in rows]  # type: ignore[arg-type]


def changes(before: dict[str, list[str]], after: dict[str, list[str]]) -> set[str]:
    """Tables whose rows differ, partitions aside."""
    return {name for name in before if before[name] != after[name] and not name.startswith("sentences_")}


def unusable(n: int, first: int = 2) -> list[Reject]:
    return [Reject(row, "companyid", "x", "not an integer") for row in range(first, first + n)]
