"""A Ray cluster's jobs, as far as campaigns need them; whatever is wrong with the cluster is one sentence.

Errors are told apart by their class and by what the dashboard answers, never by their texts.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from vila2_ray import cli_head
from vila2_ray.errors import ClusterUnusable, in_one_line
from vila2_ray.submission.job import Job, next_name

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

START_SECONDS = STOP_SECONDS = 120.0


class Cluster:
    """The jobs of the cluster whose dashboard is at `address`. Raises ClusterUnusable wherever it is asked."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._client: JobSubmissionClient | None = None

    def find(self, campaign: str) -> JobDetails | None:
        """The job that runs a campaign now."""
        return _running(self._jobs(), campaign)

    def unfinished(self) -> list[JobDetails]:
        return [job for job in self._jobs() if not job.status.is_terminal()]

    def submit(self, job: Job) -> str:
        """Its name on the cluster, given out once: of two that submit at the same moment one gets the other's job."""
        jobs = self._jobs()
        if (running := _running(jobs, job.campaign)) and running.submission_id:
            return running.submission_id  # it came since somebody looked
        name = next_name(job.campaign, (j.submission_id for j in jobs if j.submission_id))
        runtime_env = job.runtime_env | ({"working_dir": str(job.working_dir)} if job.working_dir else {})
        with self._asked() as client:
            until = time.monotonic() + START_SECONDS
            while True:
                try:
                    client.submit_job(
                        entrypoint=job.entrypoint, submission_id=name, metadata=job.metadata, runtime_env=runtime_env
                    )
                    return name
                except RuntimeError:
                    if name in self._names():
                        return name  # somebody else was first
                    if time.monotonic() > until:
                        raise
                    time.sleep(1.0)  # a young head shows its dashboard before it takes jobs

    def job(self, name: str) -> JobDetails:
        with self._asked() as client:
            return client.get_job_info(name)

    def log(self, name: str) -> str:
        with self._asked() as client:
            return client.get_job_logs(name)

    def stop(self, name: str) -> None:
        """Stop a job and wait until its driver is gone."""
        with self._asked() as client:
            client.stop_job(name)
            until = time.monotonic() + STOP_SECONDS
            while not client.get_job_status(name).is_terminal():
                if time.monotonic() > until:
                    raise ClusterUnusable(f"job {name} was told to stop and has not ended; look at {self.address}")
                time.sleep(0.2)

    def tail(self, name: str, show: Callable[[str], None]) -> None:
        """Hand the log to `show`, from its beginning, until the job or the connection ends."""

        async def read() -> None:
            async for text in client.tail_job_logs(name):
                show(text)

        with self._asked() as client:
            asyncio.run(read())

    def _names(self) -> set[str]:
        return {job.submission_id for job in self._jobs() if job.submission_id}

    def _jobs(self) -> list[JobDetails]:
        with self._asked() as client:
            return client.list_jobs()

    @contextmanager
    def _asked(self) -> Iterator[JobSubmissionClient]:
        from ray.exceptions import AuthenticationError

        try:
            if self._client is None:
                self._client = self._connect()
            yield self._client
        except AuthenticationError as error:
            raise ClusterUnusable(
                f"the cluster at {self.address} refuses our token: set RAY_AUTH_MODE=token, and let ~/.ray/auth_token "
                "(or RAY_AUTH_TOKEN) be the cluster's"
            ) from error
        except ClusterUnusable:
            raise
        except (OSError, RuntimeError, ValueError) as error:  # requests' and aiohttp's are OSErrors; Ray's the others
            raise ClusterUnusable(
                f"the cluster at {self.address} does not answer well: {in_one_line(error)}"
            ) from error

    def _connect(self) -> JobSubmissionClient:
        import ray
        from ray.job_submission import JobSubmissionClient

        for logger in ("ray.dashboard.modules.job.sdk", "ray.dashboard.modules.dashboard_sdk"):
            logging.getLogger(logger).setLevel(logging.WARNING)  # they tell of every connection that ends
        if urlsplit(self.address).scheme in ("http", "https") and not cli_head.answers(self.address, 15.0):
            raise ClusterUnusable(
                f"no Ray dashboard answers at {self.address}: look at the address, and that `ray dashboard` or the "
                "port-forward still runs"
            )
        os.environ["RAY_API_SERVER_ADDRESS"] = self.address  # Ray lets its variables win over what it is told
        client = JobSubmissionClient(self.address)
        theirs = getattr(client, "_server_ray_version", None)  # no public name for it
        if theirs and theirs.split(".")[:2] != ray.__version__.split(".")[:2]:
            raise ClusterUnusable(
                f"the cluster at {self.address} runs Ray {theirs}, ours is {ray.__version__}: build its images "
                "from this checkout, or take the checkout that they were built from"
            )
        return client


def _running(jobs: list[JobDetails], campaign: str) -> JobDetails | None:
    found = [j for j in jobs if not j.status.is_terminal() and (j.metadata or {}).get("campaign") == campaign]
    return found[0] if found else None
