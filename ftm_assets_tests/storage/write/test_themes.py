from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from itertools import chain

import numpy as np
import pytest

from ftm_assets.analysis.themes import N_EXEMPLARS, N_KEYWORD_SENTENCES, QuarterTopics, ThemeSettings, topic_terms
from ftm_assets.analysis.vectors import unit_rows
from ftm_assets.storage.maintain.deletion import calls_to_delete, delete_calls
from ftm_assets.storage.read.quarter_topics import read_quarter_topics
from ftm_assets.storage.read.queries import ThemeRow, themes_of_quarter
from ftm_assets.storage.read.theme_state import (
    ThemeCounts,
    ThemeCoverage,
    ThemeState,
    theme_counts,
    theme_coverage,
    theme_settings,
    theme_state,
)
from ftm_assets.storage.server.database import Database
from ftm_assets.storage.stages.base import FirmQuarter, Provenance
from ftm_assets.storage.stages.topics import read_topics
from ftm_assets.storage.write import stages
from ftm_assets.storage.write.themes import delete_themes, publish
from ftm_assets_tests.fakes import HashEncoder, at
from ftm_assets_tests.storage.builders import (
    TEXTS,
    THEME_SETTINGS,
    at_once,
    derive,
    firm,
    firms,
    put,
    put_themes,
    sentences_of,
    summaries_of,
    themes_of,
    topics_of,
    where_is,
)
from ftm_assets_tests.storage.sql import QUARTER, ask, one

CORRECTED = ("Freight costs fell, to correct the record.", *TEXTS[1:])
PRICES = ("Prices fell in the autumn.", "Prices rose in the winter.")
LIVE = "SELECT live_topic_number IS NOT NULL FROM theme_topics WHERE company_id = {} ORDER BY topic_number"


def read(database: Database) -> QuarterTopics:
    with database.transaction() as connection:
        return read_quarter_topics(connection, QUARTER)


def state(database: Database) -> ThemeState:
    with database.transaction() as connection:
        return theme_state(connection, QUARTER)


def shown(database: Database) -> list[ThemeRow]:
    with database.transaction() as connection:
        return themes_of_quarter(connection, QUARTER)


def ids(database: Database) -> dict[str, str]:
    return {theme.label: theme.theme_id for theme in shown(database)}


def counts(database: Database) -> list[ThemeCounts]:
    with database.transaction() as connection:
        return theme_counts(connection)


def coverage(database: Database) -> ThemeCoverage:
    with database.transaction() as connection:
        return theme_coverage(connection, QUARTER)


def settings(database: Database) -> ThemeSettings:
    with database.transaction() as connection:
        return theme_settings(connection, QUARTER)


def all_theme_rows(database: Database) -> list[list[tuple[object, ...]]]:
    tables = ("theme_runs", "theme_inputs", "themes", "theme_topics")
    return [ask(database, f"SELECT xmin::text, x::text FROM {table} AS x ORDER BY 2") for table in tables]


# --- what themes are made from


def test_a_quarter_has_the_topics_of_all_its_firms_in_order(database: Database) -> None:
    firms(database, 8, 7)

    quarter = read(database)

    found = [(topic.company_id, topic.topic_number, topic.label) for topic in quarter.topics]
    assert found == [(7, 0, "freight"), (7, 1, "wages"), (8, 0, "freight"), (8, 1, "wages")]
    assert (quarter.n_expected, quarter.n_by_keywords, list(quarter.firm_hashes)) == (2, 4, [7, 8])


def test_a_topic_stands_for_the_mean_of_its_best_sentences(database: Database) -> None:
    more = [f"Freight from {port}, of all things, is late by three weeks." for port in ("Asia", "Rotterdam", "Oslo")]
    where = firm(database, texts=[*TEXTS, *more])
    sentences, topics, summaries = derive(database, where)

    quarter = read(database)

    vectors = dict(zip([row.sentence_id for row in sentences.rows], sentences.embeddings, strict=True))
    for number, n_sentences in ((0, 6), (1, 2)):
        best = topics.exemplars(number, N_EXEMPLARS)
        assert len(best) == min(N_EXEMPLARS, n_sentences)
        mean = unit_rows(np.mean([vectors[i] for i in best], axis=0, keepdims=True))[0]
        np.testing.assert_allclose(quarter.exemplars[number], mean, atol=1e-6)
    assert np.array_equal(quarter.summaries, summaries.embeddings)
    assert quarter.exemplars.dtype == quarter.summaries.dtype == np.float32


def terms_of(database: Database) -> dict[tuple[int, int], tuple[str, ...]]:
    quarter = read(database)
    rows = zip(quarter.topics, topic_terms(quarter), strict=True)
    return {(topic.company_id, topic.topic_number): terms for topic, terms in rows}


def test_a_topic_says_the_terms_of_its_sentences_the_best_one_first(database: Database) -> None:
    derive(database, firm(database))
    of_sentences = (
        ("freight", "doubled", "spring", "freight rates", "rates doubled"),
        ("freight", "rose", "freight costs", "costs rose"),
        ("freight", "hurt"),
    )
    assert terms_of(database)[7, 0] == tuple(chain.from_iterable(of_sentences))


def test_a_topic_says_a_term_once_a_sentence_and_no_name(database: Database) -> None:
    texts = ["Wages are wages, as Ann Lee says.", *["Wages at Acme fell."] * 3]
    derive(database, firm(database, texts=texts))
    # In a call without her, and of another firm, they are words like others.
    derive(database, firm(database, 8, texts=texts, person="Bo Yu"))
    assert Counter(terms_of(database)[7, 0]) == {"wages": 4, "says": 1, "fell": 3}
    assert Counter(terms_of(database)[8, 0])["acme"] == 3


def test_only_the_best_sentences_of_a_topic_speak_for_it(database: Database) -> None:
    rich = [f"Freight from port{i}x {'is late and ' * 3}costly." for i in range(N_KEYWORD_SENTENCES)]
    where = firm(database, texts=["Freight is what hurt us.", *rich])
    _, topics, _ = derive(database, where)
    [worst] = topics.exemplars(0, N_KEYWORD_SENTENCES + 1)[N_KEYWORD_SENTENCES:]
    assert worst == "7_70_0000"
    assert "hurt" not in terms_of(database)[7, 0]


def _no_sentences(database: Database, where: FirmQuarter) -> None:
    firm(database, where.company_id, CORRECTED)


def _no_topics(database: Database, where: FirmQuarter) -> None:
    put(database, where, replace(sentences_of(database, where), names=frozenset({"somebody"})))


def _stale_topics(database: Database, where: FirmQuarter) -> None:
    with database.transaction() as connection:
        topics = read_topics(connection, where)
    assert not put(database, where, replace(topics, input_hash="other sentences"))


@pytest.mark.parametrize("fall_behind", [_no_sentences, _no_topics, _stale_topics])
def test_a_firm_that_is_behind_is_left_out(
    database: Database, fall_behind: Callable[[Database, FirmQuarter], None]
) -> None:
    acme, _ = firms(database, 7, 8)

    fall_behind(database, acme)

    quarter = read(database)
    assert {topic.company_id for topic in quarter.topics} == {8}
    assert (list(quarter.firm_hashes), quarter.n_expected) == ([8], 2)


def test_a_firm_with_nothing_to_say_is_there_without_a_topic(database: Database) -> None:
    where = firm(database, texts=["Please hold."], speaker_type="Operator")
    derive(database, where)

    quarter = read(database)

    assert (quarter.topics, list(quarter.firm_hashes)) == ((), [7])
    assert quarter.exemplars.shape == quarter.summaries.shape == (0, 768)


def test_themes_are_as_of_the_day_when_the_last_call_became_available(database: Database) -> None:
    firm(database, 7, created_at=at(3))
    firm(database, 8, created_at=at(9))
    firm(database, 9)
    assert read(database).as_of == at(9)


def test_an_empty_quarter_has_nothing_to_make_themes_from(database: Database) -> None:
    quarter = read(database)
    assert (quarter.topics, quarter.n_expected, quarter.as_of, quarter.known.next_number) == ((), 0, None, 1)


# --- publishing


def test_the_first_run_numbers_its_themes(database: Database) -> None:
    firms(database, 7, 8)

    assert put_themes(database, themes_of(database))

    assert ids(database) == {"freight": "theme_2021Q4_001", "wages": "theme_2021Q4_002"}
    assert [(theme.n_firms, theme.n_topics, theme.top_firm_share) for theme in shown(database)] == [(2, 2, 0.5)] * 2
    assert state(database) == ThemeState(1, ())
    facts = (
        "SELECT run_number, n_firms_expected, n_firms, n_topics, provenance -> 'settings' ->> 'seed' FROM theme_runs"
    )
    assert ask(database, facts) == [(1, 2, 2, 4, "42")]


def test_the_same_themes_again_touch_no_row(database: Database) -> None:
    firms(database, 7, 8)
    put_themes(database, themes_of(database))
    before = all_theme_rows(database)

    assert not put_themes(database, themes_of(database))

    assert all_theme_rows(database) == before


def test_a_run_keeps_the_seconds_of_what_made_it(database: Database) -> None:
    firms(database, 7, 8)
    themes = themes_of(database)
    for seconds, changed, kept in ((5.0, True, 5.0), (7.0, False, 5.0)):
        with database.transaction() as connection:
            assert publish(connection, themes, Provenance.of(themes, seconds)).changed is changed
        assert one(database, "SELECT seconds FROM theme_runs") == [kept]


def test_the_same_themes_of_other_settings_are_recorded_in_the_same_run(database: Database) -> None:
    firms(database, 7, 8)
    put_themes(database, themes_of(database))

    assert not put_themes(database, themes_of(database, THEME_SETTINGS.model_copy(update={"seed": 43})))

    assert ask(database, "SELECT run_number, provenance -> 'settings' -> 'seed' FROM theme_runs") == [(1, 43)]


def test_new_firms_make_a_new_run_in_which_themes_keep_their_ids(database: Database) -> None:
    firms(database, 7, 8)
    put_themes(database, themes_of(database))

    firms(database, 9, 10, texts=(*TEXTS, *PRICES))
    assert put_themes(database, themes_of(database))

    assert ids(database) == {
        "freight": "theme_2021Q4_001",
        "wages": "theme_2021Q4_002",
        "prices": "theme_2021Q4_003",
    }
    assert [theme.n_firms for theme in shown(database)] == [4, 4, 2]
    assert state(database) == ThemeState(2, ())


def test_a_theme_that_is_not_found_again_is_retired_and_its_number_never_given_again(database: Database) -> None:
    firms(database, 7, 8, 9, 10)
    put_themes(database, themes_of(database))

    firms(database, 7, 8, 9, 10, texts=TEXTS[:3] + TEXTS[5:])
    put_themes(database, themes_of(database))
    assert ids(database) == {"freight": "theme_2021Q4_001"}
    assert ask(database, "SELECT theme_number, run_number FROM themes ORDER BY 1") == [(1, 2), (2, 1)]

    firms(database, 7, 8, 9, 10, texts=TEXTS)
    put_themes(database, themes_of(database))
    assert ids(database) == {"freight": "theme_2021Q4_001", "wages": "theme_2021Q4_003"}


def test_a_run_without_any_theme_is_published_with_what_it_rejected(database: Database) -> None:
    firms(database, 7, 8)
    none = THEME_SETTINGS.model_copy(update={"min_firms": 3})
    put_themes(database, themes_of(database))

    assert put_themes(database, themes_of(database, none))
    assert not put_themes(database, themes_of(database, none))

    assert shown(database) == []
    assert state(database) == ThemeState(2, ())
    assert one(database, "SELECT rejected FROM theme_runs WHERE run_number = 2") == [{"fewer than 3 firms": 2}]
    assert put_themes(database, themes_of(database))
    assert ids(database) == {"freight": "theme_2021Q4_003", "wages": "theme_2021Q4_004"}


def test_a_quarter_of_one_firm_has_a_run_and_no_theme(database: Database) -> None:
    firms(database, 7, texts=(*TEXTS, *PRICES, "Oil fell a lot again.", "Oil rose a lot again."))
    assert put_themes(database, themes_of(database))
    assert ask(database, "SELECT n_firms, n_topics, rejected FROM theme_runs") == [(1, 4, {})]


def test_the_same_themes_published_twice_at_once_are_one_run(database: Database) -> None:
    firms(database, 7, 8)
    themes = themes_of(database)
    assert at_once(*[lambda: put_themes(database, themes)] * 3) == [None] * 3
    assert one(database, "SELECT run_number FROM theme_runs") == [1]


def test_deleted_themes_leave_nothing(database: Database) -> None:
    firms(database, 7, 8)
    put_themes(database, themes_of(database))
    with database.transaction() as connection:
        delete_themes(connection, QUARTER)
    assert all_theme_rows(database) == [[], [], [], []]
    assert state(database) == ThemeState(None, ())


def test_themes_of_another_encoder_get_new_ids(database: Database) -> None:
    firms(database, 7, 8)
    put_themes(database, themes_of(database))
    with database.transaction() as connection:
        stages.reencode(connection, QUARTER)
    other = HashEncoder(revision="2")
    for company_id in (7, 8):
        where = where_is(database, company_id)
        sentences = sentences_of(database, where, other)
        topics = topics_of(sentences)
        for value in (sentences, topics, summaries_of(topics, sentences, other)):
            put(database, where, value)

    put_themes(database, themes_of(database))

    assert ids(database) == {"freight": "theme_2021Q4_003", "wages": "theme_2021Q4_004"}
    encoders = "SELECT run_number, provenance ->> 'encoder' FROM theme_runs ORDER BY 1"
    assert ask(database, encoders) == [(1, "hash@1"), (2, "hash@2")]
    assert not put_themes(database, themes_of(database)), "from then on they keep them"


def test_the_settings_are_those_of_the_current_run_else_the_defaults(database: Database) -> None:
    firms(database, 7, 8)
    assert settings(database) == ThemeSettings()
    for chosen in (THEME_SETTINGS, THEME_SETTINGS.model_copy(update={"min_firms": 3})):
        put_themes(database, themes_of(database, chosen))
        assert settings(database) == chosen


# --- what happens to published themes when firms change


def test_counts_tell_when_themes_are_due(database: Database) -> None:
    assert counts(database) == []
    firm(database, 7)
    firms(database, 8)
    firm(database, 9, quarter="2022Q1", transcript_id=95, call_date=date(2022, 2, 1))
    other = ThemeCounts("2022Q1", 1, 0, 0, published=False)
    assert counts(database) == [ThemeCounts(QUARTER, 2, 1, 1, published=False), other]
    assert not any(each.due for each in counts(database))

    firms(database, 7)
    assert counts(database)[0] == ThemeCounts(QUARTER, 2, 2, 2, published=False)
    assert counts(database)[0].due

    put_themes(database, themes_of(database))
    assert counts(database) == [ThemeCounts(QUARTER, 2, 2, 0, published=True), other]
    assert not counts(database)[0].due

    firm(database, 7, texts=CORRECTED)
    assert counts(database)[0] == ThemeCounts(QUARTER, 2, 1, 1, published=True)
    assert (counts(database)[0].n_to_do, counts(database)[0].due) == (1, False)

    firms(database, 7, texts=CORRECTED)
    assert counts(database)[0] == ThemeCounts(QUARTER, 2, 2, 1, published=True)
    assert counts(database)[0].due


def test_a_firm_that_went_makes_themes_due(database: Database) -> None:
    firms(database, 7, 8)
    put_themes(database, themes_of(database))
    with database.transaction() as connection:
        delete_calls(connection, calls_to_delete(connection, QUARTER, 7))
    assert counts(database) == [ThemeCounts(QUARTER, 1, 1, 1, published=True)]
    assert counts(database)[0].due


def test_a_quarter_whose_firms_have_nothing_to_say_is_due_once(database: Database) -> None:
    derive(database, firm(database, texts=["Please hold."], speaker_type="Operator"))
    assert counts(database)[0].due
    put_themes(database, themes_of(database))
    assert not counts(database)[0].due


def test_coverage_is_of_the_firms_that_the_themes_were_made_from(database: Database) -> None:
    firms(database, 7)
    firm(database, 8)
    assert coverage(database) == ThemeCoverage(published=False, n_expected=2, missing=("ACME-INC-7", "BOLT-CO-8"))
    put_themes(database, themes_of(database))
    assert coverage(database) == ThemeCoverage(published=True, n_expected=2, missing=("BOLT-CO-8",))
    firms(database, 8)
    firm(database, 7, texts=CORRECTED)
    assert coverage(database).missing == ("BOLT-CO-8",)


def test_themes_name_the_firms_that_came_went_or_changed(database: Database) -> None:
    assert not state(database).current
    firms(database, 7, 8, 9)
    put_themes(database, themes_of(database))
    assert state(database).current

    firms(database, 10)
    assert state(database).changed_firms == ("DUNE-GROUP-10",), "came"
    firms(database, 8, texts=CORRECTED)
    assert state(database).changed_firms == ("BOLT-CO-8", "DUNE-GROUP-10"), "changed"
    with database.transaction() as connection:
        delete_calls(connection, calls_to_delete(connection, QUARTER, 9))
    assert state(database).changed_firms == ("BOLT-CO-8", "CRANE-WORKS-9", "DUNE-GROUP-10"), "went"
    assert not state(database).current

    put_themes(database, themes_of(database))
    assert state(database) == ThemeState(2, ())


def test_published_themes_survive_their_topics(database: Database) -> None:
    firms(database, 7, 8)
    put_themes(database, themes_of(database))

    firm(database, 7, CORRECTED)

    assert [(theme.label, theme.n_firms) for theme in shown(database)] == [("freight", 2), ("wages", 2)]
    assert (one(database, LIVE.format(7)), one(database, LIVE.format(8))) == ([False, False], [True, True])


def test_topics_that_come_back_unchanged_are_live_again(database: Database) -> None:
    firms(database, 7, 8)
    put_themes(database, themes_of(database))
    firm(database, 7, CORRECTED)

    firms(database, 7)

    assert state(database).current, "so nobody would publish again"
    assert one(database, LIVE.format(7)) == [True, True]


def test_topics_that_came_back_changed_are_not_those_of_the_theme(database: Database) -> None:
    firms(database, 7, 8)
    put_themes(database, themes_of(database))

    firms(database, 7, texts=CORRECTED)

    assert one(database, LIVE.format(7)) == [False, False]


def test_topics_that_changed_while_the_themes_were_made_are_not_live(database: Database) -> None:
    firms(database, 7, 8, 9)
    themes = themes_of(database)
    firms(database, 7, texts=CORRECTED)
    with database.transaction() as connection:
        delete_calls(connection, calls_to_delete(connection, QUARTER, 9))

    put_themes(database, themes)

    found = [one(database, LIVE.format(company_id)) for company_id in (7, 8, 9)]
    assert found == [[False, False], [True, True], [False, False]]
    assert state(database).changed_firms == ("ACME-INC-7", "CRANE-WORKS-9")
    assert [theme.n_firms for theme in shown(database)] == [3, 3]


def test_the_same_themes_from_new_rows_are_live_in_the_same_run(database: Database) -> None:
    firms(database, 7, 8)
    put_themes(database, themes_of(database))
    where = where_is(database)
    sentences = sentences_of(database, where)
    topics = topics_of(sentences)
    # Nothing that themes are made from.
    rewritten = replace(topics, members=tuple(replace(member, probability=0.5) for member in topics.members))
    put(database, where, rewritten)
    put(database, where, summaries_of(rewritten, sentences))
    assert state(database).changed_firms == (where.firm_key,)
    assert one(database, LIVE.format(7)) == [False, False]

    assert not put_themes(database, themes_of(database))

    assert state(database) == ThemeState(1, ())
    assert one(database, LIVE.format(7)) == [True, True]
