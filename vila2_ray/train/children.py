"""Other programs run for a stage: in a process group that ends with us, output kept in a log."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vila2_ray.train import guardian

_TAIL_LINES = 20


@dataclass(frozen=True)
class Ended:
    """How a program ended."""

    code: int
    """Its exit code; 128 + n when signal n ended it."""
    timed_out: bool
    tail: list[str]
    """Its last lines."""


def run_child(
    command: Sequence[str],
    log: Path,
    *,
    environment: Mapping[str, str | None] | None = None,
    timeout_seconds: float | None = None,
    on_line: Callable[[str], None] | None = None,
) -> Ended:
    """Run a program to its end; standard output and error are appended to `log` and given to `on_line`.

    `environment` is added to ours, without the variables that it says None of. Whatever the program started in its
    process group ends with it, and all of it ends with this process, however that ends. Raises OSError when there is
    no such program, and what `on_line` raises, when the program has been asked to end and has ended.
    """
    if shutil.which(command[0]) is None:
        raise FileNotFoundError(f"{command[0]}: no such program")
    tail: deque[str] = deque(maxlen=_TAIL_LINES)
    log.parent.mkdir(parents=True, exist_ok=True)
    process = subprocess.Popen(
        [sys.executable, "-S", guardian.__file__, *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={name: value for name, value in {**os.environ, **(environment or {})}.items() if value is not None},
        start_new_session=True,
    )

    raised: list[Exception] = []

    def read() -> None:
        assert process.stdout is not None
        with log.open("ab") as kept:
            for line in process.stdout:
                kept.write(line)
                kept.flush()
                text = line.decode(errors="replace").rstrip()
                tail.append(text)
                if on_line is not None and not raised:
                    try:
                        on_line(text)
                    except Exception as error:  # goes on reading, or the program would wait to be read
                        raised.append(error)
                        _ask_to_end(process)

    reader = threading.Thread(target=read, name="child-output", daemon=True)
    reader.start()
    timed_out = False
    try:
        process.wait(timeout_seconds)
    except subprocess.TimeoutExpired:
        timed_out = True
    finally:
        if process.poll() is None:
            _end(process)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # what it left behind, which would also hold its output open
        reader.join()
    if raised:
        raise raised[0]
    return Ended(process.returncode, timed_out, list(tail))


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask the group to end, and end it after a while."""
    _ask_to_end(process)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(guardian.GRACE_SECONDS + 5)


def _ask_to_end(process: subprocess.Popen[bytes]) -> None:
    """The guardian ends its group when nobody holds the other end of its input."""
    assert process.stdin is not None
    process.stdin.close()
