import threading
import time

import pytest
import sqlalchemy as sa

from ftm_assets.storage.server.database import Database
from ftm_assets.storage.write import calls as transcripts
from ftm_assets.storage.write.calls import create_quarter, ingest
from ftm_assets_tests.fakes import component
from ftm_assets_tests.storage.sql import QUARTER, at_once, derive, load, one
from ftm_assets_tests.storage.write.made_calls import NEXT_QUARTER

# The quarter's table


def partition_tables(database: Database) -> list[object]:
    return one(database, "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'sentences'::regclass")


def test_a_quarter_is_created_once(database: Database) -> None:
    for _ in range(2):
        with database.transaction() as connection:
            create_quarter(connection, QUARTER)
    assert one(database, "SELECT quarter FROM quarters") == [QUARTER]
    assert partition_tables(database) == ["sentences_2021q4"]


def test_what_is_no_quarter_is_refused(database: Database) -> None:
    with pytest.raises(sa.exc.IntegrityError, match="quarter_format"), database.transaction() as connection:
        create_quarter(connection, "2021Q5")
    assert partition_tables(database) == []


def test_the_partition_is_as_the_models_say(database: Database) -> None:
    load(database, component())
    keys = "SELECT conname FROM pg_constraint WHERE conrelid = '{}'::regclass AND contype = 'f' ORDER BY 1"
    assert one(database, keys.format("sentences_2021q4")) == one(database, keys.format("sentences"))
    attached = "SELECT count(*) FROM pg_inherits JOIN pg_index ON indexrelid = inhrelid"
    assert one(database, f"{attached} WHERE indrelid = 'sentences_2021q4'::regclass") == [3]


def test_many_may_create_quarters_at_once(database: Database) -> None:
    barrier = threading.Barrier(4)
    quarters = iter([QUARTER, QUARTER, NEXT_QUARTER, NEXT_QUARTER])

    def create() -> None:
        quarter = next(quarters)
        barrier.wait()
        with database.transaction() as connection:
            create_quarter(connection, quarter)

    at_once(4, create)
    assert sorted(map(str, partition_tables(database))) == ["sentences_2021q4", "sentences_2022q1"]


def test_whoever_writes_calls_is_not_waited_for_long(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    load(database)
    monkeypatch.setattr(transcripts, "LOCK_TIMEOUT_MS", 100)
    with database.transaction() as writer:
        ingest(writer, QUARTER, [component()], "calls.csv")
        started = time.monotonic()
        with pytest.raises(sa.exc.OperationalError, match="lock timeout"), database.transaction() as connection:
            create_quarter(connection, NEXT_QUARTER)
        assert time.monotonic() - started < 3
        with database.transaction() as connection:
            create_quarter(connection, QUARTER)
    with database.transaction() as connection:
        create_quarter(connection, NEXT_QUARTER)


def test_a_forgotten_reader_keeps_nobody_from_creating_a_quarter(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(database, component())
    derive(database, "ACME-7")
    monkeypatch.setattr(transcripts, "LOCK_TIMEOUT_MS", 100)
    with database.transaction() as reader, database.transaction() as connection:
        reader.execute(sa.text("SELECT count(*) FROM sentences JOIN components USING (quarter, transcript_id)"))
        create_quarter(connection, NEXT_QUARTER)
