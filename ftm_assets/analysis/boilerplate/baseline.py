"""Baseline phrases: runs of words that firms of every trade use in their calls, in any quarter.

The baseline was counted once, in calls of a dated past (`python -m devtools.build_baseline`). It never changes with the
calls at hand: a firm's sentences do not depend on which other firms report, and a subject that every firm takes up
later, such as a pandemic, is not in it. Words are shipped as text; phrases, which are parts of the calls' text, as
hashes.
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

PHRASES_FILE = "baseline_phrases.npy"
# Decision 55.
_PHRASE_WORDS = 4  # Phrases of three words would match subjects of many firms, too.
_TOKEN = re.compile(r"[^\W_]+(?:'[^\W_]+)*")


def is_baseline_phrase(text: str, names: Collection[str], max_share: float) -> bool:
    """Whether the text has no word of its own, or this share of its words lies in baseline phrases.

    A text with an amount never counts as one.

    names:     lower-case parts of the names of firm and speakers
    max_share: share of its words in baseline phrases from which on the text counts as one
    """
    if names_amount(text):
        return False
    has_word = any(" " not in term for term in terms(text, names))
    return not has_word or share_in_phrases(text, names, shipped_phrases()) >= max_share


def share_in_phrases(text: str, names: Collection[str], baseline: np.ndarray) -> float:
    """Share of the sentence's words that lie in a baseline phrase; 0 without words.

    names:    lower-case parts of the names of firm and speakers; any name matches any other
    baseline: (m,) uint64, ascending, as from `find_phrases`
    """
    words = _words(text, names)
    phrases = _phrases(words)
    places = np.searchsorted(baseline, phrases)
    is_known = places < len(baseline)
    is_known[is_known] = baseline[places[is_known]] == phrases[is_known]
    covered = np.zeros(len(words), bool)
    for start in np.flatnonzero(is_known):
        covered[start : start + _PHRASE_WORDS] = True
    return float(covered[1:-1].mean()) if len(words) > 2 else 0.0


def find_phrases(firms: Iterable[tuple[Collection[str], Iterable[str]]], min_share: float) -> np.ndarray:
    """Hashes of the phrases of four words that at least this share of the firms used, ascending: (m,) uint64.

    firms: for each firm, its names as in `share_in_phrases`, and its sentences
    """
    n_firms = 0
    counts: Counter[int] = Counter()  # Phrase -> firms that used it.
    for names, sentences in firms:
        n_firms += 1
        counts.update({phrase for text in sentences for phrase in _phrases(_words(text, names)).tolist()})
    return np.array(sorted(phrase for phrase, n in counts.items() if n >= max(2, min_share * n_firms)), np.uint64)


@cache
def shipped_phrases() -> np.ndarray:
    """The baseline phrases that come with the package: (m,) uint64, ascending."""
    with files("ftm_assets.analysis.boilerplate").joinpath(PHRASES_FILE).open("rb") as stream:
        baseline: np.ndarray = np.load(stream)
    baseline.flags.writeable = False
    return baseline


def _words(text: str, names: Collection[str]) -> list[str]:
    """The words, with '' before and after them. Every number becomes `#`, every row of names one `@`."""
    words = [""]
    for token in _TOKEN.findall(without_marks(text).lower().replace("\u2019", "'")):
        if any(character.isdigit() for character in token):
            words.append("#")
        elif len(token) >= MIN_NAME_CHARS and token.casefold() in names:
            if words[-1] != "@":
                words.append("@")
        else:
            words.append(token)
    return [*words, ""]


def _phrases(words: Sequence[str]) -> np.ndarray:
    """Hash of each phrase of four words, in order: (len(words) - 3 or 0,) uint64."""
    starts = range(len(words) - _PHRASE_WORDS + 1)
    return np.array([_hash(words[start : start + _PHRASE_WORDS]) for start in starts], np.uint64)


def _hash(phrase: Sequence[str]) -> int:
    return int.from_bytes(blake2b(" ".join(phrase).encode(), digest_size=8).digest(), "big")
