"""What a campaign's job is: command, environment, its name on the cluster, and the plain line that starts it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import vila2_ray
from vila2_ray.errors import ConfigError
from vila2_ray.references import HOOK, VARIABLE

ROOT = Path(vila2_ray.__file__).resolve().parents[1]
"""The checkout: what travels to a cluster."""
SCRIPT = "jobs/campaign.py"
STOP_SECONDS = 30
"""How long a stopped driver may take to give its lease back, before Ray kills it."""


@dataclass(frozen=True)
class Job:
    """A job that can be submitted. Nothing of it is secret."""

    campaign: str
    words: tuple[str, ...]
    """The command."""
    working_dir: Path | None = None
    """Zip file that is sent; without one the job runs where it was submitted, on this machine."""
    secrets: Mapping[str, str] = field(default_factory=dict)
    """Variable → reference."""
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def entrypoint(self) -> str:
        return shlex.join(self.words)

    @property
    def metadata(self) -> dict[str, str]:
        return {"campaign": self.campaign}

    @property
    def runtime_env(self) -> dict[str, Any]:
        """All but the working directory."""
        variables = {"PYTHONUNBUFFERED": "1", "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS), **self.variables}
        if not self.secrets:
            return {"env_vars": variables}
        variables[VARIABLE] = json.dumps(dict(self.secrets), sort_keys=True)
        return {"env_vars": variables, "worker_process_setup_hook": HOOK}

    def line(self, address: str) -> str:
        """The plain command that does what submitting this job does."""
        words = ["ray", "job", "submit", "--address", address]
        words += ["--metadata-json", json.dumps(self.metadata), "--runtime-env-json", json.dumps(self.runtime_env)]
        words += ["--working-dir", str(self.working_dir)] if self.working_dir else []
        return shlex.join([*words, "--", *self.words])


def here(campaign: str, arguments: Iterable[str], secrets: Mapping[str, str]) -> Job:
    """A job for a head on this machine: in this folder, by this very interpreter, with this shell's settings."""
    if not (script := ROOT / SCRIPT).is_file():
        raise ConfigError(SCRIPT, str(ROOT), "comes with the checkout, not with the package; use `vila2 run`")
    kept = {k: v for k, v in os.environ.items() if k.startswith("VILA2_") and k != VARIABLE}
    words = ("env", "-C", os.getcwd(), sys.executable, str(script), *arguments)
    return Job(campaign, words, secrets=secrets, variables=_shown() | kept)


def afar(campaign: str, arguments: Iterable[str], secrets: Mapping[str, str], package: Path) -> Job:
    """A job for a cluster: in the unpacked `package`, by the python of its nodes, with their settings."""
    return Job(campaign, ("python", SCRIPT, *arguments), package, secrets, _shown())


def name_stem(campaign: str) -> str:
    """What the names of a campaign's jobs begin with; a number follows."""
    return f"vila2-{hashlib.sha256(campaign.encode()).hexdigest()[:10]}-"


def next_name(campaign: str, taken: Iterable[str]) -> str:
    """Two submissions at the same moment choose the same name, and a cluster gives it out once."""
    stem = name_stem(campaign)
    numbers = [int(name[len(stem) :]) for name in taken if re.fullmatch(re.escape(stem) + r"\d+", name)]
    return f"{stem}{max(numbers, default=0) + 1}"


def refuse_passwords(words: Iterable[str]) -> None:
    """Raises ConfigError for an address with a password in it: a job's command is for everybody to see."""
    for word in words:
        if re.search(r"://[^/\s@]+:[^/\s@]+@", word):
            remedy = "holds a password, and a job's command is shown to everybody; pass it by --secret"
            raise ConfigError(word.partition("=")[0] if "=" in word else "argument", "…", remedy)


def _shown() -> dict[str, str]:
    quiet = os.environ.get("RAY_BACKEND_LOG_LEVEL", "fatal")  # its warnings are not ours
    asked = {name: os.environ[name] for name in ("VILA2_LOG", "VILA2_DEBUG") if name in os.environ}
    return {"COLUMNS": str(shutil.get_terminal_size().columns), "RAY_BACKEND_LOG_LEVEL": quiet, **asked}
