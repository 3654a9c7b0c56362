"""The node's cache of far folders: bounded, least recently used first, never what a living process uses."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vila2_ray import nodecache
from vila2_ray.errors import ConfigError
from vila2_ray.nodecache import cached_folder

Use = Callable[..., "subprocess.Popen[str]"]
PROGRAM = """
import sys
from pathlib import Path
from vila2_ray.nodecache import cached_folder
def fetch(folder: Path) -> None:
    folder.mkdir()
    (folder / "weights").write_bytes(b"w" * int(sys.argv[2]))
cached_folder(sys.argv[1], int(sys.argv[2]), fetch)
print("there", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Use]:
    """Starts a process that asks for a copy of so many bytes and goes on using it until its input is closed."""
    monkeypatch.setenv("VILA2_CACHE", str(tmp_path))
    monkeypatch.setenv("VILA2_CACHE_GB", "1e-6")  # a thousand bytes
    monkeypatch.setattr(nodecache, "_in_use", {})
    started: list[subprocess.Popen[str]] = []

    def start(name: str, num_bytes: int, at: float = 0) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", PROGRAM, name, str(num_bytes)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "there\n"
        if at:
            process.communicate()
            os.utime(tmp_path / "folders" / f"{name}.used", (at, at))
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def copies(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "folders").iterdir() if path.is_dir())


def test_the_least_recently_used_go_first_and_only_as_many_as_must(use: Use, tmp_path: Path) -> None:
    for name, at in (("a", 300.0), ("b", 100.0), ("c", 200.0)):
        use(name, 300, at)
    use("b", 300, 400.0)
    use("d", 300)
    assert copies(tmp_path) == ["a", "b", "d"]
    use("e", 600)
    assert copies(tmp_path) == ["d", "e"], "d is in use"


def test_what_a_process_uses_stays_until_that_ends_however_it_does(use: Use, tmp_path: Path) -> None:
    user, other = use("a", 600), use("a", 600)
    use("b", 600)
    assert copies(tmp_path) == ["a", "b"]
    user.kill()
    user.wait()
    use("c", 100)
    assert copies(tmp_path) == ["a", "b", "c"], "another process uses it as well"
    other.kill()
    other.wait()
    use("d", 100)
    assert copies(tmp_path) == ["b", "c", "d"]


def test_this_process_keeps_what_it_asked_for(use: Use, tmp_path: Path) -> None:
    folder = cached_folder("mine", 900, lambda folder: folder.mkdir())
    use("b", 900)
    use("c", 900)
    assert folder.is_dir()
    assert cached_folder("mine", 900, lambda _: pytest.fail("it is there")) == folder


def test_a_folder_beyond_the_bound_is_copied_all_the_same(use: Use, tmp_path: Path) -> None:
    use("a", 10, 100.0)
    use("large", 5000)
    assert copies(tmp_path) == ["large"]


def test_half_copies_of_killed_processes_go_and_those_being_made_stay(use: Use, tmp_path: Path) -> None:
    (tmp_path / "folders/.tmp-dead").mkdir(parents=True)

    def fetch(folder: Path) -> None:
        folder.mkdir()
        use("meanwhile", 10)
        assert copies(tmp_path) == [".tmp-slow", "meanwhile"]

    cached_folder("slow", 10, fetch)
    assert copies(tmp_path) == ["meanwhile", "slow"]


def test_a_copy_that_fails_is_not_there(use: Use, tmp_path: Path) -> None:
    def fetch(folder: Path) -> None:
        folder.mkdir()
        raise OSError("cut off")

    with pytest.raises(OSError, match="cut off"):
        cached_folder("a", 10, fetch)
    assert not (tmp_path / "folders/a").exists()


@pytest.mark.parametrize("said", ["much", "-1", "nan"])
def test_a_bound_that_is_no_number_is_named(use: Use, monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    monkeypatch.setenv("VILA2_CACHE_GB", said)
    with pytest.raises(ConfigError, match=f"VILA2_CACHE_GB = '{said}': must be a number of gigabytes"):
        nodecache.limit_bytes()
