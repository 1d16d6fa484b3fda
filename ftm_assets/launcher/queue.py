"""The queue between Dagster and the GPU worker: what waits, who works on what, and what the worker says of itself.

Its tables are in a schema of their own in the database of the Dagster instance, so that UI and daemon may live on
another machine than the worker. A worker is alive as long as it holds an advisory lock: the server takes it back when
the worker's connection ends, however the worker ended.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from ftm_assets.errors import FtmError

SCHEMA = "ftm_launcher"
_LOCK = {"lock": "ftm worker"}
# A machine that vanishes says no goodbye: after some 20 s without an answer the server ends its connection.
_KEEPALIVES = "-c tcp_keepalives_idle=10 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=2"
_FREE = {"lane": None, "claimed_at": None}
_N_ERRORS = 20
_HOLDER = sa.text(
    "SELECT activity.application_name FROM pg_locks AS locks JOIN pg_stat_activity AS activity USING (pid) "
    "WHERE locks.locktype = 'advisory' AND locks.granted AND locks.objsubid = 1 "
    "AND activity.datname = current_database() AND locks.database = activity.datid "
    "AND ((locks.classid::bigint << 32) | locks.objid::bigint) = hashtextextended(:lock, 0)"
)
# To be asked while the row in question is locked: whoever is worker then has not yet freed it, or has taken it.
_NO_HOLDER = sa.text(f"NOT EXISTS ({_HOLDER.text})").bindparams(**_LOCK)


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
    clicked: Mapped[bool]
    priority: Mapped[int]
    launched_at: Mapped[datetime] = mapped_column(server_default=sa.func.clock_timestamp())
    lane: Mapped[int | None]
    claimed_at: Mapped[datetime | None]
    attempts: Mapped[int] = mapped_column(server_default="0")
    cancel: Mapped[bool] = mapped_column(server_default=sa.false())

    __table_args__ = (sa.Index("launches_order", sa.desc("clicked"), sa.desc("priority"), "launched_at"),)


class Worker(Base):
    """The worker as it last said."""

    __tablename__ = "workers"

    holder: Mapped[str] = mapped_column(primary_key=True)
    phase: Mapped[str]
    started_at: Mapped[datetime]
    said_at: Mapped[datetime] = mapped_column(server_default=sa.func.clock_timestamp())
    settings: Mapped[dict[str, str]]
    encoder: Mapped[str | None]
    n_loads: Mapped[int]
    n_texts: Mapped[int]
    encoding_s: Mapped[float]
    gpu_bytes: Mapped[int]
    error_at: Mapped[datetime | None]


class Lane(Base):
    """A lane as the worker last said."""

    __tablename__ = "lanes"

    number: Mapped[int] = mapped_column(primary_key=True)
    pid: Mapped[int]
    run_id: Mapped[str | None]
    since: Mapped[datetime]
    n_runs: Mapped[int]
    busy_s: Mapped[float]
    memory_bytes: Mapped[int]


class Error(Base):
    """Something that went wrong; the last few are kept, whichever worker they are of."""

    __tablename__ = "errors"

    said: Mapped[str] = mapped_column(primary_key=True)
    at: Mapped[datetime]
    n_times: Mapped[int] = mapped_column(server_default="1")


@dataclass(frozen=True)
class Waiting:
    """What no lane has taken yet. `oldest_s` is 0 if nothing waits."""

    n_runs: int
    n_clicked: int
    oldest_s: float


class SecondWorker(FtmError):
    """Another worker holds the lock."""

    def __init__(self, holder: str) -> None:
        super().__init__(f"a GPU worker is running already: {holder}; stop it first, one worker owns the device")


class RunQueue:
    """The queue in a Dagster instance's database. Connections are opened when they are needed and kept.

    Every method is one transaction and raises sqlalchemy.exc.OperationalError when the server is away. Not to be shared
    with a forked child once it was used.
    """

    def __init__(self, postgres_url: str) -> None:
        self.url = sa.make_url(postgres_url)
        self._engine = sa.create_engine(
            self.url, pool_size=1, max_overflow=-1, pool_pre_ping=True, hide_parameters=True
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
            name = {"name": SCHEMA}
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))"), name)
            found = connection.scalar(sa.text("SELECT obj_description(to_regnamespace(:name), 'pg_namespace')"), name)
            if found != self._version():
                # Of another version, or none yet. Runs that wait in them are not lost: Dagster still has them as
                # starting or started, and `SingleGpuRunLauncher.launch_again` and `resume_run` put them here anew.
                connection.execute(sa.schema.DropSchema(SCHEMA, cascade=True, if_exists=True))
                connection.execute(sa.schema.CreateSchema(SCHEMA))
                Base.metadata.create_all(connection)
                connection.execute(sa.text(f"COMMENT ON SCHEMA {SCHEMA} IS '{self._version()}'"))

    def _version(self) -> str:
        """Changes with the tables above."""
        made = (str(sa.schema.CreateTable(table).compile(self._engine)) for table in Base.metadata.sorted_tables)
        return hashlib.sha256("".join(made).encode()).hexdigest()[:16]

    def put(self, run_id: str, *, clicked: bool, priority: int) -> None:
        """Let a run wait for a lane. A run that is there already waits again, if its worker is no more."""
        new = insert(Launch).values(run_id=run_id, clicked=clicked, priority=priority)
        again = new.on_conflict_do_update(index_elements=[Launch.run_id], set_=_FREE, where=_NO_HOLDER)
        with self._session() as session:
            session.execute(again)

    def take(self, lane: int) -> Launch | None:
        """The run to begin next, from now on of this lane: clicked ones first, then by priority, then by age."""
        first = (
            sa.select(Launch.run_id)
            .where(Launch.lane.is_(None))
            .order_by(Launch.clicked.desc(), Launch.priority.desc(), Launch.launched_at, Launch.run_id)
            .limit(1)
            .with_for_update(skip_locked=True)
        )
        taken = (
            sa.update(Launch)
            .where(Launch.run_id == first.scalar_subquery())
            .values(lane=lane, claimed_at=sa.func.clock_timestamp(), attempts=Launch.attempts + 1)
            .returning(Launch)
        )
        with self._session() as session:
            return session.scalars(taken).first()

    def remove(self, run_ids: Sequence[str]) -> None:
        """Forget runs that have ended."""
        with self._session() as session:
            session.execute(sa.delete(Launch).where(Launch.run_id.in_(run_ids)))

    def give_back(self, run_ids: Sequence[str] | None = None, *, counts: bool = True) -> int:
        """Let runs of lanes that are no more wait again, by default all; how many they were.

        counts: False if nothing went wrong, so that the attempt is none
        """
        left = Launch.lane.is_not(None) if run_ids is None else Launch.run_id.in_(run_ids)
        free = sa.update(Launch).where(left).values(_FREE | {"attempts": Launch.attempts - (0 if counts else 1)})
        with self._session() as session:
            return len(session.scalars(free.returning(Launch.run_id)).all())

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
        """Runs in a lane that a person wants ended."""
        with self._session() as session:
            return list(session.scalars(sa.select(Launch.run_id).where(Launch.cancel, Launch.lane.is_not(None))))

    def find(self, run_id: str) -> Launch | None:
        """The row of a run that waits or is in a lane."""
        with self._session() as session:
            return session.get(Launch, run_id)

    def waiting(self) -> Waiting:
        """How many runs wait, and for how long."""
        oldest = sa.func.extract("epoch", sa.func.clock_timestamp() - sa.func.min(Launch.launched_at))
        counts = sa.select(sa.func.count(), sa.func.count().filter(Launch.clicked), sa.func.coalesce(oldest, 0.0))
        with self._session() as session:
            n_runs, n_clicked, oldest_s = session.execute(counts.where(Launch.lane.is_(None))).one()
        return Waiting(n_runs, n_clicked, float(oldest_s))

    def say(self, worker: Worker, lanes: Sequence[Lane]) -> None:
        """Replace what the worker says of itself."""
        with self._session() as session:
            session.execute(sa.delete(Worker))
            session.execute(sa.delete(Lane))
            session.add_all([worker, *lanes])

    def complain(self, said: str, at: datetime) -> None:
        """Add to what went wrong; the same again is counted."""
        new = insert(Error).values(said=said, at=at)
        again = new.on_conflict_do_update(index_elements=[Error.said], set_={"at": at, "n_times": Error.n_times + 1})
        last = sa.select(Error.said).order_by(Error.at.desc()).limit(_N_ERRORS)
        with self._session() as session:
            session.execute(again)
            session.execute(sa.delete(Error).where(Error.said.not_in(last)))

    def errors(self) -> list[Error]:
        """What went wrong lately, the last first."""
        with self._session() as session:
            return list(session.scalars(sa.select(Error).order_by(Error.at.desc())))

    def said(self) -> tuple[Worker | None, list[Lane]]:
        """What a worker last said of itself; it may be gone by now."""
        with self._session() as session:
            return session.scalars(sa.select(Worker)).first(), list(
                session.scalars(sa.select(Lane).order_by(Lane.number))
            )

    def holder(self) -> str | None:
        """The worker that is alive, in its own words; None if there is none."""
        with self._engine.connect() as connection:
            found: str | None = connection.scalar(_HOLDER, _LOCK)
        return found

    def lock(self, holder: str) -> sa.Connection:
        """The sole right to work, as a connection of its own: it lasts as long as that is open.

        holder: names this worker to those who come later
        raises: SecondWorker
        """
        engine = sa.create_engine(
            self.url,
            poolclass=sa.NullPool,
            isolation_level="AUTOCOMMIT",
            connect_args={"application_name": holder, "options": _KEEPALIVES},
        )
        connection = engine.connect()
        if connection.scalar(sa.text("SELECT pg_try_advisory_lock(hashtextextended(:lock, 0))"), _LOCK):
            return connection
        connection.close()
        raise SecondWorker(self.holder() or "it has just gone; try again")

    def dispose(self) -> None:
        """Close what is open."""
        self._engine.dispose()
