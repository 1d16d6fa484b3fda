"""Terms: the words of a sentence, and pairs of them, that may name a topic. Embeddings see the whole sentence."""

import re
from collections.abc import Collection, Iterable, Mapping, Set
from functools import cache, lru_cache
from importlib.resources import files
from itertools import pairwise

from ftm_assets.analysis.boilerplate.rules import without_marks

# Shorter ones ("Al", "Ed", "Bo") are too often words of their own.
MIN_NAME_CHARS = 3
COMMON_WORDS_FILE = "baseline_words.txt"


def _word_list(file: str) -> frozenset[str]:
    """The words of a data file of this folder; lines that begin with # are comments."""
    lines = files("ftm_assets.analysis").joinpath(file).read_text("utf-8").splitlines()
    return frozenset(word for line in lines if not line.startswith("#") for word in line.split())


# Decision 28: lists of our own, because usual ones hold words that firms talk about.
STOP_WORDS = _word_list("stop_words.txt") | _word_list("filler_words.txt")
_ORDINARY_WORDS = STOP_WORDS | _word_list("business_words.txt")

_TOKEN = re.compile(r"(?:[^\W\d_]+-)*(?:[^\W\d_]\.){2,}|[^\W_]+(?:(?:['\u2019&-]|(?<=\d)[.,](?=\d))[^\W_]+)*")
_NUMBER = re.compile(r"\d+(?:st|nd|rd|th|s|x|k|m|mm|b|bn|bps|am|pm|[qh]\d*)?|(?:[qh]|fy|[qh]\dfy)\d+")
_NAME = re.compile(r"[^\W\d_]+")


def terms(text: str, names: Collection[str] = ()) -> list[str]:
    """Words of the text that may name a topic, and pairs of them that stand side by side in it.

    Left out are stop words, fillers, numbers, single letters, transcriber marks, the words of `common_words`, and
    `names`, lower-case tokens as from `name_tokens`, matched whole. A word that is left out still separates its
    neighbours: they make no pair.
    """
    common = common_words()
    return [term for term in all_terms(text, names) if term not in common]


def all_terms(text: str, names: Collection[str] = ()) -> list[str]:
    """As `terms`, but with the words of `common_words`."""
    words = _words(text, names)
    pairs = (f"{one} {other}" for one, other in pairwise(words) if one and other and one != other)
    return [*filter(None, words), *pairs]


@cache
def common_words() -> frozenset[str]:
    """Words that 70 % of the firms of the baseline used, and pairs of words that half of them used."""
    return frozenset(term for term, share in baseline_shares().items() if share >= (0.5 if " " in term else 0.7))


@cache
def baseline_shares() -> Mapping[str, float]:
    """Term -> share of the firms of the baseline that used it; terms that less than a tenth used are missing.

    See `boilerplate.baseline` for the baseline.
    """
    lines = files("ftm_assets.analysis.boilerplate").joinpath(COMMON_WORDS_FILE).read_text("utf-8").splitlines()
    return {term: float(share) for term, _, share in (line.partition("\t") for line in lines)}


def _words(text: str, names: Collection[str]) -> list[str]:
    """Each token of the text as the word it stands for, '' where none may name a topic."""
    known = names if isinstance(names, Set) else frozenset(names)
    found = map(_word, _TOKEN.findall(without_marks(text).lower()))
    return ["" if parts and not known.isdisjoint(parts) else word for word, parts in found]


# Decision 86.
@lru_cache(maxsize=2**17)  # Calls say the same words again and again.
def _word(token: str) -> tuple[str, tuple[str, ...]]:
    """The word that a token stands for, '' if it may never name a topic, and its parts in the form of `name_tokens`."""
    word = _without_numbers(_without_suffix(token))
    if len(word) < 2 or word in STOP_WORDS:
        return "", ()
    return word, tuple(part.casefold() for part in word.split("-") if len(part) >= MIN_NAME_CHARS)


def _without_suffix(token: str) -> str:
    """The token before its apostrophe: 'firm' of "firm's"; a negation ("don't") leaves nothing."""
    token = token.replace("\u2019", "'")
    return "" if token.endswith("n't") else token.partition("'")[0]


def _without_numbers(token: str) -> str:
    """The token without numeric parts: 'month' of '12-month', '' of '10-k' and '3.5', but '5g' and 'b2b' whole."""
    if not any(character.isdigit() for character in token):
        return token
    parts = re.split(r"[.,-]", token)
    return "-".join(part for part in parts if len(part) > 1 and not _NUMBER.fullmatch(part))


def name_tokens(persons: Iterable[str], company_name: str) -> frozenset[str]:
    """Lower-case parts, three letters or longer, of the people's names and the firm's name.

    Parts that are ordinary words of business ('bank', 'price', 'energy') are left out: a bank may speak of banks.
    """
    parts = (part for name in (*persons, company_name) for part in _NAME.findall(name.casefold()))
    return frozenset(part for part in parts if len(part) >= MIN_NAME_CHARS) - _ORDINARY_WORDS
