import socket
from collections.abc import Callable

import pytest

from ftm_assets.sources.csv.file import SourceUnreadable
from ftm_assets.sources.s3 import bucket as s3
from ftm_assets.sources.s3.bucket import (
    AccessRefused,
    NoCredentials,
    NoSuchObject,
    ObjectReplaced,
    S3Object,
    StoreUnreachable,
    connect,
    find_objects,
)
from ftm_assets_tests.buckets import DENIED, Asked, Bucket, Fault

CONTENT = bytes(range(256)) * 2_000


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "_PAUSES_S", (0.0, 0.0))
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")


def found(bucket: Bucket, key: str) -> list[str]:
    return [each.key for each in find_objects(connect("here"), bucket.name, key)]


def the_object(bucket: Bucket, key: str = "calls.csv", etag: str | None = None) -> S3Object:
    return S3Object(connect("here"), bucket.name, key, etag)


def content(of: S3Object) -> bytes:
    with of.open("rb") as stream:
        return stream.read()


def error_code(code: str) -> bytes:
    return f"<Error><Code>{code}</Code><Message>Said so.</Message></Error>".encode()


# --- What is found --------------------------------------------------------------------------------------------------


def test_below_a_prefix_are_csv_objects_in_order_of_their_keys(bucket: Bucket) -> None:
    for key in ("a/b.csv.gz", "a/C.CSV", "a/notes.txt", "a/", "a/deep/d.csv", "ab/e.csv", "a.csv"):
        bucket.put(key, "x")
    assert found(bucket, "a") == found(bucket, "a/") == ["a/C.CSV", "a/b.csv.gz", "a/deep/d.csv"]
    assert len(found(bucket, "")) == 5


def test_a_key_of_a_csv_is_an_object_that_nobody_has_to_list(bucket: Bucket) -> None:
    assert find_objects(None, "somewhere", "a/calls.csv.gz") == [S3Object(None, "somewhere", "a/calls.csv.gz")]


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
    with pytest.raises(NoSuchObject, match=r"/calls/ holds no CSV objects; there are 'calls_2021/notes.txt'; give a"):
        found(bucket, "calls")
    with pytest.raises(NoSuchObject, match=r"/none/ holds no CSV objects; give a prefix .*\.csv or \.csv\.gz"):
        found(bucket, "none/")


# --- What is read ---------------------------------------------------------------------------------------------------


def test_an_object_is_asked_for_once_and_read_to_its_end(bucket: Bucket) -> None:
    bucket.put("calls.csv", CONTENT)
    assert content(the_object(bucket)) == CONTENT
    assert bucket.gate.asked == [Asked("calls.csv", None, None)]


@pytest.mark.parametrize("cuts", [[100_000], [0], [1, 70_000, 300_000], [len(CONTENT) - 1]])
def test_a_connection_that_breaks_is_taken_up_at_the_next_byte_of_the_same_version(
    bucket: Bucket, cuts: list[int]
) -> None:
    bucket.put("calls.csv", CONTENT)
    bucket.gate.faults.extend(Fault(cut_at=n) for n in cuts)
    assert content(the_object(bucket)) == CONTENT
    first, *others = bucket.gate.asked
    assert (first.range, first.if_match) == (None, None)
    assert len(others) == len(cuts)
    for asked in others:
        assert asked.if_match is not None
    # Of what had come, no more than one portion is asked for again.
    assert bucket.gate.n_sent - len(CONTENT) <= 64 * 1024 * len(cuts)


def test_a_connection_that_breaks_without_a_byte_again_and_again_is_given_up(bucket: Bucket) -> None:
    bucket.put("calls.csv", CONTENT)
    bucket.gate.faults.extend([Fault(cut_at=200_000), *(Fault(cut_at=0) for _ in range(3))])
    with pytest.raises(StoreUnreachable, match=r"calls\.csv breaks off at byte 200,000, 3 times .*load it again, noth"):
        content(the_object(bucket))


def test_a_store_that_is_away_for_a_moment_is_waited_for(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket.put("calls.csv", CONTENT)
    away = Fault(503, error_code("SlowDown"))
    bucket.gate.faults.extend([Fault(cut_at=100_000), away])
    assert content(the_object(bucket)) == CONTENT
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    bucket.gate.faults.append(away)
    assert content(the_object(bucket)) == CONTENT


def test_a_store_that_stays_away_is_named(bucket: Bucket) -> None:
    bucket.gate.faults.append(Fault(503, error_code("SlowDown")))
    with pytest.raises(StoreUnreachable, match=r"calls\.csv: the store cannot answer now \(SlowDown: Said so\.\)"):
        content(the_object(bucket))


def test_a_replaced_object_is_never_mixed_with_the_one_before(bucket: Bucket) -> None:
    bucket.put("calls.csv", CONTENT)
    bucket.gate.faults.extend([Fault(cut_at=100_000), Fault(first=lambda: bucket.put("calls.csv", CONTENT[1:]))])
    with pytest.raises(ObjectReplaced, match=r"calls\.csv was replaced while it was read; load it again"):
        content(the_object(bucket))


def test_an_object_that_was_replaced_after_it_was_listed_is_refused(bucket: Bucket) -> None:
    bucket.put("a/calls.csv", CONTENT)
    [listed] = find_objects(connect("here"), bucket.name, "a")
    bucket.put("a/calls.csv", CONTENT[1:])
    with pytest.raises(ObjectReplaced):
        content(listed)


def test_an_object_that_is_deleted_while_it_is_read_is_gone(bucket: Bucket) -> None:
    bucket.put("calls.csv", CONTENT)
    delete = Fault(first=lambda: bucket.client.delete_object(Bucket=bucket.name, Key="calls.csv"))
    bucket.gate.faults.extend([Fault(cut_at=100_000), delete])
    with pytest.raises(NoSuchObject, match=r"calls\.csv is not there"):
        content(the_object(bucket))


def test_a_store_that_knows_no_conditions_is_found_out(bucket: Bucket) -> None:
    bucket.put("calls.csv", CONTENT)
    replace = Fault(first=lambda: bucket.put("calls.csv", CONTENT[1:]), ignoring=("if-match",))
    bucket.gate.faults.extend([Fault(cut_at=100_000), replace])
    with pytest.raises(ObjectReplaced):
        content(the_object(bucket))


def test_a_store_that_knows_no_ranges_is_found_out(bucket: Bucket) -> None:
    bucket.put("calls.csv", CONTENT)
    bucket.gate.faults.extend([Fault(cut_at=100_000), Fault(ignoring=("range",))])
    with pytest.raises(SourceUnreadable, match="cannot go on in mid-object; copy it here"):
        content(the_object(bucket))


def test_a_byte_that_arrives_damaged_is_found_out(bucket: Bucket) -> None:
    bucket.put("calls.csv", CONTENT)
    bucket.gate.faults.append(Fault(flip_at=100_000))
    with pytest.raises(SourceUnreadable, match="another checksum than it has"):
        content(the_object(bucket))


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
        (400, "AuthorizationQueryParametersError", SourceUnreadable, r"cannot be read \(Auth.*; mend the address or"),
    ],
)
def test_a_refusal_says_what_to_do(
    bucket: Bucket, status: int, code: str, kind: type[SourceUnreadable], message: str
) -> None:
    bucket.gate.faults.append(Fault(status, error_code(code)))
    with pytest.raises(kind, match=rf"s3://{bucket.name}/calls\.csv.*{message}"):
        content(the_object(bucket))


def test_a_right_that_ends_in_mid_object_is_named(bucket: Bucket) -> None:
    bucket.put("calls.csv", CONTENT)
    bucket.gate.faults.extend([Fault(cut_at=100_000), Fault(403, DENIED)])
    with pytest.raises(AccessRefused, match="s3:GetObject"):
        content(the_object(bucket))


def test_what_is_not_there_is_named(bucket: Bucket) -> None:
    with pytest.raises(NoSuchObject, match=rf"a/calls\.csv is not there; .*: aws s3 ls s3://{bucket.name}/a/$"):
        content(the_object(bucket, "a/calls.csv"))
    with pytest.raises(NoSuchObject, match="s3://no-such-bucket/a: there is no such bucket"):
        find_objects(connect("here"), "no-such-bucket", "a")
    with pytest.raises(NoSuchObject, match=r"s3://no-such-bucket/a\.csv: there is no such bucket"):
        content(S3Object(connect("here"), "no-such-bucket", "a.csv"))


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
    assert content(S3Object(client, bucket.name, "calls.csv")) == CONTENT
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
    with pytest.raises(SourceUnreadable, match=rf"calls cannot be asked for \(.*{value}.*mend the address or AWS's"):
        connect("s3://somewhere/calls")
