"""How fast sentences become vectors, and how far another way to compute them moves the vectors.

    python -m benchmarks encoder [CSV QUARTER] [--model all-MiniLM-L6-v2] [--device cpu] [--precision fp32 bf16 fp16]
                            [--batches 32 64 characters:8192] [--threads 1 2] [--firms 3] [--repeats 3] [--json FILE]

    python -m benchmarks encoder --device cuda --precision fp32 bf16 fp16 --batches 32 characters:65536
    python -m benchmarks encoder --device cuda --model all-mpnet-base-v2 --precision fp32 bf16

Sentences of real or of the sample's calls, firm by firm, because a batch never mixes firms. Each way is compared with
the first one, which is the package's own on a CPU: fp32, batches of 32, longest texts first. All ways take turns, so
that what else the machine does meets them alike. On a GPU the share of the time in which it was busy is told, too.

- sentences/s: median of the repeats, with the least and the most
- padding: part of the tokens that only fill a batch
- cosine: of each vector to that of the first way, the least
"""

import argparse
import copy
import json
import statistics
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.quality.compare import SAMPLE
from devtools.calls import firm_turns
from ftm_assets.analysis.sentences import split_turns
from ftm_assets.encoder import batches, folder_of
from ftm_assets.sources.csv.source import CsvSource


@dataclass(frozen=True)
class Way:
    """How to encode. batch: a number of texts, or `characters:N` for as many as N hold, padding included."""

    precision: str
    batch: str
    threads: int


@dataclass
class Measured:
    """What a way gave.

    cpu_s, per_s: of each repeat; CPU seconds for a thousand sentences, and sentences a second
    padding:      part of the tokens that only fill a batch
    least_cosine: to the vectors of the first way
    gpu_busy:     share of the time, None without a GPU that tells
    """

    way: Way
    per_s: list[float]
    cpu_s: list[float]
    padding: float = 0.0
    least_cosine: float = 1.0
    gpu_busy: float | None = None


class Model:
    """A sentence-transformers model that encodes in a way."""

    def __init__(self, name: str, device: str) -> None:
        import torch
        from sentence_transformers import SentenceTransformer

        folder = folder_of(name)
        self.torch = torch
        self.device = device
        self.models = {"fp32": SentenceTransformer(str(folder or name), device=device, local_files_only=bool(folder))}

    def of(self, precision: str) -> Any:
        """The model in a precision."""
        if precision not in self.models:
            kinds = {"bf16": self.torch.bfloat16, "fp16": self.torch.float16}
            self.models[precision] = copy.deepcopy(self.models["fp32"]).to(kinds[precision])
        return self.models[precision]

    def encode(self, texts: Sequence[str], way: Way) -> tuple[np.ndarray, int, int]:
        """Unit vectors, and how many tokens were computed and how many of them were text."""
        model = self.of(way.precision)
        self.torch.set_num_threads(way.threads)
        found: np.ndarray | None = None
        computed = said = 0
        for rows in self.cut(texts, way.batch):
            features = model.preprocess([texts[row] for row in rows])
            tensors = {name: value.to(self.device) for name, value in features.items() if hasattr(value, "to")}
            computed += features["attention_mask"].numel()
            said += int(features["attention_mask"].sum())
            with self.torch.inference_mode():
                output = model({**features, **tensors})
                vectors = self.torch.nn.functional.normalize(output["sentence_embedding"].float(), dim=1).cpu().numpy()
            found = np.empty((len(texts), vectors.shape[1]), np.float32) if found is None else found
            found[rows] = vectors
        assert found is not None
        return found, computed, said

    def cut(self, texts: Sequence[str], batch: str) -> list[np.ndarray]:
        """Rows that are encoded together, longest first; decided by these texts alone."""
        kind, _, budget = batch.partition(":")
        if kind == "characters":
            return batches(texts, int(budget))
        order = np.concatenate(batches(texts))
        return [order[start : start + int(kind)] for start in range(0, len(order), int(kind))]


def texts_of(file: Path, quarter: str, n_firms: int) -> list[list[str]]:
    """The sentences of the first firms."""
    firms = firm_turns(CsvSource(file), [quarter])[:n_firms]
    return [[row.text for row in split_turns(f.company_id, f.turns, names=f.names)] for f in firms]


def measure(model: Model, firms: Sequence[Sequence[str]], ways: Sequence[Way], n_repeats: int) -> list[Measured]:
    """Each way on all firms, in turn, n times; the first round warms and tells the vectors apart."""
    found = [Measured(way, [], []) for way in ways]
    n = sum(map(len, firms))
    first: np.ndarray | None = None
    for number in range(n_repeats + 1):
        for each in found:
            started, cpu = time.perf_counter(), time.process_time()
            of_firms = [model.encode(texts, each.way) for texts in firms]
            busy = _gpu_busy(model)
            took, cpu = time.perf_counter() - started, time.process_time() - cpu
            if number:
                each.per_s.append(n / took)
                each.cpu_s.append(1000 * cpu / n)
                each.gpu_busy = busy
                continue
            vectors = np.concatenate([vectors for vectors, _, _ in of_firms]).astype(np.float64)
            first = vectors if first is None else first
            each.least_cosine = float((vectors * first).sum(axis=1).min())
            each.padding = 1 - sum(said for _, _, said in of_firms) / sum(computed for _, computed, _ in of_firms)
    return found


def _gpu_busy(model: Model) -> float | None:
    if model.device.startswith("cuda"):
        with suppress(ModuleNotFoundError):  # pynvml, which torch asks, is no dependency of ours.
            return float(model.torch.cuda.utilization()) / 100
    return None


def table_of(found: Sequence[Measured], title: str) -> Table:
    """One row a way."""
    table = Table(title=title, title_justify="left")
    for name in (
        "precision",
        "batch",
        "threads",
        "sentences/s",
        "times",
        "CPU s for 1,000",
        "padding",
        "cosine",
        "GPU",
    ):
        table.add_column(name, justify="right")
    for each in found:
        middle = statistics.median(each.per_s)
        table.add_row(
            each.way.precision,
            each.way.batch,
            str(each.way.threads),
            f"{middle:,.0f} ({min(each.per_s):,.0f} to {max(each.per_s):,.0f})",
            f"{middle / statistics.median(found[0].per_s):.2f}",
            f"{statistics.median(each.cpu_s):.2f}",
            f"{each.padding:.0%}",
            f"{each.least_cosine:.6f}",
            "" if each.gpu_busy is None else f"{each.gpu_busy:.0%}",
        )
    return table


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description="How fast sentences become vectors.")
    parser.add_argument("file", nargs="?", type=Path, default=SAMPLE, help="CSV file of calls (default: the sample)")
    parser.add_argument("quarter", nargs="?", default="2024Q1")
    parser.add_argument("--model", default="all-MiniLM-L6-v2")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", nargs="+", default=["fp32"], choices=["fp32", "bf16", "fp16"])
    parser.add_argument("--batches", nargs="+", default=["32", "characters:4096", "characters:16384"])
    parser.add_argument("--threads", nargs="+", type=int, default=[1])
    parser.add_argument("--firms", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    return parser


def main() -> None:
    """Measure and print."""
    asked = parser().parse_args()
    firms = texts_of(asked.file, asked.quarter, asked.firms)
    first = Way("fp32", "32", asked.threads[0])
    ways = [Way(*way) for way in product(asked.precision, asked.batches, asked.threads)]
    found = measure(Model(asked.model, asked.device), firms, [first, *(w for w in ways if w != first)], asked.repeats)
    title = f"{asked.model} on {asked.device}: {len(firms)} firms, {sum(map(len, firms)):,} sentences"
    Console(width=130).print(table_of(found, title))
    if asked.json:
        figures = {"model": asked.model, "device": asked.device, "ways": [asdict(each) for each in found]}
        asked.json.write_text(json.dumps(figures, indent=2))
