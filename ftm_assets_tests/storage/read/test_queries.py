import re
from collections.abc import Callable
from dataclasses import replace
from datetime import date

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ftm_assets.analysis.transcripts import Reject
from ftm_assets.storage.maintain.deletion import calls_to_delete, delete_calls
from ftm_assets.storage.read import queries
from ftm_assets.storage.read.queries import FirmProgress, TopicRow
from ftm_assets.storage.server.database import Database
from ftm_assets_tests.fakes import at, component
from ftm_assets_tests.storage.builders import (
    TEXTS,
    derive,
    firm,
    firms,
    put,
    put_themes,
    sentences_of,
    themes_of,
    topics_of,
    where_is,
)
from ftm_assets_tests.storage.plans import plans
from ftm_assets_tests.storage.sql import QUARTER, load, one

FREIGHT, WAGES = "theme_2021Q4_001", "theme_2021Q4_002"
PRICES = ("Prices fell in the autumn.", "Prices rose in the winter.")
CORRECTED = ("Freight costs fell, to correct the record.", *TEXTS[1:])


def topics_of_theme(database: Database, theme_id: str) -> list[TopicRow]:
    with database.transaction() as connection:
        return queries.topics_of_theme(connection, theme_id)


def topics_of_firm(database: Database, company_id: int) -> list[TopicRow]:
    with database.transaction() as connection:
        return queries.topics_of_firm(connection, QUARTER, company_id)


def status(database: Database, quarter: str = QUARTER) -> queries.QuarterStatus:
    with database.transaction() as connection:
        return queries.quarter_status(connection, quarter)


def acme(sentences: str, topics: str, summaries: str) -> list[FirmProgress]:
    """How far the only firm is."""
    return [
        FirmProgress("ACME-INC-7", {"firm_sentences": sentences, "firm_topics": topics, "topic_summaries": summaries})
    ]


def progress(database: Database) -> list[FirmProgress]:
    with database.transaction() as connection:
        return list(queries.quarter_progress(connection, QUARTER).firms)


@pytest.fixture
def published(database: Database) -> Database:
    """Two firms that talk of freight and of wages, in two themes."""
    firms(database, 7, 8)
    put_themes(database, themes_of(database))
    return database


# --- down from a theme to its sentences, and back up


def test_from_a_theme_down_to_its_topics_and_their_sentences(published: Database) -> None:
    with published.transaction() as connection:
        freight, wages = queries.themes_of_quarter(connection, QUARTER)
        topics = queries.topics_of_theme(connection, freight.theme_id)
        sentences = queries.sentences_of_topic(connection, QUARTER, 8, topics[1].topic_number)

    assert [(theme.theme_id, theme.label, theme.keywords) for theme in (freight, wages)] == [
        (FREIGHT, "freight", ("freight",)),
        (WAGES, "wages", ("wages",)),
    ]
    assert [(topic.topic_id, topic.firm_key, topic.firm_name) for topic in topics] == [
        ("7_2021Q4_0", "ACME-INC-7", "Acme Inc."),
        ("8_2021Q4_0", "BOLT-CO-8", "Bolt & Co"),
    ]
    for topic in topics:
        assert (topic.label, topic.n_sentences, topic.theme_id, topic.live) == ("freight", 3, FREIGHT, True)
        assert topic.summary is not None and topic.summary.startswith("Freight. Freight ")
        assert topic.source == "keywords"
        assert topic.similarity == pytest.approx(1)
    assert sorted(row.text for row in sentences) == sorted(TEXTS[:3])
    assert [(row.rank, row.theme_id) for row in sentences] == [(1, FREIGHT), (2, FREIGHT), (3, FREIGHT)]


def test_from_a_sentence_up_to_its_topic_and_theme(published: Database) -> None:
    with published.transaction() as connection:
        [freight] = queries.sentences(connection, ["7_70_0000"])
        [prices] = queries.sentences(connection, ["7_70_0005"])

    assert (freight.firm_name, freight.call_date, freight.transcript_id) == ("Acme Inc.", date(2021, 11, 1), 70)
    assert (freight.component_order, freight.person, freight.role) == (0, "Ann Lee", "executive")
    assert freight.text == TEXTS[0] and (freight.start_char, freight.end_char) == (0, len(TEXTS[0]))
    assert (freight.topic_number, freight.topic_label, freight.theme_id) == (0, "freight", FREIGHT)
    assert (prices.text, prices.topic_number, prices.topic_label, prices.rank) == (TEXTS[5], None, None, None)
    assert prices.theme_id is None


def test_from_a_firm_up_to_its_themes(published: Database) -> None:
    firms(published, 9, texts=(*TEXTS, *PRICES))
    put_themes(published, themes_of(published))

    found = [(topic.label, topic.n_sentences, topic.theme_id) for topic in topics_of_firm(published, 9)]

    assert found == [("freight", 3, FREIGHT), ("prices", 3, None), ("wages", 2, WAGES)]


def test_a_sentence_tells_its_voice_and_its_exchange(database: Database) -> None:
    asked = {"speaker_type": "Analysts", "type_name": "Question", "component_order": 1}
    load(
        database,
        component(),
        component("Will they rise again?", **asked),
        component(type_name="Answer", component_order=2),
    )
    derive(database, where_is(database))
    with database.transaction() as connection:
        rows = queries.sentences(connection, ["7_70_0000", "7_70_0001", "7_70_0002"])
    assert [(row.utterance_type, row.exchange) for row in rows] == [("remark", None), ("question", 1), ("answer", 1)]


def test_a_theme_tells_how_its_topics_spread_over_firms(published: Database) -> None:
    found = themes_of(published)
    # As if Acme had a second topic of freight: three topics, two of them Acme's.
    uneven = replace(found.themes[0], n_topics=3, top_firm_share=2 / 3, concentration=5 / 9)
    put_themes(published, replace(found, themes=(uneven, *found.themes[1:])))
    with published.transaction() as connection:
        freight = queries.themes_of_quarter(connection, QUARTER)[0]
    assert (freight.n_firms, freight.n_topics, freight.n_sentences) == (2, 3, 6)
    assert (freight.top_firm_share, freight.concentration) == pytest.approx((2 / 3, 5 / 9))


def test_a_theme_keeps_its_counts_until_it_is_published_again(published: Database) -> None:
    firms(published, 7, texts=(*TEXTS[:3], "Freight rose once more.", *TEXTS[3:]))

    def n_sentences() -> int:
        with published.transaction() as connection:
            return queries.themes_of_quarter(connection, QUARTER)[0].n_sentences

    assert n_sentences() == 6
    put_themes(published, themes_of(published))
    assert n_sentences() == 7


def test_topics_in_no_theme_are_told_largest_first(published: Database) -> None:
    firms(published, 9, texts=(*TEXTS, *PRICES))
    with published.transaction() as connection:
        found = queries.topics_without_theme(connection, QUARTER)
        first = queries.topics_without_theme(connection, QUARTER, 1)
    assert [(topic.firm_key, topic.label, topic.n_sentences) for topic in found] == [
        ("CRANE-WORKS-9", "freight", 3),
        ("CRANE-WORKS-9", "prices", 3),
        ("CRANE-WORKS-9", "wages", 2),
    ]
    assert first == found[:1]


def test_a_sentence_that_is_not_modelled_says_why(database: Database) -> None:
    derive(database, firm(database, texts=["Good morning, everyone.", *TEXTS]))
    with database.transaction() as connection:
        [row] = queries.sentences(connection, ["7_70_0000"])
    assert (row.text, row.boilerplate, row.topic_number) == ("Good morning, everyone.", "greeting", None)


def test_a_few_sentences_of_a_theme_show_many_firms(database: Database) -> None:
    firms(database, 7, texts=TEXTS[1:])
    firms(database, 8, texts=(*TEXTS, "Freight is late again.", "Freight is early again."))
    firms(database, 9)
    put_themes(database, themes_of(database))

    with database.transaction() as connection:
        every = queries.sentences_of_theme(connection, FREIGHT)
        few = [queries.sentences_of_theme(connection, FREIGHT, n) for n in range(12)]

    assert [row.rank for row in every] == [1, 1, 1, 2, 2, 2, 3, 3, 4, 5]
    assert len({row.firm_key for row in every[:3]}) == 3
    assert few == [every[:n] for n in range(12)]


def test_any_id_leads_to_its_sentences(published: Database) -> None:
    def ids(identifier: str, limit: int | None = None) -> list[str]:
        with published.transaction() as connection:
            return [row.sentence_id for row in queries.sentences_of(connection, identifier, limit)]

    assert len(ids(FREIGHT)) == 6
    assert len(ids(FREIGHT, 4)) == 4
    assert sorted(ids("8_2021Q4_1")) == ["8_80_0003", "8_80_0004"]
    assert len(ids("8_2021Q4_1", 1)) == 1
    assert ids("8_80_0003") == ["8_80_0003"]
    for unknown in ("theme_2021Q4_999", "8_2021Q4_9", "8_80_9999", "9_80_0003", "", "_", "what?", f"8_{'9' * 30}_0000"):
        assert ids(unknown) == [], unknown


def test_unknown_ids_among_others_are_left_out(published: Database) -> None:
    with published.transaction() as connection:
        found = queries.sentences(connection, ["8_80_0003", "nothing", "7_70_0000", "7_70_0000"])
        assert queries.sentences(connection, []) == []
    assert [row.sentence_id for row in found] == ["7_70_0000", "8_80_0003"]


# --- published topics that were replaced


def test_a_replaced_topic_is_still_in_its_theme_but_not_live(published: Database) -> None:
    firms(published, 7, texts=CORRECTED)

    gone, there = sorted(topics_of_theme(published, FREIGHT), key=lambda topic: topic.firm_key)

    assert (gone.topic_id, gone.label, gone.theme_id, gone.live) == ("7_2021Q4_0", "freight", FREIGHT, False)
    assert (gone.n_sentences, gone.summary, gone.source) == (None, None, None)
    assert there.live and there.n_sentences == 3
    with published.transaction() as connection:
        assert {row.firm_key for row in queries.sentences_of_theme(connection, FREIGHT)} == {"BOLT-CO-8"}
        [new] = queries.sentences(connection, ["7_70_0000"])
    assert (new.topic_label, new.theme_id) == ("freight", None), "nobody has put the new topic into a theme"
    assert [topic.theme_id for topic in topics_of_firm(published, 7)] == [None, None]


def test_a_topic_of_a_firm_that_was_forgotten_goes_by_the_key_of_the_firm(published: Database) -> None:
    with published.transaction() as connection:
        delete_calls(connection, calls_to_delete(connection, QUARTER, 7))

    found = {topic.firm_name: topic.live for topic in topics_of_theme(published, FREIGHT)}

    assert found == {"ACME-INC-7": False, "Bolt & Co": True}
    assert topics_of_firm(published, 7) == []


def test_retired_themes_are_not_shown(published: Database) -> None:
    firms(published, 9, 10)
    firms(published, 7, 8, 9, 10, texts=TEXTS[:3] + TEXTS[5:])
    put_themes(published, themes_of(published))

    with published.transaction() as connection:
        assert [theme.theme_id for theme in queries.themes_of_quarter(connection, QUARTER)] == [FREIGHT]
    assert topics_of_theme(published, WAGES) == []
    assert (status(published).n_themes, status(published).n_topics_in_themes) == (1, 4)


# --- how far a quarter is


def test_the_counts_of_a_quarter_add_up(published: Database) -> None:
    versions = [
        component(f"{text} Thank you.", transcript_id=number, company_id=9, event_id=5, created_at=at(day), **more)
        for number, day in ((90, 2), (91, 3))
        for text, more in ((TEXTS[0], {}), ("Please hold.", {"component_order": 1, "speaker_type": "Operator"}))
    ]
    load(published, *versions)
    derive(published, where_is(published, 9))

    found = status(published)
    with published.transaction() as connection:
        calls = queries.calls(connection, QUARTER)

    assert (found.n_expected, found.n_complete, found.firms_to_do) == (3, 3, ())
    assert (found.n_calls, found.n_superseded) == (3, 1)
    assert (found.n_components, found.n_sentences, found.n_modelled) == (6 + 6 + 2, 6 + 6 + 2, 6 + 6 + 1)
    assert (found.n_topics, found.n_in_topics) == (4, 10)
    assert found.outlier_share == pytest.approx(3 / 13)
    assert found.n_by_keywords == 4
    assert (found.n_themes, found.n_topics_in_themes) == (2, 4)
    assert found.encoder == "hash@1"
    assert found.themes.changed_firms == ("ACME-9",)
    for name in ("n_components", "n_sentences", "n_modelled", "n_in_topics"):
        assert sum(getattr(call, name) for call in calls) == getattr(found, name), name


def test_a_quarter_without_calls_is_all_zeros(database: Database) -> None:
    found = status(database)
    assert (found.n_expected, found.n_complete, found.firms, found.n_sentences, found.n_configurations) == (
        0,
        0,
        (),
        0,
        0,
    )
    assert (found.outlier_share, found.encoder, found.themes.current) == (0.0, None, False)


def test_progress_is_the_status_without_its_counts(published: Database) -> None:
    whole = status(published)
    with published.transaction() as connection:
        part = queries.quarter_progress(connection, QUARTER)
    for name in ("quarter", "n_expected", "firms", "themes", "input_hash", "n_complete", "firms_to_do"):
        assert getattr(part, name) == getattr(whole, name), name


def test_the_inputs_hash_changes_with_the_summaries_and_only_with_them(published: Database) -> None:
    before = status(published).input_hash
    firm(published, 9)
    assert status(published).input_hash == before
    firms(published, 9)
    assert status(published).input_hash != before


def test_each_stage_of_a_firm_is_missing_then_current(database: Database) -> None:
    where = firm(database)
    assert progress(database) == acme("missing", "missing", "missing")
    sentences = sentences_of(database, where)
    put(database, where, sentences)
    assert progress(database) == acme("current", "missing", "missing")
    put(database, where, topics_of(sentences))
    assert progress(database) == acme("current", "current", "missing")
    derive(database, where)
    assert progress(database) == acme("current", "current", "current")
    assert progress(database)[0].complete


def test_a_stage_built_from_something_else_is_stale(database: Database) -> None:
    where = firm(database)
    sentences, topics, summaries = derive(database, where)

    put(database, where, replace(summaries, input_hash="others"))
    assert progress(database) == acme("current", "current", "stale")
    put(database, where, replace(topics, input_hash="others"))
    assert progress(database) == acme("current", "stale", "stale")
    put(database, where, replace(sentences, input_hash="others"))
    assert progress(database) == acme("stale", "stale", "stale")
    assert not progress(database)[0].complete
    assert (status(database).n_complete, status(database).firms_to_do) == (0, ("ACME-INC-7",))


def test_calls_in_another_order_make_their_sentences_stale(database: Database) -> None:
    firm(database, transcript_id=70, call_date=date(2021, 11, 1))
    where = firm(database, transcript_id=71, call_date=date(2021, 11, 2))
    derive(database, where)
    firm(database, transcript_id=70, call_date=date(2021, 11, 3))
    assert progress(database) == acme("stale", "current", "current")


def test_recipes_are_counted_stage_by_stage(database: Database) -> None:
    for company_id in (7, 8):
        derive(database, firm(database, company_id))
    # That one has nothing to say, and why, is no other configuration.
    derive(database, firm(database, 9, ["Please hold."], speaker_type="Operator"))
    assert status(database).n_configurations == 1

    sentences, topics, _ = derive(database, where_is(database, 7))
    put(database, where_is(database, 7), topics, code="2")
    assert status(database).n_configurations == 2, "two versions of one stage"
    put(database, where_is(database, 7), sentences, code="2")
    assert status(database).n_configurations == 2, "two stages with two versions each"
    for company_id in (8, 9):
        put(database, where_is(database, company_id), sentences_of(database, where_is(database, company_id)), code="2")
    assert status(database).n_configurations == 2, "sentences are alike again, topics are not"
    for company_id in (8, 9):
        same = sentences_of(database, where_is(database, company_id))
        put(database, where_is(database, company_id), topics_of(same), code="2")
    assert status(database).n_configurations == 1


# --- calls, firms, rejects


def test_calls_are_shown_with_their_versions_and_their_own_counts(database: Database) -> None:
    derive(database, firm(database, 8))
    load(database, *(component(TEXTS[0], transcript_id=i, event_id=5, created_at=at(i - 69)) for i in (70, 71)))
    load(database, component("Wages rose in our plants.", transcript_id=72, call_date=date(2021, 10, 5)))

    with database.transaction() as connection:
        found = queries.calls(connection, QUARTER)
        only = queries.calls(connection, QUARTER, 8)

    assert [(row.firm_key, row.transcript_id, row.superseded_by, row.n_components) for row in found] == [
        ("ACME-7", 72, None, 1),
        ("ACME-7", 70, 71, 0),
        ("ACME-7", 71, None, 1),
        ("BOLT-CO-8", 80, None, 6),
    ]
    assert only == found[3:]
    assert (only[0].n_sentences, only[0].n_modelled, only[0].n_in_topics) == (6, 6, 5)
    assert only[0].headline.startswith("Acme Inc., Q3 2021")


def test_a_firm_goes_by_its_latest_name(database: Database) -> None:
    firm(database, 7, company_name="Acme Inc.", ticker="ACME")
    firm(
        database, 7, quarter="2022Q1", transcript_id=75, call_date=date(2022, 2, 1), company_name="Zenith", ticker="ZEN"
    )
    firm(database, 7, quarter="2021Q3", transcript_id=65, call_date=date(2021, 8, 1), company_name="Oldco", ticker=None)

    with database.transaction() as connection:
        assert queries.firms(connection) == [queries.FirmRow(7, "ACME-7", "Zenith", "ZEN")]
        assert queries.quarters_with_calls(connection) == ["2021Q3", "2021Q4", "2022Q1"]


def test_rejects_of_a_source_are_those_of_its_files_too(database: Database) -> None:
    rows = [Reject(3, "companyid", "x", "no number", source=name) for name in ("calls/a.csv", "calls_2/a.csv", "")]
    load(database, *rows, source="calls")

    with database.transaction() as connection:
        found = queries.rejects(connection, "calls")
        assert [row.source for row in found] == ["calls", "calls/a.csv"]
        assert queries.rejects(connection, "calls/") == found[1:]


def test_rejects_of_one_source_or_of_all(database: Database) -> None:
    load(database, Reject(3, "companyid", "x", "no number"), component(), source="a.csv")
    load(database, Reject(2, "transcriptid", "y", "no number", kept=True), source="b.csv")

    with database.transaction() as connection:
        every = queries.rejects(connection)
        assert queries.rejects(connection, "b.csv") == every[1:]
        assert queries.rejects(connection, "c.csv") == []
    assert every == [
        queries.RejectRow("a.csv", 3, "companyid", "x", "no number", kept=False),
        queries.RejectRow("b.csv", 2, "transcriptid", "y", "no number", kept=True),
    ]


# --- how the database finds it


def test_the_way_down_and_up_reads_no_table_of_sentences_from_end_to_end(database: Database) -> None:
    words = [chr(ord("a") + i) * 3 for i in range(20)]
    texts = "\n".join(f"{word.capitalize()} is what number {i} of us says." for word in words for i in range(15))
    firms(database, *range(100, 112), texts=[texts])
    derive(database, firm(database, 100, [texts], quarter="2022Q1", transcript_id=9, call_date=date(2022, 2, 1)))
    put_themes(database, themes_of(database))
    with database.transaction() as connection:
        connection.execute(sa.text("ANALYZE"))
    [n_sentences] = one(database, "SELECT count(*) FROM sentences")
    assert n_sentences == 13 * 300

    ways: dict[str, Callable[[Connection], object]] = {
        "topics of a theme": lambda c: queries.topics_of_theme(c, FREIGHT),
        "topics of a firm": lambda c: queries.topics_of_firm(c, QUARTER, 103),
        "sentences of a topic": lambda c: queries.sentences_of_topic(c, QUARTER, 103, 4),
        "best sentences of a theme": lambda c: queries.sentences_of_theme(c, FREIGHT, 5),
        "a sentence": lambda c: queries.sentences(c, ["103_1030_0007"]),
        "some sentences": lambda c: queries.sentences(c, [f"103_1030_{i:04d}" for i in range(10)]),
        "an id": lambda c: queries.sentences_of(c, "103_2021Q4_4"),
    }
    with database.transaction() as connection:
        for way, ask in ways.items():
            assert ask(connection), way
            plan = plans(connection, ask)
            assert not re.search(r"Seq Scan on (sentences|topic_sentences)", plan), f"{way}\n{plan}"
