"""What a quarter takes on a box that is not here, from parts that were measured here and assumptions that have names.

    python -m benchmarks launcher --words --firms 3000 --sentences 450 --json runs.json
    python -m benchmarks themes CSV 2021Q4 --json themes.json
    python -m benchmarks projection runs.json themes.json [--firms 3000] [--sentences 450] [--json FILE]

Everything beside encoding is CPU time that was measured; how fast a card encodes and what an hour costs is assumed, and
said. Firms go side by side, so that the slower of CPU and card decides how long they take; loading comes before, themes
after, and both are added. The bottleneck is whatever takes longest.
"""

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

TARGET_S, TARGET_DOLLARS = 4 * 3600, 5.0
# Sentences a second on a V100, as the publisher of the models states them.
ON_V100 = {"all-MiniLM-L6-v2": 14_200, "all-mpnet-base-v2": 2_800}


@dataclass(frozen=True)
class Box:
    """A machine, as it is assumed.

    speed:       of one of its virtual cores, over one of the machine that measured
    v100s:       how many times a V100 the card encodes as fast
    reached:     part of that which batches of one firm's sentences reach
    spot_hour, list_hour: dollars
    """

    name: str
    cores: int
    speed: float
    v100s: float
    reached: float
    spot_hour: float
    list_hour: float


BOXES = (
    Box("T4, 8 vCPU", cores=8, speed=0.7, v100s=0.4, reached=0.5, spot_hour=0.30, list_hour=0.752),
    Box("H200, 24 vCPU", cores=24, speed=1.0, v100s=5.0, reached=0.25, spot_hour=3.0, list_hour=10.0),
)
ASSUMPTIONS = (
    "cores work side by side without loss; 0.9 of them are kept busy (lanes were idle for less, see `launcher`)",
    "a virtual core of the T4 box has .7 of the speed of one here, of the H200 box 1.0",
    "a T4 encodes .4 times as fast as a V100 (fp16: 65 against 125 TFLOPS, 320 against 900 GB/s), an H200 5 times",
    "batches of one firm's sentences reach .5 of that on a T4, .25 on an H200, which is idle between them",
    "the publisher's rates on a V100: 14,200 sentences/s of all-MiniLM-L6-v2, 2,800 of all-mpnet-base-v2",
    "clustering into themes uses up to 8 cores; half of its CPU time is on one",
    "boot, installation and the first load of the model: 180 s",
    "not in it: the search index, which the database builds after the themes (382 s on 2 cores), and the database",
    "dollars an hour, spot and list: T4 .30 and .752, H200 box 3.00 and 10.00",
)
BUSY, THEME_THREADS, ON_ONE_CORE, START_S = 0.9, 8, 0.5, 180.0


@dataclass(frozen=True)
class Projected:
    """Seconds of a quarter on a box by part, and dollars on spot."""

    box: str
    model: str
    start_s: float
    load_s: float
    cpu_s: float
    encode_s: float
    themes_s: float
    total_s: float
    dollars: float
    dollars_list: float

    @property
    def bottleneck(self) -> str:
        """What takes longest."""
        parts = {
            "starting": self.start_s,
            "loading": self.load_s,
            "CPU of firms": self.cpu_s,
            "encoding": self.encode_s,
            "themes": self.themes_s,
        }
        return max(parts, key=lambda part: parts[part])


def project(
    box: Box, model: str, n_firms: int, n_sentences: int, run: Mapping[str, Any], themes: Mapping[str, Any]
) -> Projected:
    """A quarter on a box.

    run:    a `Cost` of launcher --words
    themes: a `Cost` of themes, of the number of topics that the quarter is to have
    """
    cpu_per_run = sum(run["cpu_s"].values()) / run["n_runs"]
    cpu_s = n_firms * cpu_per_run / (box.cores * box.speed * BUSY)
    encode_s = n_firms * n_sentences / (ON_V100[model] * box.v100s * box.reached)
    load_s = run["ingest_s"] / run["n_runs"] * n_firms / box.speed
    threads = min(THEME_THREADS, box.cores)
    themes_s = themes["cpu_s"] / box.speed * (ON_ONE_CORE + (1 - ON_ONE_CORE) / threads)
    total_s = START_S + load_s + max(cpu_s, encode_s) + themes_s
    hours = total_s / 3600
    return Projected(
        box.name,
        model,
        START_S,
        load_s,
        cpu_s,
        encode_s,
        themes_s,
        total_s,
        hours * box.spot_hour,
        hours * box.list_hour,
    )


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description="What a quarter takes on a box that is not here.")
    parser.add_argument("runs", type=Path, help="JSON of launcher --words; its last entry counts")
    parser.add_argument("themes", type=Path, help="JSON of themes; the entry of ours with most topics counts")
    parser.add_argument("--firms", type=int, default=3000)
    parser.add_argument("--sentences", type=int, default=450, help="of a firm")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    return parser


def main() -> None:
    """Project and print."""
    asked, console = parser().parse_args(), Console(width=130)
    run = json.loads(asked.runs.read_text())[-1]
    themes = max((e for e in json.loads(asked.themes.read_text()) if e["way"] == "ours"), key=lambda e: e["n_topics"])
    projected = [project(box, model, asked.firms, asked.sentences, run, themes) for box in BOXES for model in ON_V100]
    title = f"{asked.firms:,} firms of {asked.sentences} sentences, themes of {themes['n_topics']:,} topics; minutes"
    table = Table(title=title, title_justify="left")
    for name in (
        "box",
        "encoder",
        "start",
        "load",
        "CPU",
        "encode",
        "themes",
        "in all",
        "$ spot",
        "$ list",
        "bottleneck",
    ):
        table.add_column(name, justify="left" if name in ("box", "encoder", "bottleneck") else "right")
    for each in projected:
        parts = (each.start_s, each.load_s, each.cpu_s, each.encode_s, each.themes_s, each.total_s)
        table.add_row(
            each.box,
            each.model,
            *(f"{part / 60:.1f}" for part in parts),
            f"{each.dollars:.2f}",
            f"{each.dollars_list:.2f}",
            each.bottleneck,
        )
    console.print(table)
    console.print(
        f"The target: {TARGET_S / 60:.0f} minutes and ${TARGET_DOLLARS:.2f}. Summaries by a language model aside."
    )
    console.print("Assumed:")
    for assumption in ASSUMPTIONS:
        console.print(f"- {assumption}")
    cpu_per_run = sum(run["cpu_s"].values()) / run["n_runs"]
    console.print(
        f"Measured: {cpu_per_run:.2f} CPU s a run beside encoding, over {run['n_runs']:,} runs; "
        f"{themes['cpu_s']:.0f} CPU s for the themes; {run['ingest_s'] / run['n_runs'] * 1000:.0f} ms to load a firm"
    )
    if asked.json:
        figures = {
            "assumed": ASSUMPTIONS,
            "boxes": [asdict(box) for box in BOXES],
            "projected": [asdict(e) for e in projected],
        }
        asked.json.write_text(json.dumps(figures, indent=2))
