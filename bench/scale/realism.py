"""How like real vectors and texts the made-up ones are: python -m bench.scale.realism [CSV QUARTER]

As many made-up firms as the real quarter has, side by side. What decides how hard a search is, is how near the nearest
sentences are, and the local intrinsic dimension (Levina and Bickel 2004, over 20 neighbours): the higher, the harder.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console

from bench.quality.corpus import read_corpus
from bench.quality.metrics import find, table_of
from bench.quality.models import ours
from bench.scale.synthetic_calls import Market, Shape
from bench.statistics import percentiles
from ftm_assets.analysis.vectors import unit_rows
from ftm_assets.encoder import open_encoder
from ftm_assets.settings import read_settings

SAMPLE = Path("sample/earnings_calls.csv")
N_ASKED, N_PAIRS, N_NEAR = 2000, 20_000, 20
MANY_THEMES = 40


def measures(texts: Sequence[str], vectors: np.ndarray, topics: Sequence[np.ndarray], n_firms: int) -> dict[str, str]:
    """The rows of one column. topics: the rows of each topic's sentences"""
    draw = np.random.default_rng(0)
    pairs = draw.integers(len(vectors), size=(2, N_PAIRS))
    random = (vectors[pairs[0]] * vectors[pairs[1]]).sum(axis=1)
    asked = draw.choice(len(vectors), min(N_ASKED, len(vectors)), replace=False)
    cosines = vectors[asked] @ vectors.T
    cosines[np.arange(len(asked)), asked] = -1
    near = -np.sort(-cosines, axis=1)[:, : max(100, N_NEAR)]
    middles = unit_rows(np.array([vectors[rows].mean(axis=0) for rows in topics]))
    to_middle = np.concatenate([vectors[rows] @ middle for rows, middle in zip(topics, middles, strict=True)])
    between = middles @ middles.T
    return {
        "sentences a firm": f"{len(texts) / n_firms:.0f}",
        "topics a firm": f"{len(topics) / n_firms:.1f}",
        "sentences in topics": f"{sum(map(len, topics)) / len(texts):.2f}",
        "characters": shown([float(len(text)) for text in texts], 0),
        "cosine of two sentences": shown(random.tolist()),
        "  of a sentence to its topic": shown(to_middle.tolist()),
        "  of two topics": shown(between[np.triu_indices(len(middles), 1)].tolist()),
        "  to the nearest sentence": shown(near[:, 0].tolist()),
        "  to the 10th nearest": shown(near[:, 9].tolist()),
        "  to the 100th nearest": shown(near[:, 99].tolist()),
        "the same as another": f"{np.mean(near[:, 0] > 0.999):.2f}",
        "local dimension": f"{local_dimension(near[:, :N_NEAR]):.1f}",
    }


def local_dimension(near: np.ndarray) -> float:
    """Median over the rows. near: cosines to the nearest k, falling (n, k)"""
    distances = np.sqrt(np.maximum(2 - 2 * near.astype(np.float64), 0))
    distances = distances[distances[:, 0] > 0.01]  # What is said word by word elsewhere has no dimension.
    return float(np.median(-1 / np.mean(np.log(distances[:, :-1] / distances[:, -1:]), axis=1)))


def shown(values: Sequence[float], digits: int = 2) -> str:
    """10th, 50th and 90th percentile."""
    return " / ".join(f"{value:.{digits}f}" for value in percentiles(values, 10, 50, 90))


def real(file: Path, quarter: str) -> tuple[int, dict[str, str]]:
    """Number of firms, and the column of real calls."""
    settings = read_settings()
    corpus = read_corpus(file, quarter, open_encoder(settings.encoder, settings.device, settings.precision))
    rows = [row for firm in corpus.firms for row in firm.sentences.rows]
    place = {row.sentence_id: number for number, row in enumerate(rows)}
    topics = find(ours("communities"), corpus, 0).topics
    vectors = np.concatenate([firm.sentences.embeddings for firm in corpus.firms])
    places = [np.array([place[sentence_id] for sentence_id in topic.sentence_ids]) for topic in topics]
    return len(corpus.firms), measures([row.text for row in rows], vectors, places, len(corpus.firms))


def made_up(quarter: str, n_firms: int) -> dict[str, str]:
    """The column of made-up firms."""
    firms = list(Market(Shape(firms=n_firms, themes=MANY_THEMES), quarter).firms())
    topic_of, before = [], 0
    for firm in firms:
        topic_of.append(np.where(firm.topic_of >= 0, firm.topic_of + before, -1))
        before += len(firm.theme_of)
    labels = np.concatenate(topic_of)
    places = [np.flatnonzero(labels == number) for number in range(before)]
    texts = [text for firm in firms for text in firm.texts]
    return measures(texts, np.concatenate([firm.vectors for firm in firms]), places, n_firms)


def main() -> None:
    """Print the two columns."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("file", nargs="?", type=Path, default=SAMPLE, help="CSV file of calls (default: the sample)")
    parser.add_argument("quarter", nargs="?", default="2024Q1")
    chosen = parser.parse_args()
    n_firms, column = real(chosen.file, chosen.quarter)
    columns: Mapping[str, Mapping[str, str]] = {"real": column, "made up": made_up(chosen.quarter, n_firms)}
    Console(width=120).print(table_of(f"{chosen.quarter}, {n_firms} firms: 10th / 50th / 90th percentile", columns))


if __name__ == "__main__":
    main()
