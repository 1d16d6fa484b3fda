import os
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import dagster as dg
import psycopg
import pytest

from ftm_assets.launcher.leader_lock import AlreadyHeld
from ftm_assets.launcher.queue import SCHEMA, LaneReport, Launch, OtherVersion, RunQueue, Waiting, WorkerReport
from ftm_assets.settings import Settings
from ftm_assets.storage.server.database import Database

# The tables as the version before created them, with rows.
BEFORE = f"""
    CREATE SCHEMA {SCHEMA};
    COMMENT ON SCHEMA {SCHEMA} IS '681fcfa6ac678bed';
    CREATE TABLE {SCHEMA}.errors (
        said VARCHAR NOT NULL, at TIMESTAMP WITH TIME ZONE NOT NULL, n_times BIGINT DEFAULT '1' NOT NULL,
        PRIMARY KEY (said)
    );
    CREATE TABLE {SCHEMA}.lanes (
        number BIGSERIAL NOT NULL, pid BIGINT NOT NULL, run_id VARCHAR, since TIMESTAMP WITH TIME ZONE NOT NULL,
        n_runs BIGINT NOT NULL, busy_s DOUBLE PRECISION NOT NULL, memory_bytes BIGINT NOT NULL, PRIMARY KEY (number)
    );
    CREATE TABLE {SCHEMA}.launches (
        run_id VARCHAR NOT NULL, clicked BOOLEAN NOT NULL, priority BIGINT NOT NULL,
        launched_at TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL, lane BIGINT,
        attempts BIGINT DEFAULT '0' NOT NULL, cancel BOOLEAN DEFAULT false NOT NULL, PRIMARY KEY (run_id)
    );
    CREATE INDEX launches_order ON {SCHEMA}.launches (clicked DESC, priority DESC, launched_at);
    CREATE TABLE {SCHEMA}.workers (
        holder VARCHAR NOT NULL, phase VARCHAR NOT NULL, started_at TIMESTAMP WITH TIME ZONE NOT NULL,
        said_at TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL, settings JSONB NOT NULL,
        encoder VARCHAR, n_loads BIGINT NOT NULL, n_texts BIGINT NOT NULL, encoding_s DOUBLE PRECISION NOT NULL,
        gpu_bytes BIGINT NOT NULL, error_at TIMESTAMP WITH TIME ZONE, model JSONB, PRIMARY KEY (holder)
    );
    INSERT INTO {SCHEMA}.errors VALUES ('out of memory', '2021-11-01 12:00Z', 3);
    INSERT INTO {SCHEMA}.launches (run_id, clicked, priority) VALUES ('batch', false, 0), ('interactive', true, 0);
    INSERT INTO {SCHEMA}.workers VALUES
        ('process 1', 'working', '2021-11-01 11:00Z', '2021-11-01 12:00Z', '{{}}', NULL, 1, 7, 1.5, 0, NULL, NULL);
"""
QueueFactory = Callable[[], RunQueue]


@pytest.fixture
def new_queue(database: Database) -> Iterator[QueueFactory]:
    """The queue as one more process sees it; all are in one empty database."""
    opened: list[RunQueue] = []

    def new() -> RunQueue:
        opened.append(RunQueue(database.url()))
        return opened[-1]

    yield new
    for queue in opened:
        queue.dispose()


@pytest.fixture
def queue(new_queue: QueueFactory) -> RunQueue:
    return new_queue()


def take_all(queue: RunQueue) -> list[str]:
    """The runs in the order in which lanes would get them."""
    return [launch.run_id for launch in iter(lambda: queue.take(1), None)]


def put(queue: RunQueue, *run_ids: str) -> None:
    for run_id in run_ids:
        queue.put(run_id, interactive=False, priority=0)


def worker(**changes: object) -> WorkerReport:
    now = datetime(2021, 11, 1, tzinfo=UTC)
    facts: dict[str, object] = {
        "owner": "process 1",
        "phase": "working",
        "started_at": now,
        "reported_at": now,
        "settings": Settings().of_worker(),
        "encoder": None,
        "n_loads": 0,
        "n_texts": 0,
        "encoding_s": 0.0,
        "gpu_bytes": 0,
        "error_at": None,
    }
    return WorkerReport(**{**facts, **changes})


def lane(number: int, **changes: object) -> LaneReport:
    facts: dict[str, object] = {
        "number": number,
        "pid": 70 + number,
        "run_id": None,
        "since": datetime(2021, 11, 1, tzinfo=UTC),
        "n_runs": 0,
        "busy_s": 0.0,
        "memory_bytes": 0,
    }
    return LaneReport(**{**facts, **changes})


def test_interactive_runs_come_first_then_urgent_ones_then_old_ones(queue: RunQueue) -> None:
    put(queue, "old", "young")
    queue.put("urgent", interactive=False, priority=5)
    queue.put("not urgent", interactive=False, priority=-1)
    queue.put("interactive", interactive=True, priority=0)
    queue.put("interactive and urgent", interactive=True, priority=1)
    assert take_all(queue) == ["interactive and urgent", "interactive", "urgent", "old", "young", "not urgent"]


def test_an_empty_queue_gives_nothing(queue: RunQueue) -> None:
    assert queue.take(1) is None


def test_a_taken_run_names_its_lane_and_counts_its_attempts(queue: RunQueue) -> None:
    put(queue, "run")
    first = queue.take(3)
    assert first and (first.lane, first.attempts, first.cancel) == (3, 1, False)
    queue.give_back(["run"])
    second = queue.take(4)
    assert second and (second.lane, second.attempts) == (4, 2)


def test_many_who_take_at_once_never_get_the_same_run(queue: RunQueue, new_queue: QueueFactory) -> None:
    runs = [f"run {n:02}" for n in range(40)]
    put(queue, *runs)
    taken: dict[int, list[str]] = {}
    together = threading.Barrier(4)

    def take(number: int, own: RunQueue) -> None:
        together.wait()
        taken[number] = take_all(own)

    takers = [threading.Thread(target=take, args=(number, new_queue())) for number in range(4)]
    for taker in takers:
        taker.start()
    for taker in takers:
        taker.join()
    assert sorted(run for mine in taken.values() for run in mine) == runs
    assert all(mine == sorted(mine) for mine in taken.values())


def test_a_run_put_twice_waits_once(queue: RunQueue) -> None:
    put(queue, "run", "run")
    assert take_all(queue) == ["run"]


def test_a_run_that_is_put_again_while_its_lane_is_gone_waits_again_where_it_was(queue: RunQueue) -> None:
    put(queue, "first", "second")
    queue.take(1)
    put(queue, "first")
    assert take_all(queue) == ["first", "second"]


def test_a_run_that_is_put_again_while_its_worker_lives_stays_in_its_lane(queue: RunQueue) -> None:
    put(queue, "run")
    with queue.lock("process 1 on box"):
        queue.take(1)
        put(queue, "run")
        assert queue.take(2) is None
    put(queue, "run")
    assert take_all(queue) == ["run"]


def test_runs_of_lanes_that_are_no_more_wait_again_before_younger_ones(queue: RunQueue) -> None:
    put(queue, "first", "second", "third")
    queue.take(1), queue.take(2)
    assert len(queue.give_back()) == 2
    assert len(queue.give_back()) == 0, "all of them wait"
    assert take_all(queue) == ["first", "second", "third"]


def test_only_the_named_runs_are_given_back(queue: RunQueue) -> None:
    put(queue, "first", "second")
    take_all(queue)
    assert len(queue.give_back(["second", "unknown"])) == 1
    assert take_all(queue) == ["second"]


def test_a_run_that_has_ended_is_forgotten(queue: RunQueue) -> None:
    put(queue, "first", "second")
    queue.take(1)
    queue.remove(["first", "unknown"])
    assert queue.find("first") is None
    assert take_all(queue) == ["second"]


def test_a_canceled_run_that_waits_leaves_the_queue(queue: RunQueue) -> None:
    put(queue, "run")
    canceled = queue.cancel("run")
    assert canceled and canceled.lane is None
    assert take_all(queue) == []
    assert queue.to_cancel() == []


def test_a_canceled_run_in_a_lane_is_for_the_worker_to_end(queue: RunQueue) -> None:
    put(queue, "run", "other")
    queue.take(7)
    canceled = queue.cancel("run")
    assert canceled and canceled.lane == 7
    assert queue.to_cancel() == ["run"]
    queue.remove(["run"])
    assert queue.to_cancel() == []


def test_a_canceled_run_that_is_in_no_queue_is_nothing_to_the_worker(queue: RunQueue) -> None:
    assert queue.cancel("unknown") is None
    assert queue.to_cancel() == []


def test_what_waits_is_counted_and_what_is_in_lanes_is_not(queue: RunQueue) -> None:
    assert queue.waiting() == Waiting(0, 0, 0.0)
    put(queue, "in a lane", "waits")
    queue.take(1)
    queue.put("interactive", interactive=True, priority=0)
    waiting = queue.waiting()
    assert (waiting.n_runs, waiting.n_interactive) == (2, 1)
    assert 0 < waiting.oldest_s < 60


# The right to work


def test_one_worker_has_the_lock_and_a_second_is_refused_by_its_name(queue: RunQueue, new_queue: QueueFactory) -> None:
    assert queue.owner() is None
    with queue.lock("process 1 on box"):
        assert new_queue().owner() == "process 1 on box"
        with pytest.raises(AlreadyHeld, match="a GPU worker is running already: process 1 on box; there can be one"):
            new_queue().lock("process 2 on box")
        assert queue.owner() == "process 1 on box"
    assert queue.owner() is None
    new_queue().lock("process 2 on box").release()


def test_the_lock_goes_with_the_connection_however_it_ends_and_is_taken_again_if_nobody_was_faster(
    queue: RunQueue, database: Database
) -> None:
    lock = queue.lock("process 1 on box")
    assert (lock.is_in_doubt(), lock.keep()) == (False, False)

    def end_connection() -> None:
        ended = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name LIKE 'process %'"
        with psycopg.connect(database.url(), autocommit=True) as admin:
            assert admin.execute(ended).fetchall() == [(True,)]
        assert queue.owner() is None

    end_connection()
    assert lock.is_in_doubt(), "before anybody asks"
    assert lock.keep()
    assert (lock.is_in_doubt(), queue.owner()) == (False, "process 1 on box")

    end_connection()
    with queue.lock("process 2 on box"), pytest.raises(AlreadyHeld, match="process 2 on box"):
        lock.keep()
    assert lock.is_in_doubt()


def test_locks_of_others_and_in_other_databases_are_no_worker(
    queue: RunQueue, database: Database, instance: dg.DagsterInstance
) -> None:
    elsewhere = RunQueue(os.environ["FTM_DAGSTER_URL"])
    with psycopg.connect(database.url()) as other, elsewhere.lock("process 1 on box"):
        other.execute("SELECT pg_advisory_lock(70)")
        assert queue.owner() is None
        queue.lock("process 2 on box").release()
    elsewhere.dispose()


# What the worker says


def test_what_a_worker_says_replaces_what_was_said_before(queue: RunQueue, new_queue: QueueFactory) -> None:
    assert new_queue().last_status() == (None, [])
    queue.report_status(worker(owner="process 1"), [lane(1), lane(2)])
    queue.report_status(worker(owner="process 2", n_texts=3_000_000_000), [lane(2, run_id="run"), lane(1)])
    report, lanes = new_queue().last_status()
    assert report and (report.owner, report.n_texts) == ("process 2", 3_000_000_000)
    assert [(lane.number, lane.run_id) for lane in lanes] == [(1, None), (2, "run")]


# The tables


def test_many_who_come_first_make_the_tables_once(new_queue: QueueFactory, database: Database) -> None:
    together = threading.Barrier(4)
    found: list[Launch | None] = []

    def come(queue: RunQueue) -> None:
        together.wait()
        found.append(queue.find("run"))

    comers = [threading.Thread(target=come, args=(new_queue(),)) for _ in range(4)]
    for comer in comers:
        comer.start()
    for comer in comers:
        comer.join()
    assert found == [None] * 4
    with psycopg.connect(database.url()) as connection:
        tables = connection.execute(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = %s ORDER BY 1", [SCHEMA]
        ).fetchall()
    assert tables == [("errors",), ("lanes",), ("launches",), ("workers",)]


def test_tables_of_a_living_worker_of_another_version_are_left_alone(
    new_queue: QueueFactory, database: Database
) -> None:
    put(new_queue(), "of the old version")
    with psycopg.connect(database.url()) as connection:
        connection.execute(f"COMMENT ON SCHEMA {SCHEMA} IS 'an older version'")
    with new_queue().lock("process 1 on box"), pytest.raises(OtherVersion, match="process 1 on box"):
        new_queue().find("of the old version")
    with psycopg.connect(database.url()) as connection:
        assert connection.execute(f"SELECT count(*) FROM {SCHEMA}.launches").fetchone() == (1,)


def test_a_run_that_others_have_freed_is_held_again(queue: RunQueue) -> None:
    put(queue, "run")
    queue.take(2)
    queue.give_back(["run"])
    queue.hold("run", 2)
    assert queue.take(1) is None
    found = queue.find("run")
    assert found and found.lane == 2


def test_tables_of_the_version_before_are_renamed_and_keep_their_rows(
    new_queue: QueueFactory, database: Database
) -> None:
    with psycopg.connect(database.url()) as connection:
        connection.execute(BEFORE)

    queue = new_queue()

    assert [(error.message, error.n_times) for error in queue.errors()] == [("out of memory", 3)]
    report, lanes = queue.last_status()
    assert report and (report.owner, report.n_texts, len(lanes)) == ("process 1", 7, 0)
    assert report.reported_at == datetime(2021, 11, 1, 12, tzinfo=UTC)
    assert (queue.waiting().n_runs, queue.waiting().n_interactive) == (2, 1)
    assert take_all(new_queue()) == ["interactive", "batch"]
    put(new_queue(), "of the new version")
    with psycopg.connect(database.url()) as connection:
        [orders] = connection.execute("SELECT indexdef FROM pg_indexes WHERE indexname = 'launches_order'").fetchall()
    assert "interactive DESC" in orders[0]


def test_tables_of_another_version_are_made_again(new_queue: QueueFactory, database: Database) -> None:
    put(new_queue(), "of the old version")
    assert new_queue().find("of the old version"), "those of the same version stay"
    with psycopg.connect(database.url()) as connection:
        connection.execute(f"ALTER TABLE {SCHEMA}.launches DROP COLUMN attempts")
        connection.execute(f"COMMENT ON SCHEMA {SCHEMA} IS 'an older version'")
    queue = new_queue()
    put(queue, "of the new version")
    assert take_all(queue) == ["of the new version"]


def test_a_password_is_in_no_repr() -> None:
    queue = RunQueue("postgresql://ftm:sesame@127.0.0.1:9/dagster")
    assert "sesame" not in repr(queue) + repr(vars(queue))
    with pytest.raises(Exception, match=r"127\.0\.0\.1") as refused:
        queue.lock("process 1 on box")
    assert "sesame" not in str(refused.value)


def test_the_last_errors_are_kept_the_same_ones_counted(new_queue: QueueFactory) -> None:
    queue = new_queue()
    for minute in range(25):
        queue.log_error(f"lane {minute} died", datetime(2021, 11, 1, 12, minute, tzinfo=UTC))
    queue.log_error("lane 20 died", datetime(2021, 11, 1, 13, tzinfo=UTC))
    found = new_queue().errors()
    assert len(found) == 20
    assert (found[0].message, found[0].n_times) == ("lane 20 died", 2)
    assert [(error.message, error.n_times) for error in found[1:3]] == [("lane 24 died", 1), ("lane 23 died", 1)]
