"""A process that an engine starts for itself ends when whoever started it is gone, however that went.

vLLM ends its processes when it is shut down, and notices nothing when it is killed. Asking the kernel for a signal
(PR_SET_PDEATHSIG) would not do: it comes when the *thread* that started the process ends.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import threading
import time
from collections.abc import Iterator

_VARIABLE = "VILA2_ENDS_WITH"
"""Process id of the parent, for the processes that are to end with it."""
_SCRATCH = "VILA2_SCRATCH"
"""Folder that nobody needs when they have ended."""


@contextlib.contextmanager
def children_end_with_us(scratch: str) -> Iterator[None]:
    """Processes started meanwhile that call `end_with_parent` end when this one does, and then remove `scratch`."""
    os.environ.update({_VARIABLE: str(os.getpid()), _SCRATCH: scratch})
    try:
        yield
    finally:
        for name in (_VARIABLE, _SCRATCH):
            os.environ.pop(name, None)


def end_with_parent() -> None:
    """In a process started by one of ours under `children_end_with_us`: watch it, and end with it alone. Else nothing.

    Ctrl-C in a terminal reaches everybody in the foreground: an engine that stops at once leaves nobody to finish what
    the endpoint has in hand.
    """
    parent = int(os.environ.get(_VARIABLE) or 0)
    if parent in (0, os.getpid()):
        return
    if os.getppid() != parent and _is_alive(parent):
        return  # the variable came down to somebody else
    os.environ[_VARIABLE] = str(os.getpid())  # what this process starts ends with it in turn
    with contextlib.suppress(OSError):  # it leads a group of its own already
        os.setpgid(0, 0)
    threading.Thread(target=_watch, args=(parent,), name="watch-parent", daemon=True).start()


def stop_when_alone() -> None:
    """This process gets SIGTERM when whoever started it is gone: what a Ray job started is not stopped by its head's
    death.
    """
    parent = os.getppid()

    def stop() -> None:
        _wait_for_end(parent)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop, name="watch-parent", daemon=True).start()


def _watch(parent: int) -> None:
    _wait_for_end(parent)
    shutil.rmtree(os.environ.get(_SCRATCH) or "no folder", ignore_errors=True)
    os._exit(1)  # nobody is left who could be told anything


def _wait_for_end(parent: int) -> None:
    """Until another process is this one's parent."""
    with contextlib.suppress(AttributeError, OSError):  # systems without pidfd, or the parent has gone already
        ended = select.poll()
        ended.register(os.pidfd_open(parent), select.POLLIN)
        while os.getppid() == parent and not ended.poll(60_000):
            pass
    while os.getppid() == parent:
        time.sleep(1.0)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
