"""Text of a source as it was said: certain damage is undone, doubtful damage is named.

Sound text comes back as it is. Decision 122.
"""

import html
import re
from collections.abc import Callable
from functools import cache
from itertools import pairwise

from ftm_assets.analysis.words import STOP_WORDS, baseline_shares

# What was repaired, or only noticed: stored values, counted for each call.
ENTITIES = "HTML entities"
TAGS = "HTML tags"
MOJIBAKE = "mojibake"
CONTROLS = "control characters"
INVISIBLE = "invisible characters"
LIGATURES = "ligatures"
LINES = "broken lines"
LOST = "not repaired: lost characters (U+FFFD)"
UNREPAIRED_MOJIBAKE = "not repaired: mojibake"
QUESTION_MARKS = "not repaired: question marks inside words"

_MOST_PASSES = 8

_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
_BLOCKS = (
    "address|article|aside|blockquote|body|br|caption|center|dd|div|dl|dt|figure|footer|form|h[1-6]|head|header|hr|html"
    "|li|main|nav|ol|p|pre|section|table|tbody|td|tfoot|th|thead|title|tr|ul"
)
# Neither <a> nor <q> alone: transcripts mark answers and questions so.
_INLINE = "abbr|b|big|cite|code|em|font|i|img|input|label|link|meta|small|span|strike|strong|sub|sup|tt|u"
_ATTRIBUTES = r"(?:\s[^<>]{0,2000})?"
_TAG = re.compile(
    rf"""
    <!--.{{0,5000}}?--> | <!doctype[^<>]*> | <(?P<hidden>script|style)\b[^<>]*>.{{0,20000}}?</(?P=hidden)\s*>
    | </?(?P<block>{_BLOCKS}){_ATTRIBUTES}/?> | </?(?:{_INLINE}){_ATTRIBUTES}/?>
    | <a\s[^<>]*\bhref\b[^<>]*> | </a\s*>
    """,
    re.VERBOSE | re.IGNORECASE | re.DOTALL,
)
_TERMINAL_CODE = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")
_SEPARATOR = re.compile("[\v\f\x1c-\x1f]+")
_CONTROL = re.compile("[\0-\x08\x0e-\x1b\x7f-\x84\x86-\x9f]")
_C1 = re.compile("[\x80-\x84\x86-\x9f]")
# A soft hyphen at the end of a line takes the line break with it.
_UNSEEN = re.compile(
    "\xad[ \t]*(?:\r\n|\r|\n)[ \t]*|[\xad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff]"
)
_LIGATURES = {0xFB00: "ff", 0xFB01: "fi", 0xFB02: "fl", 0xFB03: "ffi", 0xFB04: "ffl", 0xFB05: "st", 0xFB06: "st"}
_LIGATURE = re.compile("[\ufb00-\ufb06]")
_SUSPICIOUS = re.compile("[&<\r\n\0-\x08\v\f\x0e-\x1f\x7f-\U0010ffff]")
_QUESTION_MARK = re.compile(r"(?<![/=.\w&])[A-Za-z]+\?[a-z]+(?![\w=&])")


def repair_text(text: str) -> tuple[str, tuple[str, ...]]:
    """The text as it was said, and the kinds of damage in the order in which they were found; none if it is sound.

    Kinds that begin with "not repaired" are noticed only. Repairing a repaired text changes nothing.
    """
    return _repair(text, (*_OF_CHARACTERS, (LINES, _join_lines)))


def repair_name(text: str) -> tuple[str, tuple[str, ...]]:
    """As `repair_text`, for a name or a headline, whose line breaks say nothing."""
    return _repair(text, _OF_CHARACTERS)


def _repair(text: str, steps: "tuple[tuple[str, Callable[[str], str]], ...]") -> tuple[str, tuple[str, ...]]:
    if not _SUSPICIOUS.search(text) and "?" not in text:
        return text, ()
    found: dict[str, None] = {}
    # One repair may bare the next: `&amp;lt;p&amp;gt;` is an entity, an entity and a tag.
    for _ in range(_MOST_PASSES):
        before = text
        for kind, step in steps:
            repaired = step(text)
            if repaired != text:
                found[kind] = None
                text = repaired
        if text == before:
            break
    return text, (*found, *_noticed(text))


def _noticed(text: str) -> list[str]:
    """Damage that is there, and whose sound text cannot be told."""
    kinds = []
    if "\ufffd" in text:
        kinds.append(LOST)
    elif not text.isascii() and _is_mojibake(text):
        kinds.append(UNREPAIRED_MOJIBAKE)
    if "?" in text and len(_QUESTION_MARK.findall(text)) > 1:
        kinds.append(QUESTION_MARKS)
    return kinds


# --- characters


def _unescape(text: str) -> str:
    if "&" not in text:
        return text
    return _ENTITY.sub(_character, text)


def _character(entity: re.Match[str]) -> str:
    """What an entity stands for; itself if that is nothing. A space that must not break is a space."""
    meant = html.unescape(entity.group())
    return " " if meant == "\xa0" else meant


def _remove_tags(text: str) -> str:
    """The text without HTML; where a tag begins or ends a block, a line does."""
    if "<" not in text:
        return text
    without = _TAG.sub(lambda tag: "\n" if tag["block"] else "", text)
    return without if without == text else re.sub(r"[ \t]*\n\s*", "\n", without).strip()


def _undo_mojibake(text: str) -> str:
    if text.isascii():
        return text
    # Imported here: it is for damaged text alone, and most commands read none.
    import ftfy

    # Not `fix_text`: its other repairs change sound text, such as curly quotes and full-width letters. Decision 122.
    return ftfy.fix_encoding(text)


def _is_mojibake(text: str) -> bool:
    from ftfy.badness import badness

    return badness(text) > 1


def _remove_controls(text: str) -> str:
    """The text without control characters; those of Windows-1252 that were read as Latin-1 become what they were."""
    if not (_CONTROL.search(text) or _SEPARATOR.search(text)):
        return text
    text = _SEPARATOR.sub("\n", _TERMINAL_CODE.sub("", text))
    text = _C1.sub(lambda found: found.group().encode("latin-1").decode("cp1252", "ignore"), text)
    return _CONTROL.sub("", text)


def _remove_unseen(text: str) -> str:
    return text if text.isascii() else _UNSEEN.sub("", text)


def _open_ligatures(text: str) -> str:
    return text if text.isascii() or not _LIGATURE.search(text) else text.translate(_LIGATURES)


_OF_CHARACTERS: tuple[tuple[str, Callable[[str], str]], ...] = (
    (ENTITIES, _unescape),
    (TAGS, _remove_tags),
    (MOJIBAKE, _undo_mojibake),
    (CONTROLS, _remove_controls),
    (INVISIBLE, _remove_unseen),
    (LIGATURES, _open_ligatures),
)


# --- lines

_BREAK = re.compile(r"[ \t]*(?:\r+\n|\r|\n)[ \t]*")
_BREAKS = re.compile(rf"((?:{_BREAK.pattern})+)")
_ENDS_SENTENCE = re.compile(r"[.!?:;\u2026][\"'\u201d\u2019)\]]*$")
_ITEM = re.compile(r"[-\u2010-\u2015\u2022\u25aa\u25cf\xb7*\u2013]\s|\(?(?:\d{1,2}|[a-z])[.)]\s")
_HYPHENATED = re.compile(r"(?:^|(?<=[^\w-]))([A-Za-z]{2,})-$")
_FIRST_WORD = re.compile(r"[a-z]+")
# Lines are wrapped at 60 to 100 characters; a narrower column, or a paragraph of its own, is a decision of its writer.
_NARROWEST, _WIDEST = 25, 160
_FULL = 0.8
_LONGEST_WORD = 40
_CUT_SHARE = 1 / 3


def _join_lines(text: str) -> str:
    """The text with lines joined that were broken inside a sentence; paragraphs, lists and headings keep their lines.

    A break is undone if the line is full, as the next word would not have fitted, and goes on behind it: with a small
    letter, or in any way where the lines of the text are wrapped. Decision 123.
    """
    if "\n" not in text and "\r" not in text:
        return text
    parts = _BREAKS.split(text)
    lines = parts[::2]
    heights = [len(_BREAK.findall(between)) for between in parts[1::2]]
    paragraph = min(heights) + 1
    width = max(map(len, lines))
    is_wrapped = _is_wrapped(lines, width)
    joined = [lines[0]]
    for place, (between, height) in enumerate(zip(parts[1::2], heights, strict=True)):
        line, following = lines[place : place + 2]
        # Where every break is of two lines, as in a double-spaced text, a blank line ends no paragraph.
        if _goes_on(line, following, width, is_wrapped, is_paragraph=height >= paragraph):
            joined[-1] = _with_next(joined[-1], following)
        else:
            joined += [between, following]
    return "".join(joined)


def _is_wrapped(lines: list[str], width: int) -> bool:
    """Whether the lines are of one width and often end inside a sentence."""
    if not _NARROWEST <= width <= _WIDEST:
        return False
    full = [(line, following) for line, following in pairwise(lines) if _is_full(line, following, _FULL * width)]
    n_cut = sum(following[:1].islower() and not _ENDS_SENTENCE.search(line) for line, following in full)
    return n_cut > 0 and n_cut >= _CUT_SHARE * len(full)


def _is_full(line: str, following: str, width: float) -> bool:
    """Whether the first word of the next line would have made the line longer than `width`."""
    first, *_ = following.split(maxsplit=1) or [""]
    return len(line) >= _NARROWEST and len(line) + 1 + len(first) > width


def _goes_on(line: str, following: str, width: int, is_wrapped: bool, is_paragraph: bool) -> bool:
    """Whether a sentence, or at least the paragraph, goes on behind the break after `line`."""
    if not following or _ITEM.match(following):
        return False
    ends_sentence = _ENDS_SENTENCE.search(line) is not None
    if following[0].islower() and not ends_sentence:
        return (is_wrapped and _is_full(line, following, _FULL * width)) or len(line) > _WIDEST
    if not is_wrapped or is_paragraph:
        return False
    # The last line of a paragraph is seldom full to the last word.
    return _is_full(line, following, width if ends_sentence else _FULL * width)


def _with_next(line: str, following: str) -> str:
    """Both lines as one; a word that was broken between them is whole again. Decision 124."""
    ending = line[-_LONGEST_WORD:]
    if not (broken := _HYPHENATED.search(ending)) or not (rest := _FIRST_WORD.match(following)):
        # An unfinished compound keeps its hyphen: S&P-500.
        return line + ("" if re.search(r"\w-$", ending) else " ") + following
    head, tail = broken[1].lower(), rest.group()
    if head + tail not in _words() and {head, tail} <= _words():
        return line + following
    return line[:-1] + following


@cache
def _words() -> frozenset[str]:
    """Common words, one of which may stand on either side of a hyphen: long-term."""
    return STOP_WORDS | baseline_shares().keys()
