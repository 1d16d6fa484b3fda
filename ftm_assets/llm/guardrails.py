"""What a text of a language model must be like before anybody reads it: plain, short, without names, and on the point.

The sentences of a call are untrusted. Whatever one of them talks a model into, a reply that repeats the prompt, names
somebody, brings markup or an address, or says nothing that its evidence says is no summary.
"""

import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property

from ftm_assets.analysis.sentences import Sentences, split_text
from ftm_assets.analysis.words import all_terms, baseline_shares

N_FRAGMENT_WORDS = 8  # In a row; the examples in the prompts are shorter, and may be used.

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
# Control and format characters, halves of characters, and what has no meaning that all agree on.
_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn"})
# First names, surnames and words of firms' names that are dates or places in most texts.
_OTHERWISE = frozenset(
    """
    january february march april may june july august september october november december
    monday tuesday wednesday thursday friday saturday sunday
    africa america asia australia austria belgium brazil britain canada chile china chinese colombia denmark egypt
    england english europe european finland france french german germany greece holland hong hungary iceland india
    indian indonesia ireland irish israel italy japan japanese jordan kenya kong korea kuwait malaysia mexico morocco
    netherlands nigeria norway pakistan peru philippines poland portugal qatar romania russia saudi scotland singapore
    spain states sweden swiss switzerland taiwan thailand turkey ukraine united vietnam wales zealand
    alabama alaska arizona arkansas california carolina colorado columbia connecticut dakota delaware florida georgia
    hampshire hawaii idaho illinois indiana iowa jersey kansas kentucky louisiana maine maryland massachusetts michigan
    minnesota mississippi missouri montana nebraska nevada ohio oklahoma oregon pennsylvania rhode tennessee texas utah
    vermont virginia washington wisconsin wyoming york
    atlanta austin berlin boston charlotte chicago cleveland dallas denver detroit houston london madison miami milan
    orlando paris phoenix rome savannah shanghai sydney tokyo toronto vienna
    atlantic east eastern gulf midwest north northern pacific south southern west western
    """.split()
)
_LEGAL_FORM = re.compile(
    r"(?:[,\s]+|/)(?:inc|incorporated|corp|corporation|co|company|ltd|limited|plc|llc|lp|sa|nv|ag|se|ab|asa|oyj|spa|"
    # Some sources add the state, as in INC /DE/.
    r"group|holding|holdings|intl|international|the|de|md|ny|pa)\.?$",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class LengthLimits:
    """How long a text may be; `fewest_words` counts different ones."""

    fewest_words: int
    most_chars: int
    most_sentences: int


# Decision 62.
TITLE = LengthLimits(1, 90, 1)
SUMMARY = LengthLimits(4, 450, 2)
DESCRIPTION = LengthLimits(6, 800, 3)


@dataclass(frozen=True)
class NameBlocklist:
    """NameBlocklist that no text may hold.

    tokens: lower-case parts of names, of people and firms: names where they are written with a capital
    firms:  names of firms without their legal form: names however they are written
    spoken: words that were said in lower case, or that many firms say: names only where nothing explains their capital
    """

    tokens: frozenset[str] = frozenset()
    firms: frozenset[str] = frozenset()
    spoken: frozenset[str] = frozenset()

    @classmethod
    def of(cls, tokens: Collection[str], company_name: str, said: Iterable[str] = ()) -> "NameBlocklist":
        """Of a firm, with the tokens that `name_tokens` makes of its name and people, and texts that were said."""
        parts, firm = frozenset(map(_plain_letters, tokens)) - _OTHERWISE, short_names(company_name)
        own = {word.casefold() for name in firm for word in _WORD.findall(name)}
        common = {word for word in own if baseline_shares().get(word, 0.0) >= _COMMON_SHARE}
        return cls(parts, firm, lower_case_words(said) | common)

    @classmethod
    def of_firm(cls, sentences: Sentences) -> "NameBlocklist":
        """The names of a firm and of everyone who speaks in its calls."""
        return cls.of(sentences.names, sentences.company_name, (row.text for row in sentences.rows))

    @classmethod
    def of_all(
        cls, names: Collection["NameBlocklist"], shown: Iterable[str], spoken: Collection[str]
    ) -> "NameBlocklist":
        """The names of many firms, of their people those that were shown: of a thousand first names many are words."""
        words = frozenset(word.casefold() for text in shown for word in _WORD.findall(_plain_letters(text)))
        return cls(
            words & frozenset[str]().union(*(each.tokens for each in names)),
            frozenset().union(*(each.firms for each in names)),
            frozenset(spoken).union(*(each.spoken for each in names)),
        )

    def found_in(self, text: str, *, is_title: bool = False) -> str | None:
        """The first name in the text, None if it holds none. Accents, and how a letter is drawn, make no difference.

        A word that was also said in lower case ("costs rose", of a Ms. Rose) counts as a name only where nothing else
        explains its capital: inside a sentence, but not in a title, which may have all its words in capitals.
        """
        text = _plain_letters(text)
        starts = {start for start, _ in split_text(text)}
        found = [*self._firm.finditer(text)] if self.firms else []
        # Without a capital it is nobody's name; shorter ones are in no set of names.
        found += [m for m in _WORD.finditer(text) if not m.group().islower() and m.group().casefold() in self.tokens]
        for match in found:
            if not self._is_word(match.group(), may_begin=is_title or match.start() in starts):
                return match.group()
        return None

    @cached_property
    def _firm(self) -> re.Pattern[str]:
        """Any firm's name, its words side by side, whatever is between them: "Coca-Cola", "CocaCola", "coca_cola"."""
        names = (r"[\W_]*".join(_TOKEN.findall(_plain_letters(name))) for name in sorted(self.firms, reverse=True))
        joint = r"(?-i:(?<=[a-z])(?=[A-Z]))"  # As before the C of "AcmeCorp".
        # "$3M" is an amount.
        return re.compile(
            rf"(?:(?<![^\W_])(?<![$€£.,])|{joint})(?:{'|'.join(names)})(?:(?![^\W_])|{joint})", re.IGNORECASE
        )

    @cached_property
    def _words(self) -> frozenset[str]:
        """Words that were said in lower case, but for the names that are written so: "lululemon"."""
        return self.spoken - {word for name in self.firms if name.islower() for word in _WORD.findall(name)}

    def _is_word(self, name: str, *, may_begin: bool) -> bool:
        """Whether it was said in lower case, and is written in lower case but for the beginning of a sentence."""
        rest = name[1:] if may_begin else name
        return rest == rest.lower() and {word.casefold() for word in _WORD.findall(name)} <= self._words


def short_names(company_name: str) -> frozenset[str]:
    """The name of a firm without its legal form; the first word alone, too, of one that is written in lower case."""
    short, before = company_name.strip(), ""
    while short != before:
        before, short = short, _LEGAL_FORM.sub("", short).strip(" ,.&/")
    short = short.removeprefix("The ").removeprefix("THE ")
    return frozenset(filter(_TOKEN.search, [short, short.partition(" ")[0] if short.islower() else ""]))


def lower_case_words(texts: Iterable[str]) -> frozenset[str]:
    """The words of the texts that are written in lower case somewhere."""
    return frozenset(word for text in texts for word in _WORD.findall(_plain_letters(text)) if word.islower())


def _plain_letters(text: str) -> str:
    """The text without accents, and with letters of full width or in other shapes as plain ones."""
    if text.isascii():
        return text
    return "".join(letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter))


def plain(text: str) -> str:
    """The text on one line."""
    return " ".join(text.split())


def fault(
    text: str,
    bounds: LengthLimits,
    names: NameBlocklist,
    instructions: str,
    evidence: Collection[str] | None = None,
    what: str = "summary",
) -> str | None:
    """What is wrong with a text on one line, in words for whoever wrote it; None if nothing is.

    instructions: what it must not repeat
    evidence:     what was said: it has to say a word of it; None: it may say anything
    """
    return next(_faults(text, bounds, names, instructions, evidence, what), None)


def _faults(
    text: str,
    bounds: LengthLimits,
    names: NameBlocklist,
    instructions: str,
    evidence: Collection[str] | None,
    what: str,
) -> Iterator[str]:
    if not text:
        yield f"the {what} is empty"
    if len(set(_TOKEN.findall(text.casefold()))) < bounds.fewest_words:
        yield f"the {what} is too short"
    if len(text) > bounds.most_chars:
        yield f"the {what} has {len(text)} characters, at most {bounds.most_chars} are allowed"
    if (n := len(split_text(text))) > bounds.most_sentences:
        yield f"the {what} has {n} sentences, at most {bounds.most_sentences} are allowed"
    read = unicodedata.normalize("NFKC", text)
    if _ADDRESS.search(read):
        yield f"the {what} holds an address"
    if _MARKUP.search(read) or any(unicodedata.category(letter) in _UNSEEN for letter in text):
        yield f"the {what} holds markup"
    if name := names.found_in(text, is_title=bounds is TITLE):
        yield f"the {what} names {name!r}; name no company, product, brand or person"
    if not fragments(instructions).isdisjoint(_fragments(text)):
        yield f"the {what} repeats instructions instead of what was said"
    if evidence is not None and _stems([text]).isdisjoint(_stems(evidence)):
        yield f"the {what} says nothing that the sentences say"


def _stems(texts: Iterable[str]) -> set[str]:
    """The words that mean something without their endings, so that "pricing" says what "prices" says."""
    return {_ENDING.sub("", term) for text in texts for term in all_terms(text) if " " not in term}


@cache
def fragments(text: str) -> frozenset[tuple[str, ...]]:
    """Every N_FRAGMENT_WORDS words in a row."""
    return frozenset(_fragments(text))


def _fragments(text: str) -> set[tuple[str, ...]]:
    words = _TOKEN.findall(text.casefold())
    return {tuple(words[start : start + N_FRAGMENT_WORDS]) for start in range(len(words) - N_FRAGMENT_WORDS + 1)}
