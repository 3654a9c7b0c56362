"""Names, commands and environments of jobs; nothing of them is secret."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from vila2_ray.errors import ConfigError
from vila2_ray.references import VARIABLE
from vila2_ray.submission import job as jobs


def test_a_name_is_a_campaigns_next_number() -> None:
    first = jobs.next_name("s3://b/c", [])
    assert first == jobs.name_stem("s3://b/c") + "1"
    assert jobs.next_name("s3://b/other", [first]) == jobs.name_stem("s3://b/other") + "1"
    taken = [first, jobs.name_stem("s3://b/c") + "9", jobs.name_stem("s3://b/c") + "x", "raysubmit_1"]
    assert jobs.next_name("s3://b/c", taken) == jobs.name_stem("s3://b/c") + "10"


def test_the_plain_line_says_all_of_it_whatever_is_in_it() -> None:
    arguments = ["--recipe", "tiny", "corpus.pretrain=s3://b/{0..9}.tar", "it's=a b"]
    job = jobs.afar("s3://b/c d", arguments, {"KEY": "file:/run/k"}, Path("/tmp/p.zip"))
    words = shlex.split(job.line("http://h:8265"))
    assert words[:5] == ["ray", "job", "submit", "--address", "http://h:8265"]
    told = dict(zip(words[5:11:2], words[6:12:2], strict=True))
    assert json.loads(told["--metadata-json"]) == {"campaign": "s3://b/c d"}
    assert json.loads(told["--runtime-env-json"]) == job.runtime_env
    assert told["--working-dir"] == "/tmp/p.zip"
    assert words[11:] == ["--", "python", "jobs/campaign.py", *arguments]
    assert shlex.split(job.entrypoint) == words[12:]


def test_references_travel_with_the_hook_that_resolves_them_and_only_then() -> None:
    job = jobs.here("/c", [], {"KEY": "file:/run/k"})
    assert json.loads(job.runtime_env["env_vars"][VARIABLE]) == {"KEY": "file:/run/k"}
    assert job.runtime_env["worker_process_setup_hook"] == "vila2_ray.references.resolve_here"
    assert set(jobs.here("/c", [], {}).runtime_env) == {"env_vars"}


def test_a_local_job_gets_settings_of_this_shell_and_no_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VILA2_CACHE", "/somewhere")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
    job = jobs.here("/c", [], {})
    assert job.runtime_env["env_vars"]["VILA2_CACHE"] == "/somewhere"
    assert "hidden" not in json.dumps(job.runtime_env) + job.entrypoint


def test_how_logs_are_written_travels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VILA2_LOG", "json")
    assert jobs.afar("s3://b/c", [], {}, Path("/tmp/p.zip")).runtime_env["env_vars"]["VILA2_LOG"] == "json"


def test_an_address_with_a_password_is_refused_and_not_repeated() -> None:
    jobs.refuse_passwords(["corpus.pretrain=s3://b/a@b:c/*.tar", "x=http://host:80/p", "fine"])
    with pytest.raises(ConfigError, match=r"^campaign = ") as refused:
        jobs.refuse_passwords(["campaign=s3://key:hunter2@b/c"])
    assert "hunter2" not in str(refused.value)
