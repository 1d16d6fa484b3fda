"""The commands of docs/cloud.md that ask AWS, run against the AWS on loopback; and what people may who run them."""

import json
import re
import shlex
from pathlib import Path

import pytest

from ftm_assets_tests.cloud.conftest import REGION, SCRIPTS, TERRAFORM, Cloud, run
from ftm_assets_tests.conftest import ROOT

PAGE = (ROOT / "docs" / "cloud.md").read_text()
COMMANDS = [
    line.partition(" | ")[0]
    for block in re.findall(r"^```bash\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
    if line.startswith("aws ")
]
# What moto 5.2 cannot do: it ends in an error of the server.
NOT_TRIED = {"aws ssm start-session", "aws ce update-cost-allocation-tags-status"}
# What a command needs beside, or instead of, the right of its own name.
RIGHTS = {
    ("s3", "cp"): {"s3:GetObject", "s3:PutObject"},
    ("ec2", "wait"): {"ec2:DescribeInstances"},
    ("ec2", "run-instances"): {"ec2:RunInstances", "ec2:CreateTags", "iam:PassRole", "iam:CreateServiceLinkedRole"},
    ("ssm", "start-session"): {"ssm:StartSession", "ssmmessages:OpenDataChannel"},
}


@pytest.fixture
def meant(cloud: Cloud, tmp_path: Path) -> dict[str, str]:
    """The words in capitals of the page -> what they stand for here, in an AWS where all is as the page has it."""
    (tmp_path / "calls.csv.gz").write_bytes(b"calls")
    cloud.client("rds").start_db_instance(DBInstanceIdentifier="ftm-dev")
    secret = cloud.client("secretsmanager").create_secret(Name="password", SecretString='{"password": "p"}')["ARN"]
    iam = cloud.client("iam")
    iam.create_group(GroupName="researchers")
    statement = {"Effect": "Allow", "Action": "ec2:DescribeInstances", "Resource": "*"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    policy = iam.create_policy(PolicyName="operator", PolicyDocument=document)["Policy"]["Arn"]
    return {
        **{"YOUR-STATE-BUCKET": "state-of-somebody", "BUCKET": "ftm-dev", "$KEY": "key", "SECRET": secret},
        **{"BOX": "i-1", "HOST": "ftm-dev.rds", "REGION": REGION, "RESEARCHERS": "researchers", "POLICY": policy},
    }


@pytest.mark.slow
def test_each_command_of_the_page_works(cloud: Cloud, meant: dict[str, str], tmp_path: Path) -> None:
    assert len(COMMANDS) > 10
    environment = {**cloud.environment, "AWS_MAX_ATTEMPTS": "1"}
    placeholder = re.compile(rf"(?<![\w-])({'|'.join(map(re.escape, meant))})(?![\w-])")
    not_tried = set()
    for command in COMMANDS:
        words = shlex.split(placeholder.sub(lambda found: meant[found[0]], command))
        assert not [word for word in words if re.search(r"(^|[/=])[A-Z]{3,}($|[/,])", word)], "stands for something"
        name = " ".join(words[:3])
        done = run([*words], environment, tmp_path, fails=name in NOT_TRIED)
        if done.returncode:
            assert "(500)" in done.stderr, done.stderr
            not_tried.add(name)
    assert not_tried == NOT_TRIED
    databases = {each["DBInstanceIdentifier"] for each in cloud.client("rds").describe_db_instances()["DBInstances"]}
    assert databases == {"ftm-dev", "ftm-dev-old"}
    uploaded = cloud.client("s3").list_objects_v2(Bucket="ftm-dev")["Contents"]
    assert "transcripts/2024Q1/calls.csv.gz" in {each["Key"] for each in uploaded}
    attached = cloud.client("iam").list_attached_group_policies(GroupName="researchers")["AttachedPolicies"]
    assert [each["PolicyArn"] for each in attached] == [meant["POLICY"]]
    assert {each["Name"] for each in cloud.client("s3").list_buckets()["Buckets"]} == {"ftm-dev", "state-of-somebody"}


def test_people_may_do_what_the_scripts_do_and_the_page_tells_them_to() -> None:
    policy = (TERRAFORM / "modules" / "operators" / "main.tf").read_text()
    actions = re.findall(r"^ +Action +=(.*)$", policy, re.MULTILINE)
    allowed = {action.lower() for line in actions for action in re.findall(r'"([^"]+)"', line)}
    scripts = "\n".join(script.read_text() for script in SCRIPTS.glob("*.sh"))
    # A snapshot before an upgrade is for whoever upgrades.
    daily = "\n".join(section for section in PAGE.split("\n## ") if section.startswith("A quarter"))
    called = set(re.findall(r"\baws ([a-z0-9]+) ([a-z-]+)", scripts + daily)) - {("rds", "create-db-snapshot")}
    assert set(RIGHTS) <= called and len(called) > 8
    for service, command in called:
        needed = RIGHTS.get((service, command), {f"{service}:{command.replace('-', '')}"})
        assert {right.lower() for right in needed} <= allowed, command
