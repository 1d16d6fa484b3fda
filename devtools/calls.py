"""Calls of a CSV file as the stages take them, without a database."""

from collections import defaultdict
from collections.abc import Iterable
from datetime import date

from ftm_assets.analysis.sentences import CallDay, FirmTurns, Turn
from ftm_assets.analysis.transcripts import Component, calendar_quarter
from ftm_assets.sources.csv.source import CsvSource


def firm_turns(source: CsvSource, quarters: Iterable[str], last_day: date = date.max) -> list[FirmTurns]:
    """The turns of each firm in these quarters up to a day, firms in order of company id, calls in order of theirs."""
    rows: dict[int, list[Component]] = defaultdict(list)
    for quarter in quarters:
        for row in source.read(quarter):
            if isinstance(row, Component) and row.call_date <= last_day:
                rows[row.company_id].append(row)
    return [_turns(rows[company_id]) for company_id in sorted(rows)]


def quarters_until(source: CsvSource, last_day: date = date.max) -> list[str]:
    """The quarters of the source that hold a call up to that day, in order."""
    days = {day for firm in source.firms(date.min, last_day) for day in firm.call_dates}
    return sorted(set(map(calendar_quarter, days)))


def _turns(rows: list[Component]) -> FirmTurns:
    ordered = sorted(rows, key=lambda row: (row.call_date, row.transcript_id, row.component_order))
    return FirmTurns(
        ordered[0].company_id,
        ordered[-1].company_name,
        tuple(dict.fromkeys(CallDay(row.transcript_id, row.call_date) for row in ordered)),
        tuple(
            Turn(row.transcript_id, row.component_order, row.type_name, row.speaker_type, row.person, row.text)
            for row in ordered
        ),
        input_hash="",
    )
