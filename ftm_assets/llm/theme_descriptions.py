"""Descriptions of themes by a language model, from a few summaries that represent all topics of the theme."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from pydantic import ValidationError

from ftm_assets.analysis.themes import QuarterTopics, Theme, ThemeDescription, Themes, ThemeTopic
from ftm_assets.analysis.vectors import DIMENSIONS
from ftm_assets.llm.guardrails import DESCRIPTION, TITLE, NameBlocklist, first_violation, lower_case_words, one_line
from ftm_assets.llm.json_replies import InvalidJson, parse_json, schema_problem, truncate
from ftm_assets.llm.prompting import ParsedReply, run_tasks
from ftm_assets.llm.prompts.theme_descriptions import PROMPT, SCHEMA, ThemeReply
from ftm_assets.llm.protocol import CompletionRequest, LanguageModel, UsageCost

# Decision 67.
N_SUMMARIES = 15  # A theme may have 2,000 topics; what they have in common shows in the most typical ones.
_MAX_TOKENS = 400


@dataclass(frozen=True)
class ThemeDescriptions:
    """A description of each theme, in order, and what they cost.

    reasons:    theme number -> why its description is made of keywords
    reply_keys: of the replies that they came from
    """

    descriptions: tuple[ThemeDescription, ...]
    reasons: Mapping[int, str]
    cost: UsageCost
    reply_keys: frozenset[str]


@dataclass(frozen=True)
class ThemeTask:
    """A request about one theme."""

    quarter: str
    run: str
    number: int
    keywords: tuple[str, ...]
    summaries: tuple[str, ...]
    blocklist: NameBlocklist

    @property
    def numbers(self) -> tuple[int, ...]:
        """The theme's number."""
        return (self.number,)

    def document(self) -> dict[str, Any]:
        """The JSON document at the end of the prompt."""
        return {"theme": {"keywords": list(self.keywords), "summaries": [truncate(s) for s in self.summaries]}}

    def request(self) -> CompletionRequest:
        """The request."""
        return PROMPT.request(self.document(), SCHEMA, _MAX_TOKENS, self.quarter, self.run)

    def only(self, numbers: Sequence[int]) -> "ThemeTask":
        """Itself: a theme has no parts."""
        return self

    def parse(self, text: str) -> ParsedReply[ThemeReply]:
        """The description if it is valid, else what is wrong with it."""
        number = self.number
        try:
            reply = ThemeReply.model_validate(parse_json(text))
        except InvalidJson as error:
            return ParsedReply({}, {number: str(error)})
        except ValidationError as error:
            return ParsedReply({}, {number: schema_problem(error)})
        reply = ThemeReply(title=one_line(reply.title), description=one_line(reply.description))
        evidence = (*self.summaries, *self.keywords)
        problem = first_violation(
            reply.description, DESCRIPTION, self.blocklist, PROMPT.instructions, evidence, "description"
        ) or first_violation(
            reply.title, TITLE, self.blocklist, PROMPT.instructions, (*evidence, reply.description), "title"
        )
        return ParsedReply({}, {number: problem}) if problem else ParsedReply({number: reply}, {})


def describe(themes: Themes, quarter: QuarterTopics, model: LanguageModel, run: str = "") -> ThemeDescriptions:
    """A description of each theme: the model's if it is usable, else the one before, else its keywords.

    The one before belongs to a theme with the same number and exactly the same topics. The model decides nothing about
    which topics are in which theme. Decisions 64 and 67.
    """
    texts = {(topic.company_id, topic.topic_number): topic.summary for topic in quarter.topics}
    keywords = {theme.theme_number: theme.keywords for theme in themes.themes}
    results = run_tasks(model, theme_tasks(quarter.quarter, keywords, themes.members, texts, blocklists(quarter), run))
    before = quarter.known.descriptions
    members = dict(zip(quarter.known.numbers, quarter.known.members, strict=False))
    by_theme = _by_theme(themes.members)
    now = {number: frozenset((m.company_id, m.topic_number) for m in topics) for number, topics in by_theme.items()}
    descriptions = []
    for theme in themes.themes:
        number = theme.theme_number
        if number in results.found:
            reply, name = results.found[number]
            descriptions.append(ThemeDescription(number, reply.description, "model", name, reply.title))
        elif number in before and members.get(number) == now[number]:
            descriptions.append(before[number])
        else:
            descriptions.append(by_label(theme))
    by_keywords = {d.theme_number for d in descriptions if d.source == "keywords"}
    reasons = {number: why for number, why in results.reasons.items() if number in by_keywords}
    return ThemeDescriptions(tuple(descriptions), reasons, results.cost, frozenset(results.reply_keys))


def blocklists(quarter: QuarterTopics) -> dict[int, NameBlocklist]:
    """Company id -> names that no text about the quarter may hold."""
    return {firm: NameBlocklist.for_company(s.name_tokens, s.company_name) for firm, s in quarter.speakers.items()}


def embed(descriptions: Sequence[ThemeDescription], encode: Callable[[Sequence[str]], np.ndarray]) -> np.ndarray:
    """(k, 768) float32: a unit vector for each description by a model, zeros for the others.

    If no model wrote any, `encode` gets an empty list, so that the process need not load the encoder.
    """
    vectors = np.zeros((len(descriptions), DIMENSIONS), np.float32)
    rows = [row for row, description in enumerate(descriptions) if description.source == "model"]
    vectors[rows] = encode([descriptions[row].text for row in rows])
    return vectors


def by_label(theme: Theme) -> ThemeDescription:
    """The fallback description: the theme's keywords."""
    words = ", ".join(theme.keywords[:5]) or theme.label
    return ThemeDescription(theme.theme_number, f"{words[:1].upper()}{words[1:]}.", "keywords", None, None)


def theme_tasks(
    quarter: str,
    keywords: Mapping[int, tuple[str, ...]],
    members: Sequence[ThemeTopic],
    texts: Mapping[tuple[int, int], str],
    firm_blocklists: Mapping[int, NameBlocklist],
    run: str = "",
) -> list[ThemeTask]:
    """One request for each theme.

    keywords:        theme number -> keywords
    texts:           company id and topic number -> summary; topics without one are left out
    firm_blocklists: company id -> names that no description may hold
    """
    of_theme, common_words = _by_theme(members), lower_case_words(texts.values())
    tasks = []
    for number, words in keywords.items():
        live = [topic for topic in of_theme[number] if (topic.company_id, topic.topic_number) in texts]
        summaries = tuple(texts[topic.company_id, topic.topic_number] for topic in representatives(live))
        firms = sorted({topic.company_id for topic in live} & firm_blocklists.keys())
        blocklist = NameBlocklist.for_theme([firm_blocklists[firm] for firm in firms], summaries, common_words)
        tasks.append(
            ThemeTask(quarter=quarter, run=run, number=number, keywords=words, summaries=summaries, blocklist=blocklist)
        )
    return tasks


def representatives(members: Sequence[ThemeTopic], n: int = N_SUMMARIES) -> list[ThemeTopic]:
    """The n topics that represent a theme: nearest to its centroid, one of each firm before a second of any."""
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
