"""What a theme is about, in two or three sentences, from a few summaries that stand for all of its topics."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from pydantic import ValidationError

from ftm_assets.analysis.themes import QuarterTopics, Theme, ThemeDescription, Themes, ThemeTopic
from ftm_assets.analysis.vectors import DIMENSIONS
from ftm_assets.llm.guardrails import DESCRIPTION, TITLE, NameBlocklist, fault, lower_case_words, plain
from ftm_assets.llm.json_replies import Unreadable, clipped, parsed, shape_problem
from ftm_assets.llm.prompting import Reading, inquire
from ftm_assets.llm.prompts.theme_descriptions import PROMPT, SCHEMA, ThemeReply
from ftm_assets.llm.protocol import Bill, LanguageModel, Question

# Decision 67.
N_SUMMARIES = 15  # A theme may have 2,000 topics; what they have in common shows in the most typical ones.
_MAX_TOKENS = 400


@dataclass(frozen=True)
class Described:
    """A description of each theme, in order, and what they took.

    reasons: number -> why it is made of keywords
    keys:    of the replies that they came from
    """

    descriptions: tuple[ThemeDescription, ...]
    reasons: Mapping[int, str]
    bill: Bill
    keys: frozenset[str]


@dataclass(frozen=True)
class ThemeInquiry:
    """A request about one theme."""

    quarter: str
    run: str
    number: int
    keywords: tuple[str, ...]
    summaries: tuple[str, ...]
    names: NameBlocklist

    @property
    def numbers(self) -> tuple[int, ...]:
        """The theme's number."""
        return (self.number,)

    def document(self) -> dict[str, Any]:
        """What the prompt ends in."""
        return {"theme": {"keywords": list(self.keywords), "summaries": [clipped(s) for s in self.summaries]}}

    def question(self) -> Question:
        """The request."""
        return PROMPT.question(self.document(), SCHEMA, _MAX_TOKENS, self.quarter, self.run)

    def only(self, numbers: Sequence[int]) -> "ThemeInquiry":
        """Itself: it is about nothing else."""
        return self

    def read(self, text: str) -> Reading[ThemeReply]:
        """The description, if it is as it must be."""
        number = self.number
        try:
            reply = ThemeReply.model_validate(parsed(text))
        except Unreadable as error:
            return Reading({}, {number: str(error)})
        except ValidationError as error:
            return Reading({}, {number: shape_problem(error)})
        reply = ThemeReply(title=plain(reply.title), description=plain(reply.description))
        said = (*self.summaries, *self.keywords)
        problem = fault(reply.description, DESCRIPTION, self.names, PROMPT.instructions, said, "description") or fault(
            reply.title, TITLE, self.names, PROMPT.instructions, (*said, reply.description), "title"
        )
        return Reading({}, {number: problem}) if problem else Reading({number: reply}, {})


def describe(themes: Themes, quarter: QuarterTopics, model: LanguageModel, run: str = "") -> Described:
    """A description of each theme: the model's if it gave a usable one, else the one before, else its label.

    The one before is that of a theme with the same number and the very same topics. Which topics are in which theme
    is decided before anybody is asked.
    """
    texts = {(topic.company_id, topic.topic_number): topic.summary for topic in quarter.topics}
    keywords = {theme.theme_number: theme.keywords for theme in themes.themes}
    came = inquire(model, inquiries(quarter.quarter, keywords, themes.members, texts, blocklists(quarter), run))
    before = quarter.known.descriptions
    members = dict(zip(quarter.known.numbers, quarter.known.members, strict=False))
    by_theme = _by_theme(themes.members)
    now = {number: frozenset((m.company_id, m.topic_number) for m in topics) for number, topics in by_theme.items()}
    descriptions = []
    for theme in themes.themes:
        number = theme.theme_number
        if number in came.found:
            reply, name = came.found[number]
            descriptions.append(ThemeDescription(number, reply.description, "model", name, reply.title))
        elif number in before and members.get(number) == now[number]:
            descriptions.append(before[number])
        else:
            descriptions.append(by_label(theme))
    by_keywords = {d.theme_number for d in descriptions if d.source == "keywords"}
    reasons = {number: why for number, why in came.reasons.items() if number in by_keywords}
    return Described(tuple(descriptions), reasons, came.bill, came.keys)


def blocklists(quarter: QuarterTopics) -> dict[int, NameBlocklist]:
    """Company id -> names that no text about the quarter may hold."""
    return {firm: NameBlocklist.of(s.name_tokens, s.company_name) for firm, s in quarter.speakers.items()}


def embed(descriptions: Sequence[ThemeDescription], encode: Callable[[Sequence[str]], np.ndarray]) -> np.ndarray:
    """(k, 768) float32: a vector of unit length for each description that a model has written, zeros for the others.

    Without any nothing is encoded, so that a process that makes themes need not load the encoder.
    """
    vectors = np.zeros((len(descriptions), DIMENSIONS), np.float32)
    rows = [row for row, description in enumerate(descriptions) if description.source == "model"]
    vectors[rows] = encode([descriptions[row].text for row in rows])
    return vectors


def by_label(theme: Theme) -> ThemeDescription:
    """The description that is always there: the words of the theme."""
    words = ", ".join(theme.keywords[:5]) or theme.label
    return ThemeDescription(theme.theme_number, f"{words[:1].upper()}{words[1:]}.", "keywords", None, None)


def inquiries(
    quarter: str,
    keywords: Mapping[int, tuple[str, ...]],
    members: Sequence[ThemeTopic],
    texts: Mapping[tuple[int, int], str],
    names: Mapping[int, NameBlocklist],
    run: str = "",
) -> list[ThemeInquiry]:
    """One request for each theme.

    keywords: of each theme, by its number
    texts: company id and topic number -> summary; topics that have none are not shown
    names: company id -> names that no description may hold
    """
    of_theme, spoken = _by_theme(members), lower_case_words(texts.values())
    found = []
    for number, words in keywords.items():
        live = [topic for topic in of_theme[number] if (topic.company_id, topic.topic_number) in texts]
        summaries = tuple(texts[topic.company_id, topic.topic_number] for topic in representatives(live))
        known = [names[firm] for firm in sorted({topic.company_id for topic in live}) if firm in names]
        found.append(
            ThemeInquiry(quarter, run, number, words, summaries, NameBlocklist.of_all(known, summaries, spoken))
        )
    return found


def representatives(members: Sequence[ThemeTopic], n: int = N_SUMMARIES) -> list[ThemeTopic]:
    """The n topics that stand for a theme: nearest to its centroid, one of each firm before a second of any."""
    nearest = sorted(members, key=lambda topic: (-topic.similarity, topic.company_id, topic.topic_number))
    seen: dict[int, int] = {}
    turns = []
    for topic in nearest:
        turns.append(seen.get(topic.company_id, 0))
        seen[topic.company_id] = turns[-1] + 1
    in_turn = sorted(zip(turns, range(len(nearest)), strict=True))
    return [nearest[place] for _, place in in_turn[:n]]


def _by_theme(members: Sequence[ThemeTopic]) -> dict[int, list[ThemeTopic]]:
    in_order = sorted(members, key=lambda topic: topic.theme_number)
    return {number: list(of) for number, of in groupby(in_order, key=lambda topic: topic.theme_number)}
