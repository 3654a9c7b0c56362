"""One driver for each campaign: `lease.json`, taken and renewed by conditional writes.

A lease names its holder and an epoch that grows with every holder. It is renewed several times within its lifetime; a
lease that has stood still for a whole lifetime, or whose holder was a process of this machine that is gone, is taken
over. A driver that lost its lease finds out at its next `check`, before it writes a marker; whoever took it over from a
driver that had not given it back fences the markers (see `state`), for that one may only have been paused.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

from vila2_ray.errors import CampaignBusy, ConditionFailed, LeaseLost, StorageError
from vila2_ray.storage import Store

NAME = "lease.json"


@dataclass(frozen=True)
class _Record:
    holder: str
    epoch: int
    beat: int
    host: str
    pid: int
    process_started: str
    released: bool = False


class Lease:
    """A context manager: takes the lease, renews it in a thread, gives it back.

    Raises CampaignBusy on entry when another driver holds it.
    """

    def __init__(self, store: Store, lifetime_seconds: float = 20.0) -> None:
        self._store, self._lifetime = store, lifetime_seconds
        self._record: _Record | None = None
        self._version: str | None = None
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None
        self._lost = False
        self.took_over = False
        """Whether the driver before had not given the lease back: it may be paused, and wake up."""

    @property
    def epoch(self) -> int:
        assert self._record is not None, "the lease has not been taken"
        return self._record.epoch

    def __enter__(self) -> Lease:
        found = self._store.read_versioned(NAME)
        if found is not None and not self._is_free(found[0]):
            found = self._watch(found)
        epoch = (_parse(found[0]).epoch + 1) if found else 1
        started = _process_started(os.getpid())
        mine = _Record(uuid.uuid4().hex, epoch, 0, socket.gethostname(), os.getpid(), started)
        try:
            self._version = self._store.put_if(NAME, _dump(mine), found[1] if found else None)
        except ConditionFailed as error:
            raise CampaignBusy(f"{self._store.uri}: another driver has just started this campaign") from error
        self._record = mine
        self.took_over = found is not None and not _parse(found[0]).released
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        if not self._lost:
            with contextlib.suppress(StorageError, LeaseLost):  # it then runs out by itself
                self._write(released=True)

    def check(self) -> None:
        """Raises LeaseLost unless this driver still holds the lease; called before every marker."""
        found = self._store.read_versioned(NAME)
        with self._lock:
            held = self._record is not None and found is not None and _parse(found[0]).holder == self._record.holder
            if self._lost or not held:
                self._lost = True
                raise LeaseLost(
                    f"{self._store.uri}: another driver has taken this campaign over; stopping without writing"
                )

    def _is_free(self, data: bytes) -> bool:
        record = _parse(data)
        if record.released:
            return True
        return record.host == socket.gethostname() and _process_started(record.pid) != record.process_started

    def _watch(self, found: tuple[bytes, str]) -> tuple[bytes, str]:
        """Wait a lifetime for a sign of life. By our own clock, so that hosts need not agree on the time."""
        until = time.monotonic() + self._lifetime
        while time.monotonic() < until:
            time.sleep(min(1.0, self._lifetime / 10))
            now = self._store.read_versioned(NAME)
            if now is None or now[1] != found[1]:
                if now is not None and self._is_free(now[0]):
                    return now
                holder = _parse(found[0])
                raise CampaignBusy(
                    f"{self._store.uri}: process {holder.pid} on {holder.host} is running this campaign. "
                    "Wait for it, stop it, or choose another campaign=FOLDER"
                )
        return found

    def _renew(self) -> None:
        while not self._stop.wait(self._lifetime / 5):
            try:
                self._write()
            except LeaseLost:
                return
            except StorageError:
                continue  # tried again at the next beat; a lifetime without success loses the lease

    def _write(self, released: bool = False) -> None:
        with self._lock:
            assert self._record is not None
            record = _Record(**{**asdict(self._record), "beat": self._record.beat + 1, "released": released})
            try:
                self._version = self._store.put_if(NAME, _dump(record), self._version)
            except ConditionFailed as error:
                self._lost = True
                raise LeaseLost(f"{self._store.uri}: lost to another driver") from error
            self._record = record


def _dump(record: _Record) -> bytes:
    return json.dumps(asdict(record), indent=1).encode()


def _parse(data: bytes) -> _Record:
    return _Record(**json.loads(data))


def _process_started(pid: int) -> str:
    """When a process of this machine began, in clock ticks; empty when there is none. Tells a reused pid apart."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    except (OSError, IndexError):
        return ""
