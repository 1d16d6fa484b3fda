"""Terraform reads, tests, plans and, against an AWS on loopback, builds and destroys what terraform/ says."""

import base64
import gzip
import itertools
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import boto3
import pytest
from dagster_shared.yaml_utils import safe_load_yaml

from ftm_assets_tests.cloud.conftest import BOOT, REGION, TERRAFORM, find_tool, run

# Folders below which machines without a network keep providers; TF_PLUGIN_MIRROR names another one.
MIRRORS = ("/opt", "/usr/local/share/terraform", "/usr/share/terraform")
AWS_PROVIDER = "registry.terraform.io/hashicorp/aws"
# What moto 5.2 cannot do, of all that we have: list the subscribers of a budget, and give up the rotation of a password
# that RDS keeps.
LOOPBACK = """
provider "aws" {
  access_key                  = "a"
  secret_key                  = "b"
  s3_use_path_style           = true
  skip_credentials_validation = true
  skip_metadata_api_check     = true
}
resource "aws_budgets_budget" "month" {
  count = 0
}
"""
NOT_DESTROYED = "module.database.aws_secretsmanager_secret_rotation.password"
# What moto forgets of what it was told, so that a second plan proposes it again.
FORGOTTEN = {
    "module.compute.aws_launch_template.box",
    "module.database.aws_db_parameter_group.main",
    "module.networking.aws_vpc_security_group_egress_rule.box_database",
    "module.networking.aws_vpc_security_group_ingress_rule.database",
}


class Terraform:
    """A copy of terraform/, initialized with the provider of a mirror on this machine or else of the registry."""

    def __init__(self, folder: Path) -> None:
        self.program, self.folder = find_tool("terraform"), folder / "terraform"
        shutil.copytree(
            TERRAFORM, self.folder, ignore=shutil.ignore_patterns(".terraform*", "*.tfstate*", "backend.tf")
        )
        found = sorted(mirror for base in MIRRORS for mirror in Path(base).glob(f"*/{AWS_PROVIDER}"))
        mirror = os.environ.get("TF_PLUGIN_MIRROR") or (found and found[0].parents[2])
        settings = "disable_checkpoint = true\n"
        if mirror:
            settings += f'provider_installation {{\n  filesystem_mirror {{\n    path = "{mirror}"\n  }}\n}}\n'
        (folder / "terraformrc").write_text(settings)
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "TF_CLI_CONFIG_FILE": str(folder / "terraformrc"),
            "AWS_EC2_METADATA_DISABLED": "true",
            "NO_PROXY": "127.0.0.1",
        }
        done = subprocess.run(
            [self.program, "init", "-input=false", "-backend=false", "-no-color"],
            env=self.environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            assert "Failed to query available provider packages" in done.stderr, done.stderr
            pytest.skip("no AWS provider: the registry cannot be reached, and TF_PLUGIN_MIRROR names no mirror")

    def __call__(self, *arguments: str) -> str:
        return run([self.program, *arguments, "-no-color"], self.environment, self.folder).stdout


@pytest.fixture(scope="module")
def terraform(tmp_path_factory: pytest.TempPathFactory) -> Terraform:
    return Terraform(tmp_path_factory.mktemp("terraform"))


@pytest.fixture
def on_loopback(terraform: Terraform, endpoint: str) -> Terraform:
    (terraform.folder / "loopback_override.tf").write_text(LOOPBACK)
    terraform.environment["AWS_ENDPOINT_URL"] = endpoint
    return terraform


@pytest.mark.slow
def test_the_code_is_formatted_and_valid(terraform: Terraform) -> None:
    terraform("fmt", "-check", "-recursive", "-diff")
    terraform("validate")


@pytest.mark.slow
def test_the_rules_hold_with_a_provider_that_is_made_up(terraform: Terraform) -> None:
    assert "Success! 6 passed, 0 failed." in terraform("test")


def test_every_resource_says_why_it_is_there() -> None:
    for file in TERRAFORM.rglob("*.tf"):
        lines = file.read_text().splitlines()
        for before, line in itertools.pairwise(lines):
            if re.match(r"(resource|data) ", line):
                assert before.startswith("# "), f"{file.name}: {line}"


# Decision 105.
@pytest.mark.slow
def test_a_policy_scan_finds_nothing_that_is_not_explained(environment: dict[str, str]) -> None:
    scan: list[str | Path] = [
        find_tool("checkov"),
        "--directory",
        TERRAFORM,
        "--framework",
        "terraform",
        "--skip-download",
    ]
    told = json.loads(run([*scan, "--compact", "--output", "json"], environment).stdout)["results"]
    assert told["failed_checks"] == []
    assert len(told["passed_checks"]) > 50
    assert all(len(check["check_result"]["suppress_comment"]) > 20 for check in told["skipped_checks"])
    # None of the explanations has become needless.
    skips = re.findall(r"#checkov:skip=(\w+)", "".join(file.read_text() for file in TERRAFORM.rglob("*.tf")))
    assert {check["check_id"] for check in told["skipped_checks"]} == set(skips)


@pytest.mark.slow
@pytest.mark.parametrize("environment_name", ["dev", "prod"])
def test_a_plan_builds_everything_from_nothing(on_loopback: Terraform, environment_name: str) -> None:
    said = on_loopback("plan", "-input=false", f"-var-file={environment_name}.tfvars")
    assert re.search(r"Plan: 3\d to add, 0 to change, 0 to destroy", said)
    assert f"ftm-{environment_name}-123456789012" in said
    assert ("+ deletion_protection                   = true" in said) == (environment_name == "prod")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_dev_is_built_and_destroyed_and_nothing_is_left(on_loopback: Terraform, endpoint: str) -> None:
    on_loopback("apply", "-input=false", "-auto-approve", "-var-file=dev.tfvars")

    settings = dict(re.findall(r"^(\w+)='?([^'\n]*)", on_loopback("output", "-raw", "script_settings"), re.MULTILINE))
    assert len(settings["SUBNETS"].split()) == 3
    said = on_loopback("plan", "-input=false", "-var-file=dev.tfvars")
    assert set(re.findall(r"^  # (\S+) (?:will|must) be", said, re.MULTILINE)) <= FORGOTTEN

    def client(name: str):  # type: ignore[no-untyped-def]
        return boto3.client(
            name, region_name=REGION, endpoint_url=endpoint, aws_access_key_id="a", aws_secret_access_key="b"
        )

    ec2 = client("ec2")
    [version] = ec2.describe_launch_template_versions(LaunchTemplateId=settings["LAUNCH_TEMPLATE"])[
        "LaunchTemplateVersions"
    ]
    user_data = base64.b64decode(version["LaunchTemplateData"]["UserData"])
    assert len(user_data) < 16_384
    text = gzip.decompress(user_data).decode()
    assert text.startswith("#cloud-config\n")
    files = {file["path"]: file for file in safe_load_yaml(text)["write_files"]}
    assert {Path(path).name for path in files} == {"box.env"} | {path.name for path in BOOT.glob("*/*")}
    assert files["/usr/local/bin/ftm"]["content"] == (BOOT / "bin/ftm").read_text()
    assert f"BUCKET={settings['BUCKET']}\n" in files["/etc/ftm/box.env"]["content"]
    state = (on_loopback.folder / "terraform.tfstate").read_text()
    [secret] = client("secretsmanager").list_secrets()["SecretList"]
    password = json.loads(client("secretsmanager").get_secret_value(SecretId=secret["ARN"])["SecretString"])["password"]
    assert password not in state

    on_loopback("state", "rm", NOT_DESTROYED)
    on_loopback("destroy", "-input=false", "-auto-approve", "-var-file=dev.tfvars")

    assert client("rds").describe_db_instances()["DBInstances"] == []
    assert client("s3").list_buckets()["Buckets"] == []
    assert ec2.describe_launch_templates()["LaunchTemplates"] == []
    assert [vpc for vpc in ec2.describe_vpcs()["Vpcs"] if not vpc["IsDefault"]] == []
