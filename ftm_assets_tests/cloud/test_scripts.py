"""The scripts against an AWS on loopback. The tests play the box: what it says, and that it goes."""

import json
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ftm_assets_tests.cloud.conftest import SCRIPTS, Cloud

QUARTER = "2024Q1"


@pytest.mark.slow
def test_a_database_is_started_and_stopped_and_both_may_be_repeated(cloud: Cloud) -> None:
    for script, call, status in (("start_rds", "rds start", "available"), ("stop_rds", "rds stop", "stopped")):
        assert status in cloud.script(script)
        assert cloud.database_status() == status
        assert status in cloud.script(script)
        assert len(cloud.called(call)) == 1


@pytest.mark.slow
def test_a_quarter_survives_the_loss_of_its_box_and_leaves_nothing_running(cloud: Cloud) -> None:
    with launched(cloud) as look:
        first = wait_for_box(cloud)
        assert cloud.database_status() == "available"
        tags = {tag["Key"]: tag["Value"] for tag in first["Tags"]}
        assert (tags["Quarter"], tags["Project"], tags["Environment"]) == (QUARTER, "ftm", "dev")
        say(cloud, first, "working")
        say(cloud, first, "interrupted")
        end(cloud, first)

        second = wait_for_box(cloud, after=first)
        say(cloud, second, "working")
        # Somebody else looks on, too: that starts no second box.
        with launched(cloud) as other_look:
            wait_for(lambda: "works on 2024Q1 already" in other_look.said())
            say(cloud, second, "done")
            end(cloud, second)
            assert look.ends() == 0
            assert other_look.ends() == 0

    assert len(cloud.called("ec2 run-instances")) == 2
    assert {box["State"]["Name"] for box in cloud.boxes()} == {"terminated"}
    assert cloud.database_status() == "stopped"
    assert "AWS has taken the box" in look.said()
    assert "s3://ftm-dev/exports/2024Q1/report.html" in look.said()
    assert "firms of the test" in look.said()


@pytest.mark.slow
def test_a_launch_that_was_cut_off_goes_on_with_the_same_box(cloud: Cloud) -> None:
    with launched(cloud) as look:
        box = wait_for_box(cloud)
    assert look.process.returncode != 0
    with launched(cloud) as look:
        say(cloud, box, "done")
        end(cloud, box)
        assert look.ends() == 0
    assert len(cloud.called("ec2 run-instances")) == 1
    assert cloud.database_status() == "stopped"


@pytest.mark.slow
def test_a_quarter_that_fails_ends_in_an_error_with_everything_off(cloud: Cloud) -> None:
    with launched(cloud) as look:
        box = wait_for_box(cloud)
        say(cloud, box, "failed")
        end(cloud, box)
        assert look.ends() == 1
    assert "go on with: " in look.said()
    assert cloud.database_status() == "stopped"
    assert len(cloud.called("ec2 run-instances")) == 1


@pytest.mark.slow
def test_where_a_size_has_no_room_the_next_zone_and_then_the_next_size_is_taken(cloud: Cloud) -> None:
    cloud.refuse("g4dn.2xlarge", "InsufficientInstanceCapacity")
    with launched(cloud) as look:
        box = wait_for_box(cloud)
        say(cloud, box, "done")
        end(cloud, box)
        assert look.ends() == 0
    assert box["InstanceType"] == "g5.2xlarge"
    assert look.said().count("no room for a g4dn.2xlarge") == 2


@pytest.mark.slow
def test_what_is_no_lack_of_room_is_not_tried_again(cloud: Cloud) -> None:
    cloud.refuse("run-instances", "UnauthorizedOperation")
    assert "UnauthorizedOperation" in cloud.script("launch_pipeline", QUARTER, fails=True)
    assert len(cloud.called("ec2 run-instances")) == 1


@pytest.mark.slow
def test_the_database_is_not_stopped_under_a_box_unless_the_box_is_to_end_too(cloud: Cloud) -> None:
    with launched(cloud):
        box = wait_for_box(cloud)
    assert f"{box['InstanceId']} works on 2024Q1" in cloud.script("stop_rds", fails=True)
    assert "works on 2024Q1" in cloud.script("launch_pipeline", "2023Q4", fails=True)
    assert box["InstanceId"] in cloud.script("status")
    assert cloud.database_status() == "available"

    cloud.script("stop_rds", "--end-box")

    assert cloud.database_status() == "stopped"
    assert not cloud.boxes("pending", "running")


@pytest.mark.slow
def test_a_database_that_runs_for_nothing_is_an_error(cloud: Cloud) -> None:
    assert "database ftm-dev: stopped" in cloud.script("status")
    cloud.client("rds").start_db_instance(DBInstanceIdentifier="ftm-dev")
    assert "Stop it with: scripts/stop_rds.sh" in cloud.script("status", fails=True)


@pytest.mark.slow
def test_a_dry_run_says_what_would_be_done_and_does_nothing(cloud: Cloud) -> None:
    said = cloud.script("launch_pipeline", "--dry-run", "--keep", "60", QUARTER)
    assert "would run: aws rds start-db-instance" in said
    assert "would run: aws ec2 run-instances" in said and "Key=KeepMinutes,Value=60" in said
    assert "would run: aws ce get-cost-and-usage" in cloud.script("cost", "--dry-run")
    assert cloud.database_status() == "stopped"
    assert not cloud.boxes()
    cloud.script("start_rds")
    assert "would run: aws rds stop-db-instance" in cloud.script("stop_rds", "--dry-run")
    assert cloud.database_status() == "available"


def test_costs_are_told_by_month_quarter_and_service(cloud: Cloud) -> None:
    groups = [
        {"Keys": ["Amazon Elastic Compute Cloud - Compute", "Quarter$2024Q1"], "Metrics": cost("0.21")},
        {"Keys": ["Amazon Relational Database Service", "Quarter$"], "Metrics": cost("3.5")},
    ]
    month = {"TimePeriod": {"Start": "2026-11-01", "End": "2026-11-28"}, "Groups": groups, "Estimated": True}
    primed = json.dumps({"results": [{"ResultsByTime": [month]}]}).encode()
    request = urllib.request.Request(
        f"{cloud.endpoint}/moto-api/static/ce/cost-and-usage-results",
        primed,
        {"Content-Type": "application/json"},
        method="POST",
    )
    urllib.request.urlopen(request, timeout=30).close()
    assert cloud.script("cost").splitlines() == [
        "2026-11       0.21  2024Q1   Amazon Elastic Compute Cloud - Compute",
        "2026-11       3.50  -        Amazon Relational Database Service",
        "all           3.71",
    ]


def test_without_terraforms_outputs_a_script_says_what_to_do(cloud: Cloud, tmp_path: Path) -> None:
    (tmp_path / "terraform" / "terraform.tfstate").unlink()
    assert "run terraform init and apply there first" in cloud.script("status", fails=True)


def cost(dollars: str) -> dict[str, dict[str, str]]:
    return {"UnblendedCost": {"Amount": dollars, "Unit": "USD"}}


class Look:
    """A launch that goes on, and what it has said."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process, self.log = process, log

    def said(self) -> str:
        return self.log.read_text()

    def ends(self) -> int:
        """Its exit code."""
        return self.process.wait(timeout=400)


@contextmanager
def launched(cloud: Cloud) -> Iterator[Look]:
    """A launch of the quarter, stopped at the end of the block if it still goes on."""
    log = cloud.calls.with_name(f"look_{time.monotonic_ns()}")
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [SCRIPTS / "launch_pipeline.sh", QUARTER],
            env=cloud.environment,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            yield Look(process, log)
        except BaseException:
            print(log.read_text())  # noqa: T201 pytest shows it
            raise
        finally:
            process.terminate()
            process.wait()


def wait_for(happened: Callable[[], object], seconds: float = 400.0) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.2)


def wait_for_box(cloud: Cloud, after: dict[str, Any] | None = None) -> dict[str, Any]:
    """The box that runs, another one than before."""
    found: list[dict[str, Any]] = []

    def is_there() -> bool:
        found[:] = [box for box in cloud.boxes("running") if after is None or box["InstanceId"] != after["InstanceId"]]
        return bool(found)

    wait_for(is_there)
    return found[0]


def say(cloud: Cloud, box: dict[str, Any], state: str) -> None:
    """What ftm-say writes on the box."""
    text = f"{box['InstanceId']} {state} 2024-05-01T00:00:00Z\nfirms of the test\n"
    cloud.client("s3").put_object(Bucket="ftm-dev", Key=f"exports/{QUARTER}/status.txt", Body=text.encode())
    looks = len(cloud.called("s3 cp"))
    wait_for(lambda: len(cloud.called("s3 cp")) >= looks + 2)


def end(cloud: Cloud, box: dict[str, Any]) -> None:
    """The box powers itself off, having stopped the database."""
    if cloud.database_status() == "available":
        cloud.client("rds").stop_db_instance(DBInstanceIdentifier="ftm-dev")
    cloud.client("ec2").terminate_instances(InstanceIds=[box["InstanceId"]])
