"""Each check passes where all is well, and does not where it is not."""

from dataclasses import replace

import dagster as dg
import numpy as np
import pytest
import sqlalchemy as sa

from ftm_assets.analysis.sentences import Sentences
from ftm_assets.analysis.themes import ThemeSettings
from ftm_assets.analysis.topic_summaries import Summaries
from ftm_assets.analysis.topics import Topics, TopicSettings, fit_topics
from ftm_assets.assets.checks import quarter_coverage, theme_rules, themes_current
from ftm_assets.assets.firm_sentences import check_embedded
from ftm_assets.assets.firm_topics import check_outliers
from ftm_assets.assets.topic_summaries import check_summarized
from ftm_assets.partitions import quarters
from ftm_assets.storage.server.database import Database
from ftm_assets_tests.fakes import FirstWordModel
from ftm_assets_tests.storage.builders import (
    TEXTS,
    derive,
    firm,
    firms,
    put_themes,
    sentences_of,
    summaries_of,
    themes_of,
    topics_of,
)
from ftm_assets_tests.storage.sql import QUARTER

ERROR, WARN = dg.AssetCheckSeverity.ERROR, dg.AssetCheckSeverity.WARN


@pytest.fixture
def sentences(database: Database) -> Sentences:
    """Five of six sentences belong to a topic."""
    return sentences_of(database, firm(database))


@pytest.fixture
def topics(sentences: Sentences) -> Topics:
    return topics_of(sentences)


@pytest.fixture
def summaries(topics: Topics, sentences: Sentences) -> Summaries:
    """Two, by keywords."""
    return summaries_of(topics, sentences)


def told(result: dg.AssetCheckResult) -> tuple[bool, dg.AssetCheckSeverity, dict[str, object]]:
    return result.passed, result.severity, {name: value.value for name, value in result.metadata.items()}


# --- of a firm


def test_every_sentence_embedded_names_the_sentences_without_a_vector(sentences: Sentences) -> None:
    assert check_embedded(sentences).passed

    vectors = sentences.embeddings.copy()
    vectors[2], vectors[4] = 0, vectors[4] * 1.01

    found = told(check_embedded(replace(sentences, embeddings=vectors)))
    assert found == (False, ERROR, {"sentences": 6, "not of length 1": ["7_70_0002", "7_70_0004"]})


def test_a_sentence_of_unknown_numbers_is_not_embedded(sentences: Sentences) -> None:
    assert not check_embedded(replace(sentences, embeddings=np.full_like(sentences.embeddings, np.nan))).passed


def test_outlier_share_warns_of_sentences_without_a_topic(sentences: Sentences, topics: Topics) -> None:
    assert check_outliers(topics, 4).passed

    alone = tuple(replace(member, topic_number=None) for member in topics.members[:4])
    found = told(check_outliers(replace(topics, members=alone + topics.members[4:]), 4))
    assert found == (False, WARN, {"outlier share": 5 / 6})


def test_outlier_share_warns_where_nothing_hangs_together(database: Database) -> None:
    metals = "Copper Zinc Nickel Cobalt Titanium Lithium".split()
    scattered = sentences_of(database, firm(database, texts=[f"{metal} is what we mine." for metal in metals]))
    topics = fit_topics(scattered, TopicSettings(min_sentences=4), FirstWordModel())
    assert topics.topics == ()
    assert told(check_outliers(topics, 4)) == (False, WARN, {"outlier share": 1.0})


def test_outlier_share_passes_for_a_firm_that_said_too_little(sentences: Sentences) -> None:
    topics = fit_topics(sentences, TopicSettings(min_sentences=7))
    assert told(check_outliers(topics, 7)) == (True, WARN, {"outlier share": 1.0})


def test_every_topic_summarized_warns_of_keywords(summaries: Summaries, topics: Topics) -> None:
    assert told(check_summarized(summaries, topics)) == (
        False,
        WARN,
        {"without summary": [], "by keywords": 2, "because": ["no model"]},
    )

    written = tuple(replace(summary, source="model", model="m", reason=None) for summary in summaries.summaries)
    assert check_summarized(replace(summaries, summaries=written), topics).passed


@pytest.mark.parametrize("how", ["empty", "absent"])
def test_a_topic_without_a_summary_is_an_error(summaries: Summaries, topics: Topics, how: str) -> None:
    first, second = (replace(summary, source="model", model="m", reason=None) for summary in summaries.summaries)
    left = (first, replace(second, text="")) if how == "empty" else (first,)
    found = told(check_summarized(replace(summaries, summaries=left), topics))
    assert found == (False, ERROR, {"without summary": [1], "by keywords": 0, "because": []})


# --- of a quarter


@dg.asset(name="cross_firm_themes", partitions_def=quarters)
def nothing() -> None:
    """Stands for the themes, and leaves those in the database alone."""


def look(database: Database, check: dg.AssetChecksDefinition) -> tuple[bool, dg.AssetCheckSeverity, dict[str, object]]:
    """What the check finds in the database."""
    # In one process Dagster runs no check without its asset.
    result = dg.materialize([nothing, check], partition_key=QUARTER, resources={"database": database})
    [evaluation] = result.get_asset_check_evaluations()
    return evaluation.passed, evaluation.severity, {name: x.value for name, x in evaluation.metadata.items()}


def test_quarter_coverage_warns_of_firms_that_are_not_in_the_themes(database: Database) -> None:
    firms(database, 7, 8)
    put_themes(database, themes_of(database))
    whole: dict[str, object] = {"published": True, "firms expected": 2, "firms present": 2, "firms missing": []}
    assert look(database, quarter_coverage) == (True, WARN, whole)

    # Complete, but later than the themes.
    derive(database, firm(database, 9))

    late = {**whole, "firms expected": 3, "firms missing": ["CRANE-WORKS-9"]}
    assert look(database, quarter_coverage) == (False, WARN, late)
    put_themes(database, themes_of(database))
    assert look(database, quarter_coverage)[0]


def test_quarter_coverage_speaks_of_the_published_themes_not_of_the_firms_of_now(database: Database) -> None:
    firms(database, 7, 8)
    put_themes(database, themes_of(database))
    firm(database, 8, texts=TEXTS[:3])
    assert look(database, quarter_coverage)[0]
    assert not look(database, themes_current)[0]


def test_a_quarter_without_themes_is_not_covered(database: Database) -> None:
    firms(database, 7, 8)
    found = {"published": False, "firms expected": 2, "firms present": 0}
    assert look(database, quarter_coverage) == (
        False,
        WARN,
        {**found, "firms missing": ["ACME-INC-7", "BOLT-CO-8"]},
    )


def test_themes_current_warns_of_firms_that_changed(database: Database) -> None:
    firms(database, 7, 8)
    assert look(database, themes_current) == (False, WARN, {"run": 0, "firms changed": []})
    put_themes(database, themes_of(database))
    assert look(database, themes_current) == (True, WARN, {"run": 1, "firms changed": []})

    firms(database, 8, texts=TEXTS[:3])

    assert look(database, themes_current) == (False, WARN, {"run": 1, "firms changed": ["BOLT-CO-8"]})


def test_theme_rules_count_firms_again(database: Database) -> None:
    firms(database, 7, 8)
    put_themes(database, themes_of(database))
    assert look(database, theme_rules) == (True, ERROR, {"breaking the rules": []})

    with database.transaction() as connection:
        connection.execute(sa.text("DELETE FROM theme_topics WHERE theme_number = 2 AND company_id = 8"))

    assert look(database, theme_rules) == (False, ERROR, {"breaking the rules": ["theme_2021Q4_002"]})


def test_theme_rules_are_those_that_the_themes_were_made_with(database: Database) -> None:
    firms(database, 7, 8)
    put_themes(database, themes_of(database))
    with database.transaction() as connection:
        stricter = "UPDATE theme_runs SET provenance = jsonb_set(provenance, '{settings,max_firm_share}', '0.4')"
        connection.execute(sa.text(stricter))
    assert look(database, theme_rules)[2] == {"breaking the rules": ["theme_2021Q4_001", "theme_2021Q4_002"]}


def test_theme_rules_ask_for_as_many_firms_as_the_quarter_had(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    firms(database, 7, 8)
    put_themes(database, themes_of(database))
    monkeypatch.setattr(ThemeSettings, "fewest_firms", lambda _, n_firms: n_firms)
    # Without summaries, so it is no firm of the themes.
    firm(database, 9)
    assert look(database, theme_rules)[0]

    firms(database, 9, texts=TEXTS[:3] + TEXTS[5:])
    with database.transaction() as connection:
        connection.execute(sa.text("INSERT INTO theme_inputs VALUES ('2021Q4', 9, 1, 'summaries')"))
    assert look(database, theme_rules)[2] == {"breaking the rules": ["theme_2021Q4_001", "theme_2021Q4_002"]}
