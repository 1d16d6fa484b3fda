"""Whether every row of a source arrives: all its quarters through daemon and worker to themes, and all counts compared.

    python -m bench.reconcile CSV [--quarters 2021Q2 2021Q4] [--json FILE]

The file is loaded into an empty database, `ftm up` starts daemon and worker with the real encoder, and `ftm backfill`
makes each quarter. Then the file is read once more, without our reader, and compared with what Postgres holds: rows,
texts and offsets character by character, and each count of a stage with that of the stage before it. Ends with 1 if a
single one differs.
"""

import argparse
import csv
import gzip
import hashlib
import json
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import psycopg
from rich.console import Console
from rich.table import Table

from bench.launcher import Home, cpu_seconds, peak_bytes
from ftm_assets.analysis.transcripts import calendar_quarter
from ftm_assets.settings import with_database
from ftm_assets.storage.stages import STAGES

ONE = 1e-3  # How far from one the length of a vector may be.
# What is asked of each quarter, twice: two answers that must be equal.
PAIRS = {
    "modelled sentences = assignments": (
        "SELECT count(*) FROM sentences WHERE quarter = %(q)s AND boilerplate IS NULL",
        "SELECT count(*) FROM topic_sentences WHERE quarter = %(q)s",
    ),
    "assignments belong to modelled sentences": (
        "SELECT count(*) FROM topic_sentences WHERE quarter = %(q)s",
        "SELECT count(*) FROM topic_sentences JOIN sentences USING (quarter, sentence_id, company_id)"
        " WHERE quarter = %(q)s AND boilerplate IS NULL",
    ),
    "sentences of topics, as counted by each topic = assigned": (
        "SELECT coalesce(sum(n_sentences), 0) FROM topics WHERE quarter = %(q)s",
        "SELECT count(*) FROM topic_sentences WHERE quarter = %(q)s AND topic_number IS NOT NULL",
    ),
    "ranks of a topic go from 1 to its size": (
        "SELECT count(*) FROM topics WHERE quarter = %(q)s",
        "SELECT count(*) FROM (SELECT company_id, topic_number FROM topic_sentences WHERE quarter = %(q)s"
        " AND topic_number IS NOT NULL GROUP BY 1, 2 HAVING count(DISTINCT rank) = count(*) AND min(rank) = 1"
        " AND max(rank) = count(*)) AS ranked",
    ),
    "topics = summaries": (
        "SELECT count(*) FROM topics WHERE quarter = %(q)s",
        "SELECT count(*) FROM topic_summaries JOIN topics USING (quarter, company_id, topic_number)"
        " WHERE quarter = %(q)s AND topic_summaries.text <> ''",
    ),
    "firms = firms with every stage": (
        "SELECT count(*) FROM firm_quarters WHERE quarter = %(q)s",
        "SELECT count(*) FROM (SELECT company_id FROM materializations WHERE quarter = %(q)s"
        " AND stage = ANY(%(stages)s) GROUP BY 1 HAVING count(*) = 3) AS complete",
    ),
    "stages = stages made from what is there": (
        "SELECT count(*) FROM materializations WHERE quarter = %(q)s AND stage = ANY(%(stages)s)",
        "SELECT count(*) FROM materializations AS s JOIN materializations AS b USING (quarter, company_id)"
        " WHERE quarter = %(q)s AND b.content_hash = s.input_hash AND (s.stage, b.stage) IN"
        " (('firm_sentences', 'transcripts'), ('firm_topics', 'firm_sentences'), ('topic_summaries', 'firm_topics'))",
    ),
    "vectors = vectors of length one": (
        "SELECT count(*) FROM sentences WHERE quarter = %(q)s",
        "SELECT count(*) FROM sentences WHERE quarter = %(q)s AND abs(vector_norm(embedding::vector) - 1) < %(one)s",
    ),
    "topics = topics that the themes were made from": (
        "SELECT count(*) FROM topics WHERE quarter = %(q)s",
        "SELECT n_topics FROM theme_runs WHERE quarter = %(q)s ORDER BY run_number DESC LIMIT 1",
    ),
    "firms = firms that the themes were made from": (
        "SELECT count(*) FROM firm_quarters WHERE quarter = %(q)s",
        "SELECT count(*) FROM theme_inputs AS i JOIN materializations USING (quarter, company_id) WHERE quarter = %(q)s"
        " AND stage = 'topic_summaries' AND stages.content_hash = i.content_hash",
    ),
    "topics of themes, as counted by each theme = members": (
        "SELECT coalesce(sum(n_topics), 0) FROM themes WHERE quarter = %(q)s",
        "SELECT count(*) FROM theme_topics JOIN themes USING (quarter, theme_number) WHERE quarter = %(q)s",
    ),
    "members = members that are linked to a topic with that label": (
        "SELECT count(*) FROM theme_topics WHERE quarter = %(q)s",
        "SELECT count(*) FROM theme_topics AS m JOIN topics AS t ON (t.quarter, t.company_id, t.topic_number)"
        " = (m.quarter, m.company_id, m.live_topic_number) WHERE m.quarter = %(q)s AND t.label = m.topic_label"
        " AND m.live_topic_number = m.topic_number",
    ),
    "firms of themes, as counted by each theme = firms of the members": (
        "SELECT coalesce(sum(n_firms), 0) FROM themes WHERE quarter = %(q)s",
        "SELECT count(*) FROM (SELECT DISTINCT theme_number, company_id FROM theme_topics WHERE quarter = %(q)s) AS m",
    ),
    "sentences in themes, as published = as they are": (
        "SELECT (attrition->'all'->>'n_in_themes')::int FROM theme_runs WHERE quarter = %(q)s"
        " ORDER BY run_number DESC LIMIT 1",
        "SELECT count(*) FROM topic_sentences AS a JOIN theme_topics AS m ON (m.quarter, m.company_id,"
        " m.live_topic_number) = (a.quarter, a.company_id, a.topic_number) WHERE a.quarter = %(q)s",
    ),
}
N_MATERIALIZED = """
    SELECT count(DISTINCT partition) FROM event_logs
    WHERE dagster_event_type = 'ASSET_MATERIALIZATION' AND asset_key = %s AND partition LIKE %s
"""
NOT_WELL = "SELECT count(*) FROM runs WHERE status <> 'SUCCESS'"
BYTES = """
    SELECT coalesce(parent.relname, c.relname), sum(pg_total_relation_size(c.oid))
    FROM pg_class AS c LEFT JOIN pg_inherits AS i ON i.inhrelid = c.oid LEFT JOIN pg_class AS parent
    ON parent.oid = i.inhparent WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace GROUP BY 1
"""


@dataclass(frozen=True)
class Compared:
    """Two counts that must be equal."""

    quarter: str
    what: str
    wanted: int
    found: int

    @property
    def equal(self) -> bool:
        """Whether they are."""
        return self.wanted == self.found


@dataclass
class SourceQuarter:
    """The rows of a quarter in the file: transcript and order -> digest of the text, and how many rows there are."""

    n_rows: int
    texts: dict[tuple[int, int], str]
    firms: set[int]


def read_source(file: Path) -> dict[str, SourceQuarter]:
    """Quarter -> its rows, by Python's own reader. The file is to have usable rows alone, and days as 2021-10-28."""
    quarters: dict[str, SourceQuarter] = defaultdict(lambda: SourceQuarter(0, {}, set()))
    opened = gzip.open if file.suffix == ".gz" else open
    with opened(file, "rt", encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            quarter = quarters[calendar_quarter(date.fromisoformat(row["mostimportantdateutc"]))]
            quarter.n_rows += 1
            key = int(row["transcriptid"]), int(row["componentorder"])
            quarter.texts.setdefault(key, digest(row["componenttext"]))
            quarter.firms.add(int(row["companyid"]))
    return dict(sorted(quarters.items()))


def digest(text: str) -> str:
    """Equal for equal texts."""
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def compare(
    quarter: str, source: SourceQuarter, ftm: "psycopg.Connection[Any]", dagster: "psycopg.Connection[Any]"
) -> Iterator[Compared]:
    """Every pair of counts of a quarter, from the file to the themes and to Dagster's own records."""

    def count(query: str, connection: "psycopg.Connection[Any]" = ftm, values: Any = None) -> int:
        values = values or {"q": quarter, "stages": [stage.name for stage in STAGES], "one": ONE}
        return int((connection.execute(query, values).fetchone() or (0,))[0])

    superseded = {
        number
        for (number,) in ftm.execute(
            "SELECT transcript_id FROM calls WHERE quarter = %s AND superseded_by IS NOT NULL", [quarter]
        )
    }
    modelled = {key: text for key, text in source.texts.items() if key[0] not in superseded}
    rows = ftm.execute(
        "SELECT transcript_id, component_order, speaker_type, text FROM components WHERE quarter = %s", [quarter]
    ).fetchall()
    texts = {(row[0], row[1]): row[3] for row in rows}
    same = sum(digest(text) == modelled.get(key) for key, text in texts.items())
    rejected = count(
        "SELECT count(*) FROM rejects WHERE NOT kept AND transcript_id = ANY(%(ids)s)",
        values={"ids": [transcript for transcript, _ in source.texts]},
    )
    repeated = source.n_rows - len(source.texts)
    put_aside = len(source.texts) - len(modelled)
    yield Compared(
        quarter,
        "rows = components, superseded, repeated and rejected",
        source.n_rows,
        len(texts) + put_aside + repeated + rejected,
    )
    yield Compared(quarter, "components = components with the text of the file", len(texts), same)
    yield Compared(
        quarter,
        "calls",
        len({transcript for transcript, _ in source.texts}),
        count("SELECT count(*) FROM calls WHERE quarter = %(q)s"),
    )
    yield Compared(
        quarter, "firms", len(source.firms), count("SELECT count(*) FROM firm_quarters WHERE quarter = %(q)s")
    )
    operators = {(row[0], row[1]) for row in rows if row[2].strip().casefold() == "operator"}
    yield from _compare_sentences(quarter, texts, operators, ftm)
    for what, (one, other) in PAIRS.items():
        yield Compared(quarter, what, count(one), count(other))
    for asset in [stage.name for stage in STAGES]:
        materialized = count(N_MATERIALIZED, dagster, [json.dumps([asset]), f"%|{quarter}"])
        yield Compared(quarter, f"firms = partitions of {asset} that Dagster has", len(source.firms), materialized)


def _compare_sentences(
    quarter: str, texts: dict[tuple[int, int], str], operators: set[tuple[int, int]], ftm: "psycopg.Connection[Any]"
) -> Iterator[Compared]:
    """Sentences against the components that they are cut from, character by character."""
    n, cut, places = 0, 0, Counter[int]()
    covered: Counter[tuple[int, int]] = Counter()
    ends: dict[tuple[int, int], int] = defaultdict(int)
    in_order = 0
    for transcript, order, position, start, end, text in ftm.execute(
        "SELECT transcript_id, component_order, position, start_char, end_char, text FROM sentences"
        " WHERE quarter = %s ORDER BY transcript_id, position",
        [quarter],
    ):
        key = transcript, order
        n += 1
        cut += texts[key][start:end] == text
        in_order += start >= ends[key] and position == places[transcript]
        ends[key] = end
        places[transcript] += 1
        covered[key] += _n_visible(text)
    spoken = {key: _n_visible(text) for key, text in texts.items() if key not in operators}
    yield Compared(quarter, "sentences = sentences that are their place in the component", n, cut)
    yield Compared(quarter, "sentences = sentences in order, apart, numbered without a gap", n, in_order)
    yield Compared(
        quarter,
        "characters spoken, operators left out = characters in sentences",
        sum(spoken.values()),
        sum(covered.values()),
    )


def _n_visible(text: str) -> int:
    return len("".join(text.split()))


def bytes_by_table(ftm: "psycopg.Connection[Any]") -> dict[str, int]:
    """Table, its partitions together -> bytes with indexes."""
    return {name: int(n) for name, n in ftm.execute(BYTES)}


def parser() -> argparse.ArgumentParser:
    """What may be said on the command line."""
    parser = argparse.ArgumentParser(description="Whether every row of a source arrives in Postgres.")
    parser.add_argument("file", type=Path, help="CSV file of calls, all rows usable")
    parser.add_argument("--quarters", nargs="+", help="only these")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    return parser


def main() -> None:
    """Run, compare and print; the exit status says whether all is equal."""
    asked, console = parser().parse_args(), Console(width=140)
    source = read_source(asked.file)
    quarters = asked.quarters or list(source)
    compared: list[Compared] = []
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder) / "home", asked.file.absolute(), quarters=f"{min(source)}:{max(source)}")
        with home.up() as dagster, psycopg.connect(with_database(home.url, "ftm"), autocommit=True) as ftm:
            before = cpu_seconds(home.path)
            for quarter in quarters:
                started = time.monotonic()
                home.ftm("backfill", quarter)
                seconds[quarter] = time.monotonic() - started
                console.print(f"{quarter}: {len(source[quarter].firms)} firms in {seconds[quarter]:.0f} s")
            cpu_s = {part: total - before.get(part, 0.0) for part, total in cpu_seconds(home.path).items()}
            for quarter in quarters:
                compared += compare(quarter, source[quarter], ftm, dagster)
            failed = dagster.execute(NOT_WELL).fetchone() or (0,)
            compared.append(Compared("all", "runs that did not end well", 0, int(failed[0])))
            n_bytes, peaks = bytes_by_table(ftm), peak_bytes(home.path)
            n_sentences = int((ftm.execute("SELECT count(*) FROM sentences").fetchone() or (0,))[0])
    table = Table(
        "", "wanted", "found", title="Sums over the quarters; what differs is named below", title_justify="left"
    )
    for what in dict.fromkeys(each.what for each in compared):
        of_it = [each for each in compared if each.what == what]
        table.add_row(what, f"{sum(each.wanted for each in of_it):,}", f"{sum(each.found for each in of_it):,}")
    console.print(table)
    n_firms = sum(len(source[quarter].firms) for quarter in quarters)
    console.print(
        f"{n_firms} firm-quarters, {n_sentences:,} sentences in {sum(seconds.values()):.0f} s; CPU s a firm-quarter: "
        + ", ".join(f"{part} {total / n_firms:.2f}" for part, total in cpu_s.items() if total / n_firms >= 0.005)
    )
    console.print(f"KB a firm-quarter: {', '.join(f'{name} {n / n_firms / 1024:,.0f}' for name, n in n_bytes.items())}")
    console.print(f"Peak memory of a process, MB: {', '.join(f'{part} {n / 1e6:,.0f}' for part, n in peaks.items())}")
    wrong = [each for each in compared if not each.equal]
    for each in wrong:
        console.print(f"[red]{each.quarter}: {each.what}: {each.wanted:,} wanted, {each.found:,} found")
    console.print(f"{len(compared)} comparisons, {len(wrong)} differ")
    if asked.json:
        figures = {
            "n_firms": n_firms,
            "n_sentences": n_sentences,
            "seconds": seconds,
            "cpu_s": cpu_s,
            "bytes": n_bytes,
            "peak_bytes": peaks,
            "compared": [asdict(each) for each in compared],
        }
        asked.json.write_text(json.dumps(figures, indent=2))
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
