import errno
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ftm_assets.sources.csv.file import SourceUnreadable
from ftm_assets.sources.s3 import bucket as s3
from ftm_assets.sources.s3.bucket import (
    AccessRefused,
    NoCredentials,
    NoSuchObject,
    ObjectReplaced,
    StoreUnreachable,
    connect,
    downloaded,
    find_objects,
)
from ftm_assets_tests.buckets import DENIED, Asked, Bucket, Fault

CONTENT = bytes(range(256)) * 2_000


@pytest.fixture(autouse=True)
def _few_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "_N_ATTEMPTS", 5)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")


@pytest.fixture
def in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "_PART_BYTES", 200_000)


def found(bucket: Bucket, key: str) -> list[str]:
    return [each.key for each in find_objects(connect("here"), bucket.name, key)]


def content(bucket: Bucket, key: str = "calls.csv") -> bytes:
    client = connect("here")
    [wanted] = find_objects(client, bucket.name, key)
    with downloaded(client, wanted) as path:
        return path.read_bytes()


def error_code(code: str) -> bytes:
    return f"<Error><Code>{code}</Code><Message>Said so.</Message></Error>".encode()


# --- What is found --------------------------------------------------------------------------------------------------


def test_below_a_prefix_are_csv_objects_in_order_of_their_keys(bucket: Bucket) -> None:
    for key in ("a/b.csv.gz", "a/C.CSV", "a/notes.txt", "a/", "a/deep/d.csv", "ab/e.csv", "a.csv"):
        bucket.put(key, "x")
    assert found(bucket, "a") == found(bucket, "a/") == ["a/C.CSV", "a/b.csv.gz", "a/deep/d.csv"]
    assert len(found(bucket, "")) == 5


def test_a_key_of_a_csv_is_an_object_that_nobody_has_to_list(bucket: Bucket) -> None:
    bucket.put("a/calls.csv.gz", "x")
    client = connect("here")
    client.get_paginator = None
    [wanted] = find_objects(client, bucket.name, "a/calls.csv.gz")
    assert (wanted.bucket, wanted.key) == (bucket.name, "a/calls.csv.gz")


def test_a_key_without_an_ending_is_an_object_if_there_is_one(bucket: Bucket) -> None:
    for key in ("calls", "calls/a.csv"):
        bucket.put(key, "x")
    assert found(bucket, "calls") == ["calls"]
    assert found(bucket, "calls/") == ["calls/a.csv"]


def test_more_objects_than_a_page_of_the_list_holds_are_all_found(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "2")
    for i in range(5):
        bucket.put(f"a/{i}.csv", "x")
    assert len(found(bucket, "a")) == 5


def test_a_prefix_without_csv_objects_tells_what_is_there(bucket: Bucket) -> None:
    bucket.put("calls_2021/notes.txt", "x")
    with pytest.raises(NoSuchObject, match=r"/calls/ holds no tables; there are 'calls_2021/notes.txt'; give a"):
        found(bucket, "calls")
    with pytest.raises(NoSuchObject, match=r"/none/ holds no tables; give a prefix .*\.csv, .* \.gz, .* \.dta"):
        found(bucket, "none/")


# --- What is read ---------------------------------------------------------------------------------------------------


def test_an_object_is_downloaded_once_and_its_copy_is_removed(bucket: Bucket) -> None:
    bucket.put("calls.csv", CONTENT)
    client = connect("here")
    [wanted] = find_objects(client, bucket.name, "calls.csv")
    with downloaded(client, wanted) as path:
        assert path.read_bytes() == CONTENT
    assert not path.parent.exists()
    assert bucket.gate.asked == [Asked("calls.csv", None, None)]


@pytest.mark.usefixtures("in_parts")
def test_a_large_object_comes_in_parts_of_one_version(bucket: Bucket) -> None:
    bucket.put("calls.csv", CONTENT)
    assert content(bucket) == CONTENT
    assert [asked.range for asked in bucket.gate.asked] == ["bytes=0-199999", "bytes=200000-399999", "bytes=400000-"]
    assert all(asked.if_match for asked in bucket.gate.asked)


@pytest.mark.parametrize("cuts", [[100_000], [0], [1, 70_000, 300_000], [len(CONTENT) - 1]])
def test_what_a_connection_that_breaks_had_brought_is_asked_for_again(bucket: Bucket, cuts: list[int]) -> None:
    bucket.put("calls.csv", CONTENT)
    bucket.gate.faults.extend(Fault(cut_at=n) for n in cuts)
    assert content(bucket) == CONTENT
    assert len(bucket.gate.asked) == 1 + len(cuts)


@pytest.mark.usefixtures("in_parts")
def test_of_a_large_object_only_the_part_that_broke_off_is_asked_for_again(bucket: Bucket) -> None:
    bucket.put("calls.csv", CONTENT)
    bucket.gate.faults.extend([Fault(), Fault(cut_at=100_000)])
    assert content(bucket) == CONTENT
    assert [asked.range for asked in bucket.gate.asked].count("bytes=200000-399999") == 2
    assert len(bucket.gate.asked) == 4


def test_a_connection_that_breaks_again_and_again_is_given_up(bucket: Bucket) -> None:
    bucket.put("calls.csv", CONTENT)
    bucket.gate.faults.extend(Fault(cut_at=200_000) for _ in range(5))
    with pytest.raises(StoreUnreachable, match=r"calls\.csv broke off 5 times .*load it again, nothing of it was used"):
        content(bucket)


def test_a_store_that_is_away_for_a_moment_is_waited_for(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket.put("calls.csv", CONTENT)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    bucket.gate.faults.append(Fault(503, error_code("SlowDown")))
    assert content(bucket) == CONTENT


def test_a_store_that_stays_away_is_named(bucket: Bucket) -> None:
    bucket.put("calls.csv", CONTENT)
    bucket.gate.faults.append(Fault(503, error_code("SlowDown")))
    with pytest.raises(StoreUnreachable, match=r"calls\.csv: the store cannot answer now \(SlowDown: Said so\.\)"):
        content(bucket)


@pytest.mark.parametrize("ignoring", [(), ("if-match",)])
@pytest.mark.usefixtures("in_parts")
def test_a_replaced_object_is_never_mixed_with_the_one_before(bucket: Bucket, ignoring: tuple[str, ...]) -> None:
    bucket.put("calls.csv", CONTENT)
    replace = Fault(first=lambda: bucket.put("calls.csv", CONTENT[1:]), ignoring=ignoring)
    bucket.gate.faults.extend([Fault(cut_at=100_000), replace, Fault(ignoring=ignoring), Fault(ignoring=ignoring)])
    with pytest.raises(ObjectReplaced, match=r"calls\.csv was replaced while it was read; load it again"):
        content(bucket)


def test_an_object_that_was_replaced_after_it_was_listed_is_refused(bucket: Bucket) -> None:
    bucket.put("a/calls.csv", CONTENT)
    client = connect("here")
    [listed] = find_objects(client, bucket.name, "a")
    bucket.put("a/calls.csv", CONTENT[1:])
    with pytest.raises(ObjectReplaced), downloaded(client, listed):
        pass


def test_an_object_that_is_deleted_while_it_is_read_is_gone(bucket: Bucket) -> None:
    bucket.put("calls.csv", CONTENT)
    delete = Fault(first=lambda: bucket.client.delete_object(Bucket=bucket.name, Key="calls.csv"))
    bucket.gate.faults.extend([Fault(cut_at=100_000), delete])
    with pytest.raises(NoSuchObject, match=r"calls\.csv is not there"):
        content(bucket)


@pytest.mark.usefixtures("in_parts")
def test_a_store_that_knows_no_ranges_is_found_out(bucket: Bucket) -> None:
    bucket.put("calls.csv", CONTENT)
    bucket.gate.faults.extend(Fault(ignoring=("range",)) for _ in range(3))
    with pytest.raises(SourceUnreadable, match="cannot send a part of it; copy it here"):
        content(bucket)


def test_a_byte_that_arrives_damaged_is_found_out(bucket: Bucket) -> None:
    bucket.put("calls.csv", CONTENT)
    bucket.gate.faults.append(Fault(flip_at=100_000))
    with pytest.raises(SourceUnreadable, match="another checksum than it has"):
        content(bucket)


def test_a_disk_without_room_is_named(bucket: Bucket) -> None:
    bucket.put("calls.csv", CONTENT)
    client = connect("here")
    [wanted] = find_objects(client, bucket.name, "calls.csv")

    def download_file(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    client.download_file = download_file
    with pytest.raises(SourceUnreadable, match=r"No space left on device.*set TMPDIR"), downloaded(client, wanted):
        pass


def test_nothing_stays_on_the_disk_of_what_was_refused(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    bucket.put("calls.csv", CONTENT)
    bucket.gate.faults.append(Fault(flip_at=100_000))
    with pytest.raises(SourceUnreadable):
        content(bucket)
    assert list(tmp_path.iterdir()) == []


# --- What is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "code", "kind", "message"),
    [
        (
            403,
            "AccessDenied",
            AccessRefused,
            r"refuses access \(AccessDenied: Said so\.\); let the role .*s3:GetObject",
        ),
        (400, "ExpiredToken", AccessRefused, "ExpiredToken.*; log in again"),
        (403, "InvalidAccessKeyId", AccessRefused, "a role that may read the bucket, or set AWS_PROFILE"),
        (403, "RequestTimeTooSkewed", AccessRefused, "set the clock"),
        (403, "InvalidObjectState", AccessRefused, "it is archived: restore it first"),
        (
            400,
            "AuthorizationQueryParametersError",
            SourceUnreadable,
            r"cannot be read \(Auth.*; correct the address or",
        ),
    ],
)
def test_a_refusal_says_what_to_do(
    bucket: Bucket, status: int, code: str, kind: type[SourceUnreadable], message: str
) -> None:
    bucket.put("calls.csv", CONTENT)
    bucket.gate.faults.append(Fault(status, error_code(code)))
    with pytest.raises(kind, match=rf"s3://{bucket.name}/calls\.csv.*{message}"):
        content(bucket)


def test_a_right_that_ends_in_mid_object_is_named(bucket: Bucket) -> None:
    bucket.put("calls.csv", CONTENT)
    bucket.gate.faults.extend([Fault(cut_at=100_000), Fault(403, DENIED)])
    with pytest.raises(AccessRefused, match="s3:GetObject"):
        content(bucket)


def test_what_is_not_there_is_named(bucket: Bucket) -> None:
    with pytest.raises(NoSuchObject, match=rf"a/calls\.csv is not there; .*: aws s3 ls s3://{bucket.name}/a/$"):
        content(bucket, "a/calls.csv")
    with pytest.raises(NoSuchObject, match="s3://no-such-bucket/a: there is no such bucket"):
        find_objects(connect("here"), "no-such-bucket", "a")
    with pytest.raises(NoSuchObject, match=r"s3://no-such-bucket/a\.csv: there is no such bucket"):
        find_objects(connect("here"), "no-such-bucket", "a.csv")


def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)


def half_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")


def no_such_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "none")


@pytest.mark.parametrize("lacking", [no_keys, half_a_key, no_such_profile])
def test_without_credentials_the_message_tells_how_to_give_them(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, lacking: Callable[[pytest.MonkeyPatch], None]
) -> None:
    lacking(monkeypatch)
    with pytest.raises(NoCredentials, match=r"calls: no credentials .*give the machine a role .*AWS_PROFILE"):
        find_objects(connect(f"s3://{bucket.name}/calls"), bucket.name, "calls")


def test_the_role_of_the_instance_will_do(
    bucket: Bucket, store: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.put("calls.csv", CONTENT)
    no_keys(monkeypatch)
    monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://{}:{}/".format(*store))
    client = connect("here")
    [wanted] = find_objects(client, bucket.name, "calls.csv")
    with downloaded(client, wanted) as path:
        assert path.read_bytes() == CONTENT
    assert client._request_signer._credentials.method == "iam-role"


def test_a_store_that_is_not_there_is_named_with_the_address_that_was_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{nobody.getsockname()[1]}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "x")
        with pytest.raises(StoreUnreachable, match=r"does not answer \(.*127\.0\.0\.1.*look at the network"):
            find_objects(connect("here"), "bucket", "calls")


@pytest.mark.parametrize(("name", "value"), [("AWS_ENDPOINT_URL", "nowhere"), ("AWS_DEFAULT_REGION", "no region!")])
def test_a_setting_of_aws_that_cannot_be_used_is_told(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SourceUnreadable, match=rf"calls cannot be asked for \(.*{value}.*correct the address or AWS's"):
        connect("s3://somewhere/calls")
