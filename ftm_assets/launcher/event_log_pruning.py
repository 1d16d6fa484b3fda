"""Keeps Dagster's event log from growing for ever.

A firm's run writes 46 events. Half of them record how it went from step to step, which is of no use once the run has
succeeded. Materializations with their metadata and data versions, and results of checks, stay.
"""

import sqlalchemy as sa

LOW_VALUE_EVENTS = (
    "ASSET_CHECK_EVALUATION_PLANNED",
    "ENGINE_EVENT",
    "HANDLED_OUTPUT",
    "LOADED_INPUT",
    "LOGS_CAPTURED",
    "RESOURCE_INIT_STARTED",
    "RESOURCE_INIT_SUCCESS",
    "STEP_INPUT",
    "STEP_OUTPUT",
    "STEP_START",
    "STEP_SUCCESS",
)
_BATCH = 20_000
_DELETE = sa.text(
    "DELETE FROM event_logs WHERE id IN (SELECT events.id FROM event_logs AS events JOIN runs USING (run_id) "
    "WHERE runs.status = 'SUCCESS' AND runs.update_timestamp < now() AT TIME ZONE 'utc' - make_interval(days => :days) "
    "AND events.dagster_event_type = ANY(:events) LIMIT :batch)"
)


def prune(url: sa.URL | str, days: int) -> int:
    """Delete low-value events of runs that succeeded more than so many days ago; returns how many.

    Each batch is a transaction of its own, so that nothing waits for it.
    """
    engine = sa.create_engine(url, poolclass=sa.NullPool, hide_parameters=True)
    n_deleted = 0
    while True:
        with engine.begin() as connection:
            n = connection.execute(_DELETE, {"days": days, "events": list(LOW_VALUE_EVENTS), "batch": _BATCH}).rowcount
        n_deleted += n
        if n < _BATCH:
            return n_deleted
