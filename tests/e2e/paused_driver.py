"""A driver that takes the lease and is then stopped by a signal, at the worst moment: between its check and its write.

Arguments: the campaign's URI, the lease's lifetime in seconds, `before` or `between`. What became of its marker is the
last line that it prints.
"""

from __future__ import annotations

import os
import signal
import sys

from vila2_ray.campaign.lease import Lease
from vila2_ray.campaign.state import Marker, write_marker
from vila2_ray.errors import LeaseLost
from vila2_ray.storage import Store


def main(uri: str, lifetime_seconds: float, when: str) -> None:
    store = Store(uri)
    with Lease(store, lifetime_seconds) as lease:
        write_marker(store, Marker("index", "f" * 64, {}, {}, "of the first", lease.epoch), lease.check)

        def check() -> None:
            lease.check()
            os.kill(os.getpid(), signal.SIGSTOP)

        if when == "before":
            os.kill(os.getpid(), signal.SIGSTOP)
        try:
            late = Marker("align", "f" * 64, {}, {}, "of the first", lease.epoch)
            write_marker(store, late, check if when == "between" else lease.check)
            print("wrote")
        except LeaseLost:
            print("lost")


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), sys.argv[3])
