"""Every way in which a job can end has an exit code and one sentence."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from ray.job_submission import JobErrorType

from vila2_ray.submission.endings import ending


def ended(status: str, code: int | None = None, kind: str | None = None, message: str = "") -> SimpleNamespace:
    return SimpleNamespace(status=status, driver_exit_code=code, error_type=kind, message=message)


@pytest.mark.parametrize(
    ("status", "code", "exit_code", "said"),
    [
        ("SUCCEEDED", 0, 0, ""),
        ("STOPPED", None, 1, "it was stopped. The same command carries on"),
        ("FAILED", 1, 1, "it failed with exit code 1; the log's last lines say why"),
        ("FAILED", 2, 2, "a mistake in the command, the configuration or the corpus"),
        ("FAILED", 3, 3, "another driver runs this campaign"),
        ("FAILED", 4, 4, "the budget is spent"),
        ("FAILED", 137, 1, "the driver was killed by SIGKILL, as happens when memory runs out. The same command"),
        ("FAILED", -9, 1, "the driver was killed by SIGKILL"),
        ("FAILED", 143, 1, "the driver was killed by SIGTERM"),
        ("FAILED", None, 1, "it failed, and the cluster does not say why"),
    ],
)
def test_exit_codes(status: str, code: int | None, exit_code: int, said: str) -> None:
    kind = "JOB_ENTRYPOINT_COMMAND_ERROR" if code else None
    found, sentence = ending(ended(status, code, kind))
    assert found == exit_code
    assert sentence.startswith(said)
    assert "\n" not in sentence


@pytest.mark.parametrize("kind", [k.value for k in JobErrorType if k is not JobErrorType.JOB_ENTRYPOINT_COMMAND_ERROR])
def test_every_kind_of_failure_that_ray_knows(kind: str) -> None:
    code, sentence = ending(ended("FAILED", None, kind, "Why it was.\nTraceback …\n  more"))
    assert code == 1
    assert sentence.endswith("(Why it was)")
    assert not sentence.startswith("it failed")
