"""`ftm cost`: what a language model would take for the summaries that are missing, counted from the real prompts."""

import json
from typing import Any

import pytest
import sqlalchemy as sa

from devtools.fake_openai.behaviour import MODEL as SIMULATED
from ftm_assets.analysis.topic_summaries import evidence_of
from ftm_assets.cli.cost import planned_themes, planned_topics
from ftm_assets.cli.display import money
from ftm_assets.llm.cost_estimate import PlannedRequest, estimate
from ftm_assets.llm.guardrails import NameBlocklist
from ftm_assets.llm.prompts.topic_summaries import PROMPT
from ftm_assets.llm.protocol import CHARS_PER_TOKEN, CompletionRequest, Message
from ftm_assets.llm.theme_descriptions import blocklists, theme_tasks
from ftm_assets.llm.topic_summaries import topic_tasks
from ftm_assets.storage.read.llm_spending import PromptUsage
from ftm_assets.storage.read.prompt_inputs import evidence_by_firm
from ftm_assets.storage.read.quarter_topics import read_quarter_topics
from ftm_assets.storage.server.database import Database
from ftm_assets.storage.stages.sentences import read_sentences
from ftm_assets.storage.stages.topics import read_topics
from ftm_assets_tests.cli.test_main import ftm
from ftm_assets_tests.storage.builders import derive, firm, firms, put_themes, themes_of
from ftm_assets_tests.storage.sql import QUARTER


def planned(text: str, n_items: int = 2) -> PlannedRequest:
    messages = (Message("system", "x" * 40), Message("user", text))
    return PlannedRequest(CompletionRequest(QUARTER, PROMPT.id, messages, {}, 10), n_items)


def costs(*options: str) -> dict[str, dict[str, Any]]:
    return {row["model"]: row for row in json.loads(ftm("cost", QUARTER, "--format", "json", *options))}


def test_tokens_are_counted_from_characters_each_question_once() -> None:
    found = estimate([planned("y" * 40), planned("y" * 40), planned("z" * 80)], "m", frozenset(), {})
    assert (found.n_requests, found.n_items, found.n_stored) == (2, 4, 0)
    assert (found.tokens_in, found.tokens_out) == (round(200 / CHARS_PER_TOKEN), 320)


def test_what_requests_of_before_took_decides() -> None:
    usage = {PROMPT.id: PromptUsage(PROMPT.id, n_requests=9, n_chars=200, tokens_in=100, tokens_out=50)}
    found = estimate([planned("y" * 40)], "m", frozenset(), usage)
    assert (found.tokens_in, found.tokens_out) == (40, 20)


def test_a_reply_that_is_there_costs_nothing() -> None:
    one, other = planned("y"), planned("z")
    found = estimate([one, other], "m", frozenset({one.request.key("m")}), {})
    assert (found.n_requests, found.n_stored) == (1, 1)


def test_the_planned_requests_are_those_that_would_be_sent(database: Database) -> None:
    places = firms(database, 7, 8)
    put_themes(database, themes_of(database))
    with database.transaction() as connection:
        real = [evidence_of(read_topics(connection, at), read_sentences(connection, at)) for at in places]
        assert [list(each) for each in evidence_by_firm(connection, QUARTER)] == real
        assert sum(each.n_items for each in planned_topics(connection, QUARTER)) == 4
        topics = read_quarter_topics(connection, QUARTER)
        themes = themes_of(database)
        texts = {(topic.company_id, topic.topic_number): topic.summary for topic in topics.topics}
        keywords = {theme.theme_number: theme.keywords for theme in themes.themes}
        sent = [each.request() for each in theme_tasks(QUARTER, keywords, themes.members, texts, blocklists(topics))]
        assert [each.request.key("m") for each in planned_themes(connection, QUARTER)] == [q.key("m") for q in sent]


@pytest.fixture
def known(database: Database, monkeypatch: pytest.MonkeyPatch) -> Database:
    """Two firms and their themes, where the command finds them."""
    firms(database, 7, 8)
    put_themes(database, themes_of(database))
    monkeypatch.setenv("FTM_DATABASE_URL", database.url())
    return database


def test_every_model_of_the_price_list_has_its_price(known: Database) -> None:
    rows = costs()
    assert len(rows) > 3 and not any(row["chosen"] for row in rows.values())
    assert SIMULATED not in rows, "what costs nothing is listed only where it is chosen"
    assert {row["n_requests"] for row in rows.values()} == {3}, "the firms say the same; two themes"
    assert rows["gpt-4o-mini"]["dollars"] == pytest.approx(
        (rows["gpt-4o-mini"]["tokens_in"] * 0.15 + rows["gpt-4o-mini"]["tokens_out"] * 0.60) / 1e6
    )
    told = ftm("cost", QUARTER)
    assert "no language model is configured" in told and "caps: none a run, $20.00 a quarter" in told


def test_a_model_without_a_price_has_tokens_all_the_same(known: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FTM_LLM_MODEL", "of-my-own")
    row = costs()["of-my-own"]
    assert row["chosen"] and row["dollars"] is None and row["tokens_in"] > 0
    told = ftm("cost", QUARTER)
    assert "unknown" in told and "nothing is sent: the price of of-my-own is unknown" in told
    monkeypatch.setenv("FTM_LLM_QUARTER_CAP", "inf")
    assert "nothing is sent" not in ftm("cost", QUARTER)


def test_an_estimate_that_passes_the_cap_says_so(known: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FTM_LLM_MODEL", "gpt-4o-mini")
    assert "more than the quarter's cap" not in ftm("cost", QUARTER)
    monkeypatch.setenv("FTM_LLM_QUARTER_CAP", "0.00001")
    assert "more than the quarter's cap: $0.00 spent and $0.00" in ftm("cost", QUARTER)


def test_little_money_is_not_shown_as_none() -> None:
    assert [money(dollars) for dollars in (None, 0.0, 0.004, 1234.5)] == ["unknown", "0.00", "0.0040", "1,234.50"]


def test_what_is_there_is_free_and_says_how_tokens_are_counted(
    known: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FTM_LLM_MODEL", "gpt-4o-mini")
    with known.transaction() as connection:
        [first, *_] = planned_topics(connection, QUARTER)
        request = {"messages": [{"content": "x" * 300}, {"content": "y" * 300}]}
        connection.execute(
            sa.text(
                """
                INSERT INTO llm_calls (key, number, quarter, run, prompt, model, request, state, tokens_in, tokens_out,
                    dollars, attempts, sender)
                VALUES (:key, 1, '2021Q4', '', :prompt, 'gpt-4o-mini', CAST(:request AS jsonb), 'answered', 200, 50,
                    1.5, 1, 1)
                """
            ),
            {"key": first.request.key("gpt-4o-mini"), "prompt": PROMPT.id, "request": json.dumps(request)},
        )
    row = costs()["gpt-4o-mini"]
    assert (row["n_requests"], row["n_stored"]) == (2, 1)
    assert row["counted_by"] == "3.00 characters a token, as 1 requests took"
    assert "spent for 2021Q4 so far: $1.50" in ftm("cost", QUARTER)


def test_what_was_refused_is_free_and_its_topics_are_asked_about_one_by_one(
    known: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FTM_LLM_MODEL", "gpt-4o-mini")
    assert costs()["gpt-4o-mini"]["n_requests"] == 3
    with known.transaction() as connection:
        [first, *_] = planned_topics(connection, QUARTER)
        refuse = """
            INSERT INTO llm_calls (key, number, quarter, run, prompt, model, request, state, attempts, sender)
            VALUES (:key, 1, '2021Q4', '', :prompt, 'gpt-4o-mini', '{"messages": []}', 'refused', 1, 1)
        """
        pieces = first.after_refusal()
        for request in (first.request, pieces[0].request):
            connection.execute(sa.text(refuse), {"key": request.key("gpt-4o-mini"), "prompt": PROMPT.id})
    assert len(pieces) == first.n_items == 2
    row = costs()["gpt-4o-mini"]
    assert (row["n_requests"], row["n_stored"]) == (3, 2), "two themes and the piece that was not refused"


def test_what_is_not_in_it_is_said(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FTM_DATABASE_URL", database.url())
    derive(database, firm(database, 7))
    firm(database, 8)
    told = ftm("cost", QUARTER)
    assert "1 of 2 firms are not complete" in told and "no themes are published yet" in told


def test_names_are_no_part_of_a_question(database: Database) -> None:
    firms(database, 7)
    with database.transaction() as connection:
        [firm_topics] = evidence_by_firm(connection, QUARTER)
    one, other = (
        topic_tasks(firm_topics, names)[0].request()
        for names in (NameBlocklist(), NameBlocklist.for_company({"acme"}, "Acme"))
    )
    assert one == other
