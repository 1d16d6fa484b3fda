"""Boilerplate by rule: courtesies of every call, hand-overs of the floor, legal notices."""

import re

_MARK = re.compile(
    r"\[[^\[\]\n]{1,60}\]|<[a-z_/ ]{1,30}>"
    r"|\((?:operator instructions|inaudible|indecipherable|indiscernible|unintelligible|phonetic|ph|laughter|laughs"
    r"|technical (?:difficulty|difficulties|issues?)|multiple speakers|crosstalk|audio gap|foreign language)\)",
    re.IGNORECASE,
)
_WORD = re.compile(r"[^\W_]+(?:['.,&/-][^\W_]+)*")
_AMOUNT = re.compile(
    r"[$\u20ac\xa3\xa5]\s?\.?\d"
    r"|\d[\d.,]*[\s-]?(?:%|(?:per ?cent|percentage points?|basis[ -]points?|bps|thousand|(?:m|b|tr)illion|mm|bn)\b)",
    re.IGNORECASE,
)

# Precision over recall: a courtesy has to fill its sentence, a notice has to use the words of lawyers.
# Decision 27.
_LEAD = r"(?:(?:and|so|well|yes|yeah|no|okay|ok|all right|great|perfect|excellent|got it|hi|hello|hey)[,.!]? )*"
_SUBSTANCE = (
    r"\b(?:we|i|it|they|there|is|are|was|were|will|have|has|had|do|does|did|can|could|would|should|but|because|if"
    r"|whether|how|what|why|when|where|which|about|around|regarding|just|quick"
    r"|on(?! (?:the|this|our|today's)(?: [\w-]+){0,3} call))\b"
)
_COURTESIES = {
    "greeting": (
        r"hi|hello|hey|good (?:morning|afternoon|evening|day)",
        r"welcome\b(?=.*\b(?:call|conference|webcast|everyone|everybody|all)\b)",
    ),
    "thanks": (
        r"(?:(?:i|we)(?:'d| would) like to |(?:i|we) want(?:ed)? to )?(?:thanks|thank you)(?! to\b)",
        r"(?:(?:i|we) )?(?:really )?appreciate (?:it|that|you|(?:the|your) (?:time|colou?r|questions?|interest|help))",
        r"(?:that(?:'s| is| was) )?(?:very |really |super |all )*helpful",
    ),
    "congratulations": (r"(?:congratulations|congrats)(?: again|,? guys|,? everyone)?(?: on)?",),
}
_CALL = r"(?:the|this|our|today's) (?:[\w-]+ )?(?:call|floor|lines?|discussion|presentation|session)"
_HAND_OVERS = (
    rf"(?:turn|hand|pass)(?:ing)? {_CALL}(?: back)?(?: over)? to",
    r"(?:turn|hand|pass)(?:ing)? (?:it|things|this)(?: back)? over to",
    r"turn(?:ing)? (?:it|things|this) back to",
    rf"open(?:ing)? (?:it|{_CALL}|up {_CALL})(?: up)? (?:to|for) (?:[\w']+ )?(?:questions|q&a)",
    r"ready (?:for|to take|to begin|to open) (?:[\w']+ ){0,3}(?:questions?|q&a)",
    r"(?:have|take|get|go to) (?:the|our|your) (?:next|first|last|final) question",
    r"^(?:operator, |the next question|next question|please go ahead)",
)
_NOTICES = {
    "introduction": (
        r"^.{0,60}\b(?:joining (?:me|us)|with (?:me|us)|joined)\b.*"
        r"\b(?:chief [\w ]+ officer|ceo|cfo|president|chairman|treasurer|investor relations)",
    ),
    "forward-looking": (
        r"forward-looking (?:statement|information|comment|remark)s?",
        r"safe harbou?r (?:statement|provision|language|disclosure|notice)s?",
        r"private securities litigation reform act",
        r"(?:differ|vary) (?:\w+ )?materially from",
        r"results\b.{0,120}\b(?:differ|vary) (?:\w+ )?materially",
        r"(?:no|any) (?:obligation|duty|intention) to (?:publicly )?(?:update|revise)",
        r"(?:risks?|factors|uncertainties)\b.{0,160}\b(?:10-?[kq]|20-?f|filings?|filed)",
    ),
    "non-GAAP": (
        r"reconcil\w+\b.{0,200}\b(?:gaap|measures?)\b.{0,200}\b(?:release|web ?site|presentation|appendix|slides?)",
        r"(?:release|web ?site|presentation|appendix|slides?)\b.{0,200}\breconcil\w+\b.{0,200}\bgaap",
        r"(?:refer|discuss|mention|present)\w*\b.{0,80}\bnon-?gaap (?:[\w-]+ ){0,2}(?:measures?|metrics?|information)",
    ),
    "webcast": (
        r"(?:replay|webcast|recording|transcript)\b.{0,160}\b(?:available|accessible|posted|web ?site)",
        r"(?:call|conference|webcast|presentation) (?:is|will) (?:also )?(?:be |being )*(?:recorded|webcast|broadcast)",
        r"(?:press|earnings|news) release\b.{0,120}\b(?:web ?site|investor relations|8-k)",
        r"(?:slides?|presentation|materials)\b.{0,80}\b(?:available|posted|found)\b.{0,60}\bweb ?site",
    ),
}
_BOILERPLATE = {
    reason: re.compile(pattern, re.IGNORECASE)
    for reason, pattern in (
        *(
            (reason, rf"^{_LEAD}(?:{'|'.join(patterns)})\b(?!.*{_SUBSTANCE})[^?]{{0,150}}$")
            for reason, patterns in _COURTESIES.items()
        ),
        ("hand-over", rf"^(?=.{{0,220}}$)(?!.*\bbefore\b).*?\b(?:{'|'.join(_HAND_OVERS)})"),
        *((reason, rf"\b(?:{'|'.join(patterns)})\b") for reason, patterns in _NOTICES.items()),
    )
}
_PLAIN = str.maketrans("\u2018\u2019\u2010\u2011\xa0\u202f", "''--  ")


def without_marks(text: str) -> str:
    """The text with a space in place of each transcriber mark, such as [Operator Instructions] or (inaudible)."""
    return _MARK.sub(" ", text)


def names_amount(text: str) -> bool:
    """Whether the sentence names a sum of money, a percentage or another large figure."""
    return _AMOUNT.search(text) is not None


def boilerplate_reason(text: str, min_words: int) -> str | None:
    """Why a sentence is boilerplate; None if it is not, and always if it names an amount."""
    if names_amount(text):
        return None
    plain = " ".join(without_marks(text.translate(_PLAIN)).split())
    for reason, pattern in _BOILERPLATE.items():
        if pattern.search(plain):
            return reason
    return "too short" if len(_WORD.findall(plain)) < min_words else None
