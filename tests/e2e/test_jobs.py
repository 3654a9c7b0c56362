"""`vila2 submit` as people use it, on real Ray heads with token authentication: joined, stopped, never twice."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import micro
from vila2_ray import Campaign
from vila2_ray.cli_head import Head, stop
from vila2_ray.submission.job import name_stem

VILA2 = [sys.executable, "-m", "vila2_ray.cli"]
TREE = Path(__file__).resolve().parents[2]
TOKEN = "0123456789abcdef" * 4
SECRET = "s3cr3t-that-no-page-shows-7f2a"
LONG = "train.align.num_epochs=10000"


@dataclass(frozen=True)
class Laptop:
    """A shell with a cache of its own, and so with a head of its own."""

    folder: Path
    variables: dict[str, str]

    @property
    def record(self) -> Path:
        return self.folder / "cache" / "head.json"

    def run(self, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*VILA2, *words],
            env={**self.variables, **more},
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )

    def start(self, log: Path, *words: str) -> subprocess.Popen[bytes]:
        with open(log, "ab") as stream:
            return subprocess.Popen([*VILA2, *words], env=self.variables, cwd=self.folder, stdout=stream, stderr=stream)


def laptop(folder: Path, **more: str) -> Laptop:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # `python` of jobs, `ray` of people
    variables = {**os.environ, "VILA2_CACHE": str(folder / "cache"), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
    return Laptop(folder, {**variables, "PATH": path, "PYTHONPATH": str(TREE), "OMP_NUM_THREADS": "1", **more})


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Laptop]:
    """Without a head; one that a test leaves behind is stopped."""
    made = laptop(tmp_path)
    yield made
    if made.record.exists():
        stop(Head(**json.loads(made.record.read_text())))


@dataclass(frozen=True)
class Remote:
    """A head that the tests of this module share, and that `--address` names: a cluster, as far as jobs can see."""

    address: str
    laptop: Laptop

    def api(self, path: str) -> Any:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        with urllib.request.urlopen(urllib.request.Request(self.address + path, headers=headers), timeout=60) as answer:
            return json.load(answer)

    def jobs(self, campaign: Path) -> list[dict[str, Any]]:
        found = [job for job in self.api("/api/jobs/") if (job["metadata"] or {}).get("campaign") == str(campaign)]
        return [job for job in found if job["submission_id"]]

    def submit(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self.laptop.run("submit", "--address", self.address, *words)

    def start(self, log: Path, *words: str) -> subprocess.Popen[bytes]:
        return self.laptop.start(log, "submit", "--address", self.address, *words)


@pytest.fixture(scope="module")
def remote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Remote]:
    folder = tmp_path_factory.mktemp("remote")
    made = laptop(folder, OF_THE_NODE=SECRET)
    code = "from vila2_ray import cli_head as h\nwith h.locked(): print(h.find_or_start().dashboard)"
    done = subprocess.run([sys.executable, "-c", code], env=made.variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    variables = {name: value for name, value in made.variables.items() if name != "OF_THE_NODE"}
    yield Remote(done.stdout.split()[-1], Laptop(folder, variables))
    stop(Head(**json.loads(made.record.read_text())))


def test_a_campaign_runs_as_a_job_on_a_head_that_comes_and_goes(alone: Laptop, tmp_path: Path) -> None:
    words = ["submit", "--until", "index", *micro.overrides(Path("here"))]  # relative: the job starts where we are
    first = alone.run(*words, AWS_SECRET_ACCESS_KEY=SECRET)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "starting a local Ray head" in first.stdout
    assert "▸ index" in first.stdout
    assert not alone.record.exists(), "the head that the command started is gone again"
    assert list((tmp_path / "cache" / "secrets").iterdir()) == []
    states = {row.name: row.state for row in Campaign(str(tmp_path / "here")).status()}
    assert states["index"] == "done"
    assert states["align"] == "missing"


@pytest.mark.slow
def test_a_mistake_found_by_the_job_is_its_exit_code_and_sentence(remote: Remote, tmp_path: Path) -> None:
    done = remote.submit(*micro.overrides(tmp_path / "c", "corpus.pretrain=/nowhere/at/all"))
    assert done.returncode == 2, done.stdout + done.stderr
    assert "/nowhere/at/all" in done.stdout
    assert "a mistake in the command, the configuration or the corpus" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert "starting it again" not in done.stdout


@pytest.mark.slow
def test_the_plain_line_does_the_same(remote: Remote, tmp_path: Path) -> None:
    words = [*micro.overrides(tmp_path / "c"), "--until", "index"]
    shown = remote.submit("--show", *words)
    assert shown.returncode == 0, shown.stderr
    [line] = shown.stdout.splitlines()
    pasted = subprocess.run(
        ["bash", "-c", line], env=remote.laptop.variables, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert pasted.returncode == 0, pasted.stdout + pasted.stderr
    assert "▸ index" in pasted.stdout
    again = remote.submit(*words)
    assert again.returncode == 0, again.stderr
    assert "MB" in again.stderr
    assert "nothing to do" in again.stdout
    assert [job["status"] for job in remote.jobs(tmp_path / "c")] == ["SUCCEEDED"] * 2


@pytest.mark.slow
def test_the_page_of_the_readme_works_from_the_checkout(remote: Remote, tmp_path: Path) -> None:
    """`ray job submit --working-dir . -- python jobs/campaign.py …`, packed by Ray itself."""
    words = ["ray", "job", "submit", "--address", remote.address, "--working-dir", ".", "--"]
    words += ["python", "jobs/campaign.py", "--recipe", "tiny", "--until", "index", *micro.overrides(tmp_path / "c")]
    pasted = subprocess.run(words, env=remote.laptop.variables, cwd=TREE, capture_output=True, text=True, check=False)
    assert pasted.returncode == 0, pasted.stdout + pasted.stderr
    assert {row.name: row.state for row in Campaign(str(tmp_path / "c")).status()}["index"] == "done"


@pytest.mark.slow
def test_a_killed_driver_is_started_again_and_loses_nothing(remote: Remote, tmp_path: Path) -> None:
    campaign, log = tmp_path / "c", tmp_path / "log"
    follower = remote.start(log, "--until", "index", *micro.overrides(campaign))
    wait(lambda: "▸ index" in log.read_text(), log)  # its first line comes before Ray is there
    os.kill(driver_of(campaign), signal.SIGKILL)
    assert follower.wait(900) == 0, log.read_text()
    said = log.read_text()
    assert "the driver was killed by SIGKILL, as happens when memory runs out; starting it again in 5 s" in said
    [index] = [row for row in Campaign(str(campaign)).status() if row.name == "index"]
    assert index.state == "done"
    assert len(remote.jobs(campaign)) == 1


@pytest.mark.slow
def test_secrets_reach_workers_and_nothing_that_is_shown(remote: Remote, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text(SECRET)
    probe = tmp_path / "probe.py"
    probe.write_text(
        "import os, ray\n"
        "from vila2_ray.references import resolve_here\n"
        "resolve_here()\n"
        "ray.init(log_to_driver=False)\n"
        "def seen(): return os.environ['FROM_FILE'] == os.environ['FROM_NODE'] == os.environ['EXPECTED'][::-1]\n"
        "task, actor = ray.remote(seen), ray.remote(type('A', (), {'seen': lambda self: seen()}))\n"
        "print('driver', seen(), 'task', ray.get(task.remote()), 'actor', ray.get(actor.remote().seen.remote()))\n"
        "own = ray.remote(seen).options(runtime_env={'env_vars': {'MORE': '1'}})\n"
        "print('own environment', ray.get(own.remote()))\n"
    )
    from vila2_ray.submission import job as jobs

    secrets = {"FROM_FILE": f"file:{key}", "FROM_NODE": "env:OF_THE_NODE"}
    job = jobs.Job(f"{tmp_path}/c", ("python", str(probe)), None, secrets, {"EXPECTED": SECRET[::-1]})
    done = subprocess.run(
        ["bash", "-c", job.line(remote.address)],
        env=remote.laptop.variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "driver True task True actor True" in done.stdout
    assert "own environment True" in done.stdout
    campaign = remote.submit(
        "--until", "index", *micro.overrides(tmp_path / "d"), "--secret", f"AWS_SECRET_ACCESS_KEY=file:{key}"
    )
    assert campaign.returncode == 0, campaign.stdout + campaign.stderr

    pages = [str(remote.api("/api/jobs/")), done.stdout + done.stderr + campaign.stdout + campaign.stderr]
    pages += [str(remote.api(f"/api/jobs/{job['submission_id']}/logs")) for job in remote.jobs(tmp_path / "d")]
    for path in ("/api/v0/actors?detail=1", "/api/v0/tasks?detail=1", "/api/v0/runtime_envs?detail=1"):
        pages.append(str(remote.api(path)))
    pages.append(str(remote.api("/nodes?view=summary")))
    assert not [page[:200] for page in pages if SECRET in page]
    assert str(key) in pages[0], "the reference is what is shown"
    session = Path(f"/tmp/vila2_ray_{os.getuid()}", remote.api("/api/version")["session_name"])
    logs = [path for path in (session / "logs").rglob("*") if path.is_file() and not stat.S_ISSOCK(path.stat().st_mode)]
    assert logs
    assert not [path.name for path in logs if SECRET.encode() in path.read_bytes()]


@pytest.mark.slow
def test_a_secret_that_the_nodes_lack_is_one_sentence(remote: Remote, tmp_path: Path) -> None:
    done = remote.submit("--until", "index", *micro.overrides(tmp_path / "c"), "--secret", "KEY=file:/nowhere/at/all")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "KEY = 'file:/nowhere/at/all': cannot be read on this node" in done.stdout


@pytest.mark.slow
def test_two_at_the_same_moment_are_one_job_which_is_left_joined_stopped_and_resumed(
    remote: Remote, tmp_path: Path
) -> None:
    campaign, logs = tmp_path / "c", [tmp_path / "first.log", tmp_path / "second.log"]
    words = micro.overrides(campaign, LONG)
    followers = [remote.start(log, *words) for log in logs]
    for log in logs:
        wait(lambda log=log: "▸ index" in log.read_text(), log)  # type: ignore[misc]
    [job] = remote.jobs(campaign)
    assert job["submission_id"] == name_stem(str(campaign)) + "1"

    followers[0].send_signal(signal.SIGINT)
    assert followers[0].wait(600) == 130
    assert "The same command follows it again" in logs[0].read_text()
    followers[1].kill()  # a laptop without power
    followers[1].wait(60)
    third = tmp_path / "third.log"
    joined = remote.start(third, *words)
    wait(lambda: "▸ index" in third.read_text(), third)
    assert "joining it" in third.read_text()
    assert len(remote.jobs(campaign)) == 1

    elsewhere = laptop(tmp_path).run("run", *words)  # another driver, on another cluster
    assert elsewhere.returncode == 3, elsewhere.stdout + elsewhere.stderr
    assert elsewhere.stderr.startswith("vila2: ")

    stopped = remote.laptop.run("stop", str(campaign), "--address", remote.address)
    assert (stopped.returncode, stopped.stdout.strip()) == (0, "stopped"), stopped.stderr
    assert joined.wait(600) == 1
    assert "it was stopped. The same command carries on" in third.read_text()
    again = remote.laptop.run("stop", str(campaign), "--address", remote.address)
    assert again.stdout.strip() == "no job runs this campaign"

    resumed = remote.submit("--until", "index", *words)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert len(remote.jobs(campaign)) == 2


@pytest.mark.slow
def test_a_wrong_token_and_a_dead_address_are_one_sentence(remote: Remote, tmp_path: Path) -> None:
    words = ["submit", "--address", remote.address, *micro.overrides(tmp_path / "c")]
    wrong = remote.laptop.run(*words, RAY_AUTH_TOKEN="f" * 64)
    assert wrong.returncode == 1
    assert "refuses our token: set RAY_AUTH_MODE=token" in wrong.stderr.splitlines()[-1]
    nobody = remote.laptop.run(*[word.replace(remote.address, "http://127.0.0.1:1") for word in words])
    assert nobody.returncode == 1
    assert "no Ray dashboard answers at http://127.0.0.1:1" in nobody.stderr.splitlines()[-1]
    assert "Traceback" not in wrong.stderr + nobody.stderr


@pytest.mark.slow
def test_an_environment_that_cannot_be_made_is_one_sentence(remote: Remote) -> None:
    code = """
import sys
from vila2_ray.submission.cluster import Cluster
from vila2_ray.submission.following import follow
from vila2_ray.submission.job import Job
class Broken(Job):
    runtime_env = {"working_dir": "https://127.0.0.1:1/nothing.zip"}
cluster = Cluster(sys.argv[1])
sys.exit(follow(cluster, cluster.submit(Broken("/c", ("true",))), recent_only=False))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, remote.address],
        env=remote.laptop.variables,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "its environment could not be set up on the cluster" in done.stderr.splitlines()[-1]


@pytest.mark.slow
def test_the_loss_of_the_head_is_told_and_the_same_command_carries_on(alone: Laptop, tmp_path: Path) -> None:
    log, words = tmp_path / "log", ["submit", *micro.overrides(tmp_path / "c", LONG)]
    follower = alone.start(log, *words)
    wait(lambda: "▸ index" in log.read_text(), log)
    os.kill(json.loads(alone.record.read_text())["pid"], signal.SIGKILL)
    assert follower.wait(900) == 1
    assert "does not answer any more: its Ray head is gone" in log.read_text().splitlines()[-1]
    again = alone.run("submit", "--until", "index", *words[1:])
    assert again.returncode == 0, again.stdout + again.stderr
    assert "starting a local Ray head" in again.stdout


def driver_of(campaign: Path) -> int:
    """Process of the driver that holds a campaign's lease."""
    return int(json.loads((campaign / "lease.json").read_text())["pid"])


def wait(condition: Callable[[], bool], log: Path, seconds: float = 900) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, log.read_text()
        time.sleep(0.1)
