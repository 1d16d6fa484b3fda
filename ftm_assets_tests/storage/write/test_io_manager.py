from collections.abc import Iterator
from dataclasses import replace
from time import sleep
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa

from ftm_assets.analysis.sentences import FirmTurns, Sentences, split_turns
from ftm_assets.analysis.themes import QuarterTopics, Themes, find_themes
from ftm_assets.analysis.topic_summaries import Summaries
from ftm_assets.analysis.topics import Topics
from ftm_assets.partitions import FIRM, firm_quarter_key, firm_quarters, one_quarter, quarters
from ftm_assets.storage.server.database import Database
from ftm_assets.storage.write.io_manager import NotStored, PgVectorIOManager
from ftm_assets_tests.fakes import FirstWordModel
from ftm_assets_tests.storage.builders import (
    ENCODER,
    TEXTS,
    THEME_SETTINGS,
    derive,
    firm,
    firms,
    sentences_of,
    summaries_of,
    topics_of,
)
from ftm_assets_tests.storage.sql import QUARTER, all_rows, ask, one

BOLT = "BOLT-CO-8"

# A graph as small as its values: what each asset returns is stored by its type, and read by the annotation below it.


@dg.asset(partitions_def=quarters, io_manager_key="pgvector")
def transcripts() -> None: ...


@dg.asset(
    partitions_def=firm_quarters,
    ins={"transcripts": dg.AssetIn(partition_mapping=one_quarter)},
    io_manager_key="pgvector",
    code_version="1",
)
def firm_sentences(transcripts: FirmTurns) -> Sentences:
    rows = split_turns(transcripts.company_id, transcripts.turns)
    vectors = ENCODER.encode([row.text for row in rows])
    return Sentences.from_turns(transcripts, rows, vectors, (ENCODER.name, ENCODER.revision))


@dg.asset(partitions_def=firm_quarters, io_manager_key="pgvector", code_version="1")
def firm_topics(firm_sentences: Sentences) -> Topics:
    return topics_of(firm_sentences)


@dg.asset(partitions_def=firm_quarters, io_manager_key="pgvector", code_version="1")
def topic_summaries(firm_topics: Topics, firm_sentences: Sentences) -> Summaries:
    return summaries_of(firm_topics, firm_sentences)


@dg.asset(
    partitions_def=quarters,
    ins={"topic_summaries": dg.AssetIn(partition_mapping=one_quarter)},
    io_manager_key="pgvector",
    code_version="1",
)
def cross_firm_themes(topic_summaries: QuarterTopics) -> Themes:
    return find_themes(topic_summaries, THEME_SETTINGS, FirstWordModel())


FIRM_ASSETS = [firm_sentences, firm_topics, topic_summaries]
GRAPH = [transcripts, *FIRM_ASSETS, cross_firm_themes]


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions(FIRM, ["ACME-INC-7", BOLT])
        yield instance


def materialize(
    database: Database,
    instance: dg.DagsterInstance,
    partition: str,
    *chosen: dg.AssetsDefinition,
    graph: list[dg.AssetsDefinition] = GRAPH,
    fails: bool = False,
) -> dg.ExecuteInProcessResult:
    result = dg.materialize(
        graph,
        selection=list(chosen),
        partition_key=partition,
        instance=instance,
        resources={"pgvector": PgVectorIOManager(database)},
        raise_on_error=not fails,
        run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
    )
    assert result.success is not fails
    return result


def told(result: dg.ExecuteInProcessResult) -> dict[str, object]:
    """Asset -> what its materialization says of its rows."""
    return {
        event.asset_key.to_user_string(): event.materialization.metadata["rows"].value
        for event in result.get_asset_materialization_events()
        if event.asset_key is not None
    }


def error_of(result: dg.ExecuteInProcessResult) -> str:
    [failed] = [event for event in result.all_events if event.is_step_failure]
    error = failed.step_failure_data.error
    assert error is not None
    return (error.cause or error).message


def test_a_firm_goes_through_its_stages_and_only_its_own_rows_are_touched(
    database: Database, instance: dg.DagsterInstance
) -> None:
    firms(database, 7)
    firm(database, 8)

    first = materialize(database, instance, firm_quarter_key(BOLT, QUARTER), *FIRM_ASSETS)

    assert told(first) == dict.fromkeys(["firm_sentences", "firm_topics", "topic_summaries"], "replaced")
    for table in ("sentences", "topics", "topic_sentences", "topic_summaries"):
        counts = ask(database, f"SELECT company_id, count(*) FROM {table} GROUP BY 1 ORDER BY 1")
        assert [company_id for company_id, _ in counts] == [7, 8], table
        assert counts[0][1] == counts[1][1], table
    assert one(
        database,
        "SELECT DISTINCT provenance ->> 'code' FROM materializations WHERE company_id = 8 AND input_hash <> ''",
    ) == ["1"]


def test_the_same_again_leaves_the_rows_and_says_so(database: Database, instance: dg.DagsterInstance) -> None:
    firm(database, 8)
    partition = firm_quarter_key(BOLT, QUARTER)
    materialize(database, instance, partition, *FIRM_ASSETS)
    before = all_rows(database)

    again = materialize(database, instance, partition, *FIRM_ASSETS)

    assert told(again) == dict.fromkeys(["firm_sentences", "firm_topics", "topic_summaries"], "unchanged")
    assert all_rows(database) == before


def test_a_stage_may_be_made_alone_from_what_is_stored(database: Database, instance: dg.DagsterInstance) -> None:
    where = firm(database, 8)
    _, topics, _ = derive(database, where)

    assert told(materialize(database, instance, firm_quarter_key(BOLT, QUARTER), firm_topics)) == {
        "firm_topics": "unchanged"
    }
    assert one(database, "SELECT content_hash FROM materializations WHERE stage = 'firm_topics'") == [
        topics.content_hash
    ]


def test_themes_of_a_quarter_are_made_from_all_its_firms(database: Database, instance: dg.DagsterInstance) -> None:
    firms(database, 7, 8)

    assert told(materialize(database, instance, QUARTER, cross_firm_themes)) == {"cross_firm_themes": "replaced"}
    assert told(materialize(database, instance, QUARTER, cross_firm_themes)) == {"cross_firm_themes": "unchanged"}

    assert one(database, "SELECT label FROM themes ORDER BY theme_number") == ["freight", "wages"]
    assert one(database, "SELECT provenance ->> 'code' FROM theme_runs") == ["1"]


def test_a_stage_notes_how_long_it_took_from_its_first_read_and_keeps_that_until_something_changes(
    database: Database, instance: dg.DagsterInstance
) -> None:
    @dg.asset(name="topic_summaries", partitions_def=firm_quarters, io_manager_key="pgvector", code_version="1")
    def slow(firm_topics: Topics, firm_sentences: Sentences) -> Summaries:
        sleep(0.2)
        return summaries_of(firm_topics, firm_sentences)

    firm(database, 8)
    graph = [transcripts, firm_sentences, firm_topics, slow]
    partition = firm_quarter_key(BOLT, QUARTER)

    def seconds() -> dict[object, Any]:
        return {row[0]: row[1] for row in ask(database, "SELECT stage, seconds FROM materializations")}

    materialize(database, instance, partition, firm_sentences, firm_topics, slow, graph=graph)
    first = seconds()
    materialize(database, instance, partition, firm_sentences, firm_topics, slow, graph=graph)

    assert first["transcripts"] is None, "it does not read through the tables"
    assert 0 < first["firm_topics"] < 5
    assert 0.2 <= first["topic_summaries"] < 5
    assert seconds() == first


def test_themes_tell_how_far_the_sentences_came(database: Database, instance: dg.DagsterInstance) -> None:
    firms(database, 7, 8)

    result = materialize(database, instance, QUARTER, cross_firm_themes)

    [event] = result.get_asset_materialization_events()
    table = event.materialization.metadata["sentences by utterance type"]
    assert isinstance(table, dg.TableMetadataValue)
    whole, remarks, *others = [record.data for record in table.records]
    assert {**whole} == {**remarks, "utterance_type": "all"}
    assert (whole["sentences"], whole["modelled"], whole["in topics"], whole["in themes"]) == (12, 12, 10, 10)
    assert whole["themes' share of modelled"] == round(10 / 12, 4)
    assert [(record["utterance_type"], record["sentences"]) for record in others] == [
        ("answer", 0),
        ("question", 0),
        ("unknown", 0),
    ]
    [seconds] = one(database, "SELECT seconds FROM theme_runs")
    assert isinstance(seconds, float) and 0 < seconds < 60


def test_a_firm_without_a_call_succeeds_and_stores_nothing(database: Database, instance: dg.DagsterInstance) -> None:
    firm(database, 8)
    before = all_rows(database)

    result = materialize(database, instance, firm_quarter_key(BOLT, "2022Q1"), *FIRM_ASSETS)

    assert set(told(result).values()) == {"unchanged"}
    assert all_rows(database) == before


def test_a_stage_before_its_time_fails_with_what_comes_first(database: Database, instance: dg.DagsterInstance) -> None:
    firm(database, 8)
    result = materialize(database, instance, firm_quarter_key(BOLT, QUARTER), firm_topics, fails=True)
    assert "firm_sentences of firm 'BOLT-CO-8' in 2021Q4 is not there; materialize it first" in error_of(result)


def test_a_firm_that_no_call_has_brought_fails_with_what_comes_first(
    database: Database, instance: dg.DagsterInstance
) -> None:
    result = materialize(database, instance, firm_quarter_key(BOLT, QUARTER), firm_sentences, fails=True)
    assert "firm 'BOLT-CO-8' is not in the database; materialize transcripts" in error_of(result)


def test_an_asset_that_raises_has_written_nothing(database: Database, instance: dg.DagsterInstance) -> None:
    @dg.asset(name="firm_topics", partitions_def=firm_quarters, io_manager_key="pgvector")
    def failing(firm_sentences: Sentences) -> Topics:
        raise RuntimeError("out of ideas")

    derive(database, firm(database, 8))
    before = all_rows(database)

    result = materialize(
        database,
        instance,
        firm_quarter_key(BOLT, QUARTER),
        failing,
        graph=[transcripts, firm_sentences, failing],
        fails=True,
    )

    assert "out of ideas" in error_of(result)
    assert all_rows(database) == before


def test_a_write_that_fails_leaves_the_old_partition_whole(database: Database, instance: dg.DagsterInstance) -> None:
    @dg.asset(name="firm_topics", partitions_def=firm_quarters, io_manager_key="pgvector")
    def doubled(firm_sentences: Sentences) -> Topics:
        topics = topics_of(firm_sentences)
        return replace(topics, members=topics.members * 2)

    derive(database, firm(database, 8))
    before = all_rows(database)

    materialize(
        database,
        instance,
        firm_quarter_key(BOLT, QUARTER),
        doubled,
        graph=[transcripts, firm_sentences, doubled],
        fails=True,
    )

    assert all_rows(database) == before


def test_a_type_that_no_table_holds_is_refused_in_both_directions(
    database: Database, instance: dg.DagsterInstance
) -> None:
    @dg.asset(partitions_def=firm_quarters, io_manager_key="pgvector")
    def word_counts(firm_sentences: Sentences) -> dict[str, int]:
        return {"freight": 3}

    @dg.asset(partitions_def=firm_quarters, io_manager_key="pgvector")
    def by_hand(firm_sentences: dict[str, int]) -> None: ...

    derive(database, firm(database, 8))
    graph = [transcripts, firm_sentences, word_counts, by_hand]
    for chosen, message in (
        (word_counts, "asset 'word_counts': <class 'dict'> is not something the tables hold; annotate it with one of"),
        (by_hand, "asset 'firm_sentences': "),
    ):
        result = materialize(database, instance, firm_quarter_key(BOLT, QUARTER), chosen, graph=graph, fails=True)
        assert message in error_of(result)
        assert "FirmTurns, Sentences, Topics, Summaries, QuarterTopics, Themes" in error_of(result)


def test_what_is_read_is_of_one_moment(database: Database) -> None:
    where = firm(database, 8)
    old = sentences_of(database, where)
    reads: list[str] = []

    def calls_change_meanwhile(*arguments: object) -> None:
        statement = str(arguments[2])
        if "FROM components" in statement and not reads:
            reads.append(statement)
            firm(database, 8, ["Freight costs fell, to correct the record.", *TEXTS[1:]])

    sa.event.listen(database.engine, "after_cursor_execute", calls_change_meanwhile)
    context = dg.build_input_context(
        asset_key=dg.AssetKey("transcripts"),
        partition_key=firm_quarter_key(BOLT, QUARTER),
        dagster_type=dg.PythonObjectDagsterType(FirmTurns),
    )
    turns = PgVectorIOManager(database).load_input(context)

    assert reads, "the calls have changed between two queries"
    assert turns.turns[0].text == TEXTS[0]
    assert turns.input_hash == old.input_hash != sentences_of(database, where).input_hash


def test_the_error_for_a_wrong_type_names_the_asset() -> None:
    assert "asset 'x': <class 'int'> is not something the tables hold" in str(NotStored("x", int))
