"""S3: connections made once per process, one bounded retry, and the requests that pyarrow.fs cannot make.

pyarrow lists and reads. boto3 writes and deletes: a PUT, or a multipart upload that is aborted when it fails (a stream
of pyarrow completes on closing what it holds, whatever went wrong before), with the conditional headers where asked.

Both repeat a failed request a few times by themselves; what fails still goes through `retried`, and nothing else
retries. pyarrow tells only in words what went wrong, so the same question is put once more by boto3, whose errors carry
a status and a code. Settings are the usual AWS_* variables, AWS_ENDPOINT_URL_S3 and AWS_ENDPOINT_URL among them.
"""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import os
import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO, TypeVar
from urllib.parse import urlsplit

import boto3.session
import pyarrow as pa
import pyarrow.fs as pafs
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
)
from botocore.parsers import ResponseParserError

from vila2_ray.errors import ConditionFailed, StorageError

_Result = TypeVar("_Result")

CONNECT_SECONDS = 5
REQUEST_SECONDS = 20
"""Of silence, after which a request is given up and repeated."""
_REQUEST_ATTEMPTS = 3
_PART_BYTES = 16 << 20
_TRANSFER = TransferConfig(multipart_threshold=4 * _PART_BYTES, multipart_chunksize=_PART_BYTES, max_concurrency=4)
_KEYS_PER_DELETE = 1000
_TRANSIENT_STATUS = (408, 409, 425, 429, 500, 502, 503, 504)
_TRANSIENT_CODES = ("InternalError", "RequestTimeout", "ServiceUnavailable", "SlowDown", "Throttling")
_NO_SUCH_FILE = ("NoSuchKey", "404", "NotFound")


@dataclass(frozen=True)
class Patience:
    """How long `retried` goes on: pauses double from the first to the longest, each shortened by chance."""

    attempts: int = 6
    first_seconds: float = 0.5
    longest_seconds: float = 8.0
    total_seconds: float = 60.0
    """After that no further attempt begins."""

    def pause(self, attempt: int) -> float:
        """Seconds to wait after the attempt of that number, from 1."""
        return random.uniform(0.5, 1.0) * min(self.longest_seconds, self.first_seconds * 2 ** (attempt - 1))


PATIENCE = Patience()


@dataclass(frozen=True)
class Place:
    """An object, or the folder of those below it."""

    bucket: str
    key: str

    @classmethod
    def of(cls, uri: str) -> Place:
        """Of `s3://bucket/key`."""
        bucket, _, key = uri.partition("://")[2].partition("/")
        return cls(bucket, key)

    @property
    def uri(self) -> str:
        return f"s3://{self.bucket}/{self.key}"

    @property
    def path(self) -> str:
        """As pyarrow.fs writes it."""
        return f"{self.bucket}/{self.key}" if self.key else self.bucket


# --- connections -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Settings:
    endpoint: str
    region: str
    access_key: str
    secret_key: str = field(repr=False)
    session_token: str = field(repr=False)
    process: int

    @classmethod
    def now(cls) -> _Settings:
        def first(*names: str) -> str:
            return next((os.environ[name] for name in names if os.environ.get(name)), "")

        return cls(
            first("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"),
            first("AWS_REGION", "AWS_DEFAULT_REGION"),
            first("AWS_ACCESS_KEY_ID"),
            first("AWS_SECRET_ACCESS_KEY"),
            first("AWS_SESSION_TOKEN"),
            os.getpid(),  # connections do not survive a fork
        )


def filesystem(bucket: str) -> pafs.S3FileSystem:
    """The process's S3FileSystem for a bucket; AWS is asked for the bucket's region where none is set."""
    settings = _Settings.now()
    return _filesystem(settings, "" if settings.endpoint or settings.region else bucket)


@functools.cache
def _filesystem(settings: _Settings, bucket: str) -> pafs.S3FileSystem:
    options: dict[str, Any] = {}
    if settings.access_key and settings.secret_key:
        options.update(access_key=settings.access_key, secret_key=settings.secret_key)
        options.update(session_token=settings.session_token or None)
    if settings.endpoint:
        url = urlsplit(settings.endpoint)
        options.update(endpoint_override=url.netloc, scheme=url.scheme, region=settings.region or "us-east-1")
    elif settings.region:
        options["region"] = settings.region
    else:
        with contextlib.suppress(OSError):  # then AWS's own rules choose one
            options["region"] = pafs.resolve_s3_region(bucket)
    return pafs.S3FileSystem(
        connect_timeout=CONNECT_SECONDS,
        request_timeout=REQUEST_SECONDS,
        retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=_REQUEST_ATTEMPTS),
        **options,
    )


def client() -> Any:
    """The process's boto3 client, which threads may share."""
    return _client(_Settings.now())


@functools.cache
def _client(settings: _Settings) -> Any:
    config = Config(
        connect_timeout=CONNECT_SECONDS,
        read_timeout=REQUEST_SECONDS,
        retries={"mode": "standard", "total_max_attempts": _REQUEST_ATTEMPTS},
        max_pool_connections=32,
        s3={"addressing_style": "path"} if settings.endpoint else None,  # as pyarrow does
    )
    region = settings.region or ("us-east-1" if settings.endpoint else None)
    session = boto3.session.Session(region_name=region)
    return session.client("s3", endpoint_url=settings.endpoint or None, config=config)


# --- the one retry ---------------------------------------------------------------------------------------------------


def retried(call: Callable[[], _Result], uri: str, ask: Callable[[], Any] | None = None) -> _Result:
    """What `call` returns, tried again with growing pauses while what it raises may pass.

    `ask` is the same question by boto3, for calls of pyarrow: it raises what tells the reason.
    Raises FileNotFoundError and ConditionFailed as they come; StorageError at once where trying again cannot help
    (wrong secret, no permission, no such bucket), and when the attempts are used up.
    """
    began = time.monotonic()
    for attempt in itertools.count(1):
        try:
            return call()
        except (FileNotFoundError, StorageError):
            raise
        except (OSError, BotoCoreError, ClientError, ResponseParserError) as error:
            if isinstance(error, OSError) and error.errno is not None and not isinstance(error, BotoCoreError):
                raise  # of a local file that is being copied
            told = _told(error, ask)
        if _code(told) in _NO_SUCH_FILE:
            raise FileNotFoundError(f"{uri}: no such file") from told
        if not _may_pass(told):
            raise StorageError(f"{uri}: {_refusal(told)}") from told
        seconds = time.monotonic() - began
        if attempt >= PATIENCE.attempts or seconds >= PATIENCE.total_seconds:
            server = _Settings.now().endpoint or "AWS"
            raise StorageError(
                f"{uri}: no success in {attempt} attempts and {seconds:.0f} s ({_name(told)}). {server} is unreachable "
                "or overloaded: check AWS_ENDPOINT_URL and the network, then run the same command again; finished "
                "work is kept"
            ) from told
        time.sleep(PATIENCE.pause(attempt))
    raise AssertionError("the loop above has no end but return and raise")


def _told(error: Exception, ask: Callable[[], Any] | None) -> Exception:
    """What boto3 says to the same question; the error itself where it says nothing."""
    if ask is None or not isinstance(error, OSError) or isinstance(error, BotoCoreError):
        return error
    try:
        ask()
    except (BotoCoreError, ClientError, ResponseParserError) as said:
        return said
    return error


def _may_pass(error: Exception) -> bool:
    if isinstance(error, ClientError):
        return _status(error) in _TRANSIENT_STATUS or _code(error) in _TRANSIENT_CODES
    if isinstance(error, BotoCoreError):
        return isinstance(error, (ConnectionError, HTTPClientError, IncompleteReadError))
    return True  # an answer that breaks off, or pyarrow failed where boto3 succeeds


def _status(error: Exception) -> int:
    told = error.response if isinstance(error, ClientError) else {}
    return int(told.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _code(error: Exception) -> str:
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else ""


def _name(error: Exception) -> str:
    return _code(error) or (type(error).__name__ if isinstance(error, BotoCoreError) else str(error))


def _refusal(error: Exception) -> str:
    """What is wrong, and what to do about it, in words that hold no secret."""
    if isinstance(error, NoCredentialsError):
        return "no credentials found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
    if _code(error) == "NoSuchBucket":
        return "no such bucket; create it, or check the URI and AWS_ENDPOINT_URL"
    if _status(error) in (401, 403) or _code(error) == "AccessDenied":
        return (
            f"refused ({_code(error)}); check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and that they may read and "
            "write there"
        )
    return f"failed ({_name(error)}); check the URI, AWS_ENDPOINT_URL and AWS_REGION"


# --- looking and reading, by pyarrow ---------------------------------------------------------------------------------


def infos(place: Place) -> list[pafs.FileInfo]:
    """Everything below a folder; empty when it is missing."""
    selector = pafs.FileSelector(place.path, allow_not_found=True, recursive=True)
    return retried(lambda: filesystem(place.bucket).get_file_info(selector), place.uri, lambda: _ask_list(place))


def info(place: Place) -> pafs.FileInfo:
    """Of one object or folder."""
    return retried(
        lambda: filesystem(place.bucket).get_file_info(place.path), place.uri, lambda: _ask_read(place, is_there=False)
    )


def open_file(place: Place) -> pa.NativeFile:
    """Random access by ranged requests, each retried. Raises FileNotFoundError."""
    native = retried(lambda: filesystem(place.bucket).open_input_file(place.path), place.uri, lambda: _ask_read(place))
    return pa.PythonFile(_RetryingFile(native, place), mode="r")


class _RetryingFile(io.RawIOBase):
    """An open object whose reads go through `retried`; a short answer counts as a failed one."""

    def __init__(self, native: pa.NativeFile, place: Place) -> None:
        self._native, self._place, self._at = native, place, 0
        self._num_bytes = int(native.size())

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._num_bytes}[whence]
        self._at = start + offset
        return self._at

    def read(self, num_bytes: int | None = -1) -> bytes:
        left = max(0, self._num_bytes - self._at)
        wanted = left if num_bytes is None or num_bytes < 0 else min(num_bytes, left)
        data = (
            retried(lambda: self._read_at(wanted), self._place.uri, lambda: _ask_read(self._place)) if wanted else b""
        )
        self._at += len(data)
        return data

    def close(self) -> None:
        if not self.closed:
            self._native.close()
        super().close()

    def _read_at(self, num_bytes: int) -> bytes:
        data = self._native.read_at(num_bytes, self._at)
        if len(data) < num_bytes:
            raise OSError(f"{len(data)} of {num_bytes} bytes came")
        return bytes(data)


def _ask_list(place: Place) -> None:
    client().list_objects_v2(Bucket=place.bucket, Prefix=place.key, MaxKeys=1)


def _ask_read(place: Place, is_there: bool = True) -> None:
    """Raise what stands against reading an object; where it may be missing, that is not told."""
    try:
        client().get_object(Bucket=place.bucket, Key=place.key, Range="bytes=0-0")["Body"].close()
    except ClientError as error:
        is_empty = _status(error) == 416
        if not (is_empty or (not is_there and _code(error) in _NO_SUCH_FILE)):
            raise


# --- writing and deleting, by boto3 ----------------------------------------------------------------------------------


def put(place: Place, open_source: Callable[[], BinaryIO]) -> None:
    """Replace an object whole by what `open_source` gives, which is opened anew for each attempt and streamed."""

    def once() -> None:
        with open_source() as source:
            client().upload_fileobj(source, place.bucket, place.key, Config=_TRANSFER)

    retried(once, place.uri)


def read_versioned(place: Place) -> tuple[bytes, str] | None:
    """Content and ETag; None when there is none."""

    def once() -> tuple[bytes, str]:
        found = client().get_object(Bucket=place.bucket, Key=place.key)
        return found["Body"].read(), str(found["ETag"])

    try:
        return retried(once, place.uri)
    except FileNotFoundError:
        return None


def put_if(place: Place, data: bytes, version: str | None) -> str:
    """Replace an object if its ETag is still `version` (None: if it does not exist); the new one.

    A request whose answer was lost is repeated, and its repetition refused because of its own success: where there was
    a repetition and the object holds `data`, it is ours.
    Raises ConditionFailed when somebody else wrote first.
    """
    condition = {"IfNoneMatch": "*"} if version is None else {"IfMatch": version}
    num_calls = 0

    def once() -> str:
        nonlocal num_calls
        num_calls += 1
        try:
            return str(client().put_object(Bucket=place.bucket, Key=place.key, Body=data, **condition)["ETag"])
        except ClientError as error:
            if _status(error) not in (404, 412) or _code(error) == "NoSuchBucket":
                raise
            repeated = num_calls > 1 or error.response["ResponseMetadata"].get("RetryAttempts", 0) > 0
            found = read_versioned(place) if repeated else None
            if found is not None and found[0] == data:
                return found[1]
            raise ConditionFailed(f"{place.uri}: written by somebody else in the meantime") from error

    return retried(once, place.uri)


def delete(place: Place) -> None:
    """Remove an object; a missing one is fine."""
    with contextlib.suppress(FileNotFoundError):
        retried(lambda: client().delete_object(Bucket=place.bucket, Key=place.key), place.uri)


def delete_all(places: Iterable[Place]) -> None:
    """Remove objects of one bucket, a thousand with a request; missing ones are fine."""
    left = list(places)
    for first in range(0, len(left), _KEYS_PER_DELETE):
        some = left[first : first + _KEYS_PER_DELETE]
        retried(functools.partial(_delete_some, some), some[0].uri)


def _delete_some(places: Sequence[Place]) -> None:
    keys = [{"Key": place.key} for place in places]
    told = client().delete_objects(Bucket=places[0].bucket, Delete={"Objects": keys, "Quiet": True})
    for error in told.get("Errors", []):
        if error.get("Code") not in _NO_SUCH_FILE:
            raise ClientError({"Error": error, "ResponseMetadata": told["ResponseMetadata"]}, "DeleteObjects")
