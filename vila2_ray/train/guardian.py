"""Runs the command in its arguments, and ends it when whoever started it is gone. Run as a file; imports only Python.

Standard input is a pipe whose other end is the starter's: however that process ends, killed included, the kernel closes
the pipe. This process leads a process group of its own, in which the command and what it starts run.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

GRACE_SECONDS = 20.0


def main() -> int:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)  # meant for the command, which gets it as well; handlers end at exec
    child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
    alone = threading.Event()

    def watch() -> None:
        while os.read(0, 4096):
            pass
        alone.set()
        os.killpg(0, signal.SIGTERM)
        time.sleep(GRACE_SECONDS)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
    code = child.wait()
    if alone.is_set():
        os.killpg(0, signal.SIGKILL)  # what the command left behind
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
