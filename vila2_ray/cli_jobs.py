"""Campaigns as Ray jobs: submit `jobs/campaign.py`, follow its log, stop it.

Locally the job runs from the folder where it was submitted, with this very interpreter; a remote cluster gets the
checkout as the job's working directory, without environments, data and runs. Credentials for object storage (AWS_*) go
along only to a head on this machine.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import shlex
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vila2_ray import cli_head
from vila2_ray.cli_progress import Screen
from vila2_ray.errors import ConfigError, StageFailed

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

EXCLUDED = ["/.git", "/.venv", "/data", "/runs", "/tests", "/benchmarks", "/build", "**/__pycache__", "*.egg-info"]


def run_as_job(arguments: list[str], campaign: str, address: str | None) -> int:
    """Submit a campaign, or join the job that runs it already, and follow it to its end; the job's exit code.

    `arguments` are those of `vila2 run`. Ctrl-C ends the following, not the job.
    """
    script = Path(__file__).resolve().parents[1] / "jobs" / "campaign.py"
    if not script.is_file():
        raise ConfigError("--job", str(script), "comes with the checkout, not with the package; run without --job")
    remote = address or os.environ.get("RAY_API_SERVER_ADDRESS") or os.environ.get("RAY_ADDRESS")
    local = None if remote else cli_head.find_or_start()
    where = remote or (local.dashboard if local else "")
    client = _client(where)
    job = _running(client, campaign)
    if job is not None:
        print(f"{campaign} is run by job {job} already; following it")
    else:
        job = _submit(client, script, arguments, campaign, is_local=local is not None)
        print(f"submitted as job {job} to {where}")
    try:
        code = _follow(client, job)
    except KeyboardInterrupt:
        again = f" --address {address}" if address else ""
        print(f"\nno longer following; job {job} goes on. The same command follows it again.", file=sys.stderr)
        print(f"Stop it with: vila2 stop {shlex.quote(campaign)}{again}", file=sys.stderr)
        return 130
    if local is not None:
        _stop_idle(client, local)
    return code


def stop_job(campaign: str, address: str | None) -> bool:
    """Stop the job that runs a campaign, and the local head if nothing else runs on it; whether there was one."""
    remote = address or os.environ.get("RAY_API_SERVER_ADDRESS") or os.environ.get("RAY_ADDRESS")
    cli_head.use_token()
    local = None if remote else cli_head.find()
    if not remote and local is None:
        return False
    client = _client(remote or (local.dashboard if local else ""))
    job = _running(client, campaign)
    if job is not None:
        client.stop_job(job)
        while not client.get_job_status(job).is_terminal():
            time.sleep(0.2)
    if local is not None:
        _stop_idle(client, local)
    return job is not None


def _client(address: str) -> JobSubmissionClient:
    from ray.job_submission import JobSubmissionClient

    logging.getLogger("ray.dashboard.modules.job.sdk").setLevel(logging.WARNING)  # tells of every connection that ends
    try:
        return JobSubmissionClient(address)
    except (ConnectionError, RuntimeError) as error:
        raise StageFailed(f"no Ray dashboard answers at {address} ({error})") from error


def _running(client: JobSubmissionClient, campaign: str) -> str | None:
    """Submission id of the job that runs a campaign now."""
    ids = [j.submission_id for j in _unfinished(client) if (j.metadata or {}).get("campaign") == campaign]
    return ids[0] if ids else None


def _unfinished(client: JobSubmissionClient) -> list[JobDetails]:
    return [job for job in client.list_jobs() if job.submission_id and not job.status.is_terminal()]


def _submit(client: JobSubmissionClient, script: Path, arguments: list[str], campaign: str, is_local: bool) -> str:
    variables = {"COLUMNS": str(shutil.get_terminal_size().columns), "PYTHONUNBUFFERED": "1"}
    variables["RAY_BACKEND_LOG_LEVEL"] = os.environ.get("RAY_BACKEND_LOG_LEVEL", "fatal")  # its warnings are not ours
    runtime_env: dict[str, Any] = {"env_vars": variables}
    if is_local:
        variables.update({k: v for k, v in os.environ.items() if k.startswith(("AWS_", "VILA2_"))})
        words = [sys.executable, str(script), *arguments]
        entrypoint = f"cd {shlex.quote(os.getcwd())} && exec {shlex.join(words)}"
    else:
        runtime_env |= {"working_dir": str(script.parents[1]), "excludes": EXCLUDED}
        entrypoint = shlex.join(["python", "jobs/campaign.py", *arguments])
    return client.submit_job(
        entrypoint=entrypoint,
        submission_id=f"vila2-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}",
        metadata={"campaign": campaign},
        runtime_env=runtime_env,
    )


def _follow(client: JobSubmissionClient, job: str) -> int:
    """Show a job's log until it ends; its exit code."""
    screen, shown = Screen(), 0
    try:
        while True:
            shown = asyncio.run(_tail(client, job, screen, shown))
            info = client.get_job_info(job)
            if info.status.is_terminal():
                break
            time.sleep(0.5)  # the connection broke, not the job
    except (ConnectionError, RuntimeError, OSError) as error:
        remedy = "The Ray head is gone. Run the same command again: finished work is kept"
        raise StageFailed(f"job {job}: no answer any more ({error}). {remedy}") from error
    finally:
        screen.close()
    if info.status == "SUCCEEDED":
        return 0
    if info.driver_exit_code is None:  # it never came to run, or was stopped: its log does not say why
        print(f"job {job}: {info.status.value.lower()}. {info.message or ''}".rstrip(), file=sys.stderr)
    return info.driver_exit_code if info.driver_exit_code and info.driver_exit_code > 0 else 1


async def _tail(client: JobSubmissionClient, job: str, screen: Screen, shown: int) -> int:
    """Show the log from its character `shown` on; up to where it was shown when the connection ended."""
    position = 0
    async for text in client.tail_job_logs(job):
        screen.write(text[max(0, shown - position) :])
        position += len(text)
    return max(shown, position)


def _stop_idle(client: JobSubmissionClient, head: cli_head.Head) -> None:
    if not _unfinished(client):
        cli_head.stop(head)
