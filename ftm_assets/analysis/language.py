"""The language of a call: whether it is English, which all rules and word lists are made for."""

import re
from collections.abc import Iterable
from functools import cache
from typing import Any

from ftm_assets.analysis.words import STOP_WORDS

NOT_ENGLISH = "not English"
# A shorter call says too little, and is taken for English.
_MIN_LETTERS = 100
_MAX_CHARS = 20_000
# Of the words of 536 real calls, 46% to 60% are stop words; of German ones 10%, of Dutch ones 18% (`is`, `we`, `over`).
_ENGLISH_SHARE = 0.3
# Likelier than all other languages together. Words without grammar are judged with less.
_MIN_CERTAINTY = 0.5
_WORD = re.compile(r"[^\W\d_]+")


def foreign_language(texts: Iterable[str]) -> str | None:
    """ISO 639-1 code of the language of a call's turns; None if it is English or too short to tell. Decision 125."""
    text = "\n".join(texts)[:_MAX_CHARS]
    words = _WORD.findall(text.lower())
    if sum(map(len, words)) < _MIN_LETTERS:
        return None
    if sum(word in STOP_WORDS for word in words) >= _ENGLISH_SHARE * len(words):
        return None
    language, certainty = _identifier().classify(text)
    return None if language == "en" or certainty < _MIN_CERTAINTY else str(language)


@cache
def _identifier() -> Any:
    # Imported here: it takes 0.6 s and 100 MB, and English calls never need it.
    from py3langid.langid import MODEL_FILE, LanguageIdentifier  # type: ignore[import-untyped]

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
