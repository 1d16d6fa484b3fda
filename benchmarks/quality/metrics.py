"""What a model found, how well it survives, and how a comparison is printed."""

import argparse
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from rich.table import Table

from benchmarks.quality.corpus import Corpus
from benchmarks.quality.measures import survival
from benchmarks.quality.models import Model, Theme, Topic

N_PARTS, N_DELETIONS = 10, 5


@dataclass(frozen=True)
class Found:
    """What a model found in a quarter, and how long it took."""

    topics: list[Topic]
    themes: list[Theme]
    topics_s: float
    themes_s: float

    def sentences_of(self, theme: Theme) -> frozenset[str]:
        """The ids of the sentences in a theme."""
        return frozenset().union(*(self.topics[place].sentence_ids for place in theme.topics))


def find(model: Model, corpus: Corpus, seed: int) -> Found:
    """Topics of each firm, then the themes."""
    start = time.perf_counter()
    topics = [topic for firm in corpus.firms for topic in model.topics(firm, seed)]
    middle = time.perf_counter()
    themes = model.themes(topics, seed)
    return Found(topics, themes, middle - start, time.perf_counter() - middle)


def deletions(model: Model, corpus: Corpus, topics: Sequence[Topic], themes: Sequence[Theme]) -> list[float]:
    """How well themes survive that every tenth firm goes, five times."""
    companies = [firm.turns.company_id for firm in corpus.firms]
    survived = []
    for part in range(N_DELETIONS):
        gone = set(companies[part::N_PARTS])
        left = [place for place, topic in enumerate(topics) if topic.company_id not in gone]
        again = model.themes([topics[place] for place in left], 0)
        survived.append(
            survival(
                [theme.topics & set(left) for theme in themes],
                [frozenset(left[place] for place in theme.topics) for theme in again],
            )
        )
    return survived


def mean(values: Iterable[float]) -> str:
    """The mean of those that are numbers, to read."""
    numbers = [value for value in values if not np.isnan(value)]
    return f"{np.mean(numbers):.3f}" if numbers else "-"


def table_of(title: str, columns: Mapping[str, Mapping[str, str]]) -> Table:
    """Columns of equal rows side by side."""
    table = Table("", title=title, title_justify="left")
    for name in columns:
        table.add_column(name, justify="right")
    for row in next(iter(columns.values())):
        table.add_row(row, *(column[row] for column in columns.values()))
    return table


def at_least_two(text: str) -> int:
    """A number of seeds, for argparse."""
    seeds = int(text)
    if seeds < 2:
        raise argparse.ArgumentTypeError(f"{text}: what survives another seed needs two")
    return seeds
