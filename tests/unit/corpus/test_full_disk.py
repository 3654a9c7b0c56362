"""A disk that is really full: a tmpfs of a megabyte where it may be mounted, a limit on file sizes everywhere."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vila2_ray.config import FuseConfig
from vila2_ray.corpus.export import export
from vila2_ray.corpus.index import build_index
from vila2_ray.corpus.layers import Layer, Parts
from vila2_ray.errors import StorageError
from vila2_ray.progress import NullProgress
from vila2_ray.storage import Store

SENTENCE = r"the disk is full; free some space and run the same command again"


def fill(folder: Path) -> None:
    """Take every free byte."""
    with open(folder / "ballast", "wb", buffering=0) as ballast:
        for size in (4096, 1):
            with contextlib.suppress(OSError):
                while ballast.write(b"x" * size):
                    pass
    assert shutil.disk_usage(folder).free == 0


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Path]:
    """A filesystem without a free byte; deleting `ballast` frees it."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a tmpfs needs root; the limit on file sizes is tested instead")
    try:
        fill(folder)
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def files(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.rglob("*") if p.is_file() and p.name != "ballast")


def test_index_parts_and_layers_say_so_and_go_on(build: Any, tmp_path: Path, full: Path) -> None:
    build.tar(tmp_path / "s" / "0.tar", build.samples(4))
    corpus = build.corpus(tmp_path / "s", full / "index")
    parts, layer = Parts(Store(full / "parts")), Layer(Store(full / "captions"))
    for write in (
        lambda: build_index(corpus.shards, corpus.columns, corpus.index_store, NullProgress()),
        lambda: parts.write("pretrain", "0", 0, 4, build.captions("0", range(4))),
        lambda: layer.write("pretrain", "0", build.captions("0", range(4)), {}),
    ):
        with pytest.raises(StorageError, match=SENTENCE):
            write()
    assert files(full) == []
    (full / "ballast").unlink()
    assert build_index(corpus.shards, corpus.columns, corpus.index_store, NullProgress()).num_samples == 4
    parts.write("pretrain", "0", 0, 4, build.captions("0", range(4)))
    assert parts.finish(layer, "pretrain", "0", 4, 1, {}) == {"captioned": 4}
    assert files(full) == ["0.parquet", "0.parquet", "pretrain.catalogue.parquet"]


def test_parts_survive_a_layer_that_did_not_fit(build: Any, full: Path) -> None:
    parts, layer = Parts(Store(full / "parts")), Layer(Store(full / "captions"))
    (full / "ballast").unlink()
    parts.write("pretrain", "0", 0, 4, build.captions("0", range(4)))
    fill(full)
    with pytest.raises(StorageError, match=SENTENCE):
        parts.finish(layer, "pretrain", "0", 4, 1, {})
    assert parts.ranges() == {("pretrain", "0"): [(0, 4)]}
    assert not layer.has("pretrain", "0")
    (full / "ballast").unlink()
    parts.finish(layer, "pretrain", "0", 4, 1, {})
    assert layer.read("pretrain", "0").num_rows == 4


def test_an_export_goes_on_where_it_stopped(build: Any, tmp_path: Path, full: Path) -> None:
    noise = os.urandom
    for shard in range(3):
        members = [(f"{i}.png", build.picture() + noise(100_000)) for i in range(4)]
        texts = [(f"{i}.txt", b"alt") for i in range(4)]
        build.tar(tmp_path / "s" / f"{shard}.tar", [*members, *texts])
    corpus = build.corpus(tmp_path / "s", tmp_path / "index")
    corpus.total_rows()
    (full / "ballast").unlink()
    with pytest.raises(StorageError, match=SENTENCE):
        export(corpus, [], [], FuseConfig(), Store(full / "out"), "webdataset", {})
    assert files(full) == ["0.json", "0.tar", "1.json", "1.tar", "export.json"]
    subprocess.run(["mount", "-o", "remount,size=4m", full], check=True)
    assert export(corpus, [], [], FuseConfig(), Store(full / "out"), "webdataset", {})["exported"] == 12


def test_a_limit_on_file_sizes(tmp_path: Path) -> None:
    """The same sentence without root: the kernel refuses to let a file of this process grow."""
    program = textwrap.dedent("""
        import resource, signal, sys
        import pyarrow as pa
        from vila2_ray.corpus.layers import Layer
        from vila2_ray.errors import StorageError
        from vila2_ray.schema import CAPTION
        from vila2_ray.storage import Store
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        try:
            Layer(Store(sys.argv[1])).write("pretrain", "0", CAPTION.empty_table(), {"layer": "round-1"})
        except StorageError as error:
            print(error)
    """)
    done = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=True)
    assert "0.parquet: the disk is full" in done.stdout
    assert files(tmp_path) == []
