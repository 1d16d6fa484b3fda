from dataclasses import astuple
from typing import Any

from ftm_assets.storage.read.attrition import Attrition, AttritionCounts, count_attrition
from ftm_assets.storage.server.database import Database
from ftm_assets_tests.fakes import component
from ftm_assets_tests.storage.builders import derive, firm, firms, put, put_themes, sentences_of, themes_of, where_is
from ftm_assets_tests.storage.sql import QUARTER, load, one

CALL = (
    ("Executives", "Presenter Speech", "Freight costs rose a lot."),
    ("Executives", "Presenter Speech", "Thank you."),
    ("Analysts", "Question", "Freight rates doubled since spring?"),
    ("Executives", "Answer", "Freight is what hurt us."),
    ("Executives", "Answer", "Prices held steady this year."),
    ("Unknown", "Question", "Freight again, by all means."),
)


def attrition(database: Database) -> Attrition:
    with database.transaction() as connection:
        return count_attrition(connection, QUARTER)


def a_call(database: Database, company_id: int) -> None:
    """A firm whose call is CALL; freight is a topic, prices are not."""
    about = {"company_id": company_id, "company_name": f"Firm {company_id}", "transcript_id": company_id}
    load(
        database,
        *(
            component(text, component_order=order, speaker_type=speaker_type, type_name=type_name, **about)
            for order, (speaker_type, type_name, text) in enumerate(CALL)
        ),
    )


def test_every_sentence_is_counted_as_far_as_it_comes(database: Database) -> None:
    for company_id in (7, 8, 9, 10):
        a_call(database, company_id)
        derive(database, where_is(database, company_id))
    put_themes(database, themes_of(database))

    assert [astuple(row) for row in attrition(database).rows] == [
        ("all", 24, 20, 16, 16),
        ("remark", 8, 4, 4, 4),
        ("answer", 8, 8, 4, 4),
        ("question", 4, 4, 4, 4),
        ("unknown", 4, 4, 4, 4),
    ]


def test_each_share_is_of_what_it_says() -> None:
    counts = AttritionCounts("answer", 100, 80, 40, 20)
    assert (counts.modelled_share, counts.topic_share, counts.theme_share) == (0.8, 0.5, 0.25)
    nothing = AttritionCounts("question", 0, 0, 0, 0)
    assert (nothing.modelled_share, nothing.topic_share, nothing.theme_share) == (0, 0, 0)


def test_a_firm_that_is_behind_stays_in_the_denominator(database: Database) -> None:
    firms(database, 7, 8)
    put_themes(database, themes_of(database))
    assert astuple(attrition(database).whole) == ("all", 12, 12, 10, 10)

    where = firm(database, 9)
    put(database, where, sentences_of(database, where))

    assert astuple(attrition(database).whole) == ("all", 18, 18, 10, 10)


def test_topics_that_themes_lost_are_in_none(database: Database) -> None:
    firms(database, 7, 8)
    put_themes(database, themes_of(database))
    firms(database, 7, texts=("Freight costs fell, to correct the record.", "Freight is what hurt us.") * 3)
    whole = attrition(database).whole
    assert (whole.n_in_topics, whole.n_in_themes) == (11, 5)


def test_a_quarter_without_sentences_has_an_empty_funnel(database: Database) -> None:
    assert {astuple(row)[1:] for row in attrition(database).rows} == {(0, 0, 0, 0)}


def test_a_run_keeps_the_funnel_that_was_true_when_it_was_published(database: Database) -> None:
    firms(database, 7, 8)
    put_themes(database, themes_of(database))
    then = attrition(database)

    firm(database, 7, texts=("Freight costs fell, to correct the record.",))

    stored: Any
    [stored] = one(database, "SELECT attrition FROM theme_runs")
    assert stored == then.to_json()
    assert Attrition.from_json(stored) == then != attrition(database)
