"""A quarter with a language model, one that fails, and one that has gone: what is kept, and what is told."""

from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa

from ftm_assets.definitions import build_definitions
from ftm_assets.llm.protocol import CompletionFailure, CompletionRequest, LanguageModel, NoLanguageModel
from ftm_assets.operations.ingest import ingest_quarters
from ftm_assets.partitions import firm_quarter_key
from ftm_assets.report.page import render, warnings_of
from ftm_assets.storage.read.llm_spending import (
    PromptUsage,
    Spending,
    keys_in_state,
    look_ahead,
    look_ahead_of,
    spending,
    usage_by_prompt,
)
from ftm_assets.storage.read.queries import quarter_detail
from ftm_assets.storage.read.report import read_report
from ftm_assets.storage.server.database import Database
from ftm_assets_tests.fakes import HashEncoder
from ftm_assets_tests.llm.language_models import Document, FakeLanguageModel, Reply, document_of, good_reply
from ftm_assets_tests.six_firms import six_firms
from ftm_assets_tests.storage.sql import ask

QUARTER = "2021Q4"
MEMBERS = "SELECT company_id, topic_number, theme_number, similarity FROM theme_topics ORDER BY 1, 2"
SUMMARIES = "SELECT company_id, topic_number, text, title, source, model, reason FROM topic_summaries ORDER BY 1, 2"
DESCRIPTIONS = (
    "SELECT theme_number, title, description, description_source, description_model FROM themes ORDER BY theme_number"
)
Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(defs: dg.Definitions, database: Database, tmp_path: Path) -> Run:
    """Runs a quarter of six firms with a language model: the firms, then the themes; returns the themes' metadata."""
    source = six_firms(tmp_path / "calls.csv")
    graph = defs

    def run_all(model: LanguageModel, *, jobs: tuple[str, ...] = ("firm_quarter", "quarter_themes")) -> dict[str, Any]:
        nonlocal graph
        graph = build_definitions(database, HashEncoder(), model)
        with dg.DagsterInstance.ephemeral() as instance:
            list(ingest_quarters(graph, instance, database, [QUARTER], {"source": str(source)}))
            told: dict[str, Any] = {}
            for job in jobs:
                keys = [firm_quarter_key(k, QUARTER) for k in instance.get_dynamic_partitions("firm")]
                for partition in [QUARTER] if job == "quarter_themes" else keys:
                    result = graph.resolve_job_def(job).execute_in_process(instance=instance, partition_key=partition)
                    assert result.success
                    events = result.get_asset_materialization_events()
                    told = {name: each.value for name, each in events[-1].materialization.metadata.items()}
            return told

    return run_all


def every_second_fails() -> FakeLanguageModel:
    """A model that has gone at every second request."""
    fails = cycle([True, False])

    def reply(_: CompletionRequest, document: Document) -> Reply:
        return CompletionFailure("unavailable", "500") if next(fails) else good_reply(document)

    return FakeLanguageModel(reply)


def test_a_model_writes_summaries_and_descriptions_and_says_what_they_took(run: Run, database: Database) -> None:
    model = FakeLanguageModel()
    told = run(model)
    summaries = ask(database, SUMMARIES)
    assert summaries and all(row[4:] == ("model", "fake-1-dated", None) and row[3] for row in summaries)
    descriptions = ask(database, DESCRIPTIONS)
    assert descriptions and all(row[3:] == ("model", "fake-1-dated") and row[1] for row in descriptions)
    assert told["described by model"] == told["requests"] == len(descriptions)
    assert told["dollars"] == pytest.approx(0.001 * len(descriptions))
    assert told["tokens in"] > told["tokens out"] > 0
    unit = "SELECT count(*) FROM themes WHERE abs(vector_norm(description_embedding) - 1) < 1e-4"
    assert ask(database, unit) == [(len(descriptions),)]


def test_each_request_says_who_pays(run: Run) -> None:
    model = FakeLanguageModel()
    run(model)
    assert {request.quarter for request in model.requests} == {QUARTER}
    assert all(request.run for request in model.requests)
    assert {request.prompt for request in model.requests} == {"topic_summaries@1", "theme_descriptions@1"}


@pytest.mark.slow
def test_membership_does_not_depend_on_the_model(run: Run, database: Database) -> None:
    run(NoLanguageModel())
    without, by_keywords = ask(database, MEMBERS), ask(database, SUMMARIES)
    run(every_second_fails())
    assert ask(database, MEMBERS) == without
    sources = [row[4] for row in ask(database, SUMMARIES)]
    assert {"keywords", "model"} == set(sources)
    assert {row[6] for row in ask(database, SUMMARIES) if row[4] == "keywords"} == {"unavailable: 500"}
    assert [row[:2] for row in ask(database, SUMMARIES)] == [row[:2] for row in by_keywords], "a summary for each topic"
    run(FakeLanguageModel())
    assert ask(database, MEMBERS) == without


@pytest.mark.slow
def test_a_run_without_a_key_loses_nothing_that_was_paid(run: Run, database: Database) -> None:
    run(FakeLanguageModel())
    before = ask(database, SUMMARIES), ask(database, DESCRIPTIONS)
    told = run(NoLanguageModel())
    assert (ask(database, SUMMARIES), ask(database, DESCRIPTIONS)) == before
    assert told["rows"] == "unchanged"
    run(FakeLanguageModel(lambda *_: CompletionFailure("unavailable", "down")))
    assert (ask(database, SUMMARIES), ask(database, DESCRIPTIONS)) == before


@pytest.mark.slow
def test_topics_that_changed_have_no_summary_of_before(run: Run, database: Database) -> None:
    run(FakeLanguageModel())
    with database.transaction() as connection:
        connection.execute(sa.text("UPDATE materializations SET input_hash = 'other' WHERE stage = 'topic_summaries'"))
    run(NoLanguageModel(), jobs=("firm_quarter",))
    assert {row[4] for row in ask(database, SUMMARIES)} == {"keywords"}


def test_a_theme_shows_one_topic_of_each_firm_to_the_model(run: Run) -> None:
    model = FakeLanguageModel()
    run(model)
    themes = [document_of(request)["theme"] for request in model.requests if request.prompt.startswith("theme")]
    assert themes
    for theme in themes:
        assert 1 < len(theme["summaries"]) <= 15
        assert all(summary.startswith("The company says") for summary in theme["summaries"])


def test_keywords_describe_a_theme_where_no_model_does(run: Run, database: Database) -> None:
    told = run(NoLanguageModel())
    described = ask(database, DESCRIPTIONS)
    assert all(row[1] is None and row[2] and row[3:] == ("keywords", None) for row in described)
    assert told["by keywords because"] == {"no model": len(described)}
    assert "requests" not in told
    assert ask(database, "SELECT count(*) FROM themes WHERE description_embedding IS NOT NULL") == [(0,)]


def test_the_report_shows_titles_and_who_wrote_what(run: Run, database: Database) -> None:
    run(every_second_fails())
    with database.transaction() as connection:
        report = read_report(connection, QUARTER)
    page = render(report)
    [described] = {theme.row.title for theme in report.themes if theme.row.title}
    assert described in page and "fake-1-dated" in page and "Who wrote the texts" in page
    assert any("topic summaries are made of keywords" in warning for warning in warnings_of(report))


def paid(database: Database, cutoff: str) -> None:
    """The ledger's rows of replies of a model that was trained until then."""
    with database.transaction() as connection:
        connection.execute(
            sa.text(
                """
                INSERT INTO llm_calls (key, number, quarter, run, prompt, model, model_answered, training_cutoff,
                    request, state, tokens_in, tokens_cached, tokens_out, dollars, attempts, sender)
                SELECT 'k' || i, 1, '2021Q4', 'r', 'topic_summaries@1', 'fake-1', 'fake-1-dated', :cutoff,
                    '{"messages": [{"content": "aaaa"}, {"content": "bbbb"}]}', 'answered', 2, 1, 3, 0.25, 1, 1
                FROM generate_series(1, 2) AS i
                """
            ),
            {"cutoff": cutoff},
        )


def test_look_ahead_bias_is_reported_where_the_model_was_trained_on_later_texts(run: Run, database: Database) -> None:
    run(FakeLanguageModel())
    paid(database, "2024-06-01")
    with database.transaction() as connection:
        detail = quarter_detail(connection, QUARTER)
        [found] = detail.look_ahead
        assert str(found).startswith(
            "fake-1-dated was trained on texts until 2024-06-01, the first call is of 2021-11-02"
        )
        assert look_ahead_of(connection, {"k1", "k2"}, found.first_call) == [found]
        connection.execute(sa.text("UPDATE llm_calls SET training_cutoff = '2021-11-02'"))
        assert look_ahead(connection, QUARTER) == look_ahead_of(connection, {"k1"}, found.first_call) == []
        connection.execute(sa.text("UPDATE llm_calls SET training_cutoff = NULL"))
        [unknown] = look_ahead(connection, QUARTER)
        assert look_ahead_of(connection, {"k1"}, found.first_call) == [unknown]
        assert str(unknown).startswith(
            "the training cutoff of fake-1-dated is unknown, the first call is of 2021-11-02"
        )


def test_spending_is_counted_by_model_and_prompt(database: Database) -> None:
    paid(database, "2024-06-01")
    with database.transaction() as connection:
        connection.execute(sa.text("UPDATE llm_calls SET state = 'rejected', dollars = NULL WHERE key = 'k2'"))
        [told] = spending(connection, QUARTER)
        assert told == Spending("fake-1", "topic_summaries@1", 2, 1, 1, 4, 2, 6, 0.25)
        assert spending(connection, "2022Q1") == []
        assert keys_in_state(connection, ["k1", "k2", "k3"], "answered") == {"k1"}
        [(_, usage)] = usage_by_prompt(connection, "fake-1", ["topic_summaries@1", "theme_descriptions@1"]).items()
        assert usage == PromptUsage("topic_summaries@1", 1, 8, 2, 3) and isinstance(usage.n_chars, int)
