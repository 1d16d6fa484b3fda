import os
import subprocess
import sys

import dagster as dg

TWO_RUNS = """
import dagster as dg
from ftm_assets_tests.launcher.test_compute_logs import talk
with dg.DagsterInstance.get() as instance:
    for _ in range(2):
        talk.execute_in_process(instance=instance)
print("after the runs")
"""


@dg.op
def speak() -> None:
    sys.stdout.write("from Python\n")
    sys.stderr.write("in anger\n")
    os.system("echo from a process")


@dg.job
def talk() -> None:
    speak()


def test_what_a_run_prints_is_in_files_of_that_run_alone(instance: dg.DagsterInstance) -> None:
    done = subprocess.run([sys.executable, "-c", TWO_RUNS], capture_output=True, text=True, check=True)

    assert done.stdout == "after the runs\n"
    assert "in anger" not in done.stderr
    runs = instance.get_runs()
    assert len(runs) == 2
    for run in runs:
        [captured] = (entry.dagster_event for entry in instance.all_logs(run.run_id, dg.DagsterEventType.LOGS_CAPTURED))
        assert captured is not None
        key = [run.run_id, "compute_logs", captured.logs_captured_data.file_key]
        logs = instance.compute_log_manager.get_log_data(key)
        assert logs.stdout == b"from Python\nfrom a process\n"
        assert (logs.stderr or b"").count(b"in anger\n") == 1
        assert instance.compute_log_manager.is_capture_complete(key)
