"""What is tried again, what is said at once. The requests themselves are tested on a real server, in tests/e2e."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError

from vila2_ray import s3
from vila2_ray.errors import ConditionFailed, StorageError

URI = "s3://bucket/x"


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "PATIENCE", s3.Patience(4, 0.0, 0.0, 10.0))


def answer(status: int, code: str) -> ClientError:
    return ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "GetObject")


def failing(*errors: Exception) -> tuple[Callable[[], str], list[Exception]]:
    """Raises one after the other, then succeeds; the list holds what is left to raise."""
    left = list(errors)

    def call() -> str:
        if left:
            raise left.pop(0)
        return "done"

    return call, left


@pytest.mark.parametrize(
    "error",
    [
        answer(500, "InternalError"),
        answer(503, "SlowDown"),
        answer(409, "ConditionalRequestConflict"),
        answer(400, "RequestTimeout"),
        EndpointConnectionError(endpoint_url="http://there"),
        OSError("pyarrow's words"),
    ],
    ids=str,
)
def test_what_may_pass_is_tried_again_up_to_a_bound(error: Exception) -> None:
    call, left = failing(error, error, error)
    assert s3.retried(call, URI) == "done"
    call, left = failing(*[error] * 9)
    with pytest.raises(StorageError, match=r"s3://bucket/x: no success in 4 attempts.*run the same command again"):
        s3.retried(call, URI)
    assert len(left) == 5


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (answer(403, "SignatureDoesNotMatch"), r"refused \(SignatureDoesNotMatch\); check AWS_ACCESS_KEY_ID"),
        (answer(403, "AccessDenied"), r"refused \(AccessDenied\)"),
        (answer(404, "NoSuchBucket"), "no such bucket; create it"),
        (answer(301, "PermanentRedirect"), r"failed \(PermanentRedirect\); check the URI"),
        (NoCredentialsError(), "no credentials found; set AWS_ACCESS_KEY_ID"),
    ],
    ids=str,
)
def test_what_cannot_pass_is_said_at_once(error: Exception, sentence: str) -> None:
    call, left = failing(error, error)
    with pytest.raises(StorageError, match=sentence):
        s3.retried(call, URI)
    assert len(left) == 1
    words, left = failing(OSError("AWS Error, says pyarrow"), error)
    asked, _ = failing(error)
    with pytest.raises(StorageError, match=sentence):
        s3.retried(words, URI, asked)
    assert len(left) == 1


@pytest.mark.parametrize("error", [FileNotFoundError("x"), ConditionFailed("x"), PermissionError(13, "x")], ids=str)
def test_answers_are_not_failures(error: Exception) -> None:
    call, left = failing(error, error)
    with pytest.raises(type(error)):
        s3.retried(call, URI)
    assert len(left) == 1


def test_a_missing_object_is_missing_whoever_says_so() -> None:
    with pytest.raises(FileNotFoundError):
        s3.retried(failing(answer(404, "NoSuchKey"))[0], URI)


def test_pauses_grow_to_a_bound() -> None:
    patience = s3.Patience(10, 1.0, 6.0, 60.0)
    for attempt, longest in enumerate([1, 2, 4, 6, 6], start=1):
        assert all(longest / 2 <= patience.pause(attempt) <= longest for _ in range(50))
