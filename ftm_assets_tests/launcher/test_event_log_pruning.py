import os
from datetime import timedelta

import dagster as dg
import psycopg
import pytest

from ftm_assets.launcher.event_log_pruning import prune


@dg.asset
def said() -> int:
    return 1


@dg.asset
def unsaid() -> None:
    raise ValueError("no")


def kinds(run_id: str) -> list[str]:
    with psycopg.connect(os.environ["FTM_DAGSTER_URL"].replace("+psycopg2", "")) as connection:
        named = "SELECT dagster_event_type FROM event_logs WHERE run_id = %s AND dagster_event_type IS NOT NULL"
        rows = connection.execute(named, [run_id]).fetchall()
    return sorted(str(row[0]) for row in rows)


@pytest.mark.parametrize(("asset", "pruned"), [(said, True), (unsaid, False)])
def test_old_chatter_of_runs_that_went_well_goes_and_what_is_known_of_partitions_stays(
    instance: dg.DagsterInstance, asset: dg.AssetsDefinition, pruned: bool
) -> None:
    run_id = dg.materialize([asset], instance=instance, raise_on_error=False).run_id
    before = kinds(run_id)
    assert prune(os.environ["FTM_DAGSTER_URL"], days=7) == 0, "the run is of today"
    with psycopg.connect(os.environ["FTM_DAGSTER_URL"].replace("+psycopg2", ""), autocommit=True) as connection:
        connection.execute("UPDATE runs SET update_timestamp = update_timestamp - %s", [timedelta(days=8)])

    assert (prune(os.environ["FTM_DAGSTER_URL"], days=7) > 0) == pruned

    if pruned:
        assert kinds(run_id) == [
            "ASSET_MATERIALIZATION",
            "ASSET_MATERIALIZATION_PLANNED",
            "PIPELINE_START",
            "PIPELINE_SUCCESS",
        ]
        assert instance.get_latest_materialization_event(asset.key) is not None
    else:
        assert kinds(run_id) == before
