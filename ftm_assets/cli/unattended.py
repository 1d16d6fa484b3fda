"""The commands `ftm migrate` and `ftm idle`: what a machine asks that works without anybody looking on."""

import typer

from ftm_assets.cli.display import console
from ftm_assets.settings import read_settings
from ftm_assets.storage.server.database import Database


def migrate() -> None:
    """Create both databases if they are missing, and bring them to the newest schema. Safe to run twice."""
    from ftm_assets.operations.instance import dagster_instance

    database = Database(read_settings())
    with database.transaction(), dagster_instance(database) as instance:
        instance.get_runs_count()
    console.print(f"ready: {database.location}", markup=False)


def idle() -> None:
    """Say what waits or runs, whoever asked for it; exit code 0 if nothing does and the machine may be switched off."""
    from ftm_assets.operations.instance import dagster_instance, pending_work

    database = Database(read_settings())
    with dagster_instance(database) as instance:
        left = pending_work(instance)
    if left.n_runs_waiting or left.n_runs_begun or left.n_backfills:
        console.print(
            f"{left.n_runs_waiting} runs wait, {left.n_runs_begun} go on, {left.n_backfills} backfills are under way"
        )
        raise typer.Exit(1)
    console.print("nothing waits and nothing runs")
