from __future__ import annotations

from pathlib import Path

import pytest

from vila2_ray.corpus.shards import PICTURES_PER_SHARD, find_shards
from vila2_ray.errors import CorpusError


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return folder


def names(uri: object) -> list[str]:
    return [ref.shard for ref in find_shards(str(uri), "pretrain")]


def test_a_folder_in_natural_order(tmp_path: Path) -> None:
    touch(tmp_path, "10.tar", "9.tar", "00001.parquet", "README.md", ".hidden.tar", "00001_stats.json")
    found = find_shards(str(tmp_path), "pretrain")
    assert [(ref.shard, ref.kind) for ref in found] == [("00001", "parquet"), ("9", "tar"), ("10", "tar")]
    assert found[1].uri == str(tmp_path / "9.tar")
    assert {ref.source for ref in found} == {"pretrain"}


def test_parquet_beside_a_tar_is_its_sidecar(tmp_path: Path) -> None:
    touch(tmp_path, "00000.tar", "00000.parquet", "00000_stats.json", "00001.tar", "00001.parquet")
    assert [(ref.shard, ref.kind) for ref in find_shards(str(tmp_path), "x")] == [("00000", "tar"), ("00001", "tar")]


def test_globs_braces_and_single_files(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{i:05}.tar" for i in range(12)))
    assert names(tmp_path / "0000[0-2].tar") == ["00000", "00001", "00002"]
    assert names(tmp_path / "{00009..00011}.tar") == ["00009", "00010", "00011"]
    assert names(tmp_path / "{00001,00003}.tar") == ["00001", "00003"]
    assert names(tmp_path / "00007.tar") == ["00007"]


def test_folders_enter_the_name(tmp_path: Path) -> None:
    touch(tmp_path, "a/00000.tar", "b/00000.tar", "00000.tar")
    assert names(tmp_path) == ["00000", "a-00000", "b-00000"]
    assert names(tmp_path / "*" / "*.tar") == ["a-00000", "b-00000"]
    touch(tmp_path, "c/00000.tar")
    assert names(tmp_path)[:3] == ["00000", "a-00000", "b-00000"]  # none is renamed by a new one


def test_the_same_name_twice_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "a/b.tar", "a-b.tar")
    with pytest.raises(CorpusError, match=r"same shard name 'a-b'.*Rename one"):
        find_shards(str(tmp_path), "x")
    other = touch(tmp_path / "other", "00000.tar", "00001.tar", "00000.parquet")
    assert names(other) == ["00000", "00001"]


def test_a_folder_of_pictures(tmp_path: Path) -> None:
    touch(
        tmp_path / "album", "b.JPG", "a10.png", "a9.png", "a9.txt", "a9.json", "a9.truth.json", "notes.txt", "c/d.webp"
    )
    (ref,) = find_shards(str(tmp_path / "album"), "x")
    assert (ref.shard, ref.kind, ref.uri) == ("album-00000", "folder", str(tmp_path / "album"))
    assert ref.files == ("a9.png", "a10.png", "b.JPG", "c/d.webp", "a9.json", "a9.truth.json", "a9.txt")


def test_pictures_are_split_into_shards(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{i}.png" for i in range(PICTURES_PER_SHARD + 1)))
    first, second = find_shards(str(tmp_path), "x")
    assert (len(first.files), second.files) == (PICTURES_PER_SHARD, (f"{PICTURES_PER_SHARD}.png",))


@pytest.mark.parametrize("where", ["nothing", "nothing/*.tar", "nothing.tar", "{0..1}.tar"])
def test_what_does_not_exist(tmp_path: Path, where: str) -> None:
    with pytest.raises(CorpusError, match=r"Check the path"):
        find_shards(str(tmp_path / where), "x")


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no file there"):
        find_shards(str(tmp_path), "x")


@pytest.mark.parametrize("name", ["00000.csv", "pictures.rar", "movie.mp4"])
def test_wrong_types_are_named(tmp_path: Path, name: str) -> None:
    touch(tmp_path, name)
    for uri in (tmp_path, tmp_path / name, tmp_path / "*"):
        with pytest.raises(CorpusError, match=f"{name}: neither .* Give a folder"):
            find_shards(str(uri), "x")


@pytest.mark.parametrize("name", ["00000.tar.gz", "00000.tgz", "00000.zip", "00000.tar.zst"])
def test_compressed_archives_are_named(tmp_path: Path, name: str) -> None:
    touch(tmp_path, name, "00001.tar")
    with pytest.raises(CorpusError, match=f"{name}: compressed .* Unpack it"):
        find_shards(str(tmp_path), "x")
