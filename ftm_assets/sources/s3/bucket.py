"""Objects of S3, or of a store that speaks its protocol, found and read like files.

Credentials, region and endpoint are found by boto3 as everywhere: `AWS_...` variables, `~/.aws`, the instance's role.
"""

import io
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Literal

from ftm_assets.sources.csv.file import SourceUnreadable

_AT_A_TIME = 64 * 1024  # Bytes; a connection that breaks has brought no more than these in vain.
_PAUSES_S = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0)  # Before each try to go on; one that brings a byte starts over.
_ENDINGS = (".csv", ".csv.gz")
_N_NAMED = 5
_CREDENTIALS = (
    "give the machine a role that may read the bucket, or set AWS_PROFILE, or AWS_ACCESS_KEY_ID and its secret"
)
_MAY_NOT = "let the role or user have s3:GetObject on it, and s3:ListBucket where a prefix is named"
# What is refused for another reason than that a right is missing.
_REFUSED = {
    "ExpiredToken": "log in again, or renew the credentials",
    "InvalidAccessKeyId": _CREDENTIALS,
    "InvalidObjectState": "it is archived: restore it first",
    "InvalidToken": "log in again, or renew the credentials",
    "RequestTimeTooSkewed": "set the clock of this machine",
    "SignatureDoesNotMatch": "check the secret key, and that AWS_ENDPOINT_URL is the store's own address",
}


class NoCredentials(SourceUnreadable):
    """Nobody said who asks the store."""


class AccessRefused(SourceUnreadable):
    """The store knows who asks, and does not hand it out."""


class NoSuchObject(SourceUnreadable):
    """There is no bucket, no object, or nothing below a prefix."""


class ObjectReplaced(SourceUnreadable):
    """An object is no longer the one that was listed, or begun."""


class StoreUnreachable(SourceUnreadable):
    """The store does not answer, or not to the end."""


@dataclass(frozen=True)
class S3Object:
    """One object; opened, it gives the bytes of one version of it, or fails.

    etag: of the version that is meant; None: whichever is there when it is opened
    """

    client: Any = field(repr=False, compare=False)
    bucket: str
    key: str
    etag: str | None = None

    def __str__(self) -> str:
        return address_of(self.bucket, self.key)

    def open(self, mode: Literal["rb"] = "rb", /) -> io.BufferedReader:
        """Its bytes, streamed. raises: SourceUnreadable, also while they are read; it then says how to go on"""
        return io.BufferedReader(_Stream(self), _AT_A_TIME)

    def absolute(self) -> "S3Object":
        """Itself: an address is complete."""
        return self

    def resolve(self) -> "S3Object":
        """Itself: there are no links."""
        return self


def address_of(bucket: str, key: str) -> str:
    """How a person writes it."""
    return f"s3://{bucket}/{key}"


def connect(where: str) -> Any:
    """A client of S3; nothing is sent yet.

    where:  what it is for, in messages
    raises: NoCredentials, SourceUnreadable
    """
    import boto3

    with _told(where):
        # A session of its own: the module's default one remembers the environment of the first call.
        return boto3.session.Session().client("s3")


def find_objects(client: Any, bucket: str, key: str) -> list[S3Object]:
    """The object of this key, or the CSV objects below it as a prefix, in order of their keys.

    A key that ends with .csv or .csv.gz is an object, which is not asked for before it is opened: nobody needs the
    right to list for it. Another one is an object if there is one, else a prefix that ends at a slash; objects below
    it with other endings are passed over.

    raises: SourceUnreadable
    """
    if key.lower().endswith(_ENDINGS):
        return [S3Object(client, bucket, key)]
    below = key if key.endswith("/") or not key else f"{key}/"
    found: list[S3Object] = []
    others: list[str] = []
    for entry in _list(client, bucket, key):
        if entry["Key"] == key and not key.endswith("/"):
            return [S3Object(client, bucket, key, entry["ETag"])]
        if entry["Key"].startswith(below) and entry["Key"].lower().endswith(_ENDINGS):
            found.append(S3Object(client, bucket, entry["Key"], entry["ETag"]))
        elif len(others) < _N_NAMED:
            others.append(entry["Key"])
    if not found:
        there = f"; there are {', '.join(map(repr, others))}" if others else ""
        raise NoSuchObject(
            f"{address_of(bucket, below)} holds no CSV objects{there}; give a prefix above objects that end with "
            f"{' or '.join(_ENDINGS)}, or the whole key of one"
        )
    return found


def _list(client: Any, bucket: str, prefix: str) -> Iterator[Any]:
    with _told(address_of(bucket, prefix)):
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            yield from page.get("Contents", [])


class _Stream(io.RawIOBase):
    """The bytes of one version of an object, in order; where a connection breaks, another one goes on.

    raises: SourceUnreadable, from the start and from each read
    """

    def __init__(self, of: S3Object) -> None:
        super().__init__()
        self._of, self._etag, self._at = of, of.etag, 0
        self._body = self._ask()

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any, /) -> int:
        """Fill the buffer with the next bytes or fewer; returns how many, 0 only at the end."""
        from botocore.exceptions import BotoCoreError, FlexibleChecksumError
        from urllib3.exceptions import HTTPError

        broken: Exception | None = None
        for pause in (None, *_PAUSES_S):
            try:
                if pause is not None:
                    self._body.close()
                    time.sleep(pause)
                    self._body = self._ask()
                data = self._body.read(min(len(buffer), _AT_A_TIME))
            except FlexibleChecksumError as error:
                raise SourceUnreadable(
                    f"{self._of} came with another checksum than it has ({error}); load it again, nothing of it was "
                    "used"
                ) from error
            except (BotoCoreError, HTTPError, OSError, StoreUnreachable) as error:
                broken = error
                continue
            buffer[: len(data)] = data
            self._at += len(data)
            return len(data)
        raise StoreUnreachable(
            f"{self._of} breaks off at byte {self._at:,}, {len(_PAUSES_S) + 1} times one after the other ({broken}); "
            "look at the network and load it again, nothing of it was used"
        ) from broken

    def close(self) -> None:
        """Give up the connection, unless the end was reached."""
        if not self.closed:
            self._body.close()
        super().close()

    def _ask(self) -> Any:
        """The body of the version from where we are. raises: SourceUnreadable"""
        which = {"Bucket": self._of.bucket, "Key": self._of.key}
        if self._etag:
            which["IfMatch"] = self._etag
        if self._at:
            which["Range"] = f"bytes={self._at}-"
        with _told(str(self._of)):
            reply = self._of.client.get_object(**which)
        # Not every store that speaks the protocol knows both conditions; joining the parts blindly would mix versions.
        if self._etag not in (None, reply["ETag"]):
            raise ObjectReplaced(_replaced(self._of))
        if self._at and not reply.get("ContentRange", "").startswith(f"bytes {self._at}-"):
            raise SourceUnreadable(f"{self._of}: the store cannot go on in mid-object; copy it here and give its path")
        self._etag = reply["ETag"]
        return reply["Body"]


@contextmanager
def _told(where: str) -> Iterator[None]:
    """Whatever boto3 raises, as what a person can mend."""
    from botocore import exceptions as of_boto

    try:
        yield
    except of_boto.ClientError as error:
        raise _refusal(where, error) from error
    except (
        of_boto.CredentialRetrievalError,
        of_boto.NoCredentialsError,
        of_boto.PartialCredentialsError,
        of_boto.ProfileNotFound,
        of_boto.SSOError,
        of_boto.TokenRetrievalError,
    ) as error:
        raise NoCredentials(f"{where}: no credentials ({error}); {_CREDENTIALS}") from error
    except (of_boto.ConnectionError, of_boto.HTTPClientError) as error:
        raise StoreUnreachable(
            f"{where}: the store does not answer ({error}); look at the network, and at AWS_DEFAULT_REGION or "
            "AWS_ENDPOINT_URL"
        ) from error
    except (of_boto.BotoCoreError, ValueError) as error:
        raise SourceUnreadable(f"{where} cannot be asked for ({error}); mend the address or AWS's settings") from error


def _refusal(where: str, error: Any) -> SourceUnreadable:
    """What the store's answer means."""
    status = error.response["ResponseMetadata"]["HTTPStatusCode"]
    code, said = error.response["Error"]["Code"], error.response["Error"].get("Message", "")
    answer = f"({code}: {said})" if said else f"({code})"
    if status == HTTPStatus.FORBIDDEN or code in _REFUSED:
        return AccessRefused(f"{where}: the store refuses access {answer}; {_REFUSED.get(code, _MAY_NOT)}")
    if code == "NoSuchBucket":
        return NoSuchObject(f"{where}: there is no such bucket; list yours with: aws s3 ls")
    if status == HTTPStatus.NOT_FOUND:
        return NoSuchObject(f"{where} is not there; list what is with: aws s3 ls {where.rpartition('/')[0]}/")
    if status == HTTPStatus.PRECONDITION_FAILED:
        return ObjectReplaced(_replaced(where))
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return StoreUnreachable(f"{where}: the store cannot answer now {answer}; load it again later")
    return SourceUnreadable(f"{where} cannot be read {answer}; mend the address or AWS's settings")


def _replaced(where: object) -> str:
    return f"{where} was replaced while it was read; load it again once nobody writes it, nothing of it was used"
