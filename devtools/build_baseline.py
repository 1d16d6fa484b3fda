"""Builds the baseline of frequent phrases that the package ships: python -m devtools.build_baseline CSV [CSV ...]

Counts in how many firms each word and each run of four words occurs in calls up to a day, and writes those of many
firms. Firms with few sentences until then would make everything look rare, and are left out.
"""

import argparse
from collections import Counter, defaultdict
from datetime import date
from pathlib import Path

import numpy as np

import ftm_assets.analysis
from devtools.calls import firm_turns, quarters_until
from ftm_assets.analysis.boilerplate.baseline import PHRASES_FILE, find_phrases
from ftm_assets.analysis.sentences import SentenceSettings, split_turns
from ftm_assets.analysis.words import COMMON_WORDS_FILE, all_terms
from ftm_assets.sources.csv.source import CsvSource

LAST_DAY = date(2020, 2, 29)  # Before the pandemic.
MIN_SENTENCES = 250
RUN_SHARE, WORD_SHARE = 0.05, 0.1

UNFLAGGED = SentenceSettings(max_commonplace=None)  # The flags rest on what is made here.

Firm = tuple[frozenset[str], list[str]]


def firms_until(files: list[Path], last_day: date = LAST_DAY) -> list[Firm]:
    """Names and sentences of each firm with enough sentences up to that day."""
    names: defaultdict[int, frozenset[str]] = defaultdict(frozenset)
    sentences: defaultdict[int, list[str]] = defaultdict(list)
    for source in map(CsvSource, files):
        for firm in firm_turns(source, quarters_until(source, last_day), last_day):
            names[firm.company_id] |= firm.names
            sentences[firm.company_id] += [row.text for row in split_turns(firm.company_id, firm.turns, UNFLAGGED)]
    return [(names[firm], texts) for firm, texts in sorted(sentences.items()) if len(texts) >= MIN_SENTENCES]


def common_words(firms: list[Firm]) -> list[tuple[str, float]]:
    """Words and pairs of words that enough of the firms use, in order of the alphabet, with the share of the firms."""
    counts = Counter(
        term for names, sentences in firms for term in {term for text in sentences for term in all_terms(text, names)}
    )
    return sorted((term, n / len(firms)) for term, n in counts.items() if n >= WORD_SHARE * len(firms))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Build the baseline of frequent phrases from calls of the past.")
    parser.add_argument("files", nargs="+", type=Path, help="CSV files of calls, columns as in README.md")
    found = firms_until(parser.parse_args().files)
    folder = Path(ftm_assets.analysis.__file__).parent
    runs, words = find_phrases(found, RUN_SHARE), common_words(found)
    np.save(folder / PHRASES_FILE, runs)
    (folder / COMMON_WORDS_FILE).write_text(
        "".join(f"{term}\t{share:.2f}\n" for term, share in words), encoding="utf-8"
    )
    print(f"{len(found)} firms: {len(runs):,} runs of words, {len(words)} words and pairs")
