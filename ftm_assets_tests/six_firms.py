"""Small CSV files of calls, written as a person would export them."""

import csv
from collections.abc import Collection, Iterable
from pathlib import Path

COLUMNS = (
    "companyid",
    "companyname",
    "ticker",
    "transcriptid",
    "headline",
    "mostimportantdateutc",
    "componentorder",
    "transcriptcomponenttypename",
    "transcriptpersonname",
    "speakertypename",
    "componenttext",
)

FIRMS = {
    7: ("Acme Inc.", "ACME"),
    8: ("Bolt & Co, Ltd.", "NA"),
    9: ('The "Crane" Works | Intl.', "CRN"),
    10: ("Dune [Holdings]", "DUNE"),
    11: ("Elm Corp", "ELM"),
    12: ("Fir Group", "FIR"),
}
SUBJECTS = (
    "Freight rates for containers rose again in the quarter number {i}.",
    "Wage inflation keeps hourly pay of our crews high in plant {i}.",
    "Power prices and natural gas costs hurt the margin of mill {i}.",
)


def write_calls(path: Path, rows: Iterable[tuple[object, ...]]) -> Path:
    """A CSV with the Capital IQ columns in the order of COLUMNS."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(COLUMNS)
        writer.writerows(rows)
    return path


def calls_of(companies: Collection[str], source: Path, path: Path) -> Path:
    """The rows of these firms out of another file."""
    with source.open(newline="", encoding="utf-8") as all_rows, path.open("w", newline="", encoding="utf-8") as few:
        rows = csv.DictReader(all_rows)
        writer = csv.DictWriter(few, rows.fieldnames or [])
        writer.writeheader()
        writer.writerows(row for row in rows if row["companyid"] in companies)
    return path


def call(company_id: int, transcript_id: int, day: str, texts: Iterable[str]) -> list[tuple[object, ...]]:
    """Rows of one call: an executive says all the texts, a turn each."""
    name, ticker = FIRMS[company_id]
    head = (company_id, name, ticker, transcript_id, f"{name}, Q3 2021 Earnings Call, {day}", day)
    return [(*head, order, "Presenter Speech", "Ann Lee", "Executives", text) for order, text in enumerate(texts)]


def six_firms(path: Path, *, corrected: bool = False) -> Path:
    """Six firms with a call in 2021Q4 that raise the same three subjects, ten sentences each; one may be corrected."""
    rows: list[tuple[object, ...]] = []
    for company_id in FIRMS:
        texts = [subject.format(i=i) for subject in SUBJECTS for i in range(10)]
        if corrected and company_id == 8:
            texts[0] = "Freight rates for containers fell, to correct the record, in the quarter."
        rows += call(company_id, company_id * 10, "2021-11-02", texts)
    return write_calls(path, rows)
