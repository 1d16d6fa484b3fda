"""What both ways to carry out a backfill share: reading, planning, checks, and the themes at the end."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import cast

import dagster as dg

from ftm_assets.assets.jobs import index_in_work, themes_in_work
from ftm_assets.encoder import Encoder
from ftm_assets.errors import FtmError
from ftm_assets.llm.client import check_price
from ftm_assets.llm.protocol import LanguageModel
from ftm_assets.operations.backfill.plan import BackfillOptions, BackfillPlan, BackfillState, plan_backfill
from ftm_assets.operations.backfill.state import read_state, read_themes_and_index
from ftm_assets.operations.instance import daemon_is_up, wait_while
from ftm_assets.operations.runs import execute
from ftm_assets.settings import Settings
from ftm_assets.storage.maintain.search_index import drop_index_for_bulk_write, drop_search_index
from ftm_assets.storage.read.ingested import archived
from ftm_assets.storage.server.database import Database
from ftm_assets.storage.write import stages
from ftm_assets.storage.write.calls import raise_if_locked, set_lock_timeout


class NoModel(FtmError):
    """Summaries by a language model are asked for, and none is configured."""

    def __init__(self) -> None:
        super().__init__(
            "no language model is configured; set FTM_LLM_MODEL and FTM_LLM_API_KEY, and FTM_LLM_BASE_URL for another "
            "provider than xAI"
        )


@dataclass(frozen=True)
class FirmRun:
    """The end of one firm's run. `error` is that of its first failed step, None if the run succeeded."""

    firm_key: str
    run_id: str
    error: str | None


@dataclass(frozen=True)
class StartedRuns:
    """How many firms' runs to expect, and what the user should know about them."""

    n_firms: int
    notice: str = ""
    warning: str = ""


class BackfillExecutor(ABC):
    """One backfill of a quarter. Call `prepare`, `start`, `ended` and `failures`, then the two for the whole quarter.

    preparing:    what `prepare` may have to wait for
    when_stopped: what Ctrl-C leads to
    """

    preparing: str
    when_stopped: str

    def __init__(self, defs: dg.Definitions, instance: dg.DagsterInstance, database: Database) -> None:
        self.defs = defs
        self.instance = instance
        self.database = database

    @abstractmethod
    def known_encoder(self) -> tuple[str, str] | None:
        """Name and revision of the encoder that runs will use, None while it is unknown."""

    @abstractmethod
    def start(self, plan: BackfillPlan) -> StartedRuns:
        """Begin the firms' runs of a plan, or follow those under way. raises: EncoderMismatch, before any of them"""

    @abstractmethod
    def ended(self, plan: BackfillPlan) -> Iterator[int]:
        """How many runs have ended since the last time, until all have. raises: DaemonGone, KeyboardInterrupt"""

    @abstractmethod
    def failures(self) -> list[FirmRun]:
        """The runs that have failed."""

    def warnings(self) -> list[str]:
        """What the user should know beforehand. raises: WorkerDiffers if the runs would give other results"""
        return []

    def state(self, quarter: str) -> BackfillState:
        """What is there of the quarter now."""
        return read_state(self.instance, self.database, quarter)

    def prepare(self, options: BackfillOptions) -> BackfillPlan:
        """What to run for these options, after old vectors were dropped if that was asked for.

        raises: NoCalls, OtherBackfill, QuarterInUse
        """
        plan = plan_backfill(options, self.state(options.quarter))
        if not plan.reencode:
            return plan
        reencode(self.database, options.quarter, self.known_encoder() or configured_encoder(self.defs))
        return plan_backfill(replace(options, reencode=False), self.state(options.quarter))

    def prepare_database(self, plan: BackfillPlan) -> None:
        """Check the encoder, and drop the search index if the plan says so."""
        if plan.firms:
            check_encoder(self.database, plan.quarter, self.known_encoder())
        if plan.drop_index:
            drop_index_for_bulk_write(self.database, plan.quarter, len(plan.firms))

    def make_themes(self, options: BackfillOptions, state: BackfillState) -> None:
        """Wait for a run of the themes that is under way, the sensor's for instance, then make those still needed."""
        themes_just_made = wait_for_themes(self.instance, options.quarter)
        state = replace(self._refreshed(options, state), themes_just_made=themes_just_made)
        if plan_backfill(options, state).make_themes:
            run_themes(self.defs, self.instance, options.quarter)

    def make_index(self, options: BackfillOptions, state: BackfillState) -> None:
        """Wait for a run of the search index that is under way, then build what is missing."""
        wait_for_index(self.instance, options.quarter)
        if plan_backfill(options, self._refreshed(options, state)).make_index:
            run_index(self.defs, self.instance, options.quarter)

    def _refreshed(self, options: BackfillOptions, state: BackfillState) -> BackfillState:
        return read_themes_and_index(self.instance, self.database, options.quarter, state)


def check_model(defs: dg.Definitions, settings: Settings) -> None:
    """raises: NoModel if no language model is configured, PriceUnknown if a cap keeps it from being asked, BadPrices"""
    model = cast(LanguageModel, (defs.resources or {})["language_model"])
    if not model.name:
        raise NoModel
    check_price(settings)


def configured_encoder(defs: dg.Definitions) -> tuple[str, str]:
    """Name and revision of the configured encoder. raises: whatever it raises if it cannot be loaded"""
    encoder = cast(Encoder, (defs.resources or {})["encoder"])
    return encoder.name, encoder.revision


def check_encoder(database: Database, quarter: str, encoder: tuple[str, str] | None) -> None:
    """Compare the encoder with the quarter's, before a thousand runs fail over it. raises: EncoderMismatch"""
    if encoder is None:
        return
    name, revision = encoder
    with database.transaction() as connection:
        stages.check_encoder(connection, quarter, name, revision)


def reencode(database: Database, quarter: str, encoder: tuple[str, str]) -> None:
    """Drop a quarter's vectors and all that was made from them, so that new ones are made.

    Vectors of this encoder stay, unless the quarter is archived and lacks some.

    encoder: name and revision of the one that will make them
    raises:  QuarterInUse, and then nothing is dropped
    """
    name, revision = encoder
    with raise_if_locked(quarter, "re-encoded"), database.transaction() as connection:
        try:
            stages.check_encoder(connection, quarter, name, revision)
        except stages.EncoderMismatch:
            pass
        else:
            if not archived(connection, [quarter]):
                return
        set_lock_timeout(connection)
        stages.reencode(connection, quarter)
        drop_search_index(connection, quarter)  # Another encoder may be wider.


def run_themes(defs: dg.Definitions, instance: dg.DagsterInstance, quarter: str) -> None:
    """Materialize the quarter's themes from the summaries that are there.

    raises: KeyboardInterrupt on Ctrl-C, and whatever the asset raises
    """
    execute(defs, instance, "quarter_themes", quarter, f"backfill {quarter}")


def run_index(defs: dg.Definitions, instance: dg.DagsterInstance, quarter: str) -> None:
    """Materialize the quarter's search index, as far as it is missing.

    raises: KeyboardInterrupt on Ctrl-C, and whatever the asset raises
    """
    execute(defs, instance, "quarter_index", quarter, f"backfill {quarter}")


def wait_for_themes(instance: dg.DagsterInstance, quarter: str) -> bool:
    """Return when no run of the quarter's themes is under way; whether there was one."""
    return _wait_for(themes_in_work, instance, quarter)


def wait_for_index(instance: dg.DagsterInstance, quarter: str) -> bool:
    """Return when no run of the quarter's search index is under way; whether there was one."""
    return _wait_for(index_in_work, instance, quarter)


def _wait_for(in_work: Callable[[dg.DagsterInstance, str], bool], instance: dg.DagsterInstance, quarter: str) -> bool:
    return wait_while(lambda: in_work(instance, quarter) and daemon_is_up(instance))
