"""Files that a folder, a glob or a name stands for, on any filesystem, each with the stamp that its listing tells."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Sequence
from typing import Any

from vila2_ray.errors import CorpusError
from vila2_ray.storage import Store, absolute


def glob(uri: str) -> list[str]:
    """Files that a folder (searched below), a glob or a file names, as absolute URIs in order of name.

    Raises CorpusError when there are none.
    """
    return list(glob_all([uri]))


def glob_all(uris: Sequence[str]) -> dict[str, str]:
    """Files that any of `uris` (folders, globs, files) names, by absolute URI → stamp; each folder is listed once.

    In the order of `uris`, then of name. Raises CorpusError when one of them names none.
    """
    wanted = [absolute(uri) for uri in uris]
    by_folder: dict[str, list[str]] = {}
    for uri in wanted:
        fixed = re.split(r"[*?\[]", uri, maxsplit=1)[0]
        by_folder.setdefault(posixpath.dirname(fixed), []).append(uri)
    found: dict[str, dict[str, str]] = {}
    for folder, patterns in by_folder.items():
        found.update(_match(folder, patterns))
    out: dict[str, str] = {}
    for uri, full in zip(uris, wanted, strict=True):
        if not found[full]:
            raise CorpusError(
                uri, "no file there", "Check the path; a folder, a glob in quotes or a single shard is expected"
            )
        out.update(found[full])
    return out


def _match(folder: str, patterns: Sequence[str]) -> dict[str, dict[str, str]]:
    """For each pattern below `folder` the files that it names, with their stamps."""
    if len(patterns) == 1 and not re.search(r"[*?\[]", patterns[0]):  # often one of many folders in a bucket
        store = Store(only := patterns[0])
        if stamp := store.stamp_if_file(""):
            return {only: {only: stamp}}
        return {only: {posixpath.join(only, name): stamp for name, stamp in store.stamps().items()}}
    files = {posixpath.join(folder, name): stamp for name, stamp in Store(folder).stamps().items()}
    out = {}
    for uri in patterns:
        if uri in files:
            out[uri] = {uri: files[uri]}
            continue
        fits = _glob_pattern(uri).match if re.search(r"[*?\[]", uri) else _below(uri)
        out[uri] = {file: stamp for file, stamp in files.items() if fits(file)}
    return out


def _below(folder: str) -> Callable[[str], Any]:
    return lambda file: file.startswith(folder + "/")


def _glob_pattern(pattern: str) -> re.Pattern[str]:
    """`*` and `?` stay within one folder, `**` crosses folders."""
    out, i = "", 0
    while i < len(pattern):
        if pattern.startswith("**/", i):
            out, i = out + "(?:.*/)?", i + 3
        elif pattern[i] == "*":
            out, i = out + "[^/]*", i + 1
        elif pattern[i] == "?":
            out, i = out + "[^/]", i + 1
        elif pattern[i] == "[" and "]" in pattern[i + 1 :]:
            end = pattern.index("]", i + 1)
            out, i = out + "[" + pattern[i + 1 : end].replace("!", "^", 1) + "]", end + 1
        else:
            out, i = out + re.escape(pattern[i]), i + 1
    return re.compile(out + r"\Z")
