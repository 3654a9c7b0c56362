"""Processes that a benchmark starts: each in a group of its own, watched, and ended with all that came of it.

A server's offspring may leave its group and its parents (Ray's do): it is known by descent and by a mark that it
inherits in its environment. Only processes found like that are ended, by their ids.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

MARK = "VILA2_BENCHMARK_SERVER"
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Seen:
    """A process at one moment. Number and start together name it for good."""

    pid: int
    started: int
    """Clock ticks after boot."""
    parent: int
    name: str
    cpu_seconds: float


def free_port() -> int:
    """On 127.0.0.1, as of now."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def look(pid: int) -> Seen | None:
    """None where there is no such process, or only its remains."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        title = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace").strip()
    except OSError:
        return None
    if fields[0] in "ZX":
        return None
    return Seen(pid, int(fields[19]), int(fields[1]), _short(title), (int(fields[11]) + int(fields[12])) / _TICKS)


def _short(title: str) -> str:
    """What a process is, in a word or two: its title, its module or its program."""
    words = title.split()
    if not words:
        return "?"
    if words[0].startswith(("ray::", "VLLM::")):
        return words[0].split("(")[0]
    for flag in ("-m", "-c"):
        if flag in words[1:4]:
            following = words[words.index(flag) + 1 :]
            return following[0] if following and flag == "-m" else "python -c"
    scripts = [Path(word).name for word in words[:3] if word.endswith(".py")]
    return scripts[0] if scripts else Path(words[1] if "python" in words[0] and len(words) > 1 else words[0]).name


def cpu_between(before: Sequence[Seen], after: Sequence[Seen]) -> dict[str, float]:
    """Processor seconds between two looks, by what the processes are called at the second."""
    earlier = {(seen.pid, seen.started): seen.cpu_seconds for seen in before}
    found: dict[str, float] = {}
    for seen in after:
        spent = seen.cpu_seconds - earlier.get((seen.pid, seen.started), 0.0)
        found[seen.name] = found.get(seen.name, 0.0) + spent
    return found


@dataclass
class Server:
    """Started by `start`; ended by `end`, which may be called twice."""

    process: subprocess.Popen[bytes]
    mark: str
    began: float
    """`time.monotonic()` just before its start."""
    log: IO[bytes]
    known: dict[int, int] = field(default_factory=dict)
    """Process number → start of everything that was seen to belong to it."""

    @classmethod
    def start(cls, command: Sequence[str], environment: Mapping[str, str], log: Path, **pipes: Any) -> Server:
        """`pipes`: stdin=… and stdout=… for Popen; without them nothing comes in, and what goes out goes into `log`."""
        mark = f"{os.getpid()}-{time.monotonic_ns()}"
        stream = log.open("wb")
        began = time.monotonic()
        process = subprocess.Popen(
            list(command),
            env={**os.environ, **environment, MARK: mark},
            stderr=stream,
            start_new_session=True,
            **{"stdin": subprocess.DEVNULL, "stdout": stream, **pipes},
        )
        seen = look(process.pid)
        return cls(process, mark, began, stream, {process.pid: seen.started} if seen else {})

    def all(self) -> list[Seen]:
        """It and everything that came of it, of what is alive."""
        present = [seen for entry in os.listdir("/proc") if entry.isdigit() and (seen := look(int(entry)))]
        mine = {seen.pid for seen in present if self.known.get(seen.pid) == seen.started}
        mine |= {seen.pid for seen in present if seen.pid not in mine and self._is_marked(seen.pid)}
        grown = -1
        while grown != len(mine):
            grown = len(mine)
            mine |= {seen.pid for seen in present if seen.parent in mine}
        found = [seen for seen in present if seen.pid in mine]
        self.known.update({seen.pid: seen.started for seen in found})
        return found

    def log_tail(self) -> str:
        with open(self.log.name, encoding="utf-8", errors="replace") as log:
            return log.read()[-3000:]

    def _is_marked(self, pid: int) -> bool:
        try:
            return f"{MARK}={self.mark}\0".encode() in Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            return False

    def end(self, patience: float = 30.0) -> list[str]:
        """Interrupt it as Ctrl-C does, then end what is left. Returns the names of what had to be killed."""
        left = self.all()
        for polite in (signal.SIGINT, signal.SIGTERM):
            if self.process.poll() is None:
                os.killpg(self.process.pid, polite)
            deadline = time.monotonic() + patience / 2
            while (left := self.all()) and time.monotonic() < deadline:
                self.process.poll()  # else its remains would stay
                time.sleep(0.1)
        for seen in left:
            try:
                os.kill(seen.pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait()
        self.log.close()
        return [seen.name for seen in left]
