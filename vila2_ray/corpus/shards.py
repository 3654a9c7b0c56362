"""Which files of a folder or glob are shards, and of what kind."""

from __future__ import annotations

import dataclasses
import itertools
import posixpath
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from vila2_ray import storage
from vila2_ray.config import SourceKind
from vila2_ray.errors import CorpusError
from vila2_ray.globs import glob_all

Kind = Literal["tar", "parquet", "folder", "json"]
Map = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]
"""Applies a picklable function to shards or groups of them, here or on a cluster, results in any order."""

IMAGE_ENDINGS = ("jpg", "jpeg", "jfif", "png", "webp", "gif", "bmp", "tif", "tiff")
PICTURES_PER_SHARD = 1000
_ARCHIVES = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".tar.lz4", ".zip")
_SIDECARS = (".txt", ".json")
_GLOB = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class ShardRef:
    """A shard: `shard` is its name in every table, `uri` the file, or for pictures in a folder that folder."""

    source: str
    shard: str
    uri: str
    kind: Kind
    files: tuple[str, ...] = ()
    """Kind "folder" only: the pictures, relative to `uri`, and the .txt and .json files beside them."""
    stamp: str = field(default="", compare=False)
    """Bytes and time of the last change as the listing told them; empty for kind "folder"."""
    holds: SourceKind = "pairs"
    """What its samples are."""
    images: str = ""
    """Kind "json" only: the folder that image paths in it are relative to."""


def find_shards(uri_or_glob: str, source: str, holds: SourceKind = "pairs", images: str = "") -> list[ShardRef]:
    """Shards below a folder, matching a glob (also `{00000..00023}`, `{a,b}`), or one file, in natural order of name.

    A shard's name is its file name without the ending; below the folder (or the glob's fixed part), the folders come
    before it, joined by `-`, so that adding shards later renames none. `NNNNN.parquet` beside `NNNNN.tar` is what
    img2dataset writes about that tar, and no shard. Where no pairs are wanted, JSON Lines files are shards as well, and
    JSON files where they are all there is; image paths in them are relative to `images`, or to their own folder. Raises
    CorpusError when nothing is there, or nothing that is one.
    """
    stamps = glob_all(_braces(uri_or_glob))
    files = [f for f in stamps if not posixpath.basename(f).startswith(".")]
    if archives := [f for f in files if f.lower().endswith(_ARCHIVES)]:
        raise CorpusError(
            archives[0], "compressed archives cannot be read by offset", "Unpack it to a plain .tar, or move it away"
        )
    root = _root(uri_or_glob)
    shards = [_shard(f, stamps[f], root, source) for f in _shard_files(files)]
    if holds != "pairs":
        folder = storage.absolute(images) if images else ""
        shards += [_json_shard(f, stamps[f], root, source, folder) for f in _json_files(files)]
    if not shards:
        shards = _folders(files, root, source)
    shards = [dataclasses.replace(ref, holds=holds) for ref in shards]
    if not shards:
        example = files[0] if files else uri_or_glob
        kinds = "Parquet files or pictures" if holds == "pairs" else "Parquet or JSON Lines files"
        remedy = f"Give a folder, glob or file of WebDataset .tar shards, {kinds}"
        raise CorpusError(example, "neither a .tar nor a .parquet shard nor a picture", remedy)
    shards.sort(key=lambda ref: _natural(ref.shard))
    for before, ref in itertools.pairwise(shards):
        if before.shard == ref.shard:
            remedy = "Rename one; layers are kept by shard name"
            raise CorpusError(ref.uri, f"has the same shard name {ref.shard!r} as {before.uri}", remedy)
    return shards


def ending(name: str) -> str:
    """`jpg` of `a/b.JPG`."""
    return posixpath.splitext(name)[1][1:].lower()


def _shard_files(files: list[str]) -> Iterable[str]:
    tars = {posixpath.splitext(f)[0] for f in files if ending(f) == "tar"}
    for file in files:
        if ending(file) == "tar" or (ending(file) == "parquet" and posixpath.splitext(file)[0] not in tars):
            yield file


def _json_files(files: list[str]) -> list[str]:
    only_json = all(ending(f) == "json" for f in files)  # else they belong to something
    return [f for f in files if ending(f) == "jsonl" or only_json]


def _json_shard(file: str, stamp: str, root: str, source: str, images: str) -> ShardRef:
    name = posixpath.splitext(posixpath.relpath(file, root))[0].replace("/", "-")
    return ShardRef(source, name, file, "json", stamp=stamp, images=images or posixpath.dirname(file))


def _shard(file: str, stamp: str, root: str, source: str) -> ShardRef:
    name = posixpath.splitext(posixpath.relpath(file, root))[0].replace("/", "-")
    return ShardRef(source, name, file, "tar" if ending(file) == "tar" else "parquet", stamp=stamp)


def _folders(files: list[str], root: str, source: str) -> list[ShardRef]:
    """Pictures in natural order, a thousand to a shard, each with the texts beside it."""
    names = sorted((posixpath.relpath(f, root) for f in files), key=_natural)
    pictures = [n for n in names if ending(n) in IMAGE_ENDINGS]
    beside: dict[str, list[str]] = {}
    for name in names:
        if name.endswith(_SIDECARS):
            stem = name[: -len(".truth.json")] if name.endswith(".truth.json") else posixpath.splitext(name)[0]
            beside.setdefault(stem, []).append(name)
    shards = []
    for number, start in enumerate(range(0, len(pictures), PICTURES_PER_SHARD)):
        chunk = pictures[start : start + PICTURES_PER_SHARD]
        texts = dict.fromkeys(text for picture in chunk for text in beside.get(posixpath.splitext(picture)[0], ()))
        name = f"{posixpath.basename(root.rstrip('/')) or 'pictures'}-{number:05}"
        shards.append(ShardRef(source, name, root, "folder", (*chunk, *texts)))
    return shards


def _root(uri_or_glob: str) -> str:
    """The folder that shard names are relative to."""
    full = storage.absolute(uri_or_glob)
    fixed = re.split(r"[*?\[{]", full, maxsplit=1)[0]
    if fixed != full:
        return posixpath.dirname(fixed)
    return posixpath.dirname(full) if storage.Store(full).is_file() else full


def _braces(pattern: str) -> list[str]:
    """`{0..2}` and `{a,b}`, as WebDataset users write them; numbers keep their width."""
    if not (found := re.search(r"\{([^{}]*)\}", pattern)):
        return [pattern]
    inside = found.group(1)
    if numbers := re.fullmatch(r"(\d+)\.\.(\d+)", inside):
        low, high = int(numbers[1]), int(numbers[2])
        choices = [str(n).zfill(len(numbers[1])) for n in range(low, high + 1)]
    else:
        choices = inside.split(",")
    return [
        whole for choice in choices for whole in _braces(pattern[: found.start()] + choice + pattern[found.end() :])
    ]


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Sort key under which 2 comes before 10."""
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]
