"""How a job's end is told: an exit code and one sentence. Decided by Ray's kinds of failure, never by their texts."""

from __future__ import annotations

import signal
from typing import Protocol

SAME_COMMAND = "The same command carries on from what is finished"

_BY_CODE = {
    2: "a mistake in the command, the configuration or the corpus; the log's last line says which",
    3: "another driver runs this campaign; follow or stop that one",
    4: f"the budget is spent. Raise it; {SAME_COMMAND[0].lower()}{SAME_COMMAND[1:]}",
}
_BY_KIND = {
    "RUNTIME_ENV_SETUP_FAILURE": "its environment could not be set up on the cluster",
    "JOB_SUPERVISOR_ACTOR_START_TIMEOUT": "the cluster did not start it in time; `ray status` may say why",
    "JOB_SUPERVISOR_ACTOR_START_FAILURE": "the cluster could not start it",
    "JOB_SUPERVISOR_ACTOR_UNSCHEDULABLE": "no node of the cluster can take its driver",
    "JOB_SUPERVISOR_ACTOR_UNKNOWN_FAILURE": f"Ray lost sight of it. {SAME_COMMAND}",
    "JOB_SUPERVISOR_ACTOR_DIED": f"its node was lost or ran out of memory. {SAME_COMMAND}",
    "JOB_ENTRYPOINT_COMMAND_START_ERROR": "its command could not be started",
}


class Ended(Protocol):
    """What Ray says of a job that is over (`ray.job_submission.JobDetails`)."""

    status: str
    error_type: str | None
    message: str | None
    driver_exit_code: int | None


def ending(job: Ended) -> tuple[int, str]:
    """Exit code and sentence; an empty sentence for a campaign that went well."""
    status, code = str(getattr(job.status, "value", job.status)), job.driver_exit_code
    if status == "SUCCEEDED":
        return 0, ""
    if status == "STOPPED":
        return 1, f"it was stopped. {SAME_COMMAND}"
    kind = str(getattr(job.error_type, "value", job.error_type))
    if kind in _BY_KIND:
        said = _first_line(job.message)
        return 1, _BY_KIND[kind] + (f" ({said})" if said else "")
    if code is None:
        return 1, _first_line(job.message) or "it failed, and the cluster does not say why"
    if code in _BY_CODE:
        return code, _BY_CODE[code]
    if code < 0 or code > 128:
        return 1, f"{killed_by(code if code < 0 else 128 - code)}. {SAME_COMMAND}"
    return code, f"it failed with exit code {code}; the log's last lines say why. {SAME_COMMAND}"


def killed_by(code: int) -> str:
    """What a negative exit code says of a driver's end."""
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    likely = ", as happens when memory runs out" if -code == signal.SIGKILL else ""
    return f"the driver was killed by {name}{likely}"


def _first_line(message: str | None) -> str:
    lines = [line.strip() for line in (message or "").splitlines() if line.strip()]
    return lines[0].rstrip(".")[:300] if lines else ""
