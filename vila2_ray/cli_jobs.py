"""`vila2 submit` and `vila2 stop`: a campaign as a Ray job, on a cluster or on a head of this machine.

The job's driver is supervised on the cluster; this process only follows its log, and may leave and come back. On this
machine the job runs from the folder where it was submitted; a cluster gets the checkout, small.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vila2_ray import cli_head
from vila2_ray.errors import ConfigError
from vila2_ray.nodecache import cache_folder
from vila2_ray.references import parse
from vila2_ray.storage import Store, is_remote
from vila2_ray.submission.cluster import Cluster
from vila2_ray.submission.following import follow
from vila2_ray.submission.job import ROOT, Job, afar, here, name_stem, refuse_passwords
from vila2_ray.submission.package import pack

FORWARDED = "http://127.0.0.1:8265"
"""Where `ray dashboard` and `kubectl port-forward` bring a cluster's dashboard."""
OWN_SECRETS = ("AWS_", "HF_TOKEN", "WANDB_API_KEY", "MLFLOW_TRACKING_")
"""Variables of this shell that begin so are handed, by reference, to a head on this machine without being asked for."""


@dataclass(frozen=True)
class Submission:
    """What the command line said."""

    campaign: str
    recipe: str
    options: tuple[str, ...]
    """Of `vila2 run`, without the recipe."""
    overrides: tuple[str, ...]
    secrets: tuple[str, ...] = ()
    address: str | None = None

    @property
    def remote(self) -> str | None:
        return self.address or os.environ.get("RAY_API_SERVER_ADDRESS") or os.environ.get("RAY_ADDRESS") or None

    def arguments(self, recipe: str) -> list[str]:
        return ["--recipe", recipe, *self.options, *self.overrides]


def submit_here(wish: Submission, detach: bool) -> int:
    """Submit a campaign, or join the job that runs it already, and follow it to its end; the job's exit code.

    Ctrl-C ends the following, not the job. Raises ConfigError, ClusterUnusable, StageFailed.
    """
    refuse_passwords((*wish.options, *wish.overrides))
    with _head(wish.remote) as (cluster, head):
        found = cluster.find(Store(wish.campaign).uri)
        if found is not None and found.submission_id:
            name = found.submission_id
            print(f"{wish.campaign} is run by job {name} already; joining it", flush=True)
            if shlex.split(found.entrypoint or "")[-len(wish.arguments("")) :][2:] != wish.arguments("")[2:]:
                print("it was started with other arguments than these, and keeps them", flush=True)
        else:
            job = _local(wish) if head is not None else _remote(wish)
            name = cluster.submit(job)
            print(f"submitted as job {name} to {cluster.address}", flush=True)
    if detach:
        print(f"follow it with the same command without --detach; stop it with: {_stop_command(wish)}")
        return 0
    try:
        code = follow(cluster, name, found is not None, lambda: head is not None and cli_head.find() is None)
    except KeyboardInterrupt:
        print(f"\nno longer following; job {name} goes on. The same command follows it again.", file=sys.stderr)
        print(f"Stop it with: {_stop_command(wish)}", file=sys.stderr)
        return 130
    if head is not None:
        _stop_idle(cluster, head)
    return code


def show_here(wish: Submission) -> None:
    """Print the plain line that submitting to a cluster stands for; nothing is asked of the cluster."""
    refuse_passwords((*wish.options, *wish.overrides))
    print(_remote(wish).line(wish.remote or FORWARDED))


def stop_job(campaign: str, address: str | None) -> bool:
    """Stop the job that runs a campaign, and the local head if nothing else runs on it; whether there was one."""
    wish = Submission(campaign, "", (), (), address=address)
    head = None
    if not wish.remote:
        cli_head.use_token()
        if (head := cli_head.find()) is None:
            return False
    cluster = Cluster(wish.remote or (head.dashboard if head else ""))
    job = cluster.find(Store(campaign).uri)
    if job is not None and job.submission_id:
        cluster.stop(job.submission_id)
    if head is not None:
        _stop_idle(cluster, head)
    return job is not None


@contextlib.contextmanager
def _head(remote: str | None) -> Iterator[tuple[Cluster, cli_head.Head | None]]:
    """The cluster that is meant, or this machine's head, which nobody stops meanwhile."""
    if remote:
        yield Cluster(remote), None
        return
    with cli_head.locked():
        head = cli_head.find_or_start()
        yield Cluster(head.dashboard), head


def _local(wish: Submission) -> Job:
    secrets = parse(wish.secrets)
    own = [name for name in os.environ if name.startswith(OWN_SECRETS)]
    for name in (*own, *(name for name, reference in secrets.items() if not reference)):
        if not secrets.get(name):
            secrets[name] = _kept_for_nodes(wish.campaign, name)
    return here(Store(wish.campaign).uri, wish.arguments(wish.recipe), secrets)


def _remote(wish: Submission) -> Job:
    if not is_remote(wish.campaign) and not os.path.isabs(os.path.expanduser(wish.campaign)):
        remedy = (
            "would lie in the job's own folder on the cluster and go with it; name object storage or a shared folder"
        )
        raise ConfigError("campaign", wish.campaign, remedy)
    secrets = parse(wish.secrets)
    if bare := [name for name, reference in secrets.items() if not reference]:
        raise ConfigError("--secret", bare[0], "say where the nodes find it, for example file:/run/secrets/NAME")
    recipe, extra = wish.recipe, dict[str, bytes]()
    if recipe.endswith((".yaml", ".yml")):
        recipe = f"submitted/{Path(recipe).name}"
        extra[recipe] = Path(wish.recipe).expanduser().read_bytes()
    package = pack(ROOT, extra)
    print(f"sending {package.sentence}", file=sys.stderr)
    return afar(Store(wish.campaign).uri, wish.arguments(recipe), secrets, package.path)


def _kept_for_nodes(campaign: str, name: str) -> str:
    """This shell's value in a file for this user alone, as a reference."""
    if name not in os.environ:
        raise ConfigError("--secret", name, "is not set in this shell; export it, or say where it lies: NAME=REFERENCE")
    path = _secrets_folder() / (name_stem(Store(campaign).uri) + name)
    staging = path.with_suffix(".tmp")
    staging.unlink(missing_ok=True)
    with open(os.open(staging, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as stream:
        stream.write(os.environ[name])
    staging.replace(path)
    return f"file:{path.resolve()}"


def _secrets_folder() -> Path:
    folder = cache_folder("secrets")
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def _stop_command(wish: Submission) -> str:
    return shlex.join(["vila2", "stop", wish.campaign, *(("--address", wish.address) if wish.address else ())])


def _stop_idle(cluster: Cluster, head: cli_head.Head) -> None:
    with cli_head.locked():
        if not cluster.unfinished():
            cli_head.stop(head)
            for path in _secrets_folder().iterdir():
                path.unlink(missing_ok=True)
