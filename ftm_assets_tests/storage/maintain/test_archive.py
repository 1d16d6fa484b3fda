"""A quarter without the vectors of its sentences: what stays, what is refused, and the way back."""

from collections.abc import Callable

import numpy as np
import pytest
import sqlalchemy as sa

from ftm_assets.storage.maintain import archive as module
from ftm_assets.storage.maintain.archive import NotFinished, archive
from ftm_assets.storage.maintain.search_index import build_search_index
from ftm_assets.storage.read import queries
from ftm_assets.storage.read.quarter_topics import read_quarter_topics
from ftm_assets.storage.read.search_index import Level, SearchIndexSettings, search_index_ready
from ftm_assets.storage.server.advisory_locks import Lock, acquire
from ftm_assets.storage.server.database import Database
from ftm_assets.storage.stages.base import find_firm_quarter
from ftm_assets.storage.stages.sentences import VectorsArchived, read_sentences
from ftm_assets.storage.write import stages
from ftm_assets.storage.write.calls import QuarterInUse
from ftm_assets_tests.fakes import HashEncoder
from ftm_assets_tests.storage.builders import TEXTS, firm, firms, put_themes, themes_of
from ftm_assets_tests.storage.sql import QUARTER, all_rows, ask, one

VECTORS = "SELECT count(embedding) FROM sentences"
PROSE = tuple(f"Freight {word} " * 40 for word in ["rose", "fell", "stood", "held"])


@pytest.fixture
def published(database: Database) -> Database:
    """Two firms in two themes, with a search index."""
    firms(database, 7, 8)
    put_themes(database, themes_of(database))
    build_search_index(database, QUARTER, SearchIndexSettings())
    return database


def found(database: Database, *levels: Level) -> queries.SearchResult:
    [vector] = HashEncoder().encode(["freight"])
    with database.transaction() as connection:
        return queries.search(connection, {QUARTER: vector}, levels or tuple(Level))


def down(database: Database) -> list[object]:
    """What the way down from the themes shows."""
    with database.transaction() as connection:
        themes = queries.themes_of_quarter(connection, QUARTER)
        return [(theme, queries.sentences_of_theme(connection, theme.theme_id)) for theme in themes]


def stopped(database: Database, quarter: str) -> None:
    raise KeyboardInterrupt


def test_all_but_the_vectors_of_sentences_stays(published: Database) -> None:
    before, shown = all_rows(published), down(published)
    assert archive(published, QUARTER).n_vectors == 2 * len(TEXTS)
    assert one(published, VECTORS) == [0]
    after = all_rows(published)
    assert {table for table in before if before[table] != after[table]} == {"quarters", "sentences", "sentences_2021q4"}
    assert down(published) == shown


def test_themes_and_topics_are_searched_and_sentences_are_said_to_be_left_out(published: Database) -> None:
    topics = [hit.id for hit in found(published, Level.themes, Level.topics).hits]
    archive(published, QUARTER)
    for asked in (found(published), found(published, Level.themes, Level.topics, Level.sentences)):
        assert [hit.id for hit in asked.hits] == topics
        assert (asked.archived, asked.exact) == ((QUARTER,), ())
    assert found(published, Level.topics).archived == ()


def test_the_index_is_whole_without_sentences(published: Database) -> None:
    archive(published, QUARTER)
    with published.transaction() as connection:
        assert search_index_ready(connection, QUARTER)
    built = build_search_index(published, QUARTER, SearchIndexSettings())
    assert [(index.level, index.built) for index in built] == [(Level.themes, False), (Level.topics, False)]


@pytest.mark.parametrize(
    "read",
    [
        lambda connection: read_sentences(connection, find_firm_quarter(connection, QUARTER, "ACME-INC-7")),
        lambda connection: read_quarter_topics(connection, QUARTER),
    ],
    ids=["topics of a firm", "themes"],
)
def test_what_needs_the_vectors_says_how_to_get_them_back(
    published: Database, read: Callable[[sa.Connection], object]
) -> None:
    archive(published, QUARTER)
    with published.transaction() as connection, pytest.raises(VectorsArchived, match=r"ftm backfill 2021Q4 --reencode"):
        read(connection)


def test_encoded_anew_a_quarter_is_what_it_was(published: Database) -> None:
    vectors, shown = ask(published, "SELECT sentence_id, embedding::text FROM sentences ORDER BY 1"), down(published)
    archive(published, QUARTER)
    with published.transaction() as connection:
        stages.reencode(connection, QUARTER)
    firms(published, 7, 8)
    put_themes(published, themes_of(published))
    assert ask(published, "SELECT sentence_id, embedding::text FROM sentences ORDER BY 1") == vectors
    assert down(published) == shown
    assert found(published).archived == ()


def test_a_quarter_whose_themes_are_stale_or_missing_keeps_its_vectors(published: Database) -> None:
    firm(published, 9)
    firm(published, 7, quarter="2022Q1")
    for quarter in (QUARTER, "2022Q1"):
        with pytest.raises(NotFinished, match=f"ftm backfill {quarter}"):
            archive(published, quarter)
    assert one(published, VECTORS) == [2 * len(TEXTS)]


def test_one_that_was_stopped_before_the_room_was_given_back_is_repeated(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    firms(database, *range(7, 60), texts=(*TEXTS, *PROSE))
    put_themes(database, themes_of(database))
    with monkeypatch.context() as patch:
        patch.setattr(module, "_vacuum", stopped)
        with pytest.raises(KeyboardInterrupt):
            archive(database, QUARTER)
    assert one(database, VECTORS) == [0]
    at = one(database, "SELECT archived_at FROM quarters")
    freed = archive(database, QUARTER)
    assert freed.bytes_after < freed.bytes_before / 2
    assert one(database, "SELECT archived_at FROM quarters") == at


def test_nothing_is_archived_while_its_index_is_built(published: Database) -> None:
    with published.engine.connect() as builder:
        acquire(builder, Lock.SEARCH_INDEX, QUARTER)
        with pytest.raises(QuarterInUse):
            archive(published, QUARTER)
        builder.invalidate()
    assert one(published, VECTORS) == [2 * len(TEXTS)]


def test_nothing_changes_while_others_use_the_sentences(published: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ftm_assets.storage.write.calls.LOCK_TIMEOUT_MS", 100)
    with published.engine.connect() as other:
        other.execute(sa.text("SELECT * FROM firm_quarters FOR UPDATE"))
        with pytest.raises(QuarterInUse, match="2021Q4 cannot be archived while others use it; stop"):
            archive(published, QUARTER)
    assert one(published, VECTORS) == [2 * len(TEXTS)]
    assert np.isfinite([hit.cosine for hit in found(published).hits]).all()
