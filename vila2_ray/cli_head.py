"""A Ray head on this machine for campaigns that are submitted as jobs: found, started, and stopped by its process id.

It listens on 127.0.0.1 with token authentication, on ports that were free a moment ago, in a temporary folder of its
own: so it neither disturbs another Ray on the machine nor trips over the address file that a killed head leaves behind.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from vila2_ray.errors import ClusterUnusable
from vila2_ray.nodecache import cache_folder

START_SECONDS = 120.0
STOP_SECONDS = 20.0


@dataclass(frozen=True)
class Head:
    """A head that this program started and may stop."""

    pid: int
    began: str
    """Start time of the process as the kernel counts it: a pid alone may since belong to somebody else."""
    dashboard: str
    """Where jobs are submitted."""
    gcs: str


def find() -> Head | None:
    """The head that an earlier command started, if it still answers."""
    try:
        head = Head(**json.loads(_record().read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    return head if _process_start(head.pid) == head.began and answers(head.dashboard) else None


def find_or_start() -> Head:
    """To be called under `locked`. Raises ClusterUnusable, with the place of the log, when no head comes up."""
    use_token()
    head = find()
    if head is None:
        print("starting a local Ray head", flush=True)
        try:
            head = _start()
        except ClusterUnusable:  # Ray gives its processes half a minute, which a busy machine may not
            head = _start()
    return head


def stop(head: Head) -> None:
    """End that one process; Ray's other processes are tied to its life."""
    if _process_start(head.pid) != head.began:
        return
    for how, seconds in ((signal.SIGTERM, STOP_SECONDS), (signal.SIGKILL, STOP_SECONDS)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(head.pid, how)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(head.pid, os.WNOHANG)
            if _process_start(head.pid) != head.began:
                _record().unlink(missing_ok=True)
                return
            time.sleep(0.1)


def use_token() -> None:
    """Turn on Ray's token authentication unless the environment decides otherwise; Ray makes the first token."""
    if os.environ.get("RAY_AUTH_MODE"):
        return
    os.environ["RAY_AUTH_MODE"] = "token"
    given = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    if not given and not Path("~/.ray/auth_token").expanduser().is_file():
        made = subprocess.run([*_ray(), "get-auth-token", "--generate"], capture_output=True, text=True, check=False)
        if made.returncode:  # no home folder to write to: a token for this process and its children
            os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def answers(dashboard: str, timeout_seconds: float = 3.0) -> bool:
    """Whether a Ray dashboard listens there (refusing us for want of a token counts)."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{dashboard}/api/version", timeout=timeout_seconds):
            return True
    except urllib.error.HTTPError as error:
        return error.code in (401, 403)
    except (OSError, ValueError):
        return False


def _start() -> Head:
    gcs, dashboard, agent, client = _free_ports(4)
    temp, log = _temp_folder(), cache_folder("head.log")
    command = [*_ray(), "start", "--head", "--block", "--disable-usage-stats", f"--temp-dir={temp}"]
    command += ["--node-ip-address=127.0.0.1", f"--port={gcs}", f"--ray-client-server-port={client}"]
    command += ["--include-dashboard=true", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"]
    command += [f"--dashboard-agent-listen-port={agent}"]
    environment = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")}
    with open(log, "wb") as stream:
        process = subprocess.Popen(  # a session of its own: Ctrl-C at the terminal must not reach it
            command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, start_new_session=True, env=environment
        )
    head = Head(process.pid, _process_start(process.pid) or "", f"http://127.0.0.1:{dashboard}", f"127.0.0.1:{gcs}")
    deadline = time.monotonic() + START_SECONDS
    while not (_is_up(temp, head) and answers(head.dashboard)):
        if process.poll() is not None or time.monotonic() > deadline:
            stop(head)
            raise ClusterUnusable(f"the local Ray head did not start; see {log}, or use `vila2 run`")
        time.sleep(0.2)
    _record().write_text(json.dumps(asdict(head)), "utf-8")
    return head


def _is_up(temp: Path, head: Head) -> bool:
    """The dashboard answers before the node is there, which may still fail; a head that is whole writes its address."""
    try:
        return _port((temp / "ray_current_cluster").read_text("utf-8")) == _port(head.gcs)
    except OSError:
        return False


def _port(address: str) -> str:
    return address.strip().rpartition(":")[2]


def _ray() -> list[str]:
    return [sys.executable, "-m", "ray.scripts.scripts"]


def _record() -> Path:
    return cache_folder("head.json")


def _temp_folder() -> Path:
    """Short, because the sockets below it may have 107 characters; one for each user, because Ray writes into it."""
    parent = Path("/tmp") if os.access("/tmp", os.W_OK) else Path(tempfile.gettempdir())
    return parent / f"vila2_ray_{os.getuid()}"


@contextlib.contextmanager
def locked() -> Iterator[None]:
    """No other command of this user starts, stops or submits to the head meanwhile."""
    with open(cache_folder("head.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _process_start(pid: int) -> str | None:
    """Kernel start time of a living process; None when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in ("Z", "X") else fields[19]


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
