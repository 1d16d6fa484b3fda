"""How well boilerplate is told from content: python -m bench.quality.boilerplate CSV

Compares the flags with labels that were given by reading 420 sentences, drawn at random from all calls of the developer
set from 2020Q4 on; only their ids and labels are here. Boilerplate is courtesy, procedure and notice; filler are
sentences that say nothing when they stand alone ("That's the main driver."); all else is content.
"""

import argparse
import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.calls import firm_turns, quarters_until
from ftm_assets.analysis.boilerplate.baseline import common_share, is_baseline_phrase, shipped_runs
from ftm_assets.analysis.boilerplate.rules import boilerplate_reason, names_amount
from ftm_assets.analysis.sentences import SentenceSettings, split_turns
from ftm_assets.analysis.words import terms
from ftm_assets.sources.csv.source import CsvSource

LABELS = Path(__file__).with_name("labelled_sentences.csv")
SETTINGS = SentenceSettings()


@dataclass(frozen=True)
class Labelled:
    """A sentence, the names in its calls of that quarter, and its label."""

    text: str
    names: frozenset[str]
    label: str


def read_labelled(file: Path) -> list[Labelled]:
    """The labelled sentences, their text from the file of calls. raises: KeyError if one is not in it"""
    with LABELS.open(newline="") as stream:
        labels = {row["sentence_id"]: row["label"] for row in csv.DictReader(stream)}
    source, found = CsvSource(file), {}
    for quarter in quarters_until(source):
        for firm in firm_turns(source, [quarter]):
            for sentence in split_turns(firm.company_id, firm.turns):
                if label := labels.get(sentence.sentence_id):
                    found[sentence.sentence_id] = Labelled(sentence.text, firm.names, label)
    return [found[sentence_id] for sentence_id in labels]


def by_rules(sentence: Labelled) -> bool:
    """Rules of courtesy, procedure and notice, and sentences of less than four words."""
    return boilerplate_reason(sentence.text, SETTINGS.min_words) is not None


def by_words(sentence: Labelled) -> bool:
    """No word beyond those of nearly every firm in the baseline."""
    return not names_amount(sentence.text) and all(" " in term for term in terms(sentence.text, sentence.names))


def by_phrases(sentence: Labelled) -> bool:
    """Made of phrases of the baseline."""
    share = common_share(sentence.text, sentence.names, shipped_runs())
    return not names_amount(sentence.text) and share >= (SETTINGS.max_commonplace or 1)


def by_all(sentence: Labelled) -> bool:
    """As the package flags them."""
    return by_rules(sentence) or is_baseline_phrase(sentence.text, sentence.names, SETTINGS.max_commonplace or 1)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Precision and recall of the boilerplate flags.")
    parser.add_argument("file", type=Path, help="earnings_calls_dev.csv.gz, from which the sentences were drawn")
    sentences = read_labelled(parser.parse_args().file)
    table = Table("", "flagged", "precision", "recall", "content flagged", "filler flagged", "precision, filler right")
    rules: dict[str, Callable[[Labelled], bool]] = {
        "rules": by_rules,
        "words of the baseline": by_words,
        "phrases of the baseline": by_phrases,
        "all, as in the package": by_all,
    }
    n = {label: sum(each.label == label for each in sentences) for label in ("boilerplate", "filler", "content")}
    for name, rule in rules.items():
        flagged = [each.label for each in sentences if rule(each)]
        right, filler = flagged.count("boilerplate"), flagged.count("filler")
        table.add_row(
            name,
            f"{len(flagged)}",
            f"{right / len(flagged):.3f}",
            f"{right / n['boilerplate']:.3f}",
            f"{flagged.count('content')} of {n['content']}",
            f"{filler} of {n['filler']}",
            f"{(right + filler) / len(flagged):.3f}",
        )
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
