"""The commands that run the services: all together, or one of them where a container or systemd supervises each."""

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

daemon_app = typer.Typer(invoke_without_command=True, help="Run only the daemon, or check that it is running.")

PortOption = Annotated[int, typer.Option(min=1, max=65535, help="Port of the UI.")]
HostOption = Annotated[str, typer.Option(help="Address to listen on.")]


def up(
    port: PortOption = 3000,
    host: HostOption = "127.0.0.1",
    worker: Annotated[bool, typer.Option(help="Start the GPU worker, too; it may also run on another machine.")] = True,
) -> None:
    """Start the Dagster UI and all that it needs, and keep it running: database, webserver, daemon, GPU worker.

    Ctrl-C lets running jobs finish (up to FTM_GRACE seconds), then stops everything except the database. Press it
    again to stop at once; unfinished runs return to the queue.
    """
    from ftm_assets.operations.instance import dagster_environment
    from ftm_assets.operations.services import Services

    database = Database(read_settings())
    settings = database.settings
    services = Services(
        home=settings.home,
        environment=dagster_environment(database),
        host=host,
        port=port,
        worker=worker,
        grace_s=settings.grace,
    )
    _keep_up(database, services, f"Dagster UI: {services.address}")


def webserver(port: PortOption = 3000, host: HostOption = "127.0.0.1") -> None:
    """Run only the Dagster UI; a container or systemd restarts it. Run `ftm daemon` as well."""
    from ftm_assets.operations.instance import dagster_environment
    from ftm_assets.operations.services import become_webserver

    become_webserver(dagster_environment(Database(read_settings())), host, port)


@daemon_app.callback()
def daemon(context: typer.Context) -> None:
    """Run only the daemon, which starts queued runs, monitors runs and evaluates sensors. A database has one daemon."""
    if context.invoked_subcommand is not None:
        return
    from ftm_assets.operations.instance import dagster_environment
    from ftm_assets.operations.services import Services

    database = Database(read_settings())
    services = Services(
        home=database.settings.home,
        environment=dagster_environment(database),
        host="",
        port=0,
        worker=False,
        webserver=False,
    )
    _keep_up(database, services, "Dagster's daemon is up")


@daemon_app.command()
def status() -> None:
    """Check that the daemon is running; exit code 1 if it is not."""
    from ftm_assets.operations.instance import DAEMON_TIMEOUT_S, daemon_is_up, dagster_instance

    with dagster_instance(Database(read_settings())) as instance:
        if not daemon_is_up(instance):
            raise FtmError(
                f"no daemon is running: no heartbeat for {DAEMON_TIMEOUT_S:.0f} s; start it with: ftm daemon "
                "(ftm up does, too)"
            )
    console.print("daemon is running")


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


def _keep_up(database: Database, services: "Services", started: str) -> None:
    from ftm_assets.launcher.leader_lock import AdvisoryLock
    from ftm_assets.launcher.recovery import end_stuck_runs
    from ftm_assets.operations.instance import dagster_instance
    from ftm_assets.storage.server.advisory_locks import Lock

    console.print(f"database: {database.location}", markup=False)
    owner = f"process {os.getpid()} on {socket.gethostname()}"
    with (
        dagster_instance(database) as instance,
        # One daemon for a database: two would launch the same runs, and each would end the other's as abandoned.
        AdvisoryLock(database.dagster_url(), Lock.SERVICES, owner) as lock,
        services.running(instance) as running,
    ):
        console.print(f"{started}   (logs in {services.home / 'logs'}; Ctrl-C to stop)", markup=False)

        def maintain() -> None:
            database.keep_up()
            lock.keep()
            end_stuck_runs(instance)

        services.watch(running, maintain)
        console.print("stopping once running jobs have finished; press Ctrl-C again to stop at once")
    console.print("stopped; the database keeps running until: ftm down")
