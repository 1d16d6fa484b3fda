"""One table for each quarter.

Without arguments, the shipped sample. Themes of stock BERTopic are all clusters that it finds, ours those it keeps.

- noise: sentences that were modelled and are in no topic; topics in no theme
- sentences, firms covered: of all sentences of the quarter, operators left out; of all firms
- covered by name: sentences in themes whose label holds a word that not every call says
- npmi, diversity: of the first ten words, in windows of 110 words of the calls
- survive: mean best Jaccard similarity; for seeds of the sentences in them, everything done anew; for deletions of the
  topics of the firms that are left when a tenth has gone
- labels: share of those that repeat a word, hold a pair that nobody said side by side, hold a name of a firm or
  speaker of theirs, or are all commonplace; least share of a theme's firms that say a word of its label
- planted: adjusted mutual information with the themes that were written into the sample
"""

import argparse
import csv
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from rich.console import Console
from sklearn.metrics import adjusted_mutual_info_score

from benchmarks.quality.corpus import Corpus, read_corpus
from benchmarks.quality.measures import Coherence, diversity, survival, words_of
from benchmarks.quality.metrics import Found, at_least_two, deletions, find, mean, table_of
from benchmarks.quality.models import Model, Theme, ours, stock
from ftm_assets.analysis.words import all_terms, common_words
from ftm_assets.encoder import open_encoder
from ftm_assets.settings import read_settings

SAMPLE = Path("sample/earnings_calls.csv")

Passages = dict[tuple[int, int], list[tuple[int, int, str]]]


def measure(model: Model, corpus: Corpus, n_seeds: int, passages: Passages) -> dict[str, str]:
    """The rows of one column of the table."""
    found = find(model, corpus, 0)
    others = [find(model, corpus, seed) for seed in range(1, n_seeds)]
    n_modelled = corpus.n_sentences if model.models_flagged else sum(len(f.sentences.modelled()) for f in corpus.firms)
    in_topics = frozenset().union(*(topic.sentence_ids for topic in found.topics))
    in_themes = frozenset().union(*(found.sentences_of(theme) for theme in found.themes))
    named = frozenset().union(*(found.sentences_of(theme) for theme in found.themes if tells(theme.label)))
    placed = frozenset().union(*(theme.topics for theme in found.themes))
    words = [
        words_of(keywords) for keywords in (*(t.keywords for t in found.topics), *(t.keywords for t in found.themes))
    ]
    coherence = Coherence(corpus.tokens, {word for of_each in words for word in of_each})
    checks = LabelChecks(corpus, found)
    firms_of = [{found.topics[place].company_id for place in theme.topics} for theme in found.themes]
    return {
        "topics": f"{len(found.topics)}",
        "  sentences modelled": f"{n_modelled / corpus.n_sentences:.3f}",
        "  noise": f"{1 - len(in_topics) / n_modelled:.3f}",
        "  npmi": mean(coherence.npmi(words_of(topic.keywords)) for topic in found.topics),
        "  diversity within a firm": mean(
            diversity([t.keywords for t in found.topics if t.company_id == firm.turns.company_id])
            for firm in corpus.firms
        ),
        "  survive seeds": mean(
            survival([t.sentence_ids for t in found.topics], [t.sentence_ids for t in other.topics]) for other in others
        ),
        **{f"  {name}": value for name, value in checks.of_topics().items()},
        "  s a firm": f"{found.topics_s / len(corpus.firms):.2f}",
        "themes": f"{len(found.themes)}",
        "  topics in no theme": f"{1 - len(placed) / max(1, len(found.topics)):.3f}",
        "  sentences covered": f"{len(in_themes) / corpus.n_sentences:.3f}",
        "  covered by name": f"{len(named) / corpus.n_sentences:.3f}",
        "  firms covered": f"{len(set().union(*firms_of)) / len(corpus.firms):.3f}",
        "  firms a theme, median": f"{np.median(list(map(len, firms_of))):.0f}",
        "  of one firm": f"{np.mean([len(firms) == 1 for firms in firms_of]):.3f}",
        "  npmi ": mean(coherence.npmi(words_of(theme.keywords)) for theme in found.themes),
        "  diversity": f"{diversity([theme.keywords for theme in found.themes]):.3f}",
        "  survive seeds ": mean(
            survival([found.sentences_of(t) for t in found.themes], [other.sentences_of(t) for t in other.themes])
            for other in others
        ),
        "  survive deletions": mean(deletions(model, corpus, found.topics, found.themes)),
        **{f"  {name} ": value for name, value in checks.of_themes().items()},
        "  s": f"{found.themes_s:.2f}",
        **({"planted": mean(agreement(corpus, each, passages) for each in (found, *others))} if passages else {}),
    }


class LabelChecks:
    """What is wrong with labels, looked up in the sentences that they stand for."""

    def __init__(self, corpus: Corpus, found: Found) -> None:
        self._found = found
        self._firms = {firm.turns.company_id: firm for firm in corpus.firms}
        self._words = {row.sentence_id: row.text.lower() for firm in corpus.firms for row in firm.sentences.rows}

    def of_topics(self) -> dict[str, str]:
        """Share of the topics' labels with each fault."""
        topics = self._found.topics
        return self._shares([(topic.label, topic.sentence_ids, {topic.company_id}) for topic in topics])

    def of_themes(self) -> dict[str, str]:
        """Share of the themes' labels with each fault, and the least share of a theme's firms that say its label."""
        found = self._found
        named = [
            (theme.label, found.sentences_of(theme), {found.topics[place].company_id for place in theme.topics})
            for theme in found.themes
        ]
        return {
            **self._shares(named),
            "firms that say a label, least": f"{min(map(self._said_by, found.themes), default=np.nan):.3f}",
        }

    def _said_by(self, theme: Theme) -> float:
        by_firm: dict[int, list[str]] = defaultdict(list)
        for place in theme.topics:
            topic = self._found.topics[place]
            by_firm[topic.company_id] += [self._words[sentence_id] for sentence_id in topic.sentence_ids]
        terms = theme.label.split(", ")
        said = [any(not _spoken(text).isdisjoint(terms) for text in texts) for texts in by_firm.values()]
        return sum(said) / len(said)

    def _shares(self, named: Sequence[tuple[str, frozenset[str], set[int]]]) -> dict[str, str]:
        faults = {"repeats a word": 0, "never said": 0, "holds a name": 0, "all commonplace": 0, "no label": 0}
        for name, sentence_ids, companies in named:
            labels = name.split(", ")
            words = name.replace(",", "").split()
            spoken = {term for sentence_id in sentence_ids for term in _spoken(self._words[sentence_id])}
            names = set().union(*(self._firms[company].sentences.names for company in companies))
            faults["repeats a word"] += len(set(words)) < len(words)
            faults["never said"] += any(term not in spoken for term in labels)
            faults["holds a name"] += not names.isdisjoint(words)
            faults["all commonplace"] += not tells(name)
            faults["no label"] += name == "unnamed"
        return {f"label {fault}": f"{n / max(1, len(named)):.3f}" for fault, n in faults.items()}


def tells(label: str) -> bool:
    """Whether a label holds a word that not every call says."""
    return any(term not in common_words() and all_terms(term) for term in label.split(", "))


def _spoken(text: str) -> set[str]:
    """Words of a sentence and pairs side by side, punctuation aside, and as `all_terms` cuts them."""
    words = "".join(c if c.isalnum() or c in "&'-." else " " for c in text).replace(". ", " ").split()
    plain = "".join(c if c.isalnum() else " " for c in text).split()
    pairs = {f"{a} {b}" for cut in (words, plain) for a, b in pairwise(cut)}
    # A pair of scikit-learn's spans stop words and single letters.
    return {*words, *plain, *pairs, *all_terms(text), "unnamed"}


def agreement(corpus: Corpus, found: Found, passages: Passages) -> float:
    """Adjusted mutual information of planted and found themes over the sentences that were written about a theme."""
    theme_of = {sentence_id: n for n, theme in enumerate(found.themes, 1) for sentence_id in found.sentences_of(theme)}
    planted, there = [], []
    for firm in corpus.firms:
        for row in firm.sentences.rows:
            for start, end, theme in passages.get((row.transcript_id, row.component_order), ()):
                if start <= row.start_char and row.end_char <= end:
                    planted.append(theme)
                    there.append(theme_of.get(row.sentence_id, 0))
    return float(adjusted_mutual_info_score(planted, there))


def planted_passages(file: Path) -> Passages:
    """Transcript and component -> passages with their theme; empty for a file without a truth beside it."""
    passages: Passages = defaultdict(list)
    truth = file.with_name("planted_themes.csv")
    if truth.is_file():
        with truth.open(newline="", encoding="utf-8") as stream:
            for row in csv.DictReader(stream):
                place = int(row["transcriptid"]), int(row["componentorder"])
                passages[place].append((int(row["start_char"]), int(row["end_char"]), row["theme"]))
    return passages


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description="Quality of topics and themes, ours beside stock BERTopic.")
    parser.add_argument("file", nargs="?", type=Path, default=SAMPLE, help="CSV file of calls (default: the sample)")
    parser.add_argument("quarters", nargs="*", default=["2024Q1", "2024Q2"])
    parser.add_argument("--seeds", type=at_least_two, default=5)
    return parser


def main() -> None:
    """Print a table for each quarter."""
    asked = parser().parse_args()
    settings, console = read_settings(), Console(width=160)
    encoder = open_encoder(settings.encoder, settings.device, settings.precision)
    passages = planted_passages(asked.file)
    for quarter in asked.quarters:
        corpus = read_corpus(asked.file, quarter, encoder)
        models = [stock(encoder), ours("bertopic"), ours("communities")]
        columns = {model.name: measure(model, corpus, asked.seeds, passages) for model in models}
        console.print(table_of(f"{quarter}: {len(corpus.firms)} firms, {corpus.n_sentences:,} sentences", columns))
