"""The words of a sentence that may name a topic; what is embedded stays as spoken."""

import re
from collections.abc import Collection, Iterable, Mapping, Set
from functools import cache, lru_cache
from importlib.resources import files
from itertools import pairwise

from ftm_assets.analysis.boilerplate.rules import without_marks

# Shorter ones ("Al", "Ed", "Bo") are too often words of their own.
MIN_NAME_CHARS = 3
COMMON_WORDS_FILE = "baseline_words.txt"

# Words of grammar, verbs that mean little by themselves, and numerals. A list of our own, because the usual ones count
# "interest", "mine", "system", "amount" and "fire" among them, and firms talk about just those.
_FUNCTION = """
    a about above across after afterwards again against all almost alone along already also although always am among
    amongst an and another any anyhow anyone anything anyway anywhere are around as at back be became because become
    becomes becoming been before beforehand behind being below beside besides between beyond both but by can cannot
    could did do does doing done down due during each eight either eleven else elsewhere enough etc even ever every
    everyone everything everywhere except few fifteen fifty find first five for former formerly forty found four
    fourth from front full further get give go had has have having he hence her here hereby herein hers herself him
    himself his how however hundred i if in indeed into is it its itself keep last later latter least less made many
    may me meanwhile might more moreover most mostly move much must my myself namely neither never nevertheless next
    nine no nobody none nor not nothing now nowhere of off often on once one only onto or other others otherwise our
    ours ourselves out over own part per perhaps put rather re same second see seem seemed seeming seems seven
    several shall she should show side since six sixty so some somehow someone something sometime sometimes
    somewhere still such take ten than that the their theirs them themselves then thence there thereafter thereby
    therefore therein thereof these they third thirty this those though three through throughout thus to together
    too toward towards twelve twenty two under unless until up upon us very via was we well were what whatever when
    whenever where whereas whereby wherein wherever whether which while who whoever whole whom whose why will with
    within without would yet you your yours yourself yourselves
"""

# What people say while they think, and the courtesies of every call.
_SPOKEN = """
    a.m. actually basically bit call co definitely describe detail e.g. eg er fy going gonna good got gotta great
    guess hello hi hmm i.e. ie inc just kind know let like little look lot ltd maybe mean morning obviously ok okay
    p.m. please pretty probably question questions really right said say sort sure thank thanks thing things think
    uh um wanna want yeah yep yes
"""
_STOP_WORDS: frozenset[str] = frozenset(_FUNCTION.split()) | frozenset(_SPOKEN.split())

# Parts of names, firms' names and stand-ins for names ("Unidentified Participant") that are words of business first.
_BUSINESS = """
    air airlines american analyst bank banks brands capital care cash chemical communications company consumer
    corporate cost credit data digital drug drugs electric energy entertainment equity executive financial fire food
    foods gas general global gold green growth health healthcare home hotels house industrial industries insurance
    interest international land life management market markets materials media medical mine mines mining mobile
    motor motors national networks oil operator pacific parts people pharma pharmaceuticals platforms power price
    products properties property rail real realty resources rice sales science sciences security semiconductor
    services software solutions steel stores system systems technologies technology trade trust utilities water wood
    world
"""
_ORDINARY = _STOP_WORDS | frozenset(_BUSINESS.split())

_TOKEN = re.compile(r"(?:[^\W\d_]+-)*(?:[^\W\d_]\.){2,}|[^\W_]+(?:(?:['\u2019&-]|(?<=\d)[.,](?=\d))[^\W_]+)*")
_NUMBER = re.compile(r"\d+(?:st|nd|rd|th|s|x|k|m|mm|b|bn|bps|am|pm|[qh]\d*)?|(?:[qh]|fy|[qh]\dfy)\d+")
_NAME = re.compile(r"[^\W\d_]+")


def terms(text: str, names: Collection[str] = ()) -> list[str]:
    """Words of the text that may name a topic, and pairs of them that were spoken side by side.

    Stop words, spoken fillers, numbers, single letters and transcriber marks go, and what nearly every firm says, as
    in `common_words`. So do the names: lower-case tokens as from `name_tokens`, matched whole. What goes still stands
    between its neighbours: they make no pair.
    """
    common = common_words()
    return [term for term in all_terms(text, names) if term not in common]


def all_terms(text: str, names: Collection[str] = ()) -> list[str]:
    """As `terms`, with what nearly every firm says."""
    words = _words(text, names)
    pairs = (f"{one} {other}" for one, other in pairwise(words) if one and other and one != other)
    return [*filter(None, words), *pairs]


@cache
def common_words() -> frozenset[str]:
    """Words that 70 % of the firms of the baseline said, and pairs of words that half of them said."""
    return frozenset(term for term, share in baseline_shares().items() if share >= (0.5 if " " in term else 0.7))


@cache
def baseline_shares() -> Mapping[str, float]:
    """Share of the firms of the baseline that said a term, of those that a tenth of them said.

    See `commonplaces` for the baseline.
    """
    lines = files("ftm_assets.analysis.boilerplate").joinpath(COMMON_WORDS_FILE).read_text("utf-8").splitlines()
    return {term: float(share) for term, _, share in (line.partition("\t") for line in lines)}


def _words(text: str, names: Collection[str]) -> list[str]:
    """Each token of the text as the word it stands for, '' where none may name a topic."""
    known = names if isinstance(names, Set) else frozenset(names)
    found = map(_word, _TOKEN.findall(without_marks(text).lower()))
    return ["" if parts and not known.isdisjoint(parts) else word for word, parts in found]


@lru_cache(maxsize=2**17)  # Calls say the same words again and again.
def _word(token: str) -> tuple[str, tuple[str, ...]]:
    """What a token stands for, '' if it may name no topic whoever says it; and its parts that may be names, as
    `name_tokens` writes them.
    """
    word = _without_numbers(_without_suffix(token))
    if len(word) < 2 or word in _STOP_WORDS:
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
    """Lower-case parts, three letters or longer, of the people's names and the firm's.

    Parts that are ordinary words of business first ('bank', 'price', 'energy') stay out: a bank may speak of banks.
    """
    parts = (part for name in (*persons, company_name) for part in _NAME.findall(name.casefold()))
    return frozenset(part for part in parts if len(part) >= MIN_NAME_CHARS) - _ORDINARY
