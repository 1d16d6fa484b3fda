"""Descriptions of themes: from whom, by whom, and what is kept."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ftm_assets.analysis.themes import (
    KnownThemes,
    QuarterTopic,
    QuarterTopics,
    Speakers,
    Theme,
    ThemeDescription,
    Themes,
    ThemeTopic,
)
from ftm_assets.llm.protocol import CompletionFailure
from ftm_assets.llm.theme_descriptions import N_SUMMARIES, by_label, describe, representatives
from ftm_assets_tests.llm.language_models import FakeLanguageModel, document_of, good_reply, is_repair

THEME = Theme(3, "freight, costs", ("freight", "costs"), 2, 3, 0.5, 0.5, None)
MEMBERS = (
    ThemeTopic(7, 0, "freight", 3, 0.9),
    ThemeTopic(7, 1, "freight", 3, 0.8),
    ThemeTopic(8, 0, "freight", 3, 0.7),
)
THEMES = Themes("2021Q4", (THEME,), MEMBERS, np.ones((1, 4), np.float32), {}, 0, {7: "a", 8: "b"}, 2, 3)
TOPICS = tuple(
    QuarterTopic(
        m.company_id, m.topic_number, "", (), 0.0, f"Freight costs of firm {m.company_id}, topic {m.topic_number}."
    )
    for m in MEMBERS
)
PAID = ThemeDescription(3, "Firms speak of dear freight.", "model", "m", "Dear freight")


def quarter(**changes: Any) -> QuarterTopics:
    rows = np.ones((3, 4), np.float32)
    facts: dict[str, Any] = {"known": KnownThemes(), "speakers": {8: Speakers("Bolt & Co", ("June",))}}
    return QuarterTopics("2021Q4", TOPICS, rows, rows, {7: "a", 8: "b"}, 2, 3, **{**facts, **changes})


ALL = frozenset((member.company_id, member.topic_number) for member in MEMBERS)


def known(members: frozenset[tuple[int, int]] = ALL) -> KnownThemes:
    """The theme as it was published, with these topics and a description that was paid."""
    return KnownThemes((3,), np.ones((1, 4), np.float32), 4, (members,), descriptions={3: PAID})


def test_a_theme_is_shown_by_its_nearest_topics_one_of_each_firm_first() -> None:
    assert [(m.company_id, m.topic_number) for m in representatives(MEMBERS)] == [(7, 0), (8, 0), (7, 1)]
    assert [(m.company_id, m.topic_number) for m in representatives(MEMBERS, 2)] == [(7, 0), (8, 0)]
    many = [ThemeTopic(firm, number, "", 1, 0.5) for firm in range(40) for number in range(50)]
    chosen = representatives(many)
    assert len(chosen) == len({m.company_id for m in chosen}) == N_SUMMARIES


def test_the_model_is_told_keywords_and_those_summaries_alone() -> None:
    model = FakeLanguageModel()
    [described] = describe(THEMES, quarter(), model).descriptions
    [request] = model.requests
    assert document_of(request)["theme"] == {
        "keywords": ["freight", "costs"],
        "summaries": [
            "Freight costs of firm 7, topic 0.",
            "Freight costs of firm 8, topic 0.",
            "Freight costs of firm 7, topic 1.",
        ],
    }
    assert (described.source, described.model, described.title) == ("model", "fake-1-dated", "About freight")


@pytest.mark.parametrize(
    "reply",
    [
        '{"title": "Freight"}',
        {"title": "Freight", "description": "Companies such as Bolt say that freight costs rose."},
        {"title": "Freight", "description": "Freight."},
        {"title": "Bad weather", "description": "Some companies say that freight costs rose."},
        {"title": "", "description": "Some companies say that freight costs rose."},
        {"title": "Freight", "description": "Some companies say that freight costs rose.", "more": 1},
        {"title": "Freight", "description": "Nobody is happy with the weather in spring."},
    ],
)
def test_a_bad_description_is_repaired_once(reply: Any) -> None:
    model = FakeLanguageModel(lambda request, document: good_reply(document) if is_repair(request) else reply)
    [described] = describe(THEMES, quarter(), model).descriptions
    assert described.source == "model" and len(model.requests) == 2
    again = FakeLanguageModel(lambda *_: reply)
    found = describe(THEMES, quarter(), again)
    assert found.descriptions == (by_label(THEME),)
    assert found.reasons[3].startswith("invalid reply: ")
    assert len(again.requests) == len(again.rejected) == 2


def test_a_description_may_name_a_month_that_somebody_is_called() -> None:
    reply = {"title": "Freight in June", "description": "Some companies say that freight costs rose in June."}
    model = FakeLanguageModel(lambda *_: reply)
    assert describe(THEMES, quarter(), model).descriptions[0].title == "Freight in June"
    assert len(model.requests) == 1


def test_what_was_paid_is_kept_as_long_as_the_theme_holds_the_same_topics() -> None:
    gone = FakeLanguageModel(lambda *_: CompletionFailure("no model", ""))
    kept = describe(THEMES, quarter(known=known()), gone)
    assert kept.descriptions == (PAID,) and kept.reasons == {}
    other = describe(THEMES, quarter(known=known(frozenset({(7, 0)}))), gone)
    assert other.descriptions == (by_label(THEME),) and other.reasons == {3: "no model"}
    assert describe(THEMES, quarter(known=known()), FakeLanguageModel()).descriptions[0].text != PAID.text


def test_keywords_describe_a_theme_that_nobody_else_does() -> None:
    assert by_label(THEME) == ThemeDescription(3, "Freight, costs.", "keywords", None, None)
    assert by_label(replace(THEME, keywords=(), label="unnamed")).text == "Unnamed."


def test_a_quarter_without_themes_asks_nothing() -> None:
    model = FakeLanguageModel()
    nothing = replace(THEMES, themes=(), members=(), centroids=np.zeros((0, 4), np.float32))
    assert describe(nothing, quarter(), model).descriptions == ()
    assert model.requests == []
