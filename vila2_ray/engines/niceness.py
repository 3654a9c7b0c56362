"""Who answers people takes its share of the processor; who works in the background gives way."""

from __future__ import annotations

import os
import sys


def take_normal_niceness() -> bool:
    """Put every thread of this process, and so whatever they start, back to niceness 0; whether that was allowed.

    Ray starts workers with niceness 15 (`RAY_worker_niceness`), so that training does not starve the raylet. An engine
    that serves would then lose its processor to anything else on the machine, and with it most of its speed. Only root,
    or who has CAP_SYS_NICE or a fitting RLIMIT_NICE, may lower niceness; others must start Ray with the variable at 0.
    """
    if not sys.platform.startswith("linux"):
        return _set(0)
    threads = [int(name) for name in os.listdir("/proc/self/task")]  # Linux keeps it by thread, not by process
    refused = [thread for thread in threads if not _set(thread)]
    return not refused


def _set(thread: int) -> bool:
    try:
        if os.getpriority(os.PRIO_PROCESS, thread) > 0:
            os.setpriority(os.PRIO_PROCESS, thread, 0)
    except ProcessLookupError:  # it has ended meanwhile
        return True
    except PermissionError:
        return False
    return True
