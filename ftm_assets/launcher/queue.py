"""The queue between Dagster and the GPU worker: which runs wait, which lane has which, and the worker's status.

Its tables are in a schema of their own in the database of the Dagster instance, so that UI and daemon may run on
another machine than the worker. A worker is alive as long as it holds the advisory lock of the worker. Decision 42.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from ftm_assets.errors import FtmError
from ftm_assets.launcher.leader_lock import PATIENCE, AdvisoryLock
from ftm_assets.storage.server.advisory_locks import Lock, acquire_for_transaction, is_free, owner_of

# Decision 48.
SCHEMA = "ftm_launcher"
_N_ERRORS = 20
# The tables of this version had other names, and are renamed in place.
_RENAMED_VERSION = "681fcfa6ac678bed"
_RENAMES = (
    ("launches", "clicked", "interactive"),
    ("workers", "holder", "owner"),
    ("workers", "said_at", "reported_at"),
    ("errors", "said", "message"),
)


class Base(DeclarativeBase):
    """Tables of the launcher."""

    metadata = sa.MetaData(schema=SCHEMA)
    type_annotation_map = {  # noqa: RUF012 the API of SQLAlchemy
        datetime: sa.DateTime(timezone=True),
        int: sa.BigInteger(),
        dict[str, str]: JSONB(),
    }


class Launch(Base):
    """A run from its launch to its end. It waits while `lane` is null."""

    __tablename__ = "launches"

    run_id: Mapped[str] = mapped_column(primary_key=True)
    interactive: Mapped[bool] = mapped_column(doc="outside of a backfill: a person waits for it")
    priority: Mapped[int]
    # Decision 40.
    launched_at: Mapped[datetime] = mapped_column(server_default=sa.func.clock_timestamp())
    lane: Mapped[int | None]
    attempts: Mapped[int] = mapped_column(server_default="0")
    cancel: Mapped[bool] = mapped_column(server_default=sa.false())

    __table_args__ = (sa.Index("launches_order", sa.desc("interactive"), sa.desc("priority"), "launched_at"),)


class WorkerReport(Base):
    """The last status report of the worker."""

    __tablename__ = "workers"

    owner: Mapped[str] = mapped_column(primary_key=True)
    phase: Mapped[str]
    started_at: Mapped[datetime]
    reported_at: Mapped[datetime] = mapped_column(server_default=sa.func.clock_timestamp())
    settings: Mapped[dict[str, str]]
    encoder: Mapped[str | None]
    n_loads: Mapped[int]
    n_texts: Mapped[int]
    encoding_s: Mapped[float]
    gpu_bytes: Mapped[int]
    error_at: Mapped[datetime | None]
    model: Mapped[dict[str, Any] | None] = mapped_column(
        JSONB(none_as_null=True), doc="progress of the language model's client; null without a model"
    )


class LaneReport(Base):
    """A lane in the worker's last status report."""

    __tablename__ = "lanes"

    number: Mapped[int] = mapped_column(primary_key=True)
    pid: Mapped[int]
    run_id: Mapped[str | None]
    since: Mapped[datetime]
    n_runs: Mapped[int]
    busy_s: Mapped[float]
    memory_bytes: Mapped[int]


class Error(Base):
    """Something that went wrong; the last few are kept, whichever worker they came from."""

    __tablename__ = "errors"

    message: Mapped[str] = mapped_column(primary_key=True)
    at: Mapped[datetime]
    n_times: Mapped[int] = mapped_column(server_default="1")


@dataclass(frozen=True)
class Waiting:
    """Runs that no lane has taken yet. `oldest_s` is 0 if nothing waits."""

    n_runs: int
    n_interactive: int
    oldest_s: float


class OtherVersion(FtmError):
    """The tables belong to another version, whose worker is running."""

    def __init__(self, owner: str) -> None:
        super().__init__(
            f"the GPU worker that is running ({owner}) is of another version of this package; update that machine, "
            "or stop its worker"
        )


class RunQueue:
    """The queue in a Dagster instance's database. Connections are opened when they are needed and kept.

    Every method raises sqlalchemy.exc.OperationalError when the server cannot be reached; those that write are one
    transaction each. Do not share it with a forked child once it was used.
    """

    def __init__(self, postgres_url: str) -> None:
        self.url = sa.make_url(postgres_url)
        self._engine = sa.create_engine(
            self.url, pool_size=1, max_overflow=-1, pool_pre_ping=True, hide_parameters=True, connect_args=PATIENCE
        )
        self._has_tables = False

    @contextmanager
    def _session(self) -> Iterator[Session]:
        if not self._has_tables:
            self._create_tables()
            self._has_tables = True
        with Session(self._engine, expire_on_commit=False) as session, session.begin():
            yield session

    def _create_tables(self) -> None:
        with self._engine.begin() as connection:
            # Daemon, webserver and worker may come at once; the lock ends with the transaction.
            acquire_for_transaction(connection, Lock.QUEUE_TABLES)
            name = {"name": SCHEMA}
            found = connection.scalar(sa.text("SELECT obj_description(to_regnamespace(:name), 'pg_namespace')"), name)
            if found == self._version():
                return
            if found is not None and (owner := self.owner()) is not None:
                raise OtherVersion(owner)
            if found == _RENAMED_VERSION:
                for table, old, new in _RENAMES:
                    connection.execute(sa.text(f"ALTER TABLE {SCHEMA}.{table} RENAME COLUMN {old} TO {new}"))
            else:
                # Dropped, not migrated. Decision 48: runs that wait in them are not lost. Dagster still has them as
                # starting or started, and `SingleGpuRunLauncher.launch_again` and `resume_run` put them in again.
                connection.execute(sa.schema.DropSchema(SCHEMA, cascade=True, if_exists=True))
                connection.execute(sa.schema.CreateSchema(SCHEMA))
                Base.metadata.create_all(connection)
            connection.execute(sa.text(f"COMMENT ON SCHEMA {SCHEMA} IS '{self._version()}'"))

    def _version(self) -> str:
        """Changes with the tables above."""
        statements = (str(sa.schema.CreateTable(table).compile(self._engine)) for table in Base.metadata.sorted_tables)
        return hashlib.sha256("".join(statements).encode()).hexdigest()[:16]

    def put(self, run_id: str, *, interactive: bool, priority: int) -> None:
        """Let a run wait for a lane. A run that is there already waits again if no worker is running."""
        new = insert(Launch).values(run_id=run_id, interactive=interactive, priority=priority)
        # Asked while the row is locked: a worker that runs then has not yet freed it, or has taken it.
        again = new.on_conflict_do_update(
            index_elements=[Launch.run_id], set_={"lane": None}, where=is_free(Lock.GPU_WORKER)
        )
        with self._session() as session:
            session.execute(again)

    def take(self, lane: int) -> Launch | None:
        """The run that this lane executes next: interactive first, then by priority, then by age. Decision 40."""
        first = (
            sa.select(Launch.run_id)
            .where(Launch.lane.is_(None))
            .order_by(Launch.interactive.desc(), Launch.priority.desc(), Launch.launched_at, Launch.run_id)
            .limit(1)
            .with_for_update(skip_locked=True)
        )
        taken = (
            sa.update(Launch)
            .where(Launch.run_id == first.scalar_subquery())
            .values(lane=lane, attempts=Launch.attempts + 1)
            .returning(Launch)
        )
        with self._session() as session:
            return session.scalars(taken).first()

    def remove(self, run_ids: Sequence[str]) -> None:
        """Delete runs that have ended."""
        with self._session() as session:
            session.execute(sa.delete(Launch).where(Launch.run_id.in_(run_ids)))

    def hold(self, run_id: str, lane: int) -> None:
        """Write again which lane has a run: while the worker had lost its lock, others may have freed it."""
        held = sa.update(Launch).where(Launch.run_id == run_id).values(lane=lane)
        with self._session() as session:
            session.execute(held)

    def give_back(self, run_ids: Sequence[str] | None = None, *, counts: bool = True) -> list[Launch]:
        """Let runs of lanes that have ended wait again, by default all; returns these runs.

        counts: False if nothing went wrong, so that the attempt does not count
        """
        of_lanes = Launch.lane.is_not(None) if run_ids is None else Launch.run_id.in_(run_ids)
        attempts = Launch.attempts if counts else Launch.attempts - 1
        free = sa.update(Launch).where(of_lanes).values(lane=None, attempts=attempts)
        with self._session() as session:
            return list(session.scalars(free.returning(Launch)))

    def cancel(self, run_id: str) -> Launch | None:
        """Take a run that waits out of the queue, or mark it for the worker; its row, None if it has none."""
        with self._session() as session:
            launch = session.get(Launch, run_id, with_for_update=True)
            if launch is not None and launch.lane is None:
                session.delete(launch)
            elif launch is not None:
                launch.cancel = True
        return launch

    def to_cancel(self) -> list[str]:
        """Runs in a lane that a person has canceled."""
        with self._session() as session:
            return list(session.scalars(sa.select(Launch.run_id).where(Launch.cancel, Launch.lane.is_not(None))))

    def find(self, run_id: str) -> Launch | None:
        """The row of a run that waits or is in a lane."""
        with self._session() as session:
            return session.get(Launch, run_id)

    def waiting(self) -> Waiting:
        """How many runs wait, and for how long."""
        oldest = sa.func.extract("epoch", sa.func.clock_timestamp() - sa.func.min(Launch.launched_at))
        counts = sa.select(sa.func.count(), sa.func.count().filter(Launch.interactive), sa.func.coalesce(oldest, 0.0))
        with self._session() as session:
            n_runs, n_interactive, oldest_s = session.execute(counts.where(Launch.lane.is_(None))).one()
        return Waiting(n_runs, n_interactive, float(oldest_s))

    def report_status(self, worker: WorkerReport, lanes: Sequence[LaneReport]) -> None:
        """Replace the worker's status report."""
        with self._session() as session:
            session.execute(sa.delete(WorkerReport))
            session.execute(sa.delete(LaneReport))
            session.add_all([worker, *lanes])

    def last_status(self) -> tuple[WorkerReport | None, list[LaneReport]]:
        """The last status report of a worker, which may have ended since."""
        with self._session() as session:
            worker = session.scalars(sa.select(WorkerReport)).first()
            return worker, list(session.scalars(sa.select(LaneReport).order_by(LaneReport.number)))

    def log_error(self, message: str, at: datetime) -> None:
        """Add to what went wrong; the same message again is counted."""
        new = insert(Error).values(message=message, at=at)
        again = new.on_conflict_do_update(index_elements=[Error.message], set_={"at": at, "n_times": Error.n_times + 1})
        last = sa.select(Error.message).order_by(Error.at.desc()).limit(_N_ERRORS)
        with self._session() as session:
            session.execute(again)
            session.execute(sa.delete(Error).where(Error.message.not_in(last)))

    def errors(self) -> list[Error]:
        """What went wrong lately, the last first."""
        with self._session() as session:
            return list(session.scalars(sa.select(Error).order_by(Error.at.desc())))

    def owner(self) -> str | None:
        """The worker that is running, as it names itself; None if there is none."""
        with self._engine.connect() as connection:
            found: str | None = connection.scalar(owner_of(Lock.GPU_WORKER))
        return found

    def lock(self, owner: str) -> AdvisoryLock:
        """The lock of the one worker; `owner` names this worker to others. raises: AlreadyHeld"""
        return AdvisoryLock(self.url, Lock.GPU_WORKER, owner)

    def dispose(self) -> None:
        """Close what is open."""
        self._engine.dispose()
