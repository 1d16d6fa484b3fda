"""Terraform, the AWS command line, and a moto server on loopback in AWS's place: no test asks AWS itself."""

import json
import os
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from ftm_assets_tests.conftest import ROOT

TERRAFORM = ROOT / "terraform"
SCRIPTS = ROOT / "scripts"
BOOT = TERRAFORM / "modules" / "compute" / "boot"
# Made by `make cloud-tools`.
TOOLS = ROOT / ".venv-cloud" / "bin"
REGION = "us-east-1"


def find_tool(name: str) -> str:
    """Path of a program; the test is skipped where it is not installed."""
    found = shutil.which(name, path=f"{TOOLS}{os.pathsep}{os.environ['PATH']}")
    if found is None:
        pytest.skip(f"{name} is not installed; terraform comes by hand, the others by: make cloud-tools")
    return found


def run(
    command: list[str | Path], environment: dict[str, str], cwd: Path | None = None, fails: bool = False
) -> subprocess.CompletedProcess[str]:
    """What a program said, which must succeed, or fail."""
    done = subprocess.run(
        command, env=environment, cwd=cwd, capture_output=True, text=True, timeout=800, stdin=subprocess.DEVNULL
    )
    assert (done.returncode != 0) == fails, done.stdout[-4000:] + done.stderr[-4000:]
    return done


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An empty AWS, with Amazon's machine image that the box is made of."""
    image = {
        "ami_id": "ami-0123456789abcdef0",
        "name": "Deep Learning Base OSS Nvidia Driver GPU AMI (Ubuntu 22.04) 20261101",
        "description": "of the test",
        "owner_id": "898082745236",
        "image_location": "amazon/Deep Learning Base",
        "creation_date": "2026-11-01T00:00:00.000Z",
        "architecture": "x86_64",
        "public": True,
        "state": "available",
        "image_type": "machine",
        "platform": None,
        "virtualization_type": "hvm",
        "hypervisor": "xen",
        "sriov": "simple",
        "root_device_name": "/dev/sda1",
        "root_device_type": "ebs",
    }
    images = tmp_path_factory.mktemp("images") / "images.json"
    images.write_text(json.dumps([image]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOTO_AMIS_PATH", str(images))
        server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
        server.stop()


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Of programs that must reach nobody: no credentials, no profile, no endpoint."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "TF_PLUGIN_MIRROR") if name in os.environ}
    return {
        **kept,
        "PATH": f"{TOOLS}{os.pathsep}{kept['PATH']}",
        "HOME": str(tmp_path),
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_PROXY": "127.0.0.1",
    }


@dataclass(frozen=True)
class Cloud:
    """AWS as the scripts find it after `terraform apply`: a stopped database, a launch template, a bucket.

    calls: what the scripts have asked `aws` for, a line each
    """

    endpoint: str
    environment: dict[str, str]
    calls: Path
    refusals: Path

    def client(self, name: str) -> Any:
        return boto3.client(
            name, region_name=REGION, endpoint_url=self.endpoint, aws_access_key_id="a", aws_secret_access_key="b"
        )

    def script(self, name: str, *arguments: str, fails: bool = False) -> str:
        """What a script said, errors included."""
        done = run([SCRIPTS / f"{name}.sh", *arguments], self.environment, fails=fails)
        return done.stdout + done.stderr

    def database_status(self) -> str:
        [database] = self.client("rds").describe_db_instances()["DBInstances"]
        return str(database["DBInstanceStatus"])

    def boxes(self, *states: str) -> list[dict[str, Any]]:
        """Boxes in these states, or in any, the oldest first."""
        wanted = [{"Name": "instance-state-name", "Values": list(states)}] if states else []
        told = self.client("ec2").describe_instances(Filters=wanted)["Reservations"]
        return [instance for reservation in told for instance in reservation["Instances"]]

    def called(self, words: str) -> list[str]:
        """Calls that begin with these words."""
        return [line for line in self.calls.read_text().splitlines() if line.startswith(words)]

    def refuse(self, words: str, code: str) -> None:
        """From now on AWS answers calls that hold these words with an error, as it cannot be made to do itself."""
        with self.refusals.open("a") as file:
            file.write(f"{code}\t{words}\n")


_AWS = """#!/usr/bin/env bash
# Notes the call, refuses it if a test wants so, and else passes it on.
echo "$*" >>"$CALLS"
while IFS=$'\\t' read -r code words; do
    if [[ "$*" = *"$words"* ]]; then
        echo "An error occurred ($code) when calling the operation: of the test" >&2
        exit 254
    fi
done <"$REFUSALS"
# Said again: of the environment's AWS_ENDPOINT_URL the rds commands of version 1 take no notice.
exec "$REAL_AWS" --endpoint-url "$AWS_ENDPOINT_URL" "$@"
"""


@pytest.fixture
def cloud(endpoint: str, environment: dict[str, str], tmp_path: Path) -> Iterator[Cloud]:
    aws, _ = find_tool("aws"), find_tool("terraform")
    programs, state = tmp_path / "programs", tmp_path / "terraform"
    programs.mkdir()
    state.mkdir()
    (programs / "aws").write_text(_AWS)
    (programs / "aws").chmod(0o755)
    calls, refusals = tmp_path / "calls", tmp_path / "refusals"
    calls.touch()
    refusals.touch()
    cloud = Cloud(
        endpoint,
        environment
        | {
            "PATH": f"{programs}{os.pathsep}{environment['PATH']}",
            "REAL_AWS": aws,
            "CALLS": str(calls),
            "REFUSALS": str(refusals),
            "TERRAFORM_DIR": str(state),
            "POLL_SECONDS": "0.2",
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ACCESS_KEY_ID": "a",
            "AWS_SECRET_ACCESS_KEY": "b",
        },
        calls,
        refusals,
    )
    ec2, rds = cloud.client("ec2"), cloud.client("rds")
    template = ec2.create_launch_template(
        LaunchTemplateName="ftm-dev-box", LaunchTemplateData={"ImageId": "ami-0123456789abcdef0"}
    )["LaunchTemplate"]["LaunchTemplateId"]
    rds.create_db_instance(
        DBInstanceIdentifier="ftm-dev", Engine="postgres", DBInstanceClass="db.t4g.large", AllocatedStorage=20
    )
    rds.stop_db_instance(DBInstanceIdentifier="ftm-dev")
    cloud.client("s3").create_bucket(Bucket="ftm-dev")
    subnets = [subnet["SubnetId"] for subnet in ec2.describe_subnets()["Subnets"]][:2]
    settings = {
        "REGION": REGION,
        "ENVIRONMENT": "dev",
        "DATABASE": "ftm-dev",
        "LAUNCH_TEMPLATE": template,
        "INSTANCE_TYPES": "'g4dn.2xlarge g5.2xlarge'",
        "SUBNETS": f"'{' '.join(subnets)}'",
        "BUCKET": "ftm-dev",
    }
    output = {"value": "\n".join(f"{name}={value}" for name, value in settings.items()), "type": "string"}
    (state / "terraform.tfstate").write_text(
        json.dumps({"version": 4, "terraform_version": "1.11.0", "serial": 1, "outputs": {"script_settings": output}})
    )
    yield cloud
    request = urllib.request.Request(f"{endpoint}/moto-api/reset", method="POST")
    urllib.request.urlopen(request, timeout=30).close()
