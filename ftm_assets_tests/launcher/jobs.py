"""Jobs of one step that end in each way there is; lanes are forked with this module."""

import os
import signal
import time

import dagster as dg
from dagster._core.definitions.reconstruct import ReconstructableRepository
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin

# Where nobody can load it from; Dagster wants one of each run that it queues.
ORIGIN = RemoteJobOrigin(RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("nowhere"), "nothing"), "job")


class Meal(dg.Config):
    """So much memory, never given back, and the time that it takes."""

    mb: int
    for_s: float


eaten: list[bytes] = []


@dg.op
def succeed() -> None:
    """Ends well."""


@dg.op
def look() -> None:
    """Ends well where there is one thread and an address of the encoder."""
    assert os.environ["OMP_NUM_THREADS"] == os.environ["NUMBA_NUM_THREADS"] == "1"
    assert os.environ["NUMBA_THREADING_LAYER"] == "workqueue"
    assert os.environ["FTM_ENCODER_ADDRESS"] == "encoder's address"


@dg.op
def fail() -> None:
    raise ValueError("no such luck")


@dg.op
def wait() -> None:
    time.sleep(300)


@dg.op
def crash() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


@dg.op
def leave() -> None:
    os._exit(7)


@dg.op
def eat(config: Meal) -> None:
    eaten.append(b"x" * (config.mb << 20))
    time.sleep(config.for_s)


def _job(step: dg.OpDefinition) -> dg.JobDefinition:
    return dg.GraphDefinition(f"{step.name}_job", node_defs=[step]).to_job(executor_def=dg.in_process_executor)


succeed_job, look_job, fail_job, wait_job = _job(succeed), _job(look), _job(fail), _job(wait)
crash_job, leave_job, eat_job = _job(crash), _job(leave), _job(eat)
defs = dg.Definitions(jobs=[succeed_job, look_job, fail_job, wait_job, crash_job, leave_job, eat_job])


def new_run(
    instance: dg.DagsterInstance,
    job: str,
    *,
    status: dg.DagsterRunStatus = dg.DagsterRunStatus.NOT_STARTED,
    **config: object,
) -> str:
    """The id of a run of `succeed_job` or another one of this module, that a lane can execute."""
    target = ReconstructableRepository.for_module(__name__, "defs").get_reconstructable_job(job)
    run_config = {"ops": {"eat": {"config": config}}} if config else None
    return instance.create_run_for_job(
        target.get_definition(), status=status, run_config=run_config, job_code_origin=target.get_python_origin()
    ).run_id


def status_of(instance: dg.DagsterInstance, run_id: str) -> dg.DagsterRunStatus:
    run = instance.get_run_by_id(run_id)
    assert run
    return run.status


def messages(instance: dg.DagsterInstance, run_id: str) -> list[str]:
    """What the run's event log says."""
    return [entry.message or entry.user_message for entry in instance.all_logs(run_id)]
