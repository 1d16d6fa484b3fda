"""`ftm backfill QUARTER --upgrade-summaries`: what is made of keywords is written by a model, and nothing else."""

import time
from collections.abc import Callable
from itertools import cycle

import dagster as dg
import pytest
from dagster._daemon.types import DaemonHeartbeat

from ftm_assets.assets.jobs import ONLY_MISSING
from ftm_assets.definitions import build_definitions
from ftm_assets.errors import FtmError
from ftm_assets.llm.prices import PriceUnknown
from ftm_assets.llm.protocol import CompletionFailure, CompletionRequest, LanguageModel, NoLanguageModel
from ftm_assets.operations import instance as dagster_instance
from ftm_assets.operations.backfill import by_daemon as backfills
from ftm_assets.operations.backfill.executor import NoModel
from ftm_assets.operations.backfill.plan import FIRM_ASSETS, SUMMARY_ASSETS, OtherBackfill
from ftm_assets.operations.backfill.state import read_state
from ftm_assets.storage.server.database import Database
from ftm_assets_tests.cli.test_main import ftm
from ftm_assets_tests.fakes import HashEncoder
from ftm_assets_tests.llm.language_models import Document, FakeLanguageModel, Reply, document_of, good_reply
from ftm_assets_tests.storage.sql import ask

SOURCES = "SELECT source, count(*) FROM topic_summaries GROUP BY source ORDER BY source"
THEMES = "SELECT theme_number, description_source FROM themes ORDER BY theme_number"
Use = Callable[[LanguageModel], dg.Definitions]


@pytest.fixture
def use(database: Database, defs: dg.Definitions, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> Use:
    """Lets commands use a language model."""

    def use_model(model: LanguageModel) -> dg.Definitions:
        graph = build_definitions(database, HashEncoder(), model)
        monkeypatch.setattr("ftm_assets.definitions.defs", graph)
        return graph

    return use_model


@pytest.fixture
def by_keywords(use: Use, done: None) -> None:
    """A quarter of six firms, complete, made while there was no language model."""
    use(NoLanguageModel())


@pytest.mark.usefixtures("by_keywords")
def test_summaries_of_keywords_are_not_stale_by_themselves(
    use: Use, instance: dg.DagsterInstance, database: Database
) -> None:
    model = FakeLanguageModel()
    use(model)
    assert read_state(instance, database, "2021Q4").to_do == ()
    ftm("backfill", "2021Q4")
    assert model.requests == []


@pytest.mark.usefixtures("by_keywords")
def test_only_summaries_of_keywords_are_made_anew_then_the_themes(
    use: Use, instance: dg.DagsterInstance, database: Database
) -> None:
    fails = cycle([False, True, False])
    use(
        FakeLanguageModel(
            lambda _, document: CompletionFailure("unavailable", "500") if next(fails) else good_reply(document),
            forgets=True,
        )
    )
    members = ask(database, "SELECT * FROM theme_topics ORDER BY 1, 2, 3")
    n_runs = instance.get_runs_count()

    told = ftm("backfill", "2021Q4", "--upgrade-summaries")

    assert instance.get_runs_count() == n_runs + 6 + 1, "a run for each firm, and the themes"
    assert {run.job_name for run in instance.get_runs(limit=7)} == {"firm_summaries", "quarter_themes"}
    assert ask(database, SOURCES) == [("keywords", 6), ("model", 12)]
    assert "12 of 18 summaries are by a language model; by keywords: 6 (unavailable)" in told

    model = FakeLanguageModel(forgets=True)
    use(model)
    ftm("backfill", "2021Q4", "--upgrade-summaries")
    assert ask(database, SOURCES) == [("model", 18)]
    assert {source for _, source in ask(database, THEMES)} == {"model"}
    asked = [request.prompt for request in model.requests]
    assert asked.count("topic_summaries@1") == 2, "of the two firms that were left alone"
    assert ask(database, "SELECT * FROM theme_topics ORDER BY 1, 2, 3") == members

    model.requests.clear()
    n_runs = instance.get_runs_count()
    ftm("backfill", "2021Q4", "--upgrade-summaries")
    assert (model.requests, instance.get_runs_count()) == ([], n_runs), "nothing is left"


@pytest.mark.usefixtures("by_keywords")
def test_what_another_model_has_written_stays(use: Use, database: Database) -> None:
    texts = "SELECT topic_number, source, model FROM topic_summaries ORDER BY company_id, topic_number"

    def not_of_wages(request: CompletionRequest, document: Document) -> Reply:
        reply = good_reply(document)
        freight = [entry for entry in reply.get("summaries", []) if entry["topic"] == 0]
        return {"summaries": freight} if "topics" in document else reply

    use(FakeLanguageModel(not_of_wages))
    ftm("backfill", "2021Q4", "--upgrade-summaries", "--firm", "acme")
    assert ask(database, texts)[:3] == [(0, "model", "fake-1-dated"), (1, "keywords", None), (2, "keywords", None)]
    other = FakeLanguageModel(name="other-2")
    use(other)
    ftm("backfill", "2021Q4", "--upgrade-summaries", "--firm", "acme")
    assert [model for _, _, model in ask(database, texts)[:3]] == ["fake-1-dated", "other-2-dated", "other-2-dated"]
    of_topics = [request for request in other.requests if request.prompt.startswith("topic")]
    assert [[t["topic"] for t in document_of(each)["topics"]] for each in of_topics] == [[1, 2]]


@pytest.mark.usefixtures("by_keywords")
def test_themes_without_a_description_are_upgraded_too(use: Use, database: Database) -> None:
    use(
        FakeLanguageModel(
            lambda request, document: (
                good_reply(document) if request.prompt.startswith("topic") else CompletionFailure("budget", "spent")
            )
        )
    )
    ftm("backfill", "2021Q4", "--upgrade-summaries")
    assert {source for _, source in ask(database, THEMES)} == {"keywords"}
    use(FakeLanguageModel())
    ftm("backfill", "2021Q4", "--upgrade-summaries")
    assert {source for _, source in ask(database, THEMES)} == {"model"}


@pytest.mark.usefixtures("by_keywords")
def test_one_firm_may_be_named(use: Use, database: Database) -> None:
    use(FakeLanguageModel())
    ftm("backfill", "2021Q4", "--upgrade-summaries", "--firm", "acme")
    assert ask(database, SOURCES) == [("keywords", 15), ("model", 3)]


@pytest.mark.usefixtures("by_keywords")
def test_without_a_model_it_says_what_to_set() -> None:
    with pytest.raises(NoModel, match="set FTM_LLM_MODEL and FTM_LLM_API_KEY"):
        ftm("backfill", "2021Q4", "--upgrade-summaries")
    for other in ("--all", "--reencode"):
        with pytest.raises(FtmError, match="leave out --all and --reencode"):
            ftm("backfill", "2021Q4", "--upgrade-summaries", other)


@pytest.mark.usefixtures("by_keywords")
def test_a_model_that_a_cap_keeps_silent_is_not_even_begun_with(use: Use, monkeypatch: pytest.MonkeyPatch) -> None:
    use(FakeLanguageModel())
    monkeypatch.setenv("FTM_LLM_MODEL", "unheard-of")
    with pytest.raises(PriceUnknown, match=r"price of unheard-of is unknown.*FTM_LLM_QUARTER_CAP=inf"):
        ftm("backfill", "2021Q4", "--upgrade-summaries")


@pytest.mark.usefixtures("by_keywords")
def test_the_daemon_is_asked_for_summaries_alone(
    use: Use, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    defs = use(FakeLanguageModel())
    monkeypatch.setattr(dagster_instance, "POLL_S", 0.0)
    keys = ["ACME-7", "CRN-9"]
    backfill_id = backfills.begin(defs, instance, "2021Q4", keys, SUMMARY_ASSETS, ONLY_MISSING)
    backfill = instance.get_backfill(backfill_id)
    assert backfill is not None and backfill.asset_selection == list(SUMMARY_ASSETS)
    assert backfill.run_config == ONLY_MISSING
    assert backfills.firms_of(instance, backfill_id) == set(keys)
    assert backfills.firms_of(instance, backfill_id, FIRM_ASSETS) == set()
    assert backfills.n_firms(instance, backfill_id) == 2

    instance.add_daemon_heartbeat(DaemonHeartbeat(time.time(), "BACKFILL", None, None))
    with pytest.raises(OtherBackfill, match="does not hold DUNE-10"):
        ftm("backfill", "2021Q4", "--upgrade-summaries")
    with pytest.raises(OtherBackfill, match="does not make more than summaries of ACME-7"):
        ftm("backfill", "2021Q4", "--all", "--firm", "acme")
