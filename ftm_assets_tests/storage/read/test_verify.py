import pytest
import sqlalchemy as sa

from ftm_assets.storage.maintain.archive import archive
from ftm_assets.storage.read.verify import compare_source, verify_quarter
from ftm_assets.storage.server.database import Database
from ftm_assets_tests.fakes import component
from ftm_assets_tests.storage.builders import TEXTS, firm, firms, put_themes, themes_of
from ftm_assets_tests.storage.sql import QUARTER, load


def different(database: Database, *breaking: str) -> dict[str, tuple[int, int]]:
    """The checks that fail after these statements, which are rolled back, with both numbers."""
    with database.engine.connect() as connection:
        # Foreign keys would refuse most of what is broken here.
        connection.execute(sa.text("SET session_replication_role = replica"))
        for statement in breaking:
            connection.execute(sa.text(statement))
        comparisons = list(verify_quarter(connection, QUARTER))
        connection.rollback()
    assert len({each.check for each in comparisons}) == len(comparisons) > 15
    return {each.check: (each.n_expected, each.n_found) for each in comparisons if not each.is_equal}


@pytest.fixture
def quarter(database: Database) -> Database:
    """Four firms that say the same, with themes: 24 sentences, of which four are in no topic."""
    firms(database, 7, 8, 9, 10)
    put_themes(database, themes_of(database))
    return database


def test_a_sound_quarter_passes(quarter: Database) -> None:
    assert different(quarter) == {}


@pytest.mark.parametrize(
    ("check", "numbers", "breaking"),
    [
        (
            "sentences are where they say in their turn",
            (24, 20),
            "UPDATE sentences SET text = 'Prices fell.' WHERE position = 5",
        ),
        (
            "sentences are in order, apart, and numbered without a gap",
            (24, 20),
            "UPDATE sentences SET position = 6 WHERE position = 5",
        ),
        (
            "characters of turns, operators' aside, are in sentences",
            (580, 560),
            "UPDATE components SET text = text || ' More.' WHERE component_order = 5",
        ),
        (
            "vectors have length one",
            (24, 23),
            "UPDATE sentences SET embedding = embedding + embedding WHERE sentence_id = '7_70_0000'",
        ),
        (
            "firms have every stage",
            (4, 3),
            "DELETE FROM materializations WHERE stage = 'firm_topics' AND company_id = 7",
        ),
        (
            "stages were made from what is there now",
            (12, 11),
            "UPDATE materializations SET content_hash = 'x' WHERE stage = 'firm_sentences' AND company_id = 7",
        ),
        (
            "modelled sentences have an assignment",
            (24, 23),
            "DELETE FROM topic_sentences WHERE sentence_id = '7_70_0000'",
        ),
        (
            "assignments are of modelled sentences",
            (24, 23),
            "UPDATE sentences SET boilerplate = 'thanks' WHERE sentence_id = '7_70_0000'",
        ),
        (
            "topics have as many sentences as they count",
            (20, 19),
            "DELETE FROM topic_sentences WHERE sentence_id = '7_70_0000'",
        ),
        (
            "topics rank their sentences from 1 on without a gap",
            (8, 7),
            "UPDATE topic_sentences SET rank = 9 WHERE company_id = 7 AND topic_number = 0 AND rank = 2",
        ),
        ("topics have a summary", (8, 7), "DELETE FROM topic_summaries WHERE company_id = 7 AND topic_number = 1"),
        ("themes were made from all topics", (8, 7), "UPDATE theme_runs SET n_topics = 7"),
        (
            "themes were made from the summaries of all firms, as they are now",
            (4, 3),
            "UPDATE materializations SET content_hash = 'x' WHERE stage = 'topic_summaries' AND company_id = 7",
        ),
        (
            "themes have as many topics as they count",
            (9, 8),
            "UPDATE themes SET n_topics = n_topics + 1 WHERE theme_number = 1",
        ),
        (
            "themes have as many firms as they count",
            (9, 8),
            "UPDATE themes SET n_firms = n_firms + 1 WHERE theme_number = 1",
        ),
        (
            "topics of themes are there, with the label that the themes saw",
            (8, 7),
            "UPDATE topics SET label = 'x' WHERE company_id = 7 AND topic_number = 0",
        ),
        (
            "sentences in themes are as many as when they were published",
            (20, 19),
            "DELETE FROM topic_sentences WHERE sentence_id = '7_70_0000'",
        ),
        (
            "rows of firm_sentences have the content hash that is recorded",
            (4, 3),
            "UPDATE sentences SET role = 'analyst' WHERE sentence_id = '7_70_0000'",
        ),
        (
            "rows of firm_topics have the content hash that is recorded",
            (4, 3),
            "UPDATE topic_sentences SET probability = 0.5 WHERE sentence_id = '7_70_0000'",
        ),
    ],
)
def test_a_broken_rule_is_named_with_both_numbers(
    quarter: Database, check: str, numbers: tuple[int, int], breaking: str
) -> None:
    assert different(quarter, breaking).get(check) == numbers


def test_an_archived_quarter_passes_without_its_vectors(quarter: Database) -> None:
    archive(quarter, QUARTER)
    assert different(quarter) == {}


def test_a_quarter_without_themes_is_not_sound(database: Database) -> None:
    firms(database, 7)
    assert different(database)["themes were made from all topics"] == (2, 0)


def test_what_the_operator_says_need_not_be_in_a_sentence(database: Database) -> None:
    load(database, *(component("Next.", component_order=order, speaker_type=" Operator") for order in range(2)))
    with database.transaction() as connection:
        comparisons = {each.check: each.is_equal for each in verify_quarter(connection, QUARTER)}
    assert comparisons["characters of turns, operators' aside, are in sentences"]


def test_a_source_is_compared_text_by_text(database: Database) -> None:
    firm(database)
    rows = [component(text, component_order=i, transcript_id=70) for i, text in enumerate(TEXTS)]
    changed = component("Prices fell.", component_order=5, transcript_id=70)
    unknown = component("Prices fell.", component_order=0, transcript_id=71)
    with database.transaction() as connection:
        sound = [(each.n_expected, each.n_found) for each in compare_source(connection, QUARTER, rows)]
        broken = [
            (each.n_expected, each.n_found)
            for each in compare_source(connection, QUARTER, [*rows[:5], changed, unknown])
        ]
    assert sound == [(1, 1), (6, 6)]
    assert broken == [(2, 1), (7, 5)]
