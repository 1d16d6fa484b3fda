"""What a language model that misbehaves costs a quarter: time, requests, and summaries that are made of keywords.

    python -m bench.faulty_quarter CSV QUARTER [--faults 0.3] [--latency 1]

The quarter is made once without a language model, through daemon and worker with the real encoder. Then its home is
copied, and `ftm backfill QUARTER --upgrade-summaries` asks a simulated model that is well in the one copy and that
misbehaves in all ways in the other. What the server has counted is compared with the ledger, and each summary that says
it is by the model with the replies that the ledger has.
"""

import argparse
import json
import subprocess
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from rich.console import Console
from rich.table import Table

from bench.language import counts, served
from bench.launcher import Home
from ftm_assets.settings import with_database
from ftm_assets.simulated.behaviour import MODEL, Behaviour, mixed

PAID = "SELECT count(*) FROM llm_calls WHERE state IN ('answered', 'rejected', 'refused')"
LOST = "SELECT count(*) FROM llm_calls WHERE state = 'lost'"
QUARTERS = "2000Q1:2029Q4"
TWICE = "SELECT count(*) - count(DISTINCT key) FROM llm_calls WHERE state = 'answered'"
WRITTEN = "SELECT title, text, source, reason FROM topic_summaries WHERE quarter = %s"
REPLIES = "SELECT reply FROM llm_calls WHERE state = 'answered' AND quarter = %s"
MEMBERS = "SELECT company_id, topic_number, theme_number FROM theme_topics WHERE quarter = %s ORDER BY 1, 2, 3"


@dataclass(frozen=True)
class Told:
    """What became of a quarter with one share of faults.

    n_untrue: summaries whose source is not what the ledger says, or that name no reason for their keywords
    """

    faults: float
    wall_s: float
    n_requests: int
    n_whole: int
    n_paid: int
    n_lost: int
    n_twice: int
    n_by_model: int
    n_by_keywords: int
    n_untrue: int
    members: list[tuple[int, int, int]]


def untrue(written: Iterable[tuple[str | None, str, str, str | None]], replies: Iterable[str]) -> int:
    """Of summaries (title, text, source, reason): how many tell their source otherwise than these replies do."""
    said = {
        (summary["title"], summary["summary"])
        for reply in replies
        for summary in json.loads(reply).get("summaries", ())
        if isinstance(summary, dict)
    }
    return sum(
        not ((title, text) in said) == (reason is None) == (source == "model")
        for title, text, source, reason in written
    )


def upgrade(base: Path, calls: Path, quarter: str, faults: float, latency_s: float) -> Told:
    """Have the model write the summaries of a copy of the home."""
    path = base.with_name(f"faults-{faults:.0%}".rstrip("%"))
    subprocess.run(["cp", "-a", base, path], check=True)  # Its files belong to the user that Postgres runs as.
    behaviour = Behaviour(mixed(faults), latency_s=latency_s, slow_s=latency_s + 2.0)
    with served(behaviour) as port:
        settings = {
            "FTM_LLM_BASE_URL": f"http://127.0.0.1:{port}/v1",
            "FTM_LLM_MODEL": MODEL,
            "FTM_LLM_API_KEY": "none",
            "FTM_LLM_TIMEOUT": "10",
        }
        home = Home(path, calls, quarters=QUARTERS, settings=settings)
        with home.up(), psycopg.connect(with_database(home.url, "ftm"), autocommit=True) as ftm:
            started = time.monotonic()
            home.ftm("backfill", quarter, "--upgrade-summaries")
            wall_s = time.monotonic() - started
            found = counts(port)
            written = ftm.execute(WRITTEN, [quarter]).fetchall()
            replies = [reply for (reply,) in ftm.execute(REPLIES, [quarter])]
            by_model = sum(source == "model" for _, _, source, _ in written)
            return Told(
                faults=faults,
                wall_s=wall_s,
                n_requests=found["n_requests"],
                n_whole=found["n_whole"],
                n_paid=_count(ftm, PAID),
                n_lost=_count(ftm, LOST),
                n_twice=_count(ftm, TWICE),
                n_by_model=by_model,
                n_by_keywords=len(written) - by_model,
                n_untrue=untrue(written, replies),
                members=ftm.execute(MEMBERS, [quarter]).fetchall(),
            )


def _count(connection: "psycopg.Connection[Any]", query: str) -> int:
    return int((connection.execute(query).fetchone() or (0,))[0])


def parser() -> argparse.ArgumentParser:
    """What may be said on the command line."""
    parser = argparse.ArgumentParser(description="What a language model that misbehaves costs a quarter.")
    parser.add_argument("file", type=Path, help="CSV file of calls")
    parser.add_argument("quarter")
    parser.add_argument("--faults", type=float, default=0.3, help="share of the requests that go wrong")
    parser.add_argument("--latency", type=float, default=1.0, help="seconds that a reply takes")
    return parser


def main() -> None:
    """Make the quarter, have it written twice, and print."""
    asked, console = parser().parse_args(), Console(width=120)
    with tempfile.TemporaryDirectory() as folder:
        calls = asked.file.absolute()
        base = Home(Path(folder) / "base", calls, quarters=QUARTERS)
        with base.up():
            base.ftm("backfill", asked.quarter)
        told = [upgrade(base.path, calls, asked.quarter, share, asked.latency) for share in (0.0, asked.faults)]
    table = Table("", *(f"{each.faults:.0%} faults" for each in told), title=asked.quarter, title_justify="left")
    for name, label in (
        ("n_requests", "requests"),
        ("n_whole", "whole replies that the server sent"),
        ("n_paid", "of them in the ledger"),
        ("n_lost", "lost: cut connections and bodies"),
        ("n_twice", "questions that were answered twice"),
        ("n_by_model", "summaries by the model"),
        ("n_by_keywords", "summaries by keywords, each with its reason"),
        ("n_untrue", "summaries with another source than the ledger says"),
    ):
        table.add_row(label, *(f"{getattr(each, name):,}" for each in told))
    table.add_row("seconds", *(f"{each.wall_s:.0f}" for each in told))
    console.print(table)
    well, ill = told
    same = "have the same topics" if well.members == ill.members else "[red]have other topics"
    ratios = ill.wall_s / well.wall_s, ill.n_requests / well.n_requests
    console.print(f"Faults: {ratios[0]:.2f} times as long, {ratios[1]:.2f} times the requests; themes {same} with them")


if __name__ == "__main__":
    main()
