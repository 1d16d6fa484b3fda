"""The commands that keep things up: all of it, or one service where containers or systemd keep each up by itself."""

import os
import socket
from typing import TYPE_CHECKING, Annotated

import typer

from ftm_assets.cli.display import console
from ftm_assets.errors import FtmError
from ftm_assets.settings import read_settings
from ftm_assets.storage.server.database import Database

if TYPE_CHECKING:
    from ftm_assets.operations.services import Services

daemon_app = typer.Typer(invoke_without_command=True, help="Be the daemon alone, or ask whether it lives.")

PortOption = Annotated[int, typer.Option(min=1, max=65535, help="Port of the UI.")]
HostOption = Annotated[str, typer.Option(help="Address to listen on.")]


def up(
    port: PortOption = 3000,
    host: HostOption = "127.0.0.1",
    worker: Annotated[bool, typer.Option(help="Start the GPU worker, too; one may run on another machine.")] = True,
) -> None:
    """Start and keep up all that the Dagster UI needs: database, webserver, daemon, GPU worker.

    Ctrl-C stops all but the first, once the runs in lanes have ended (FTM_GRACE); a second one hands them back at once.
    """
    from ftm_assets.operations.instance import dagster_environment
    from ftm_assets.operations.services import Services

    database = Database(read_settings())
    settings = database.settings
    services = Services(settings.home, dagster_environment(database), host, port, worker, settings.grace)
    _keep_up(database, services, f"Dagster UI: {services.address}")


def webserver(port: PortOption = 3000, host: HostOption = "127.0.0.1") -> None:
    """Be the Dagster UI alone, and leave it to containers or systemd to keep it up; `ftm daemon` runs beside it."""
    from ftm_assets.operations.instance import dagster_environment
    from ftm_assets.operations.services import become_webserver

    become_webserver(dagster_environment(Database(read_settings())), host, port)


@daemon_app.callback()
def daemon(context: typer.Context) -> None:
    """Be the daemon alone: start what is queued, look after runs, ask sensors. There is one for a database."""
    if context.invoked_subcommand is not None:
        return
    from ftm_assets.operations.instance import dagster_environment
    from ftm_assets.operations.services import Services

    database = Database(read_settings())
    services = Services(database.settings.home, dagster_environment(database), "", 0, worker=False, webserver=False)
    _keep_up(database, services, "Dagster's daemon is up")


@daemon_app.command()
def status() -> None:
    """Whether a daemon has lately said that it lives; exit code 1 if not."""
    from ftm_assets.operations.instance import DAEMON_TIMEOUT_S, daemon_is_up, dagster_instance

    with dagster_instance(Database(read_settings())) as instance:
        if not daemon_is_up(instance):
            raise FtmError(
                f"no daemon has said within {DAEMON_TIMEOUT_S:.0f} s that it lives; start it with: ftm daemon "
                "(ftm up does, too)"
            )
    console.print("the daemon lives")


def down() -> None:
    """Stop the services that `ftm up` started elsewhere, and the embedded database."""
    from ftm_assets.operations.services import stop_services

    database = Database(read_settings())
    if stop_services(database.settings.home, database.settings.grace):
        console.print("services stopped")
    if database.embedded is None:
        console.print(f"the database is not ours to stop: {database.location}")
    else:
        database.embedded.stop()
        console.print("database stopped")


def _keep_up(database: Database, services: "Services", up: str) -> None:
    from ftm_assets.launcher.advisory_lock import AdvisoryLock
    from ftm_assets.operations.instance import dagster_instance
    from ftm_assets.operations.services import end_stuck_runs

    console.print(f"database: {database.location}", markup=False)
    me = f"process {os.getpid()} on {socket.gethostname()}"
    with (
        dagster_instance(database) as instance,
        # One daemon for a database: two would launch the same runs, and each would take the other's for abandoned.
        AdvisoryLock(database.dagster_url(), "ftm up", me) as right,
        services.running(instance) as running,
    ):
        console.print(f"{up}   (logs in {services.home / 'logs'}; Ctrl-C to stop)", markup=False)

        def tend() -> None:
            database.keep_up()
            right.keep()
            end_stuck_runs(instance)

        services.watch(running, tend)
        console.print("stopping; runs that were begun may end first, a second Ctrl-C hands them back")
    console.print("stopped; the database runs on until: ftm down")
