"""A backfill that this process executes, one warm run after another. It needs neither UI nor worker."""

from collections.abc import Iterator, Sequence

import dagster as dg

from ftm_assets.operations.backfill.executor import BackfillExecutor, FirmRun, StartedRuns, configured_encoder
from ftm_assets.operations.backfill.plan import WHOLE_FIRMS, BackfillPlan
from ftm_assets.operations.runs import execute, first_failure
from ftm_assets.partitions import FIRM, firm_quarter_key
from ftm_assets.storage.server.database import Database


class InProcess(BackfillExecutor):
    """Executes the firms' runs here; a firm that fails does not stop the others."""

    preparing = "what is to do"
    when_stopped = "stopped"

    def __init__(self, defs: dg.Definitions, instance: dg.DagsterInstance, database: Database) -> None:
        super().__init__(defs, instance, database)
        self._failures: list[FirmRun] = []

    def known_encoder(self) -> tuple[str, str]:
        """Loads the encoder. raises: whatever that raises if it cannot be loaded"""
        return configured_encoder(self.defs)

    def start(self, plan: BackfillPlan) -> StartedRuns:
        """See `BackfillExecutor`; the runs are executed by `ended`."""
        self.prepare_database(plan)
        return StartedRuns(len(plan.firms))

    def ended(self, plan: BackfillPlan) -> Iterator[int]:
        """See `BackfillExecutor`."""
        for run in run_firms(self.defs, self.instance, plan.quarter, plan.firms, plan.work.job):
            if run.error is not None:
                self._failures.append(run)
            yield 1

    def failures(self) -> list[FirmRun]:
        """See `BackfillExecutor`."""
        return self._failures


def run_firms(
    defs: dg.Definitions,
    instance: dg.DagsterInstance,
    quarter: str,
    keys: Sequence[str],
    job: str = WHOLE_FIRMS.job,
) -> Iterator[FirmRun]:
    """Run a job of each firm, one after another.

    raises: KeyboardInterrupt on Ctrl-C; the firm whose run it interrupts is still to do
    """
    instance.add_dynamic_partitions(FIRM, list(keys))
    for key in keys:
        partition = firm_quarter_key(key, quarter)
        result = execute(defs, instance, job, partition, f"backfill {quarter}", raise_on_error=False)
        yield FirmRun(key, result.run_id, None if result.success else first_failure(result.all_events))
