"""The endpoint as `serve deploy` puts it on a cluster, over HTTP: what dies is replaced, and nobody notices."""

from __future__ import annotations

import base64
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.unit.serve.campaigns import OVERRIDES, FakeCampaign, picture, right

pytestmark = pytest.mark.slow

TREE = Path(__file__).resolve().parents[2]
PATIENCE_SECONDS = 180.0


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture(scope="module")
def dashboard() -> Iterator[str]:
    """A Ray with its dashboard: `serve deploy` speaks with that."""
    import ray

    folder, port = Path(tempfile.mkdtemp(prefix="v2r-", dir="/tmp")), free_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(TREE))
        ray.init(
            address="local",
            num_cpus=4,
            include_dashboard=True,
            dashboard_port=port,
            log_to_driver=False,
            logging_level="error",
            object_store_memory=200_000_000,
            _temp_dir=str(folder),
        )
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            ray.shutdown()
            shutil.rmtree(folder, ignore_errors=True)


def ask(url: str, number: int) -> tuple[str, str]:
    """The text, and which model said it."""
    body = {"images": [{"data": base64.b64encode(picture(number)).decode()}], "question": "tell"}
    answer = httpx.post(f"{url}/v1/captions", json=body, timeout=PATIENCE_SECONDS, trust_env=False)
    answer.raise_for_status()
    [caption] = answer.json()["captions"]
    return caption["text"], caption["checkpoint"]["model"]


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            if condition():
                return
        except httpx.HTTPError:
            pass
        assert time.monotonic() < deadline
        time.sleep(0.2)


def kill_replica(of: str) -> str:
    """End the process of one replica of a deployment, as a crash would; its actor's name."""
    import ray
    from ray.util import list_named_actors

    names = [each["name"] for each in list_named_actors(all_namespaces=True) if of in each["name"]]
    assert len(names) == 1, names
    ray.kill(ray.get_actor(names[0], namespace="serve"))
    return str(names[0])


def test_deployed_from_its_file_it_survives_its_parts(dashboard: str, tmp_path: Path) -> None:
    campaign, port = FakeCampaign(tmp_path / "campaign"), free_port()
    campaign.promote("0")
    told = yaml.safe_load((TREE / "serve" / "campaign.yaml").read_text("utf-8"))
    told["http_options"]["port"] = port
    told["applications"][0]["args"] = {
        "campaign": str(campaign.folder),
        "overrides": [*OVERRIDES, "recaption.engine.cpus_per_actor=0.5"],
    }
    file = tmp_path / "serve.yaml"
    file.write_text(yaml.safe_dump(told), "utf-8")
    command = [sys.executable, "-m", "ray.serve.scripts", "deploy", str(file), "--address", dashboard]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=PATIENCE_SECONDS, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    url = f"http://127.0.0.1:{port}"
    until(lambda: httpx.get(f"{url}/readyz", trust_env=False).status_code == 200)
    assert ask(url, 1) == (right(1, "vlm-0"), "vlm-0")

    kill_replica("vila2#follower#")
    for number in range(20):
        assert ask(url, number) == (right(number, "vlm-0"), "vlm-0")
    campaign.promote("1")
    until(lambda: ask(url, 2) == (right(2, "vlm-1"), "vlm-1"))

    until(lambda: _single_replica("promoted--vlm-1"))
    kill_replica("promoted--vlm-1")
    for number in range(5):
        assert ask(url, number) == (right(number, "vlm-1"), "vlm-1"), "it waits for the new replica"

    from ray import serve

    serve.delete("vila2")
    until(lambda: not serve.status().applications)


def _single_replica(of: str) -> bool:
    from ray.util import list_named_actors

    return sum(of in each["name"] for each in list_named_actors(all_namespaces=True)) == 1


def test_the_command_serves_on_a_cluster_and_takes_it_back(dashboard: str, tmp_path: Path) -> None:
    import ray
    from ray import serve

    serve.shutdown()  # who starts Serve says where it listens
    campaign, port = FakeCampaign(tmp_path / "campaign"), free_port()
    campaign.promote("0")
    address = ray.get_runtime_context().gcs_address
    words = [sys.executable, "-m", "vila2_ray.cli", "serve", str(campaign.folder), *OVERRIDES, "--address", address]
    words += [f"serve.port={port}", "recaption.engine.cpus_per_actor=0.5"]
    marked = {**os.environ, "PYTHONPATH": str(TREE), "VILA2_TEST_MARK": str(tmp_path)}
    with subprocess.Popen(words, env=marked, stdout=subprocess.PIPE, text=True, start_new_session=True) as serving:
        try:
            url = f"http://127.0.0.1:{port}"
            until(lambda: httpx.get(f"{url}/readyz", trust_env=False).status_code == 200)
            assert ask(url, 1) == (right(1, "vlm-0"), "vlm-0")
            campaign.promote("1")
            until(lambda: ask(url, 2) == (right(2, "vlm-1"), "vlm-1"))
            serving.send_signal(signal.SIGINT)
            output = serving.communicate(timeout=PATIENCE_SECONDS)[0]
        finally:
            for pid in _marked(str(tmp_path)) if serving.poll() is None else []:
                os.kill(pid, signal.SIGKILL)
    assert serving.returncode == 0, output
    assert f"listening on {url}; Ctrl-C ends it" in output
    until(lambda: not serve.status().applications)
    serve.shutdown()


@pytest.mark.parametrize("process", ["shared", "own"])
def test_the_command_ends_at_ctrl_c_without_a_trace(tmp_path: Path, process: str) -> None:
    campaign, port = FakeCampaign(tmp_path / "campaign"), free_port()
    campaign.promote("0")
    marked = {**os.environ, "PYTHONPATH": str(TREE), "VILA2_TEST_MARK": str(tmp_path)}
    words = [sys.executable, "-m", "vila2_ray.cli", "serve", str(campaign.folder), *OVERRIDES]
    words += [f"serve.port={port}", f"serve.process={process}"]
    with subprocess.Popen(words, env=marked, stdout=subprocess.PIPE, text=True, start_new_session=True) as serving:
        try:
            url = f"http://127.0.0.1:{port}"
            until(lambda: httpx.get(f"{url}/readyz", trust_env=False).status_code == 200)
            assert ask(url, 1) == (right(1, "vlm-0"), "vlm-0")
            assert not _open_to_others(_marked(str(tmp_path)))
            os.killpg(serving.pid, signal.SIGINT)  # as a terminal does: to all of the group
            output = serving.communicate(timeout=PATIENCE_SECONDS)[0]
        finally:
            for pid in _marked(str(tmp_path)) if serving.poll() is None else []:  # it hangs: nothing of it may stay
                os.kill(pid, signal.SIGKILL)
    assert serving.returncode == 0, output
    assert f"listening on {url}" in output
    assert "vlm-0@" in output
    until(lambda: not _marked(str(tmp_path)))


def _open_to_others(pids: list[int]) -> list[str]:
    """Addresses beyond loopback on which these processes listen, hexadecimal as the kernel tells them."""
    inodes = set()
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                inodes.add(os.readlink(link))
            except OSError:
                continue
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text("utf-8").splitlines()[1:]:
            words = line.split()
            is_listening, address = words[3] == "0A", words[1].partition(":")[0]
            if is_listening and f"socket:[{words[9]}]" in inodes and not address.endswith("0100007F"):
                found.append(words[1])
    return found


def _marked(mark: str) -> list[int]:
    """Processes that have inherited the mark."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if mark.encode() in (entry / "environ").read_bytes() and "Z" not in (entry / "stat").read_text()[:60]:
                    found.append(int(entry.name))
            except OSError:
                continue
    return found
