"""What the themes of a quarter cost, by the number of topics.

    python -m benchmarks themes CSV [2021Q4 ...] [--topics 1000 10000 90000] [--stock 1000 10000] [--json FILE]

The topics are made between two near topics of real calls, thirty a firm: on the way from one to the other, with half
of the words of both. Each size is found in a process of its own, with the consensus and the repeats that tell how
stable a theme is; so is what a plain BERTopic script makes of the same topics, for the sizes of `--stock`. CPU seconds
are of all threads; wall seconds hold on a machine that does nothing else. Vectors of sentences are kept in FTM_HOME.
"""

import argparse
import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.in_subprocess import apart, peak_bytes
from benchmarks.quality.corpus import read_corpus
from benchmarks.quality.models import Topic, ours, quarter_of, stock
from ftm_assets.analysis.themes import ThemeSettings, find_themes
from ftm_assets.analysis.vectors import unit_rows
from ftm_assets.encoder import open_encoder
from ftm_assets.settings import read_settings

TOPICS_A_FIRM, N_NEAR = 30, 10
LEAST_WAY = 0.2  # From one real topic to the other; nearer would be the same topic again.


@dataclass(frozen=True)
class Cost:
    """What the themes of so many topics took.

    peak_bytes: most memory of the process, the topics included
    of_it:      of these, what the process held before it began
    """

    way: str
    n_topics: int
    n_themes: int
    n_in_themes: int
    wall_s: float
    cpu_s: float
    peak_bytes: int
    of_it: int


def between(real: Sequence[Topic], n: int, seed: int = 0) -> list[Topic]:
    """Topics between two near ones of the real; the same every time."""
    draw = np.random.default_rng(seed)
    vectors = unit_rows(np.array([topic.vector for topic in real]))
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -1)
    near = np.argpartition(-cosines, N_NEAR, axis=1)[:, :N_NEAR]
    ones = draw.integers(0, len(real), n)
    others = near[ones, draw.integers(0, N_NEAR, n)]
    ways = draw.uniform(LEAST_WAY, 1 - LEAST_WAY, (n, 1)).astype(np.float32)
    made = unit_rows((1 - ways) * vectors[ones] + ways * vectors[others])
    topics = []
    for row, (one, other) in enumerate(zip(ones.tolist(), others.tolist(), strict=True)):
        texts = (*real[one].sentences, *real[other].sentences)
        kept = draw.random(len(texts)) < 1 / 2
        sentences = tuple(text for text, stays in zip(texts, kept.tolist(), strict=True) if stays)
        topics.append(replace(real[one], company_id=row // TOPICS_A_FIRM, vector=made[row], sentences=sentences))
    return topics


def cost_of_ours(real: Sequence[Topic], n: int) -> Cost:
    """The stage as the graph has it."""
    quarter = quarter_of(between(real, n))
    before, wall, cpu = peak_bytes(), time.perf_counter(), time.process_time()
    found = find_themes(quarter, ThemeSettings())
    took = time.perf_counter() - wall, time.process_time() - cpu
    return Cost("ours", n, len(found.themes), len(found.members), *took, peak_bytes(), before)


def cost_of_stock(real: Sequence[Topic], n: int) -> Cost:
    """One run of a plain script."""
    topics, model = between(real, n), stock(open_encoder("all-MiniLM-L6-v2", "cpu"))
    model.themes(topics[:500], 0)  # Imports and compiles.
    before, wall, cpu = peak_bytes(), time.perf_counter(), time.process_time()
    found = model.themes(topics, 0)
    took = time.perf_counter() - wall, time.process_time() - cpu
    return Cost("stock BERTopic", n, len(found), sum(len(each.topics) for each in found), *took, peak_bytes(), before)


def real_topics(file: Path, quarters: Sequence[str]) -> list[Topic]:
    """The topics of all firms of these quarters."""
    settings = read_settings()
    encoder = open_encoder(settings.encoder, settings.device, settings.precision)
    corpora = (read_corpus(file, quarter, encoder) for quarter in quarters)
    model = ours("communities")
    return [topic for corpus in corpora for firm in corpus.firms for topic in model.topics(firm, 42)]


def table_of(costs: Sequence[Cost]) -> Table:
    """One row for each size and way."""
    table = Table(title=f"Themes, {os.cpu_count()} cores", title_justify="left")
    for heading in ("topics", "", "themes", "topics in themes", "wall s", "CPU s", "peak MB", "of it before"):
        table.add_column(heading, justify="right" if heading else "left")
    for cost in costs:
        table.add_row(
            f"{cost.n_topics:,}",
            cost.way,
            str(cost.n_themes),
            f"{cost.n_in_themes / cost.n_topics:.2f}",
            f"{cost.wall_s:.1f}",
            f"{cost.cpu_s:.1f}",
            f"{cost.peak_bytes / 1e6:,.0f}",
            f"{cost.of_it / 1e6:,.0f}",
        )
    return table


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description="What the themes of a quarter cost, by the number of topics.")
    parser.add_argument("file", type=Path, help="CSV file of calls")
    parser.add_argument("quarters", nargs="*", default=["2021Q4"])
    parser.add_argument("--topics", nargs="+", type=int, default=[1000, 10_000, 90_000])
    parser.add_argument("--stock", nargs="*", type=int, default=[1000, 10_000], help="sizes for BERTopic, too")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    return parser


def main() -> None:
    """Measure and print."""
    asked = parser().parse_args()
    real = real_topics(asked.file, asked.quarters)
    costs = []
    for n in asked.topics:
        costs.append(apart(cost_of_ours, real, n))
        if n in asked.stock:
            costs.append(apart(cost_of_stock, real, n))
    Console(width=120).print(table_of(costs))
    if asked.json:
        asked.json.write_text(json.dumps([asdict(cost) for cost in costs], indent=2))
