"""What half precision does to sentence vectors: python -m bench.precision [CSV QUARTER] [--seeds N]

Vectors of real sentences as the encoder makes them (`vector`, four bytes a number) and as `halfvec` keeps them (two).

- ARI: adjusted Rand index of the topics of each firm, noise counting as one group; beside it, what another seed does to
  the same vectors. Mean over firms and seeds, lowest tenth of the firms.
- themes survive: mean best Jaccard similarity of the themes' sentences, everything done anew
- the same ten: share of the ten nearest sentences of the quarter that both find, one by one; of the sentences that one
  finds and the other does not, the largest difference of cosines
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from sklearn.metrics import adjusted_rand_score

from bench.quality.corpus import Corpus, FirmCorpus, read_corpus
from bench.quality.measures import survival
from bench.quality.metrics import Found, at_least_two, find
from bench.quality.models import ours
from bench.statistics import percentiles
from ftm_assets.encoder import open_encoder
from ftm_assets.settings import read_settings

SAMPLE = Path("sample/earnings_calls.csv")
N_QUERIES, N_NEAREST = 2000, 10


@dataclass(frozen=True)
class Agreement:
    """How alike two ways to make the topics and themes of a quarter are.

    ari:    of each firm, for each pair of runs
    themes: of each pair of runs
    """

    ari: list[float]
    themes: list[float]


@dataclass(frozen=True)
class Nearest:
    """How alike the ten nearest sentences are, and how far apart the cosines are where they differ."""

    same: float
    largest_gap: float
    largest_error: float


def as_encoded(corpus: Corpus) -> Corpus:
    """The same sentences with vectors as the encoder made them."""
    firms = (replace(firm, sentences=replace(firm.sentences, embeddings=firm.encoded)) for firm in corpus.firms)
    return Corpus(corpus.quarter, tuple(firms))


def agree(corpus: Corpus, pairs: Sequence[tuple[Found, Found]]) -> Agreement:
    """Compare runs pair by pair."""
    ari = [
        float(adjusted_rand_score(labels_of(a, firm), labels_of(b, firm))) for a, b in pairs for firm in corpus.firms
    ]
    themes = [
        survival([a.sentences_of(theme) for theme in a.themes], [b.sentences_of(theme) for theme in b.themes])
        for a, b in pairs
    ]
    return Agreement(ari, themes)


def labels_of(found: Found, firm: FirmCorpus) -> list[int]:
    """The topic of each modelled sentence of a firm, -1 for none."""
    topics = [topic for topic in found.topics if topic.company_id == firm.turns.company_id]
    topic_of = {sentence_id: number for number, topic in enumerate(topics) for sentence_id in topic.sentence_ids}
    return [topic_of.get(row.sentence_id, -1) for row in firm.sentences.modelled().rows]


def nearest(full: Corpus, half: Corpus, seed: int = 0) -> Nearest:
    """Search for some of the modelled sentences among all others, exactly, in both precisions."""
    wide, narrow = (
        np.concatenate([firm.sentences.modelled().embeddings for firm in each.firms]) for each in (full, half)
    )
    asked = np.random.default_rng(seed).choice(len(wide), min(N_QUERIES, len(wide)), replace=False)
    exact, near = wide[asked] @ wide.T, wide[asked] @ narrow.T
    for cosines in (exact, near):
        cosines[np.arange(len(asked)), asked] = -1
    ten, other_ten = (np.argsort(-cosines, axis=1, kind="stable")[:, :N_NEAREST] for cosines in (exact, near))
    same, gaps = [], [0.0]
    for row, (a, b) in enumerate(zip(ten, other_ten, strict=True)):
        same.append(len(set(a) & set(b)) / N_NEAREST)
        gaps += [float(exact[row, a[-1]] - exact[row, place]) for place in set(b) - set(a)]
    return Nearest(float(np.mean(same)), max(gaps), float(np.abs(exact - near)[exact > -1].max()))


def main() -> None:
    """Print the comparison."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("file", nargs="?", type=Path, default=SAMPLE, help="CSV file of calls (default: the sample)")
    parser.add_argument("quarter", nargs="?", default="2024Q1")
    parser.add_argument("--seeds", type=at_least_two, default=5)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    chosen = parser.parse_args()
    settings = read_settings()
    half = read_corpus(chosen.file, chosen.quarter, open_encoder(settings.encoder, settings.device, "fp32"))
    full, model = as_encoded(half), ours("communities")
    in_full = [find(model, full, seed) for seed in range(chosen.seeds)]
    in_half = [find(model, half, seed) for seed in range(chosen.seeds)]
    rows = {
        "half precision, same seed": agree(half, list(zip(in_full, in_half, strict=True))),
        "another seed, as encoded": agree(half, list(combinations(in_full, 2))),
        "another seed, half precision": agree(half, list(combinations(in_half, 2))),
    }
    near = nearest(full, half)
    table = Table(title=f"{chosen.quarter}: {len(half.firms)} firms, {half.n_sentences:,} sentences")
    for heading in ("", "ARI, mean", "lowest tenth", "themes survive"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, agreement in rows.items():
        mean, tenth = np.mean(agreement.ari), percentiles(agreement.ari, 10)[0]
        table.add_row(name, f"{mean:.3f}", f"{tenth:.3f}", f"{np.mean(agreement.themes):.3f}")
    console = Console(width=120)
    console.print(table)
    console.print(
        f"Of the ten nearest sentences {near.same:.2%} are the same; the others differ by {near.largest_gap:.1e} of "
        f"cosine at most. Largest error of a cosine: {near.largest_error:.1e}."
    )
    if chosen.json:
        chosen.json.write_text(
            json.dumps({**{k: asdict(v) for k, v in rows.items()}, "nearest": asdict(near)}, indent=2)
        )


if __name__ == "__main__":
    main()
