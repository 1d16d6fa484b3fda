"""Objects of S3, or of a store that speaks its protocol: found by address, and downloaded to a temporary file.

boto3 finds credentials, region and endpoint as everywhere: `AWS_...` variables, `~/.aws`, the instance's role. It also
downloads: it asks again where a connection breaks, and compares checksums.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ftm_assets.sources.csv.file import SourceUnreadable

# An object below that comes in one request, whose checksum S3 sends along; of a larger one each part is asked for
# again by itself, and S3 sends no checksum of a part.
_PART_BYTES = 64 * 2**20
_N_ATTEMPTS = 10
_TABLES = (".csv", ".tsv", ".jsonl")
_ENDINGS = (*_TABLES, *(f"{table}.{packed}" for table in _TABLES for packed in ("gz", "bz2", "xz")), ".parquet", ".dta")
_MAX_NAMED = 5
_CREDENTIALS = (
    "give the machine a role that may read the bucket, or set AWS_PROFILE, or AWS_ACCESS_KEY_ID and its secret"
)
_PERMISSIONS = "let the role or user have s3:GetObject on it, and s3:ListBucket where a prefix is named"
# What is refused for another reason than that a right is missing.
_NEXT_STEPS = {
    "ExpiredToken": "log in again, or renew the credentials",
    "InvalidAccessKeyId": _CREDENTIALS,
    "InvalidObjectState": "it is archived: restore it first",
    "InvalidToken": "log in again, or renew the credentials",
    "RequestTimeTooSkewed": "set the clock of this machine",
    "SignatureDoesNotMatch": "check the secret key, and that AWS_ENDPOINT_URL is the store's own address",
}


class NoCredentials(SourceUnreadable):
    """boto3 finds no credentials."""


class AccessRefused(SourceUnreadable):
    """The store knows who asks, and refuses."""


class NoSuchObject(SourceUnreadable):
    """There is no bucket, no object, or nothing below a prefix."""


class ObjectReplaced(SourceUnreadable):
    """An object is no longer the version that was found."""

    def __init__(self, address: str) -> None:
        super().__init__(
            f"{address} was replaced while it was read; load it again once it is no longer being "
            "written, nothing of it was used"
        )


class NoParts(SourceUnreadable):
    """A store does not know HTTP's ranges."""

    def __init__(self, address: str) -> None:
        super().__init__(f"{address}: the store cannot send a part of it; copy it here and give its path")


class StoreUnreachable(SourceUnreadable):
    """The store does not answer, or not to the end."""


@dataclass(frozen=True)
class S3Object:
    """One version of an object.

    etag:    what the store calls this version
    n_bytes: how long it is
    """

    bucket: str
    key: str
    etag: str
    n_bytes: int

    def __str__(self) -> str:
        return _address(self.bucket, self.key)


def connect(address: str) -> Any:
    """A client of S3, which sends nothing yet.

    address: what it is for, in messages
    raises:  NoCredentials, SourceUnreadable
    """
    import boto3

    with _clear_errors(address):
        # A session of its own: the module's default one remembers the environment of the first call.
        return boto3.session.Session().client("s3")


def find_objects(client: Any, bucket: str, key: str) -> list[S3Object]:
    """The object of this key, or the tables below it as a prefix, in order of their keys.

    A key that ends as the name of a table does (.csv, .csv.gz, .parquet, ...) is an object, and reading it takes no
    right to list. Another key is an object if there is one, else a prefix that ends at a slash; objects below it with
    other endings are passed over.

    raises: SourceUnreadable
    """
    if key.lower().endswith(_ENDINGS):
        return [_look_up(client, bucket, key)]
    prefix = key if key.endswith("/") or not key else f"{key}/"
    found: list[S3Object] = []
    others: list[str] = []
    for entry in _list(client, bucket, key):
        if entry["Key"] == key and not key.endswith("/"):
            return [S3Object(bucket, key, entry["ETag"], entry["Size"])]
        if entry["Key"].startswith(prefix) and entry["Key"].lower().endswith(_ENDINGS):
            found.append(S3Object(bucket, entry["Key"], entry["ETag"], entry["Size"]))
        elif len(others) < _MAX_NAMED:
            others.append(entry["Key"])
    if not found:
        instead = f"; there are {', '.join(map(repr, others))}" if others else ""
        raise NoSuchObject(
            f"{_address(bucket, prefix)} holds no tables{instead}; give a prefix above objects that end with "
            f"{', '.join(_TABLES)} (also packed: .gz, .bz2, .xz), .parquet or .dta, or the whole key of one"
        )
    return found


@contextmanager
def downloaded(client: Any, wanted: S3Object) -> Iterator[Path]:
    """The object as a file below TMPDIR, which the end of the block removes.

    raises: SourceUnreadable; ObjectReplaced if the file may hold another version than the one that is wanted
    """
    from boto3.s3.transfer import TransferConfig

    # Without threads it holds one portion in memory, however slow the disk is.
    config = TransferConfig(
        multipart_threshold=_PART_BYTES,
        multipart_chunksize=_PART_BYTES,
        num_download_attempts=_N_ATTEMPTS,
        use_threads=False,
        # The other one has errors of its own.
        preferred_transfer_client="classic",
    )
    with TemporaryDirectory(prefix="ftm-s3-") as folder:
        path = Path(folder) / "object"
        with _clear_errors(str(wanted)):
            client.download_file(wanted.bucket, wanted.key, str(path), Config=config)
        # boto3 names the version only for parts, and not every store heeds it.
        if _look_up(client, wanted.bucket, wanted.key) != wanted:
            raise ObjectReplaced(str(wanted))
        # A store that ignores ranges sends the whole for each part.
        if path.stat().st_size != wanted.n_bytes:
            raise NoParts(str(wanted))
        yield path


def _address(bucket: str, key: str) -> str:
    return f"s3://{bucket}/{key}"


def _look_up(client: Any, bucket: str, key: str) -> S3Object:
    """The version that is there now. raises: SourceUnreadable"""
    from botocore.exceptions import ClientError

    with _clear_errors(_address(bucket, key)):
        try:
            reply = client.head_object(Bucket=bucket, Key=key)
        except ClientError:
            # The refusal of a HEAD has no body and so no reason; that of a GET has.
            reply = client.get_object(Bucket=bucket, Key=key)
            reply["Body"].close()
    return S3Object(bucket, key, reply["ETag"], reply["ContentLength"])


def _list(client: Any, bucket: str, prefix: str) -> Iterator[Any]:
    with _clear_errors(_address(bucket, prefix)):
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            yield from page.get("Contents", [])


@contextmanager
def _clear_errors(address: str) -> Iterator[None]:
    """Whatever boto3 raises, as an error that says what to do."""
    from boto3 import exceptions as of_transfer
    from botocore import exceptions as of_boto
    from s3transfer.exceptions import S3DownloadFailedError, S3ValidationError

    try:
        yield
    except of_boto.ClientError as error:
        raise _refusal(address, error) from error
    except S3DownloadFailedError as error:
        raise ObjectReplaced(address) from error
    except of_transfer.RetriesExceededError as error:
        raise StoreUnreachable(
            f"{address} broke off {_N_ATTEMPTS} times ({error.last_exception}); look at the network and load it again, "
            "nothing of it was used"
        ) from error
    except S3ValidationError as error:
        raise NoParts(address) from error
    except of_boto.FlexibleChecksumError as error:
        raise SourceUnreadable(
            f"{address} came with another checksum than it has ({error}); load it again, nothing of it was used"
        ) from error
    except (
        of_boto.CredentialRetrievalError,
        of_boto.NoCredentialsError,
        of_boto.PartialCredentialsError,
        of_boto.ProfileNotFound,
        of_boto.SSOError,
        of_boto.TokenRetrievalError,
    ) as error:
        raise NoCredentials(f"{address}: no credentials ({error}); {_CREDENTIALS}") from error
    except (of_boto.ConnectionError, of_boto.HTTPClientError) as error:
        raise StoreUnreachable(
            f"{address}: the store does not answer ({error}); look at the network, and at AWS_DEFAULT_REGION or "
            "AWS_ENDPOINT_URL"
        ) from error
    except OSError as error:
        raise SourceUnreadable(
            f"{address} cannot be downloaded ({error}); set TMPDIR to a folder with room for the whole object"
        ) from error
    except (of_boto.BotoCoreError, ValueError) as error:
        raise SourceUnreadable(
            f"{address} cannot be asked for ({error}); correct the address or AWS's settings"
        ) from error


def _refusal(address: str, error: Any) -> SourceUnreadable:
    """What the store's answer means."""
    status = error.response["ResponseMetadata"]["HTTPStatusCode"]
    code, message = error.response["Error"]["Code"], error.response["Error"].get("Message", "")
    answer = f"({code}: {message})" if message else f"({code})"
    if status == HTTPStatus.FORBIDDEN or code in _NEXT_STEPS:
        return AccessRefused(f"{address}: the store refuses access {answer}; {_NEXT_STEPS.get(code, _PERMISSIONS)}")
    if code == "NoSuchBucket":
        return NoSuchObject(f"{address}: there is no such bucket; list yours with: aws s3 ls")
    if status == HTTPStatus.NOT_FOUND:
        return NoSuchObject(f"{address} is not there; list what is with: aws s3 ls {address.rpartition('/')[0]}/")
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return StoreUnreachable(f"{address}: the store cannot answer now {answer}; load it again later")
    return SourceUnreadable(f"{address} cannot be read {answer}; correct the address or AWS's settings")
