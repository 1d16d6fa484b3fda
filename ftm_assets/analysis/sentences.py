"""Sentences of earnings calls: their offsets, speaker role and section, and which are boilerplate."""

import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from functools import cached_property
from importlib.metadata import version
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, Field
from sentencex import get_sentence_boundaries  # type: ignore[import-untyped]

from ftm_assets.analysis.boilerplate.baseline import is_baseline_phrase
from ftm_assets.analysis.boilerplate.rules import boilerplate_reason, names_amount
from ftm_assets.analysis.boilerplate.seeds import nearness
from ftm_assets.analysis.content_hash import content_hash
from ftm_assets.analysis.language import NOT_ENGLISH, foreign_language
from ftm_assets.analysis.vectors import in_half_precision
from ftm_assets.analysis.words import name_tokens

Role = Literal["executive", "analyst", "unknown"]
Section = Literal["prepared", "qa", "unknown"]
UtteranceType = Literal["remark", "answer", "question", "unknown"]

# Decision 110: stored values, so they keep their old words.
BASELINE_FLAG = "commonplace"
SEED_FLAG = "platitude"
SPLITTER = f"sentencex {version('sentencex')}"


@dataclass(frozen=True, slots=True)
class Turn:
    """One component of a call: a speaker's turn."""

    transcript_id: int
    component_order: int
    type_name: str
    speaker_type: str
    person: str
    text: str


@dataclass(frozen=True, slots=True)
class CallDay:
    """A call of the firm-quarter and its day."""

    transcript_id: int
    call_date: date


@dataclass(frozen=True)
class FirmTurns:
    """All turns of one firm's calls in one quarter, calls in order of their day.

    input_hash: content hash of the calls
    reason:     why there is no turn, else None
    """

    company_id: int
    company_name: str
    calls: tuple[CallDay, ...]
    turns: tuple[Turn, ...]
    input_hash: str
    reason: str | None = None

    @cached_property
    def names(self) -> frozenset[str]:
        """Lower-case parts of the names of the firm and of everyone who speaks."""
        return name_tokens((turn.person for turn in self.turns), self.company_name)


class SentenceSettings(BaseModel, frozen=True):
    """What counts as one sentence, and which sentences are modelled."""

    min_words: int = Field(4, ge=1, le=20, description="fewest words of a modelled sentence, [marks] not counted")
    max_commonplace: float | None = Field(
        0.8,
        gt=0,
        le=1,
        description="share of its words in baseline phrases from which a sentence is boilerplate; one without words of "
        "its own always is; empty: the baseline is not used",
    )
    # Decision 69: this limit and that of themes hold for all-MiniLM-L6-v2.
    max_platitude: float = Field(
        0.55,
        ge=0,
        le=1,
        description="cosine to a boilerplate seed from which a sentence without an amount is boilerplate",
    )
    max_chars: int = Field(2000, ge=20, le=100_000, description="longest sentence; a longer one is cut at white space")


DEFAULTS = SentenceSettings()


@dataclass(frozen=True, slots=True)
class Sentence:
    """One sentence and its place: `turn.text[start_char:end_char] == text`, in Python characters.

    exchange:    number of the question with its answers, from 1 within the call; None outside of any
    boilerplate: why the sentence is not modelled ('greeting', 'too short', ...), None if it is modelled
    boilerplate_similarity: cosine to the nearest boilerplate seed, None until it is measured
    """

    sentence_id: str
    transcript_id: int
    component_order: int
    position: int
    start_char: int
    end_char: int
    text: str
    role: Role
    section: Section
    exchange: int | None
    boilerplate: str | None
    boilerplate_similarity: float | None = None

    @property
    def utterance_type(self) -> UtteranceType:
        """Remark or answer of an executive, question of an analyst; same rule as the column of this name."""
        match self.role, self.section:
            case "executive", "prepared":
                return "remark"
            case "executive", "qa":
                return "answer"
            case "analyst", _:
                return "question"
        return "unknown"


# An array has no single truth value, so the generated == would raise.
@dataclass(frozen=True, eq=False)
class Sentences:
    """One firm-quarter's sentences with their vectors, and what the next stages need to know of the calls.

    embeddings: (n, d) float32, row i belongs to rows[i]
    names:      lower-case parts of the names of the firm and of everyone who speaks
    encoder:    name and revision of the model behind the vectors
    input_hash: content hash of the calls
    reason:     why there is no sentence, or why none is modelled though there are some; else None
    company_name: as of that quarter, empty for a firm without a call
    raises:     ValueError if the embeddings have another shape or dtype
    """

    rows: tuple[Sentence, ...]
    embeddings: np.ndarray
    names: frozenset[str] = frozenset()
    encoder: tuple[str, str] = ("", "")
    input_hash: str = ""
    reason: str | None = None
    calls: tuple[CallDay, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    company_name: str = ""

    def __post_init__(self) -> None:
        if self.embeddings.ndim != 2 or len(self.embeddings) != len(self.rows):
            raise ValueError(f"{len(self.rows)} sentences need as many rows, embeddings are {self.embeddings.shape}")
        if self.embeddings.dtype != np.float32:
            raise ValueError(f"embeddings are {self.embeddings.dtype}; convert them with .astype(np.float32)")

    @classmethod
    def from_turns(
        cls,
        turns: FirmTurns,
        rows: tuple[Sentence, ...],
        embeddings: np.ndarray,
        encoder: tuple[str, str],
        settings: SentenceSettings = DEFAULTS,
    ) -> "Sentences":
        """The sentences of these turns, with their provenance; vectors as they will be stored, in half precision."""
        # Decision 4: an empty partition is a result, with its reason.
        no_rows = "its calls hold no sentence but the operator's" if turns.calls else "none of its calls is modelled"
        reason = turns.reason or (_not_english(rows) if rows else no_rows)
        provenance = {
            "splitter": SPLITTER,
            "encoder": list(encoder),
            "settings": settings.model_dump(),
            "reason": reason,
        }
        return cls(
            rows=rows,
            embeddings=in_half_precision(embeddings),
            names=turns.names,
            encoder=encoder,
            input_hash=turns.input_hash,
            reason=reason,
            calls=turns.calls,
            provenance=provenance,
            company_name=turns.company_name,
        )

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def content_hash(self) -> str:
        """Hash of sentences, vectors, encoder and names: everything that the next stage reads."""
        return content_hash(self.rows, self.embeddings, self.encoder, sorted(self.names))

    def modelled(self) -> "Sentences":
        """The sentences without a boilerplate flag, in the same order."""
        keep = [i for i, row in enumerate(self.rows) if row.boilerplate is None]
        return replace(self, rows=tuple(self.rows[i] for i in keep), embeddings=self.embeddings[keep])


def split_turns(
    company_id: int, turns: Sequence[Turn], settings: SentenceSettings = DEFAULTS, names: Collection[str] = ()
) -> tuple[Sentence, ...]:
    """Sentences of one firm's turns in the order of the turns, operator turns left out.

    names:   lower-case parts of the names of the firm and of everyone who speaks
    returns: turns as given, places in the turn increasing; `position` counts from 0 within each
             transcript, and `sentence_id` is '{company_id}_{transcript_id}_{position:04d}'
    """
    languages = _foreign_languages(turns)
    sentences: list[Sentence] = []
    n_in_transcript: defaultdict[int, int] = defaultdict(int)
    exchanges: defaultdict[int, _Exchanges] = defaultdict(_Exchanges)
    for turn in turns:
        if _is_operator(turn):
            exchanges[turn.transcript_id].end()
            continue
        role, section = _role(turn.speaker_type), _section(turn.type_name)
        texts = [(start, end, turn.text[start:end]) for start, end in split_text(turn.text, settings.max_chars)]
        # Decision 125: no rule or word list of ours reads another language.
        foreign = languages.get(turn.transcript_id)
        flags = [foreign or _flag(text, settings, names) for _, _, text in texts]
        exchange = exchanges[turn.transcript_id].number_of(turn, has_content=None in flags)
        for (start, end, text), boilerplate in zip(texts, flags, strict=True):
            position = n_in_transcript[turn.transcript_id]
            n_in_transcript[turn.transcript_id] += 1
            sentences.append(
                Sentence(
                    sentence_id=f"{company_id}_{turn.transcript_id}_{position:04d}",
                    transcript_id=turn.transcript_id,
                    component_order=turn.component_order,
                    position=position,
                    start_char=start,
                    end_char=end,
                    text=text,
                    role=role,
                    section=section,
                    exchange=exchange,
                    boilerplate=boilerplate,
                )
            )
    return tuple(sentences)


def measure_boilerplate(
    rows: Sequence[Sentence],
    embeddings: np.ndarray,
    boilerplate_seeds: np.ndarray,
    settings: SentenceSettings = DEFAULTS,
) -> tuple[Sentence, ...]:
    """The sentences with their cosine to the nearest boilerplate seed; those near one are flagged.

    A sentence that has another flag, or names an amount, gets no flag here.

    embeddings: (n, d) float32, row i belongs to rows[i]    boilerplate_seeds: (p, d) float32, by the same encoder
    """
    measured = []
    for row, near in zip(rows, nearness(embeddings, boilerplate_seeds).tolist(), strict=True):
        is_near = near >= settings.max_platitude and row.boilerplate is None and not names_amount(row.text)
        flag = SEED_FLAG if is_near else row.boilerplate
        measured.append(replace(row, boilerplate_similarity=near, boilerplate=flag))
    return tuple(measured)


def _foreign_languages(turns: Sequence[Turn]) -> dict[int, str]:
    """Transcript id -> flag of its sentences, for the calls that are not in English."""
    texts: defaultdict[int, list[str]] = defaultdict(list)
    for turn in turns:
        if not _is_operator(turn):
            texts[turn.transcript_id].append(turn.text)
    languages = {transcript_id: foreign_language(of_call) for transcript_id, of_call in texts.items()}
    return {call: f"{NOT_ENGLISH} ({language})" for call, language in languages.items() if language}


def _not_english(rows: Sequence[Sentence]) -> str | None:
    """The languages of a firm of which nothing is modelled because of them, else None."""
    flags = {row.boilerplate for row in rows}
    foreign = sorted(flag for flag in flags if flag and flag.startswith(NOT_ENGLISH))
    return None if None in flags else ", ".join(foreign) or None


def _flag(text: str, settings: SentenceSettings, names: Collection[str]) -> str | None:
    """Why a sentence is not modelled, None if it is."""
    if reason := boilerplate_reason(text, settings.min_words):
        return reason
    limit = settings.max_commonplace
    return BASELINE_FLAG if limit is not None and is_baseline_phrase(text, names, limit) else None


@dataclass(slots=True)
class _Exchanges:
    """State of the exchanges of one call while its turns are read in order.

    number:   of the last exchange, 0 before the first
    running:  whether turns still belong to it
    answered: whether it has an answer, so that the next question starts another exchange
    """

    number: int = 0
    running: bool = False
    answered: bool = False

    def end(self) -> None:
        """Close the exchange: the next turns belong to none until somebody asks."""
        self.running = False

    def number_of(self, turn: Turn, *, has_content: bool) -> int | None:
        """The exchange that the next turn belongs to. A question of courtesies alone starts none."""
        if _section(turn.type_name) != "qa":
            self.end()
        elif _asks(turn) and has_content and (self.answered or not self.running):
            self.number += 1
            self.running, self.answered = True, False
        elif _answers(turn):
            self.answered = True
        return self.number if self.running else None


def _is_operator(turn: Turn) -> bool:
    speaker = turn.speaker_type.strip().casefold()
    # The type of the component decides only if the speaker is unknown.
    return speaker == "operator" or (speaker in ("", "unknown") and "operator message" in turn.type_name.casefold())


def _asks(turn: Turn) -> bool:
    # Decision 49.
    # Of 186 turns of unknown speakers in real Q&A, 135 stood where a question does: executives answered them.
    return _role(turn.speaker_type) != "executive" and not _answers(turn)


def _answers(turn: Turn) -> bool:
    role = _role(turn.speaker_type)
    return role == "executive" or (role == "unknown" and turn.type_name.strip().casefold() == "answer")


def is_known_speaker(speaker_type: str) -> bool:
    """Whether the type tells executives, analysts and operators apart."""
    return _role(speaker_type) != "unknown" or speaker_type.strip().casefold() == "operator"


def is_known_component(type_name: str) -> bool:
    """Whether the type tells prepared remarks from questions and answers."""
    return _section(type_name) != "unknown"


def _role(speaker_type: str) -> Role:
    match speaker_type.strip().casefold():
        case "executives" | "executive":
            return "executive"
        case "analysts" | "analyst":
            return "analyst"
    return "unknown"


def _section(type_name: str) -> Section:
    name = type_name.casefold()
    if "question" in name or "answer" in name:
        return "qa"
    return "prepared" if "present" in name else "unknown"


# --- where sentences end

_PARAGRAPH = re.compile(r"[^\r\n\u2028\u2029]+")
_CLOSERS = re.compile(r"[\"'\u201d\u2019)\]}>\xbb\u203a]+")

# Quotes and brackets are hidden from sentencex: it looks for no end inside a pair, and takes the years in
# "'21 was good. '22 was not." for one, so that a stray mark hides a page. Other white space than ASCII (next to an
# initial) and lone surrogates make it panic.
# Decision 26.
_READ_AS = str.maketrans(
    dict.fromkeys("\"'\u2018\u2019\u201c\u201d\u201e\u201f\xab\xbb\u2039\u203a()[]{}<>", " ")
    | dict.fromkeys("\t\v\f\x1c\x1d\x1e\x1f\x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000", " ")
    | {chr(code): " " for code in range(0x2000, 0x200B)}
    | {chr(code): "?" for code in range(0xD800, 0xE000)}
)
# It ends a sentence at Ms., at "5 p.m. Eastern time" and inside "non-U.S.", and none at OK. (Oklahoma), me. (Maine) and
# "they don't." (an initial, once the quotes are gone). Each stand-in is as long as what it stands for.
_MISREAD = re.compile(
    r"""
    (?P<title>\bMs\.) | (?P<state>\b(?:OK|me)\.)
    | (?P<hour>(?<=[ap]\.m)\.(?=\s+(?:Eastern|Central|Mountain|Pacific|[ECMP][SD]?T)\b))
    | (?P<hyphen>(?<=\w)-(?=[A-Z]\.[A-Z]))
    | (?P<apostrophe>(?<=\w)['\u2019](?=\w+\.))
    """,
    re.VERBOSE,
)
_STAND_INS = {"title": "Mr.", "state": "it.", "hour": ",", "hyphen": " ", "apostrophe": "x"}


def split_text(text: str, max_chars: int = DEFAULTS.max_chars) -> list[tuple[int, int]]:
    """Offsets of the sentences: increasing, apart, without white space at either end, every other character covered.

    A line break always ends a sentence. Time is linear in the length of the text.
    raises: ValueError if max_chars is below 1
    """
    if max_chars < 1:
        raise ValueError(f"max_chars is {max_chars}; a sentence needs at least one character")
    spans: list[tuple[int, int]] = []
    for paragraph in _PARAGRAPH.finditer(text):
        start = paragraph.start()
        for end in _sentence_ends(paragraph.group()):
            spans += _pieces(text, start, paragraph.start() + end, max_chars)
            start = paragraph.start() + end
    return spans


def _sentence_ends(paragraph: str) -> list[int]:
    """Offsets behind each sentence, never decreasing, the last one the length of the paragraph."""
    ends = []
    end = 0
    for boundary in get_sentence_boundaries("en", _reading_copy(paragraph)):
        end = max(end, boundary["start_index"] + len(boundary["text"].rstrip()))
        if closers := _CLOSERS.match(paragraph, end):
            end = closers.end()
        ends.append(end)
    return [*ends[:-1], len(paragraph)]


def _reading_copy(paragraph: str) -> str:
    """The paragraph with what sentencex misreads replaced; every character keeps its place."""
    return _MISREAD.sub(lambda misread: _STAND_INS[misread.lastgroup or ""], paragraph).translate(_READ_AS)


def _pieces(text: str, start: int, end: int, max_chars: int) -> list[tuple[int, int]]:
    """Offsets of text[start:end] without outer white space, cut so that none exceeds max_chars."""
    while start < end and text[start].isspace():
        start += 1
    while start < end and text[end - 1].isspace():
        end -= 1
    if end - start <= max_chars:
        return [(start, end)] if start < end else []
    pieces = []
    while end - start > max_chars:
        # The first character that no longer fits tells whether a word ends before it.
        window = text[start : start + max_chars + 1]
        head = window.rstrip() if window[-1].isspace() else window.rsplit(maxsplit=1)[0][:max_chars]
        pieces.append((start, start + len(head)))
        start += len(head)
        while text[start].isspace():
            start += 1
    return [*pieces, (start, end)]
