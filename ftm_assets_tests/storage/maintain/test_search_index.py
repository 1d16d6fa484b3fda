"""The search index of a quarter: built when it has to be, by one at a time, whatever became of the one before."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date

import pytest
import sqlalchemy as sa

from ftm_assets.storage.maintain import search_index
from ftm_assets.storage.maintain.deletion import drop_quarter
from ftm_assets.storage.maintain.search_index import (
    BuildProgress,
    NoQuarter,
    build_search_index,
    drop_index_for_bulk_write,
)
from ftm_assets.storage.read.search_index import (
    Level,
    SearchIndexSettings,
    State,
    index_states,
    ready_levels,
    search_index_ready,
)
from ftm_assets.storage.server.database import Database
from ftm_assets_tests.storage.builders import TEXTS, derive, firm, firms, put_themes, themes_of
from ftm_assets_tests.storage.sql import QUARTER, ask, one

SETTINGS = SearchIndexSettings()
SENTENCES = "hnsw_sentences_2021q4"


@pytest.fixture
def published(database: Database) -> Database:
    """Two firms in two themes, without an index."""
    firms(database, 7, 8)
    put_themes(database, themes_of(database))
    return database


def built(database: Database, settings: SearchIndexSettings = SETTINGS) -> list[Level]:
    """The levels that are built when the index is asked for."""
    return [index.level for index in build_search_index(database, QUARTER, settings) if index.built]


def states(database: Database, settings: SearchIndexSettings | None = None) -> list[State]:
    with database.transaction() as connection:
        return [index.state for index in index_states(connection, QUARTER, settings)]


def is_ready(database: Database) -> bool:
    with database.transaction() as connection:
        return search_index_ready(connection, QUARTER)


@contextmanager
def somebody(database: Database, statement: str) -> Iterator[None]:
    """Another session that has executed a statement and stays where it is."""
    with database.engine.connect() as connection:
        connection.execute(sa.text(statement))
        yield


def break_index(database: Database) -> None:
    """Leave what a build leaves that was killed with its server."""
    with database.transaction() as connection:
        connection.execute(
            sa.text("UPDATE pg_index SET indisvalid = false WHERE indexrelid = to_regclass(:name)"), {"name": SENTENCES}
        )


def test_each_level_of_a_quarter_gets_an_index_of_its_own(published: Database) -> None:
    assert states(published) == [State.missing] * 3
    assert built(published) == list(Level)
    assert states(published, SETTINGS) == [State.ready] * 3
    assert is_ready(published)
    definitions = map(str, one(published, "SELECT indexdef FROM pg_indexes WHERE indexname LIKE 'hnsw%' ORDER BY 1"))
    # So many dimensions of the fake encoder's vectors are used by these texts.
    found = {definition.split(" ON ")[1].replace("674", "WIDTH") for definition in definitions}
    settings = "halfvec_cosine_ops) WITH (m='16', ef_construction='64')"
    assert found == {
        f"public.sentences_2021q4 USING hnsw (((subvector(embedding, 1, WIDTH))::halfvec(WIDTH)) {settings}"
        " WHERE (boilerplate IS NULL)",
        f"public.themes USING hnsw (((subvector(centroid, 1, WIDTH))::halfvec(WIDTH)) {settings}"
        " WHERE (quarter = '2021Q4'::text)",
        f"public.topic_summaries USING hnsw (((subvector(embedding, 1, WIDTH))::halfvec(WIDTH)) {settings}"
        " WHERE (quarter = '2021Q4'::text)",
    }


def test_an_index_goes_without_the_zeros_that_pad_the_vectors_of_a_narrow_encoder(database: Database) -> None:
    narrow = [*range(1, 11), *[0] * 758]
    firms(database, 7, 8)
    put_themes(database, themes_of(database))
    with database.transaction() as connection:
        for table, column in (("sentences", "embedding"), ("topic_summaries", "embedding"), ("themes", "centroid")):
            connection.execute(sa.text(f"UPDATE {table} SET {column} = '{narrow}'"))
        # One that is wider, among the last that are looked at.
        wide = [*[0] * 19, 1, *[0] * 748]
        connection.execute(sa.text(f"UPDATE themes SET centroid = '{wide}' WHERE theme_number = 2"))
    built(database)
    with database.transaction() as connection:
        widths = ready_levels(connection, [QUARTER])
    assert {level: width for (_, level), width in widths.items()} == {
        Level.themes: 20,
        Level.topics: 10,
        Level.sentences: 10,
    }


def test_a_vector_that_is_wider_than_those_that_were_looked_at_is_not_cut(
    published: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_index, "_N_SAMPLED", 1)
    vectors = [[*range(1, 11), *[0] * 758], [*range(1, 12), *[0] * 757]]
    with published.transaction() as connection:
        for number, vector in enumerate(vectors, 1):
            connection.execute(sa.text(f"UPDATE themes SET centroid = '{vector}' WHERE theme_number = {number}"))
    built(published)
    with published.transaction() as connection:
        assert ready_levels(connection, [QUARTER])[QUARTER, Level.themes] >= 11


def test_what_is_ready_is_left_alone_also_after_rows_have_changed(published: Database) -> None:
    assert built(published) == list(Level)
    firms(published, 7, texts=TEXTS[:3])
    assert built(published) == []


def test_an_index_with_other_settings_is_built_again(published: Database) -> None:
    built(published)
    finer = SearchIndexSettings(m=24, ef_construction=100)
    assert states(published, finer) == [State.other] * 3
    assert is_ready(published), "queries do not mind"
    assert built(published, finer) == list(Level)
    assert states(published, finer) == [State.ready] * 3


def test_an_index_of_the_former_form_is_searched_until_it_is_built_again(published: Database) -> None:
    built(published)
    with published.transaction() as connection:
        connection.execute(sa.text(f"DROP INDEX {SENTENCES}"))
        former = "((embedding::halfvec(768)) halfvec_cosine_ops) WITH (m = 16, ef_construction = 64)"
        connection.execute(sa.text(f"CREATE INDEX {SENTENCES} ON sentences_2021q4 USING hnsw {former}"))
    assert states(published, SETTINGS) == [State.ready, State.ready, State.other]
    assert is_ready(published)
    assert built(published) == [Level.sentences]
    assert states(published, SETTINGS) == [State.ready] * 3


def test_an_index_that_a_killed_build_left_is_found_and_replaced(published: Database) -> None:
    built(published)
    break_index(published)
    assert states(published) == [State.ready, State.ready, State.broken]
    with published.transaction() as connection:
        assert ready_levels(connection, [QUARTER]).keys() == {(QUARTER, Level.themes), (QUARTER, Level.topics)}
    assert built(published) == [Level.sentences]
    assert states(published) == [State.ready] * 3


def test_a_build_that_is_stopped_while_it_waits_is_done_by_the_next_one(
    published: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_index, "POLL_S", 0.05)
    monkeypatch.setattr(search_index, "CLEAN_UP_MS", 50)

    def press_ctrl_c(progress: BuildProgress) -> None:
        raise KeyboardInterrupt

    # A writer that does not end keeps the build waiting.
    with (
        somebody(published, "UPDATE sentences_2021q4 SET text = text WHERE position = 0"),
        pytest.raises(KeyboardInterrupt),
    ):
        build_search_index(published, QUARTER, SETTINGS, press_ctrl_c)
    assert states(published) == [State.ready, State.ready, State.broken], "the writer would not have it taken away"
    assert built(published) == [Level.sentences]


def test_a_build_tells_for_whom_it_waits(published: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_index, "POLL_S", 0.05)
    told: list[BuildProgress] = []
    seen = threading.Event()

    def tell(progress: BuildProgress) -> None:
        told.append(progress)
        if progress.waits_for:
            seen.set()

    built = threading.Thread(target=build_search_index, args=(published, QUARTER, SETTINGS, tell))
    with published.engine.connect() as writer:
        pid = writer.execute(sa.text("SELECT pg_backend_pid()")).scalar_one()
        writer.execute(sa.text("UPDATE sentences_2021q4 SET text = text WHERE position = 0"))
        built.start()
        assert seen.wait(30)
        assert State.building in states(published)
        writer.rollback()
    built.join(30)
    assert {progress.waits_for for progress in told} >= {pid}
    assert f"waits for process {pid} of the server" in " ".join(map(str, told))
    assert is_ready(published)


def test_two_builds_at_once_build_once(published: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_index, "POLL_S", 0.05)
    done: list[list[Level]] = []
    threads = [threading.Thread(target=lambda: done.append(built(published))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(level for levels in done for level in levels) == sorted(Level)
    assert is_ready(published)


def test_pgvector_before_0_8_3_builds_serially(published: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_index, "_pgvector", lambda _: (0, 8, 2))
    assert {index.n_workers for index in build_search_index(published, QUARTER, SETTINGS)} == {0}


@pytest.mark.parametrize(
    ("n_rows", "n_workers", "most_mb", "memory_mb"),
    [(10, 0, 4096, 32), (10, 2, 4096, 96), (1_350_000, 2, 4096, 3078), (1_350_000, 2, 512, 512)],
)
def test_a_build_takes_the_memory_that_its_graph_needs_within_the_setting(
    n_rows: int, n_workers: int, most_mb: int, memory_mb: int
) -> None:
    assert search_index._memory(n_rows, 768, 16, n_workers, most_mb) == memory_mb


def test_a_quarter_that_is_not_there_is_refused_with_the_next_step(database: Database) -> None:
    with pytest.raises(NoQuarter, match="ftm ingest SOURCE"):
        build_search_index(database, "2019Q1", SETTINGS)


def test_a_bulk_of_writes_makes_way_and_a_few_do_not(database: Database) -> None:
    firms(database, *range(101, 111))
    built(database)
    assert not drop_index_for_bulk_write(database, QUARTER, 1)
    assert is_ready(database)
    assert drop_index_for_bulk_write(database, QUARTER, 2)
    assert states(database) == [State.missing] * 3
    assert not drop_index_for_bulk_write(database, QUARTER, 10), "nothing is left to drop"


def test_who_reads_and_does_not_end_holds_up_no_bulk_of_writes(
    published: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    built(published)
    monkeypatch.setattr(search_index, "LOCK_TIMEOUT_MS", 50)
    with somebody(published, "SELECT count(*) FROM themes"):
        assert not drop_index_for_bulk_write(published, QUARTER, 2)
    assert built(published) == [Level.themes], "what was left of it is replaced"


def test_who_builds_is_not_robbed_of_the_index(published: Database) -> None:
    built(published)
    with search_index._exclusive_session(published, QUARTER, lambda _: None):
        assert not drop_index_for_bulk_write(published, QUARTER, 2)
    assert is_ready(published)


def test_a_quarter_that_is_dropped_takes_its_index_along_and_no_other(published: Database) -> None:
    derive(published, firm(published, 9, quarter="2022Q1", call_date=date(2022, 2, 1)))
    built(published)
    build_search_index(published, "2022Q1", SETTINGS)
    with published.transaction() as connection:
        drop_quarter(connection, QUARTER)
    left = ask(published, "SELECT relname FROM pg_class WHERE relkind = 'i' AND relname LIKE 'hnsw%' ORDER BY 1")
    assert left == [("hnsw_sentences_2022q1",), ("hnsw_themes_2022q1",), ("hnsw_topics_2022q1",)]
