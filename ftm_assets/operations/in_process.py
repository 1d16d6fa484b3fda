"""Runs of the graph in this process: load a quarter, bring a quarter's firms up to date, one warm run after another."""

import os
import signal
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import cast

import dagster as dg
import sqlalchemy as sa

import ftm_assets
from ftm_assets.encoder import Encoder
from ftm_assets.errors import FtmError
from ftm_assets.launcher.single_gpu import COMMAND_TAG, is_of_command
from ftm_assets.llm.client import check_price
from ftm_assets.llm.protocol import LanguageModel
from ftm_assets.partitions import FIRM, firm_quarter_key
from ftm_assets.settings import Settings, read_settings
from ftm_assets.storage.maintain.search_index import drop_search_index, search_index_ready
from ftm_assets.storage.read.queries import quarter_progress
from ftm_assets.storage.read.text_sources import firms_by_keywords, themes_by_keywords
from ftm_assets.storage.server.database import Database
from ftm_assets.storage.write import stages
from ftm_assets.storage.write.calls import IngestCounts, firm_keys, raise_if_locked, set_lock_timeout
from ftm_assets.storage.write.themes import theme_state

FIRM_ASSETS = tuple(dg.AssetKey(stage) for stage in stages.STAGES)
SUMMARY_ASSETS = FIRM_ASSETS[-1:]
_CHUNK = "DAGSTER_ASSET_BACKFILL_RUN_CHUNK_SIZE"
# An in-process run is created, started and ended by one process, so also one that never started is an orphan.
_UNFINISHED = [
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


class AlreadyRunning(FtmError):
    """Another process does the same work."""

    def __init__(self, command: str) -> None:
        super().__init__(f"another `ftm {command}` is running; wait for it, or stop it first")


class NoCalls(FtmError):
    """A quarter without calls has nothing to run."""

    def __init__(self, quarter: str) -> None:
        super().__init__(f"no calls in {quarter}; load some first: ftm ingest SOURCE --quarter {quarter}")


class QuarterNotShown(FtmError):
    """A quarter outside the window of the graph has no partition."""

    def __init__(self, quarter: str, shown: str) -> None:
        super().__init__(f"{quarter} is outside FTM_QUARTERS={shown}; widen it to take that quarter in")


class NoModel(FtmError):
    """Summaries by a language model are asked for, and there is none."""

    def __init__(self) -> None:
        super().__init__(
            "no language model is configured; set FTM_LLM_MODEL and FTM_LLM_API_KEY, and FTM_LLM_BASE_URL for another "
            "provider than xAI"
        )


class ProjectNotFound(FtmError):
    """The folder with `dagster.yaml` is not where it should be."""

    def __init__(self, folder: Path) -> None:
        super().__init__(
            f"no dagster.yaml in {folder}; run from a clone of the project, or set DAGSTER_HOME to its folder"
        )


@dataclass(frozen=True)
class FirmRun:
    """The end of one firm's run. `error` is what its first failed step said, None if all went well."""

    firm_key: str
    run_id: str
    error: str | None


@dataclass(frozen=True, kw_only=True)
class QuarterIngest(IngestCounts):
    """What `transcripts` of a quarter told."""

    quarter: str
    n_firms: int
    n_firms_changed: int


def dagster_environment(database: Database) -> dict[str, str]:
    """What `dagster.yaml` reads from the environment; holds a password, so it is never shown.

    raises: ProjectNotFound if there is no `dagster.yaml`
    """
    home = Path(os.environ.get("DAGSTER_HOME") or Path(ftm_assets.__file__).parents[1]).absolute()
    if not (home / "dagster.yaml").exists():
        raise ProjectNotFound(home)
    return {
        "DAGSTER_HOME": str(home),
        "FTM_HOME": str(database.settings.home),
        "FTM_DAGSTER_URL": database.dagster_url(),
        "FTM_RUN_STORAGE": str(database.settings.home / "dagster"),
        # How many runs of a backfill Dagster makes before it notes, with all that are still to be made, how far it is,
        # and looks whether it was canceled. After its own 25, notes are a third of what making thousands of runs costs.
        _CHUNK: os.environ.get(_CHUNK) or "100",
    }


@contextmanager
def dagster_instance(database: Database) -> Iterator[dg.DagsterInstance]:
    """The Dagster instance that the UI shows, on the database's server."""
    os.environ.update(dagster_environment(database))
    with dg.DagsterInstance.get() as instance:
        yield instance


def ingest_quarters(
    defs: dg.Definitions,
    instance: dg.DagsterInstance,
    database: Database,
    quarters: Sequence[str],
    config: Mapping[str, object],
) -> Iterator[QuarterIngest]:
    """Materialize `transcripts` of each quarter; quarters done before a failure stay.

    raises: QuarterNotShown before anything is loaded, AlreadyRunning, KeyboardInterrupt, and whatever the asset raises
    """
    for quarter in quarters:
        check_is_shown(quarter)
    for quarter in quarters:
        command = f"ingest -q {quarter}"
        with alone(instance, database, command):
            result = _execute(
                defs, instance, "ingest_quarter", quarter, command, {"ops": {"transcripts": {"config": dict(config)}}}
            )
        told = result.asset_materializations_for_node("transcripts")[0].metadata
        counts = {f.name: cast(int, told[f.name].value) for f in fields(QuarterIngest) if f.name != "quarter"}
        yield QuarterIngest(quarter=quarter, **counts)


def check_is_shown(quarter: str) -> None:
    """raises: QuarterNotShown if the graph has no such partition"""
    settings = read_settings()
    if quarter not in settings.quarter_keys():
        raise QuarterNotShown(quarter, settings.quarters)


def firms_to_do(instance: dg.DagsterInstance, database: Database, quarter: str) -> list[str]:
    """Expected firms whose rows are missing or stale, whose last run failed, or that Dagster does not know of.

    raises: NoCalls
    """
    with database.transaction() as connection:
        expected = firm_keys(connection, quarter)
        behind = set(quarter_progress(connection, quarter).firms_to_do)
    if not expected:
        raise NoCalls(quarter)
    # A process killed between its commit and its event leaves rows that Dagster has not heard of.
    known = set.intersection(*(instance.get_materialized_partitions(asset) for asset in FIRM_ASSETS))
    failed = set().union(*(_attempted_since(instance, asset) for asset in FIRM_ASSETS))
    in_doubt = {key for key in expected if firm_quarter_key(key, quarter) not in known - failed}
    return [key for key in expected if key in behind | in_doubt]


def _attempted_since(instance: dg.DagsterInstance, asset: dg.AssetKey) -> set[str]:
    """Partitions with a run, ended or not, that came after their last materialization."""
    storage = instance.event_log_storage
    return set(storage.get_latest_asset_partition_materialization_attempts_without_materializations(asset))


def firms_to_run(
    instance: dg.DagsterInstance, database: Database, quarter: str, chosen: Sequence[str], *, every: bool
) -> list[str]:
    """Of the chosen firms (none: of the expected ones) those to do, or with `every` all. raises: NoCalls"""
    if every:
        with database.transaction() as connection:
            to_do = firm_keys(connection, quarter)
    else:
        to_do = firms_to_do(instance, database, quarter)
    return [key for key in to_do if key in chosen or not chosen]


def firms_to_upgrade(database: Database, quarter: str, chosen: Sequence[str]) -> list[str]:
    """Of the chosen firms (none: of all) those with a summary that is made of keywords."""
    with database.transaction() as connection:
        return [key for key in firms_by_keywords(connection, quarter) if key in chosen or not chosen]


@contextmanager
def alone(instance: dg.DagsterInstance, database: Database, command: str) -> Iterator[None]:
    """The sole right to execute a command's runs; marks runs that a killed predecessor left unfinished as failed.

    raises: AlreadyRunning
    """
    with database.engine.connect() as connection:
        key = {"key": f"ftm {command}"}
        if not connection.scalar(sa.text("SELECT pg_try_advisory_lock(hashtextextended(:key, 0))"), key):
            raise AlreadyRunning(command)
        connection.commit()
        try:
            left = instance.get_runs(dg.RunsFilter(tags={COMMAND_TAG: command}, statuses=_UNFINISHED))
            for run in filter(is_of_command, left):
                instance.report_run_failed(run, "The process that executed this run was killed; its work starts over.")
            yield
        finally:
            with suppress(sa.exc.DBAPIError):  # A server that was restarted has freed it already.
                connection.rollback()
                connection.execute(sa.text("SELECT pg_advisory_unlock(hashtextextended(:key, 0))"), key)


def run_firms(
    defs: dg.Definitions, instance: dg.DagsterInstance, quarter: str, keys: Sequence[str], job: str = "firm_quarter"
) -> Iterator[FirmRun]:
    """Run a job of each firm, one after another; a firm that fails does not stop the others.

    job:    firm_quarter makes all three assets, firm_summaries the summaries alone
    raises: KeyboardInterrupt on Ctrl-C; the firm in work is to do again
    """
    instance.add_dynamic_partitions(FIRM, list(keys))
    for key in keys:
        result = _execute(
            defs, instance, job, firm_quarter_key(key, quarter), f"backfill {quarter}", raise_on_error=False
        )
        yield FirmRun(key, result.run_id, None if result.success else first_failure(result.all_events))


def run_themes(defs: dg.Definitions, instance: dg.DagsterInstance, quarter: str) -> None:
    """Materialize the quarter's themes from the summaries that are there.

    raises: KeyboardInterrupt on Ctrl-C, and whatever the asset raises
    """
    _execute(defs, instance, "quarter_themes", quarter, f"backfill {quarter}")


def run_index(defs: dg.Definitions, instance: dg.DagsterInstance, quarter: str) -> None:
    """Materialize the quarter's search index, as far as it is not there.

    raises: KeyboardInterrupt on Ctrl-C, and whatever the asset raises
    """
    _execute(defs, instance, "quarter_index", quarter, f"backfill {quarter}")


def _execute(
    defs: dg.Definitions,
    instance: dg.DagsterInstance,
    job: str,
    partition_key: str,
    command: str,
    config: Mapping[str, object] | None = None,
    *,
    raise_on_error: bool = True,
) -> dg.ExecuteInProcessResult:
    with _ctrl_c_counts():
        return defs.resolve_job_def(job).execute_in_process(
            instance=instance,
            partition_key=partition_key,
            run_config=config,
            tags={COMMAND_TAG: command},
            raise_on_error=raise_on_error,
        )


@contextmanager
def _ctrl_c_counts() -> Iterator[None]:
    """KeyboardInterrupt at the end of the block if Ctrl-C was pressed in it.

    Dagster makes a failed run of it, or between two steps forgets it; whoever pressed it meant the whole command.
    """
    pressed, wakeup = socket.socketpair()
    with pressed, wakeup:
        pressed.setblocking(False)
        wakeup.setblocking(False)
        before = signal.set_wakeup_fd(wakeup.fileno())
        try:
            yield
        except dg.DagsterExecutionInterruptedError:
            raise KeyboardInterrupt from None
        finally:
            signal.set_wakeup_fd(before)
        with suppress(BlockingIOError):
            if {signal.SIGINT, signal.SIGTERM} & set(pressed.recv(1024)):
                raise KeyboardInterrupt


def themes_to_do(instance: dg.DagsterInstance, database: Database, quarter: str) -> bool:
    """Whether the quarter's themes are missing, rest on other summaries than those of now, or Dagster misses them."""
    with database.transaction() as connection:
        current = theme_state(connection, quarter).current
    return not current or quarter not in instance.get_materialized_partitions(dg.AssetKey("cross_firm_themes"))


def index_to_do(instance: dg.DagsterInstance, database: Database, quarter: str) -> bool:
    """Whether the quarter's search index is not there, or Dagster has not heard of it."""
    with database.transaction() as connection:
        ready = search_index_ready(connection, quarter)
    return not ready or quarter not in instance.get_materialized_partitions(dg.AssetKey("search_index"))


def themes_to_upgrade(database: Database, quarter: str) -> bool:
    """Whether a theme has no description by a language model."""
    with database.transaction() as connection:
        return themes_by_keywords(connection, quarter) > 0


def unregister_firms(instance: dg.DagsterInstance, keys: Sequence[str]) -> None:
    """Take firms without any call left out of the UI."""
    for key in keys:
        instance.delete_dynamic_partition(FIRM, key)


def first_failure(events: Iterable[dg.DagsterEvent]) -> str:
    """What the first step that failed, or else the run, has said, without Dagster's words around it."""
    for event in events:
        error = event.step_failure_data.error if event.is_step_failure else None
        while error is not None and error.cause is not None and (error.cls_name or "").startswith("Dagster"):
            error = error.cause
        if error is not None:
            return error.message.strip()
        if event.event_type is dg.DagsterEventType.RUN_FAILURE and event.message:
            return event.message
    return "the run failed before its first step; see its page in the UI"


def check_encoder(defs: dg.Definitions, database: Database, quarter: str) -> None:
    """Load the configured encoder, before a thousand runs find out that it cannot be used for the quarter.

    raises: whatever the encoder raises if it cannot be loaded, EncoderMismatch if the quarter has another one
    """
    encoder = encoder_of(defs)
    with database.transaction() as connection:
        stages.check_encoder(connection, quarter, *encoder)


def check_model(defs: dg.Definitions, settings: Settings) -> None:
    """raises: NoModel if no language model is configured, PriceUnknown if a cap keeps it from being asked, BadPrices"""
    model = cast(LanguageModel, (defs.resources or {})["language_model"])
    if not model.name:
        raise NoModel
    check_price(settings)


def reencode(database: Database, quarter: str, encoder: tuple[str, str]) -> None:
    """Drop a quarter's vectors and all that rests on them, so that new ones are made.

    Vectors of this encoder stay, unless the quarter is archived and lacks some.

    encoder: name and revision of the one that will make them, as from `encoder_of`
    raises:  QuarterInUse, and then nothing is dropped
    """
    with raise_if_locked(quarter, "encoded anew"), database.transaction() as connection:
        try:
            stages.check_encoder(connection, quarter, *encoder)
        except stages.EncoderMismatch:
            pass
        else:
            if not stages.archived(connection, [quarter]):
                return
        set_lock_timeout(connection)
        stages.reencode(connection, quarter)
        drop_search_index(connection, quarter)  # Another encoder may be wider.


def encoder_of(defs: dg.Definitions) -> tuple[str, str]:
    """Name and revision of the configured encoder. raises: whatever it raises if it cannot be loaded"""
    encoder = _encoder(defs)
    return encoder.name, encoder.revision


def _encoder(defs: dg.Definitions) -> Encoder:
    return cast(Encoder, (defs.resources or {})["encoder"])
