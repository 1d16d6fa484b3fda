"""The commands `ftm migrate` and `ftm idle`, for machines that work unattended."""

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
    """Show what waits or runs; exit code 0 if nothing does, so that you may switch the machine off."""
    from ftm_assets.operations.instance import dagster_instance, pending_work

    database = Database(read_settings())
    with dagster_instance(database) as instance:
        pending = pending_work(instance)
    if not pending.is_idle:
        console.print(
            f"{pending.n_runs_waiting} runs wait, {pending.n_runs_begun} go on, "
            f"{pending.n_backfills} backfills are under way"
        )
        raise typer.Exit(1)
    console.print("nothing waits and nothing runs")
