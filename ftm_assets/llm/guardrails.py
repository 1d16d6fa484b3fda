"""Checks on generated text: plain, short, without names, and supported by its evidence.

The sentences of a call are untrusted. Whatever one of them makes a model write, a reply that repeats the prompt, names
somebody, holds markup or an address, or shares no word with its evidence is no summary. Decisions 62 and 95.
"""

import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files

from ftm_assets.analysis.sentences import Sentences, split_text
from ftm_assets.analysis.words import all_terms, baseline_shares

N_FRAGMENT_WORDS = 8  # In a row. The examples in the prompts are shorter, and may be used.

# A fifth of the baseline's firms say "target" and "gap", a tenth "Amazon".
# Decision 95.
_COMMON_SHARE = 0.2

_WORD = re.compile(r"[^\W\d_]+")
_TOKEN = re.compile(r"[^\W_]+")
_ENDING = re.compile(r"(?<=\w{3})(?:ing|ed|es|s|e)$")
_ADDRESS = re.compile(
    r"\b(?i:https?|ftp|javascript|data|mailto):\S|\b(?i:www)\.|\b\w+@\w+\.\w"
    # A domain ends in one case; "the quarter.The next" lacks a space.
    r"|(?<![\w.])[^\W_][\w-]*(?:\.[\w-]+)*\.(?:[a-z]{2,}|[A-Z]{2,})(?!\w)"
)
_MARKUP = re.compile(r"[`|{}\[\]]|\*\*|__|</?\w+[^>]*>|&(?:#\w+|[a-z]{2,});|^\s*(?:#|[-*] )")
# Control and format characters, surrogates, private use, unassigned.
_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn"})


def _word_list(name: str) -> list[str]:
    lines = files("ftm_assets.llm").joinpath(name).read_text("utf-8").splitlines()
    return [word for line in lines if not line.startswith("#") for word in line.split()]


_DATES_AND_PLACES = frozenset(_word_list("date_and_place_names.txt"))
_LEGAL_FORM = re.compile(rf"(?:[,\s]+|/)(?:{'|'.join(_word_list('legal_forms.txt'))})\.?$", re.IGNORECASE)


@dataclass(frozen=True)
class LengthLimits:
    """How long a text may be. min_words: different ones"""

    min_words: int
    max_chars: int
    max_sentences: int


# Decision 62.
TITLE = LengthLimits(1, 90, 1)
SUMMARY = LengthLimits(4, 450, 2)
DESCRIPTION = LengthLimits(6, 800, 3)


@dataclass(frozen=True)
class NameBlocklist:
    """Names that no text may hold.

    tokens:       lower-case parts of names of people and firms; they count where they are written with a capital
    firms:        names of firms without their legal form; they count however they are written
    common_words: words that occur in lower case, or at many firms; as a name they count only where nothing else
                  explains their capital
    """

    tokens: frozenset[str] = frozenset()
    firms: frozenset[str] = frozenset()
    common_words: frozenset[str] = frozenset()

    @classmethod
    def for_company(cls, tokens: Collection[str], company_name: str, texts: Iterable[str] = ()) -> "NameBlocklist":
        """The names of a firm. tokens: from `name_tokens`; texts: what was said at its calls"""
        firms = short_names(company_name)
        words = {word.casefold() for name in firms for word in _WORD.findall(name)}
        common = {word for word in words if baseline_shares().get(word, 0.0) >= _COMMON_SHARE}
        return cls(
            tokens=frozenset(map(_plain_letters, tokens)) - _DATES_AND_PLACES,
            firms=firms,
            common_words=lower_case_words(texts) | common,
        )

    @classmethod
    def for_firm(cls, sentences: Sentences) -> "NameBlocklist":
        """The names of a firm and of everyone who speaks in its calls."""
        return cls.for_company(sentences.names, sentences.company_name, (row.text for row in sentences.rows))

    @classmethod
    def for_theme(
        cls, firms: Collection["NameBlocklist"], texts: Iterable[str], common_words: Collection[str]
    ) -> "NameBlocklist":
        """The names of many firms, and of their people those in the texts: of a thousand first names many are words."""
        words = frozenset(word.casefold() for text in texts for word in _WORD.findall(_plain_letters(text)))
        return cls(
            tokens=words & frozenset[str]().union(*(each.tokens for each in firms)),
            firms=frozenset().union(*(each.firms for each in firms)),
            common_words=frozenset(common_words).union(*(each.common_words for each in firms)),
        )

    def found_in(self, text: str, *, is_title: bool = False) -> str | None:
        """The first name in the text, None if there is none. Accents and typographic variants make no difference.

        A word that also occurs in lower case ("costs rose", with a Ms. Rose) counts as a name only where nothing else
        explains its capital: inside a sentence, but not in a title, whose words may all be capitalized.
        """
        text = _plain_letters(text)
        starts = {start for start, _ in split_text(text)}
        found = [*self._firm.finditer(text)] if self.firms else []
        # Without a capital it is no name of a person.
        found += [m for m in _WORD.finditer(text) if not m.group().islower() and m.group().casefold() in self.tokens]
        for match in found:
            if not self._is_common(match.group(), may_begin=is_title or match.start() in starts):
                return match.group()
        return None

    @cached_property
    def _firm(self) -> re.Pattern[str]:
        """Any firm's name, with anything or nothing between its words: "Coca-Cola", "CocaCola", "coca_cola"."""
        names = (r"[\W_]*".join(_TOKEN.findall(_plain_letters(name))) for name in sorted(self.firms, reverse=True))
        joint = r"(?-i:(?<=[a-z])(?=[A-Z]))"  # As before the C of "AcmeCorp".
        # "$3M" is an amount.
        return re.compile(
            rf"(?:(?<![^\W_])(?<![$€£.,])|{joint})(?:{'|'.join(names)})(?:(?![^\W_])|{joint})", re.IGNORECASE
        )

    @cached_property
    def _lower_case_words(self) -> frozenset[str]:
        """Common words, but for names that are written in lower case: "lululemon"."""
        return self.common_words - {word for name in self.firms if name.islower() for word in _WORD.findall(name)}

    def _is_common(self, name: str, *, may_begin: bool) -> bool:
        """Whether it is a common word in lower case. may_begin: its first letter may be a capital"""
        rest = name[1:] if may_begin else name
        return rest == rest.lower() and {word.casefold() for word in _WORD.findall(name)} <= self._lower_case_words


def short_names(company_name: str) -> frozenset[str]:
    """The name of a firm without its legal form; if it is written in lower case, also its first word alone."""
    short, longer = company_name.strip(), ""
    while short != longer:
        longer, short = short, _LEGAL_FORM.sub("", short).strip(" ,.&/")
    short = short.removeprefix("The ").removeprefix("THE ")
    return frozenset(filter(_TOKEN.search, [short, short.partition(" ")[0] if short.islower() else ""]))


def lower_case_words(texts: Iterable[str]) -> frozenset[str]:
    """The words that occur in lower case."""
    return frozenset(word for text in texts for word in _WORD.findall(_plain_letters(text)) if word.islower())


def _plain_letters(text: str) -> str:
    """The text without accents, with full-width and other variants as plain letters."""
    if text.isascii():
        return text
    return "".join(letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter))


def one_line(text: str) -> str:
    """The text on one line."""
    return " ".join(text.split())


def first_violation(
    text: str,
    limits: LengthLimits,
    blocklist: NameBlocklist,
    instructions: str,
    evidence: Collection[str] | None = None,
    what: str = "summary",
) -> str | None:
    """What is wrong with a text on one line, in words for its author; None if nothing is.

    instructions: the prompt, which it must not repeat
    evidence:     texts of which it has to use a word; None: no such check
    what:         `summary`, `title` or `description`
    """

    def violations() -> Iterator[str]:
        if not text:
            yield f"the {what} is empty"
        if len(set(_TOKEN.findall(text.casefold()))) < limits.min_words:
            yield f"the {what} is too short"
        if len(text) > limits.max_chars:
            yield f"the {what} has {len(text)} characters, at most {limits.max_chars} are allowed"
        if (n := len(split_text(text))) > limits.max_sentences:
            yield f"the {what} has {n} sentences, at most {limits.max_sentences} are allowed"
        normalized = unicodedata.normalize("NFKC", text)
        if _ADDRESS.search(normalized):
            yield f"the {what} holds an address"
        if _MARKUP.search(normalized) or any(unicodedata.category(letter) in _INVISIBLE for letter in text):
            yield f"the {what} holds markup"
        if name := blocklist.found_in(text, is_title=limits is TITLE):
            yield f"the {what} names {name!r}; name no company, product, brand or person"
        if not fragments(instructions).isdisjoint(_fragments(text)):
            yield f"the {what} repeats instructions instead of what was said"
        if evidence is not None and _stems([text]).isdisjoint(_stems(evidence)):
            yield f"the {what} says nothing that the sentences say"

    return next(violations(), None)


def _stems(texts: Iterable[str]) -> set[str]:
    """Content words without their endings, so that "pricing" equals "prices"."""
    return {_ENDING.sub("", term) for text in texts for term in all_terms(text) if " " not in term}


@cache
def fragments(text: str) -> frozenset[tuple[str, ...]]:
    """Every N_FRAGMENT_WORDS words in a row."""
    return frozenset(_fragments(text))


def _fragments(text: str) -> set[tuple[str, ...]]:
    words = _TOKEN.findall(text.casefold())
    return {tuple(words[start : start + N_FRAGMENT_WORDS]) for start in range(len(words) - N_FRAGMENT_WORDS + 1)}
