"""Copies of far folders on this node's disk: one for each content, let go when room is needed and nobody uses it.

    <cache>/folders/<name>         a copy; it appears when it is whole
    <cache>/folders/<name>.lock    held while the copy is made or let go
    <cache>/folders/<name>.used    held by every process that has asked for the copy, until it ends; changed at each use

The locks are the kernel's: they end with the process that holds them, however it ends. `$VILA2_CACHE` names the cache
(default `~/.cache/vila2_ray`), `$VILA2_CACHE_GB` bounds its copies (default 200 GB). Least recently used ones go first;
those that a living process uses stay, also beyond the bound.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from vila2_ray.errors import ConfigError

_STAGING = ".tmp-"
_DEFAULT_GB = 200.0
_in_use: dict[Path, IO[str]] = {}
"""Copies that this process has asked for, with the files whose locks say so."""


def cache_folder(*parts: str) -> Path:
    """A folder under `$VILA2_CACHE` (default `~/.cache/vila2_ray`); the parent exists."""
    path = Path(os.environ.get("VILA2_CACHE") or "~/.cache/vila2_ray").expanduser().joinpath(*parts)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def cached_folder(name: str, num_bytes: int, fetch: Callable[[Path], None]) -> Path:
    """The copy `name`, which stays while this process lives; `fetch` fills a folder with its `num_bytes` if it is new.

    Raises what `fetch` raises, and ConfigError when `$VILA2_CACHE_GB` is no number.
    """
    copy = cache_folder("folders", name)
    with _locked(copy):
        if not copy.exists():
            make_room(copy.parent, num_bytes)
            staging = copy.with_name(_STAGING + name)
            shutil.rmtree(staging, ignore_errors=True)  # of a process that was killed while it copied
            fetch(staging)
            staging.rename(copy)
        _use(copy)
    return copy


def limit_bytes() -> float:
    """What copies may take together, from `$VILA2_CACHE_GB`. Raises ConfigError."""
    said = os.environ.get("VILA2_CACHE_GB") or str(_DEFAULT_GB)
    try:
        limit = float(said)
    except ValueError:
        limit = math.nan
    if not limit >= 0:
        raise ConfigError("VILA2_CACHE_GB", said, "must be a number of gigabytes, for example 200")
    return limit * 1e9


def make_room(folder: Path, num_bytes: int) -> None:
    """Let go of copies in `folder` until `num_bytes` more stay below the bound and fit on the disk, if that can be."""
    for staging in folder.glob(f"{_STAGING}*"):
        with contextlib.suppress(BlockingIOError), _locked(folder / staging.name.removeprefix(_STAGING), wait=False):
            shutil.rmtree(staging, ignore_errors=True)  # of a process that was killed while it copied
    copies = [(_last_use(copy), _size(copy), copy) for copy in folder.iterdir() if copy.is_dir()]
    over = sum(size for _, size, _ in copies) + num_bytes - limit_bytes()
    missing = num_bytes - shutil.disk_usage(folder).free
    for _, size, copy in sorted(copies):
        if over <= 0 and missing <= 0:
            return
        if _let_go(copy):
            over, missing = over - size, missing - size


def _let_go(copy: Path) -> bool:
    """Delete a copy unless a process makes or uses it."""
    with contextlib.suppress(BlockingIOError), _locked(copy, wait=False), open(_beside(copy, ".used"), "a") as used:
        fcntl.flock(used, fcntl.LOCK_EX | fcntl.LOCK_NB)
        leaving = copy.with_name(_STAGING + copy.name)
        copy.rename(leaving)  # never seen half there
        shutil.rmtree(leaving, ignore_errors=True)
        return True
    return False


def _use(copy: Path) -> None:
    """Keep the copy until this process ends. Only under its lock."""
    if copy not in _in_use:
        used = open(_beside(copy, ".used"), "a")  # noqa: SIM115 - closed by the end of the process
        fcntl.flock(used, fcntl.LOCK_SH)
        _in_use[copy] = used
    os.utime(_beside(copy, ".used"))


@contextlib.contextmanager
def _locked(copy: Path, wait: bool = True) -> Iterator[None]:
    """Hold the lock under which a copy is made and let go. Raises BlockingIOError where that takes waiting."""
    with open(_beside(copy, ".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def _beside(copy: Path, suffix: str) -> Path:
    return copy.with_name(copy.name + suffix)


def _last_use(copy: Path) -> float:
    used = _beside(copy, ".used")
    with contextlib.suppress(FileNotFoundError):
        return (used if used.exists() else copy).stat().st_mtime
    return 0.0


def _size(copy: Path) -> int:
    total = 0
    for file in copy.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            total += file.stat().st_size if file.is_file() else 0
    return total
