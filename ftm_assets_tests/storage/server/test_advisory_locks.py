from itertools import permutations
from pathlib import Path

import pytest
import sqlalchemy as sa

import ftm_assets
from ftm_assets.storage.server.advisory_locks import (
    Lock,
    acquire,
    acquire_for_transaction,
    is_free,
    is_held,
    owner_of,
    release,
    try_acquire,
    try_acquire_for_transaction,
)
from ftm_assets.storage.server.database import Database

PACKAGE = Path(ftm_assets.__file__).parent


def test_no_other_module_takes_advisory_locks() -> None:
    takers = [
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if any(call in path.read_text() for call in ("pg_advisory", "pg_try_advisory"))
    ]
    assert takers == ["storage/server/advisory_locks.py"]


def test_no_lock_is_named_like_another_one_with_a_detail() -> None:
    assert [pair for pair in permutations(Lock, 2) if pair[0].startswith(pair[1])] == []


def test_a_lock_is_held_by_one_connection_until_it_is_released(database: Database) -> None:
    with database.engine.connect() as first, database.engine.connect() as second:
        acquire(first, Lock.SEARCH_INDEX, "2021Q4")
        first.commit()
        assert is_held(second, Lock.SEARCH_INDEX, "2021Q4")
        assert not try_acquire(second, Lock.SEARCH_INDEX, "2021Q4")
        assert try_acquire(second, Lock.SEARCH_INDEX, "2022Q1"), "another quarter is another lock"
        release(first, Lock.SEARCH_INDEX, "2021Q4")
        assert not is_held(second, Lock.SEARCH_INDEX, "2021Q4")
        second.invalidate()


def test_a_lock_of_a_transaction_ends_with_it(database: Database) -> None:
    with database.engine.connect() as first, database.engine.connect() as second:
        acquire_for_transaction(first, Lock.INGEST)
        assert not try_acquire_for_transaction(second, Lock.INGEST)
        first.rollback()
        assert try_acquire_for_transaction(second, Lock.INGEST)


def test_two_who_ask_for_the_holder_do_not_see_each_other(database: Database) -> None:
    with database.engine.connect() as first, database.engine.connect() as second:
        assert not is_held(first, Lock.LLM_CLIENT, 7)
        assert not is_held(second, Lock.LLM_CLIENT, 7)


@pytest.mark.parametrize("lock", list(Lock))
def test_the_owner_of_a_lock_is_known_by_its_application_name(database: Database, lock: Lock) -> None:
    with database.engine.connect() as first, database.engine.connect() as second:
        first.exec_driver_sql("SET application_name = 'process 1 on box'")
        assert second.scalar(owner_of(lock)) is None
        acquire(first, lock)
        assert second.scalar(owner_of(lock)) == "process 1 on box"
        assert second.scalar(sa.select(sa.true()).where(is_free(lock))) is None
        release(first, lock)
