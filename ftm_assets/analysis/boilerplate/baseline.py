"""Commonplaces: what firms of every trade say in their calls, whatever the quarter.

The evidence is a baseline, counted once in calls of a dated past (`python -m devtools.build_baseline`). It never
changes with the calls at hand: a firm's sentences do not depend on who else reports, and what every firm begins to
speak of afterwards, a pandemic for instance, is not in it. Words are shipped as they are; runs of words, which are
pieces of the calls' text, as hashes.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from functools import cache
from hashlib import blake2b
from importlib.resources import files

import numpy as np

from ftm_assets.analysis.boilerplate.rules import names_amount, without_marks
from ftm_assets.analysis.words import MIN_NAME_CHARS, terms

RUNS_FILE = "baseline_phrases.npy"
_RUN = 4  # Runs of three catch subjects of many firms, too.
_TOKEN = re.compile(r"[^\W_]+(?:'[^\W_]+)*")


def is_baseline_phrase(text: str, names: Collection[str], max_share: float) -> bool:
    """Whether every firm could have said it, an amount aside: it has no word of its own, or hardly more than phrases.

    names:     lower-case parts of the names of firm and speakers
    max_share: of its words in phrases of the baseline, from which on it is nothing more
    """
    if names_amount(text):
        return False
    has_word = any(" " not in term for term in terms(text, names))
    return not has_word or common_share(text, names, shipped_runs()) >= max_share


def common_share(text: str, names: Collection[str], baseline: np.ndarray) -> float:
    """Share of the sentence's words that lie in a run of four which many firms of the baseline said; 0 without words.

    names:    lower-case parts of the names of firm and speakers; one name is as good as another
    baseline: (m,) uint64, ascending, as from `find_runs`
    """
    words = _words(text, names)
    runs = _runs(words)
    places = np.searchsorted(baseline, runs)
    said = places < len(baseline)
    said[said] = baseline[places[said]] == runs[said]
    covered = np.zeros(len(words), bool)
    for start in np.flatnonzero(said):
        covered[start : start + _RUN] = True
    return float(covered[1:-1].mean()) if len(words) > 2 else 0.0


def find_runs(firms: Iterable[tuple[Collection[str], Iterable[str]]], min_share: float) -> np.ndarray:
    """Hashes of the runs of four words that at least this share of the firms said, ascending: (m,) uint64.

    firms: for each firm, its names as in `common_share`, and its sentences
    """
    n_firms = 0
    said: Counter[int] = Counter()
    for names, sentences in firms:
        n_firms += 1
        said.update({run for text in sentences for run in _runs(_words(text, names)).tolist()})
    return np.array(sorted(run for run, n in said.items() if n >= max(2, min_share * n_firms)), np.uint64)


@cache
def shipped_runs() -> np.ndarray:
    """The baseline that comes with the package: (m,) uint64, ascending."""
    with files("ftm_assets.analysis.boilerplate").joinpath(RUNS_FILE).open("rb") as stream:
        baseline: np.ndarray = np.load(stream)
    baseline.flags.writeable = False
    return baseline


def _words(text: str, names: Collection[str]) -> list[str]:
    """The words between two marks for start and end; all numbers are one word, all names in a row another."""
    words = [""]
    for token in _TOKEN.findall(without_marks(text).lower().replace("\u2019", "'")):
        if any(character.isdigit() for character in token):
            words.append("#")
        elif len(token) >= MIN_NAME_CHARS and token.casefold() in names:
            words += ["@"] if words[-1] != "@" else []
        else:
            words.append(token)
    return [*words, ""]


def _runs(words: Sequence[str]) -> np.ndarray:
    """Hash of each run of four words, in order: (len(words) - 3 or 0,) uint64."""
    return np.array([_hash(words[start : start + _RUN]) for start in range(len(words) - _RUN + 1)], np.uint64)


def _hash(run: Sequence[str]) -> int:
    return int.from_bytes(blake2b(" ".join(run).encode(), digest_size=8).digest(), "big")
