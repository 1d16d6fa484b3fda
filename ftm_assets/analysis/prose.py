"""What a text of a language model must be like before anybody reads it: plain, short, without names, and on the point.

The sentences of a call are untrusted. Whatever one of them talks a model into, a reply that repeats the prompt, names
somebody, brings markup or an address, or says nothing that its evidence says is no summary.
"""

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import cache

from ftm_assets.analysis.sentences import Sentences, split_text
from ftm_assets.analysis.words import all_terms

N_FRAGMENT_WORDS = 8  # In a row; the examples in the prompts are shorter, and may be used.

_WORD = re.compile(r"[^\W\d_]+")
_TOKEN = re.compile(r"[^\W_]+")
_ADDRESS = re.compile(r"https?:|\bwww\.|\b\w+@\w+\.\w", re.IGNORECASE)
_MARKUP = re.compile(
    r"```|\*\*|</?\w+[^>]*>|[{}\[\]]|^\s*(?:#|[-*] )"
    # Control characters, halves of characters, and what is not seen or turns the line around.
    r"|[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff\u200b-\u200f\u202a-\u202e]"
)
# First names and surnames that are dates in any text.
_DATES = frozenset(
    "january february march april may june july august september october november december "
    "monday tuesday wednesday thursday friday saturday sunday".split()
)
_LEGAL_FORM = re.compile(
    r"(?:[,\s]+|/)(?:inc|incorporated|corp|corporation|co|company|ltd|limited|plc|llc|lp|sa|nv|ag|se|ab|asa|oyj|spa|"
    # Some sources add the state, as in INC /DE/.
    r"group|holding|holdings|intl|international|the|de|md|ny|pa)\.?$",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Bounds:
    """How long a text may be; `fewest_words` counts different ones."""

    fewest_words: int
    most_chars: int
    most_sentences: int


TITLE = Bounds(1, 90, 1)
SUMMARY = Bounds(4, 450, 2)
DESCRIPTION = Bounds(6, 800, 3)


@dataclass(frozen=True)
class Names:
    """Names that no text may hold.

    tokens:   lower-case parts of names
    phrases:  whole names of firms, as they are written
    spoken:   words that were said in lower case: what begins a sentence with one of them is no name
    """

    tokens: frozenset[str] = frozenset()
    phrases: tuple[str, ...] = ()
    spoken: frozenset[str] = frozenset()

    @classmethod
    def of_firm(cls, sentences: Sentences) -> "Names":
        """The names of a firm and of everyone who speaks in its calls."""
        spoken = lower_case_words(row.text for row in sentences.rows)
        return cls(sentences.names - _DATES, phrases_of(sentences.company_name), spoken)

    def found_in(self, text: str, *, is_title: bool = False) -> str | None:
        """The first name in the text, None if it holds none.

        A word that was also said in lower case ("costs rose", of a Ms. Rose) counts as a name only where nothing else
        explains its capital: inside a sentence, but not in a title, which may have all its words in capitals.
        """
        for phrase in self.phrases:
            if re.search(rf"(?<!\w){re.escape(phrase)}(?!\w)", text):
                return phrase
        starts = {start for start, _ in split_text(text)}
        for match in _WORD.finditer(text):
            word = match.group()
            # Shorter ones are in no set of names.
            if not word[0].isupper() or word.casefold() not in self.tokens:
                continue
            inside = not is_title and match.start() not in starts
            if inside or word.casefold() not in self.spoken:
                return word
        return None


def phrases_of(company_name: str) -> tuple[str, ...]:
    """The name of a firm without its legal form, if that is more than one plain word, which `Names.tokens` hold.

    One that is written in capitals alone, as some sources do, is there as people write it, too.
    """
    short, before = company_name.strip(), ""
    while short != before:
        before, short = short, _LEGAL_FORM.sub("", short).strip(" ,.&/")
    short = short.removeprefix("The ").removeprefix("THE ")
    if len(short) < 2 or _WORD.fullmatch(short):
        return ()
    return (short, short.title()) if short.isupper() and " " in short else (short,)


def lower_case_words(texts: Iterable[str]) -> frozenset[str]:
    """The words of the texts that are written in lower case somewhere."""
    return frozenset(word for text in texts for word in _WORD.findall(text) if word[0].islower())


def plain(text: str) -> str:
    """The text on one line."""
    return " ".join(text.split())


def fault(
    text: str, bounds: Bounds, names: Names, instructions: str, evidence: Collection[str] = (), what: str = "summary"
) -> str | None:
    """What is wrong with a text on one line, in words for whoever wrote it; None if nothing is.

    instructions: what it must not repeat
    evidence:     terms of which it has to say one; with none, it may say anything
    """
    return next(_faults(text, bounds, names, instructions, evidence, what), None)


def _faults(
    text: str, bounds: Bounds, names: Names, instructions: str, evidence: Collection[str], what: str
) -> Iterator[str]:
    if not text:
        yield f"the {what} is empty"
    if len(set(_TOKEN.findall(text.casefold()))) < bounds.fewest_words:
        yield f"the {what} is too short"
    if len(text) > bounds.most_chars:
        yield f"the {what} has {len(text)} characters, at most {bounds.most_chars} are allowed"
    if (n := len(split_text(text))) > bounds.most_sentences:
        yield f"the {what} has {n} sentences, at most {bounds.most_sentences} are allowed"
    if _ADDRESS.search(text):
        yield f"the {what} holds an address"
    if _MARKUP.search(text):
        yield f"the {what} holds markup"
    if name := names.found_in(text, is_title=bounds is TITLE):
        yield f"the {what} names {name!r}; name no company, product, brand or person"
    if not fragments(instructions).isdisjoint(_fragments(text)):
        yield f"the {what} repeats instructions instead of what was said"
    if evidence and not set(evidence) & set(all_terms(text)):
        yield f"the {what} says nothing that the sentences say"


@cache
def fragments(text: str) -> frozenset[tuple[str, ...]]:
    """Every N_FRAGMENT_WORDS words in a row."""
    return frozenset(_fragments(text))


def _fragments(text: str) -> set[tuple[str, ...]]:
    words = _TOKEN.findall(text.casefold())
    return {tuple(words[start : start + N_FRAGMENT_WORDS]) for start in range(len(words) - N_FRAGMENT_WORDS + 1)}
