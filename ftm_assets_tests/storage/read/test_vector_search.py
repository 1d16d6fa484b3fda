"""Search on quarters of thousands of generated rows, and how Postgres carries it out."""

import re
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import sqlalchemy as sa
from pydantic import SecretStr
from sqlalchemy.engine import Connection

from devtools.synthetic_quarters.uniform import SENTENCES_A_TOPIC, Shape, fill, sentence_id
from ftm_assets.settings import Settings
from ftm_assets.storage.maintain.search_index import build_search_index
from ftm_assets.storage.read import queries
from ftm_assets.storage.read.queries import ExactScan, NoVectors, SearchFilter, SearchResult
from ftm_assets.storage.read.search_index import Level, SearchIndexSettings
from ftm_assets.storage.server.database import Database
from ftm_assets.storage.server.embedded import EmbeddedServer
from ftm_assets_tests.storage.plans import plans
from ftm_assets_tests.storage.sql import one

INDEXED = Shape("2021Q4", n_firms=200, topics_a_firm=20, n_themes=150)
BARE = Shape("2022Q1", n_firms=20, topics_a_firm=4, n_themes=6, seed=8)
BIG_TABLES = "sentences_2021q4|topic_sentences|topics|topic_summaries|theme_topics"


@pytest.fixture(scope="module")
def vectors() -> dict[str, np.ndarray]:
    """By quarter, of all its sentences."""
    return {}


@pytest.fixture(scope="module")
def many(
    server: EmbeddedServer, template: str, tmp_path_factory: pytest.TempPathFactory, vectors: dict[str, np.ndarray]
) -> Iterator[Database]:
    """12,000 sentences and 4,000 topics in a quarter with a search index, and 240 and 80 in one without."""
    settings = Settings(home=tmp_path_factory.mktemp("many"), database_url=SecretStr(server.url("many")))
    database = Database(settings)
    for shape in (INDEXED, BARE):
        vectors[shape.quarter] = fill(database, shape)
    build_search_index(database, INDEXED.quarter, SearchIndexSettings(ef_construction=32))
    yield database
    database.engine.dispose()


def search(
    database: Database, vector: np.ndarray, *levels: Level, where: SearchFilter = queries.NO_FILTER, limit: int = 10
) -> SearchResult:
    """The nearest of the quarter with an index."""
    with database.transaction() as connection:
        return queries.search(connection, {INDEXED.quarter: vector}, levels or tuple(Level), where, limit)


def nearest(vectors: np.ndarray, to: np.ndarray, rows: np.ndarray, limit: int = 10) -> list[str]:
    """Ids of those of the rows that are nearest, by comparing all of them."""
    order = np.argsort(-(vectors[rows] @ to), kind="stable")
    return [sentence_id(INDEXED, int(row)) for row in rows[order][:limit]]


def every_row(shape: Shape = INDEXED) -> np.ndarray:
    return np.arange(shape.n_sentences)


def recall(found: list[list[str]], wanted: list[list[str]]) -> float:
    return float(np.mean([len(set(f) & set(w)) / len(w) for f, w in zip(found, wanted, strict=True)]))


# --- what is found


def test_the_index_finds_nearly_all_that_comparing_every_row_finds(
    many: Database, vectors: dict[str, np.ndarray]
) -> None:
    known = vectors[INDEXED.quarter]
    asked = known[np.random.default_rng(1).integers(len(known), size=25)]
    found = [search(many, vector, Level.sentences) for vector in asked]
    assert all(not each.exact for each in found)
    ids = [[hit.id for hit in each.hits] for each in found]
    assert recall(ids, [nearest(known, vector, every_row()) for vector in asked]) >= 0.98
    for each in found:
        cosines = [hit.cosine for hit in each.hits]
        assert cosines == sorted(cosines, reverse=True)
        assert cosines[0] == pytest.approx(1, abs=1e-6), "the sentence itself, by its whole vector"


def test_a_hit_tells_what_stands_above_it(many: Database, vectors: dict[str, np.ndarray]) -> None:
    found = search(many, vectors[INDEXED.quarter][61], limit=1).hits
    theme, topic, sentence = found
    assert [hit.level for hit in found] == list(Level)
    assert (sentence.id, sentence.firm_key, sentence.person) == (sentence_id(INDEXED, 61), "FIRM-101", "Person 0")
    assert (sentence.topic_id, topic.id) == ("101_2021Q4_0", "101_2021Q4_0")
    assert sentence.theme_id == topic.theme_id == theme.id
    assert (topic.firm_name, theme.firm_key) == ("Firm 101", None)
    with many.transaction() as connection:
        [up] = queries.sentences_of(connection, sentence.id)
        assert queries.sentences_of(connection, theme.id, 1)
    assert (up.theme_id, up.text) == (sentence.theme_id, sentence.text)


def test_within_a_firm_the_answer_is_exact_and_needs_no_index(many: Database, vectors: dict[str, np.ndarray]) -> None:
    known = vectors[INDEXED.quarter]
    a_firm = INDEXED.topics_a_firm * SENTENCES_A_TOPIC
    of_firm = every_row()[3 * a_firm : 4 * a_firm]
    found = search(many, known[9], where=SearchFilter(company_id=103))
    assert found.exact == ()
    assert [hit.id for hit in found.hits if hit.level is Level.sentences] == nearest(known, known[9], of_firm)
    topics = [hit for hit in found.hits if hit.level is Level.topics]
    assert {hit.firm_key for hit in topics} == {"FIRM-103"} and len(topics) == 10
    themes = {hit.theme_id for hit in found.hits if hit.level is Level.themes}
    assert {hit.theme_id for hit in topics[:3]} <= themes, "of the themes those in which the firm has a topic"
    with many.transaction() as connection:
        assert themes <= {theme.theme_id for theme in queries.firm_themes(connection, 103, "2021Q4")}


def test_conditions_narrow_what_is_found_and_the_index_goes_on_until_enough_meet_them(
    many: Database, vectors: dict[str, np.ndarray]
) -> None:
    known = vectors[INDEXED.quarter]
    analysts = every_row()[::3]
    found = search(many, known[150], Level.sentences, where=SearchFilter(role="analyst", section="qa"), limit=30)
    assert found.exact == ()
    assert {(hit.role, hit.section) for hit in found.hits} == {("analyst", "qa")}
    assert recall([[hit.id for hit in found.hits]], [nearest(known, known[150], analysts, 30)]) >= 0.9


def test_topics_and_themes_meet_a_condition_by_one_of_their_sentences(
    many: Database, vectors: dict[str, np.ndarray]
) -> None:
    vector, first = vectors[INDEXED.quarter][0], sentence_id(INDEXED, 0)
    asked = search(many, vector, Level.themes, Level.topics, where=SearchFilter(role="analyst"))
    assert [hit.id for hit in asked.hits] == [hit.id for hit in search(many, vector, Level.themes, Level.topics).hits]
    with many.transaction() as connection:
        connection.execute(sa.text("UPDATE sentences SET role = 'unknown' WHERE sentence_id = :id"), {"id": first})
        unknown = queries.search(connection, {"2021Q4": vector}, list(Level), SearchFilter(role="unknown"))
        connection.rollback()
    assert [(hit.level, hit.id) for hit in unknown.hits if hit.level is not Level.themes] == [
        (Level.topics, "100_2021Q4_0"),
        (Level.sentences, first),
    ]
    assert len([hit for hit in unknown.hits if hit.level is Level.themes]) == 1


def test_where_too_few_candidates_meet_a_condition_all_rows_are_compared_and_that_is_said(
    many: Database, vectors: dict[str, np.ndarray]
) -> None:
    known = vectors[INDEXED.quarter]
    # Analysts speak in Q&A only, but for five sentences far away, and the index may not look for them for long.
    far = [sentence_id(INDEXED, int(i)) for i in every_row()[::3][np.argsort(known[::3] @ known[0])[:5]]]
    with many.transaction() as connection:
        connection.execute(sa.text("SET LOCAL hnsw.max_scan_tuples = 1"))
        connection.execute(
            sa.text("UPDATE sentences SET section = 'prepared' WHERE sentence_id = ANY(:ids)"), {"ids": far}
        )
        where = SearchFilter(role="analyst", section="prepared")
        found = queries.search(connection, {INDEXED.quarter: known[0]}, [Level.sentences], where)
        connection.rollback()
    assert {hit.id for hit in found.hits} == set(far)
    assert found.exact == (ExactScan("2021Q4", Level.sentences, queries.TOO_FEW),)


def test_without_an_index_all_rows_are_compared_and_that_is_said(
    many: Database, vectors: dict[str, np.ndarray]
) -> None:
    known = vectors[BARE.quarter]
    with many.transaction() as connection:
        found = queries.search(connection, {BARE.quarter: known[7]}, limit=1)
    assert found.exact == tuple(ExactScan(BARE.quarter, level, queries.NO_INDEX) for level in Level)
    assert found.hits[-1].id == sentence_id(BARE, 7)


def test_quarters_are_searched_each_by_its_own_vector_and_merged_by_nearness(
    many: Database, vectors: dict[str, np.ndarray]
) -> None:
    asked = {shape.quarter: vectors[shape.quarter][7] for shape in (BARE, INDEXED)}
    with many.transaction() as connection:
        alone = [hit for q, v in asked.items() for hit in queries.search(connection, {q: v}, [Level.sentences]).hits]
        both = queries.search(connection, asked, [Level.sentences]).hits
    assert {hit.id for hit in both[:2]} == {sentence_id(shape, 7) for shape in (BARE, INDEXED)}
    assert list(both) == sorted(alone, key=lambda hit: (-hit.cosine, hit.quarter, hit.id))[:10]


def test_themes_that_are_retired_are_not_found(many: Database, vectors: dict[str, np.ndarray]) -> None:
    vector = vectors[INDEXED.quarter][0]
    first = search(many, vector, Level.themes, limit=1).hits[0]
    with many.transaction() as connection:
        connection.execute(
            sa.text(
                """
                INSERT INTO theme_runs (quarter, run_number, input_hash, content_hash, n_firms_expected, n_firms,
                                        n_topics, rejected, provenance)
                VALUES ('2021Q4', 2, '', '', 0, 0, 0, '{}', '{}')
                """
            )
        )
        connection.execute(
            sa.text("UPDATE themes SET run_number = 2 WHERE quarter = '2021Q4' AND theme_id <> :id"), {"id": first.id}
        )
        now = queries.search(connection, {"2021Q4": vector}, [Level.themes], limit=150).hits
        connection.rollback()
    assert len(now) == INDEXED.n_themes - 1 and first.id not in {hit.id for hit in now}


def test_a_quarter_without_vectors_is_refused_with_the_next_step(many: Database) -> None:
    with many.transaction() as connection:
        assert [each.quarter for each in queries.encoders_of(connection)] == ["2021Q4", "2022Q1"]
        with pytest.raises(NoVectors, match="ftm backfill 2019Q1"):
            queries.encoders_of(connection, ["2019Q1"])


# --- a firm over quarters, a theme by firms


def test_a_firm_over_the_quarters_adds_up(many: Database) -> None:
    with many.transaction() as connection:
        rows = queries.firm_profile(connection, 103)
        themes = queries.firm_themes(connection, 103)
        assert queries.firm_themes(connection, 103, "2022Q1") == [row for row in themes if row.quarter == "2022Q1"]
    assert [(row.quarter, row.name, row.n_calls, row.n_topics) for row in rows] == [
        ("2021Q4", "Firm 103", 1, 20),
        ("2022Q1", "Firm 103", 1, 4),
    ]
    for row in rows:
        of_quarter = [theme for theme in themes if theme.quarter == row.quarter]
        assert (
            row.n_sentences == row.n_modelled == row.n_in_topics == row.n_in_themes == SENTENCES_A_TOPIC * row.n_topics
        )
        assert row.n_themes == len(of_quarter)
        assert sum(theme.n_topics for theme in of_quarter) == row.n_topics
        assert sum(theme.share for theme in of_quarter) == pytest.approx(1)


def test_the_firms_of_a_theme_are_those_of_its_topics(many: Database) -> None:
    with many.transaction() as connection:
        firms = queries.firms_of_theme(connection, "theme_2021Q4_003")
        topics = queries.topics_of_theme(connection, "theme_2021Q4_003")
        assert queries.firms_of_theme(connection, "theme_2021Q4_003", 2) == firms[:2]
        assert queries.topics_of_theme(connection, "theme_2021Q4_003", 2) == topics[:2]
    assert sum(firm.n_topics for firm in firms) == len(topics) and len(topics) > 3
    assert {firm.firm_key for firm in firms} == {topic.firm_key for topic in topics}
    assert [firm.n_topics for firm in firms] == sorted((firm.n_topics for firm in firms), reverse=True)


# --- how the database finds it


def test_no_big_table_is_read_from_end_to_end(many: Database, vectors: dict[str, np.ndarray]) -> None:
    vector = vectors[INDEXED.quarter][1000]
    theme = "theme_2021Q4_003"

    def searched(*levels: Level, where: SearchFilter = queries.NO_FILTER) -> Callable[[Connection], object]:
        # With so few rows and many candidates, Postgres rightly thinks that comparing all rows is as quick.
        return lambda c: queries.search(c, {INDEXED.quarter: vector}, levels, where, ef_search=40).hits

    ways: dict[str, Callable[[Connection], object]] = {
        "topics of a theme": lambda c: queries.topics_of_theme(c, theme, 10),
        "firms of a theme": lambda c: queries.firms_of_theme(c, theme),
        "topics of a firm": lambda c: queries.topics_of_firm(c, "2021Q4", 103),
        "sentences of a topic": lambda c: queries.sentences_of_topic(c, "2021Q4", 103, 4),
        "best sentences of a theme": lambda c: queries.sentences_of_theme(c, theme, 10),
        "up from a sentence": lambda c: queries.sentences(c, [sentence_id(INDEXED, 77)]),
        "a firm over quarters": lambda c: queries.firm_profile(c, 103),
        "themes of a firm": lambda c: queries.firm_themes(c, 103),
        "search for topics": searched(Level.topics),
        "search for sentences": searched(Level.sentences),
        "search for what analysts say": searched(Level.sentences, where=SearchFilter(role="analyst")),
        "search for topics of analysts": searched(Level.topics, where=SearchFilter(role="analyst")),
        "search within a firm": searched(Level.topics, Level.sentences, where=SearchFilter(company_id=103)),
    }
    with many.transaction() as connection:
        for way, ask in ways.items():
            assert ask(connection), way
            plan = plans(connection, ask)
            assert not re.search(rf"Seq Scan on ({BIG_TABLES})\b", plan), f"{way}\n{plan}"
            if way.startswith("search for"):
                index = "hnsw_topics_2021q4" if "topics" in way else "hnsw_sentences_2021q4"
                assert f"Index Scan using {index}" in plan, f"{way}\n{plan}"


def test_a_search_leaves_the_settings_of_the_session_alone(many: Database, vectors: dict[str, np.ndarray]) -> None:
    search(many, vectors[INDEXED.quarter][0])
    assert one(many, "SELECT current_setting('hnsw.iterative_scan')") == ["off"]
