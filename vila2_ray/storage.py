"""Folders on any filesystem: listing, ranged reads, atomic writes, conditional writes.

Everything the project stores goes through `Store`. A write is seen whole or not at all: locally by a temporary name and
a rename, on S3 because an object appears only when its upload is complete. Conditional writes (the lease, markers,
promotion) compare the version that the caller has seen: a file lock and a content hash locally, `If-Match` /
`If-None-Match` on S3. What S3 needs beyond that, retries above all, stands in `s3`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import hashlib
import io
import json
import operator
import os
import posixpath
import re
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from vila2_ray.errors import ConditionFailed, ConfigError, CorpusError, StorageError
from vila2_ray.nodecache import cached_folder

_TEMPORARY = ".tmp-"
_CHUNK_BYTES = 8 << 20
_SMALL_TABLE_BYTES = 4 << 20
"""A far Parquet file up to this is read by one request, a larger one column by column."""
_SCHEME = re.compile(r"^[a-z][a-z0-9+.-]*://", re.IGNORECASE)


def is_remote(uri: str) -> bool:
    """Whether `uri` names something that is not on this machine's own filesystem."""
    return bool(_SCHEME.match(uri)) and not uri.lower().startswith("file://")


def absolute(uri: str) -> str:
    """A remote URI as it is, a local path or `file://` URI as an absolute path: workers run in other folders."""
    if is_remote(uri):
        return uri.rstrip("/")
    return os.path.abspath(os.path.expanduser(re.sub(r"^file://", "", uri, flags=re.IGNORECASE)))


def split_uri(uri: str) -> tuple[str, str]:
    """`folder/name` → (`folder`, `name`)."""
    folder, name = posixpath.split(absolute(uri))
    return folder, name


class Store:
    """A folder. Names are relative to it, with forward slashes. Cheap to make and pickle; opens nothing by itself."""

    def __init__(self, uri: str | os.PathLike[str]) -> None:
        self.uri = absolute(os.fspath(uri))
        self._opened: tuple[pafs.FileSystem, str] | None = None

    def __getstate__(self) -> str:
        return self.uri

    def __setstate__(self, state: str) -> None:
        self.uri, self._opened = state, None

    def __repr__(self) -> str:
        return f"Store({self.uri!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Store) and other.uri == self.uri

    def __hash__(self) -> int:
        return hash(self.uri)

    @property
    def is_local(self) -> bool:
        return not is_remote(self.uri)

    @property
    def is_s3(self) -> bool:
        return self.uri.startswith("s3://")

    def sub(self, *parts: str) -> Store:
        """A folder below this one."""
        return Store(posixpath.join(self.uri, *parts))

    def path(self, name: str = "") -> str:
        """The URI of a file in this folder."""
        return posixpath.join(self.uri, name) if name else self.uri

    # --- looking -----------------------------------------------------------------------------------------------------

    def list(self, prefix: str = "", suffix: str = "") -> list[str]:
        """Names of the files below `prefix` (a folder), in order; empty when the folder is missing."""
        return [name for name, _ in self._files(prefix, suffix)]

    def stamps(self, prefix: str = "", suffix: str = "") -> dict[str, str]:
        """What `list` gives, each name with its stamp: one listing tells whether any of many files has changed."""
        return {name: _stamp(info, self.is_local) for name, info in self._files(prefix, suffix)}

    def sizes(self, prefix: str = "") -> dict[str, int]:
        """What `list` gives, each name with its bytes, from one listing."""
        return {name: int(info.size) for name, info in self._files(prefix, "")}

    def exists(self, name: str) -> bool:
        return self._info(name).type == pafs.FileType.File

    def is_file(self) -> bool:
        """Whether this URI is itself a file."""
        return self._info("").type == pafs.FileType.File

    def size(self, name: str) -> int:
        """Bytes of a file. Raises StorageError when it is missing."""
        info = self._info(name)
        if info.type != pafs.FileType.File:
            raise StorageError(f"{self.path(name)}: no such file")
        return int(info.size)

    def stamp(self, name: str) -> str:
        """Bytes and time of the last change of a file, by one request: where it differs, the file may have changed.

        Raises StorageError when it is missing.
        """
        stamp = self.stamp_if_file(name)
        if not stamp:
            raise StorageError(f"{self.path(name)}: no such file")
        return stamp

    def stamp_if_file(self, name: str) -> str:
        """The stamp; empty for what is missing or a folder."""
        info = self._info(name)
        return _stamp(info, self.is_local) if info.type == pafs.FileType.File else ""

    # --- reading -----------------------------------------------------------------------------------------------------

    def open(self, name: str) -> pa.NativeFile:
        """Random access to a file, on S3 by ranged requests that are retried."""
        with self._said(name):
            if self.is_s3:
                return _s3().open_file(self._place(name))
            filesystem, root = self._open()
            return filesystem.open_input_file(posixpath.join(root, name) if name else root)

    def read_bytes(self, name: str) -> bytes:
        with self.open(name) as file, self._said(name):
            return bytes(file.read())

    def read_text(self, name: str) -> str:
        return self.read_bytes(name).decode("utf-8")

    def read_range(self, name: str, offset: int, length: int) -> bytes:
        with self.open(name) as file, self._said(name):
            return bytes(file.read_at(length, offset))

    def read_table(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        with self.open(name) as file, self._parquet(name):
            near = pa.BufferReader(file.read_buffer()) if self.is_s3 and file.size() <= _SMALL_TABLE_BYTES else file
            # by this thread: another that still holds bytes of Python's when the process ends, ends it by SIGABRT
            return pq.ParquetFile(near).read(None if columns is None else [*columns], use_threads=not self.is_s3)

    def read_metadata(self, name: str) -> dict[str, str]:
        """Key–value metadata of a Parquet file that `write_table` wrote."""
        with self.open(name) as file, self._parquet(name):
            found = pq.ParquetFile(file).schema_arrow.metadata or {}
        return {k.decode(): v.decode() for k, v in found.items()}

    def num_rows(self, name: str) -> int:
        with self.open(name) as file, self._parquet(name):
            return int(pq.ParquetFile(file).metadata.num_rows)

    # --- writing -----------------------------------------------------------------------------------------------------

    def write_bytes(self, name: str, data: bytes) -> None:
        """Replace a file whole."""
        self._write(name, lambda: io.BytesIO(data))

    def write_text(self, name: str, text: str) -> None:
        self.write_bytes(name, text.encode("utf-8"))

    def write_table(self, name: str, table: pa.Table, metadata: dict[str, str] | None = None) -> None:
        """Replace a Parquet file whole; `metadata` goes into its key–value metadata."""
        if metadata:
            table = table.replace_schema_metadata({**(table.schema.metadata or {}), **metadata})
        sink = io.BytesIO()
        pq.write_table(table, sink, compression="zstd")
        self.write_bytes(name, sink.getvalue())

    def delete(self, name: str) -> None:
        """Remove a file; a missing one is fine."""
        with contextlib.suppress(FileNotFoundError), self._said(name, keep_missing=True):
            if self.is_s3:
                _s3().delete(self._place(name))
                return
            filesystem, root = self._open()
            filesystem.delete_file(posixpath.join(root, name))

    def delete_tree(self, name: str = "") -> None:
        """Remove a folder and all below it; a missing one is fine."""
        with contextlib.suppress(FileNotFoundError), self._said(name, keep_missing=True):
            if self.is_s3:
                _s3().delete_all([self._place(file) for file in self.list(name)])
                return
            filesystem, root = self._open()
            filesystem.delete_dir(posixpath.join(root, name) if name else root)

    # --- conditional writes ------------------------------------------------------------------------------------------

    def read_versioned(self, name: str) -> tuple[bytes, str] | None:
        """Content and version of a file; None when it is missing."""
        if self.is_local:
            try:
                data = Path(self.uri, name).read_bytes()
            except FileNotFoundError:
                return None
            return data, _content_version(data)
        with self._said(name):
            return _s3().read_versioned(self._versioned(name))

    def put_if(self, name: str, data: bytes, version: str | None) -> str:
        """Replace a file if its version is still `version` (None: if it does not exist); the new version.

        Raises ConditionFailed when somebody else wrote first.
        """
        if not self.is_local:
            with self._said(name):
                return _s3().put_if(self._versioned(name), data, version)
        path = Path(self.uri, name)
        with self._said(name):
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path.with_name(path.name + ".lock"), "w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                found = self.read_versioned(name)
                if (found[1] if found else None) != version:
                    raise ConditionFailed(f"{path}: written by somebody else in the meantime")
                _write_local(path, io.BytesIO(data))
        return _content_version(data)

    # --- folders -----------------------------------------------------------------------------------------------------

    def upload_folder(self, local: Path, name: str = "") -> None:
        """Copy the files of a local folder here, in order of name, streamed."""
        for file in sorted(p for p in local.rglob("*") if p.is_file()):
            self._write(posixpath.join(name, file.relative_to(local).as_posix()), functools.partial(_open_local, file))

    def local_folder(self, name: str = "") -> Path:
        """This folder on the local disk: itself, or a copy in this node's cache.

        The copy is made once for each content (names, sizes and times of the files), whatever number of processes asks,
        and stays at least until this process ends; see `nodecache`.
        Raises StorageError when the folder is missing.
        """
        source = self.sub(name) if name else self
        if self.is_local:
            return Path(source.uri)
        files = dict(source._files("", ""))
        if not files:
            raise StorageError(f"{source.uri}: no such folder")
        stamps = {name: _stamp(info, is_local=False) for name, info in files.items()}
        content = hashlib.sha256(json.dumps([source.uri, stamps]).encode()).hexdigest()[:32]
        num_bytes = sum(int(info.size) for info in files.values())
        return cached_folder(content, num_bytes, lambda folder: source._fetch(folder, list(files)))

    def _fetch(self, folder: Path, names: Sequence[str]) -> None:
        with self._said(""), ThreadPoolExecutor(8) as pool:
            for _ in pool.map(lambda name: _write_local(folder / name, self.open(name)), names):
                pass

    # --- inside ------------------------------------------------------------------------------------------------------

    def _open(self) -> tuple[pafs.FileSystem, str]:
        if self._opened is None:
            if self.is_local:
                self._opened = pafs.LocalFileSystem(), self.uri
            else:
                try:
                    self._opened = pafs.FileSystem.from_uri(self.uri)
                except (pa.ArrowInvalid, OSError) as error:
                    raise StorageError(f"{self.uri}: cannot be opened ({error})") from error
        return self._opened

    def _files(self, prefix: str, suffix: str) -> Iterable[tuple[str, pafs.FileInfo]]:
        """Names of the files below a folder, in order."""
        with self._said(prefix):
            if self.is_s3:
                root, infos = self._place().path, _s3().infos(self._place(prefix))
            else:
                filesystem, root = self._open()
                base = posixpath.join(root, prefix) if prefix else root
                infos = filesystem.get_file_info(pafs.FileSelector(base, allow_not_found=True, recursive=True))
        skip = len(root.rstrip("/")) + 1
        files = [(info.path[skip:], info) for info in infos if info.type == pafs.FileType.File]
        files = [f for f in files if f[0].endswith(suffix) and not posixpath.basename(f[0]).startswith(_TEMPORARY)]
        return sorted(files, key=operator.itemgetter(0))

    def _info(self, name: str) -> pafs.FileInfo:
        with self._said(name):
            if self.is_s3:
                return _s3().info(self._place(name))
            filesystem, root = self._open()
            return filesystem.get_file_info(posixpath.join(root, name) if name else root)

    def _write(self, name: str, open_source: Callable[[], BinaryIO]) -> None:
        """Replace a file whole by what `open_source` gives; it may be called again when a request is repeated."""
        with self._said(name):
            if self.is_local:
                _write_local(Path(self.uri, name), open_source())
            elif self.is_s3:
                _s3().put(self._place(name), open_source)
            else:
                filesystem, root = self._open()
                with open_source() as source, filesystem.open_output_stream(posixpath.join(root, name)) as stream:
                    shutil.copyfileobj(source, stream, _CHUNK_BYTES)

    def _place(self, name: str = "") -> Any:
        return _s3().Place.of(self.path(name))

    def _versioned(self, name: str) -> Any:
        if not self.is_s3:
            raise ConfigError("campaign", self.uri, "conditional writes need a local folder or an s3:// URI")
        return self._place(name)

    @contextlib.contextmanager
    def _said(self, name: str, keep_missing: bool = False) -> Iterator[None]:
        """Turn what a filesystem raises into a sentence."""
        try:
            yield
        except StorageError:
            raise
        except FileNotFoundError as error:
            if keep_missing:
                raise
            raise StorageError(f"{self.path(name)}: no such file") from error
        except OSError as error:
            raise StorageError(f"{self.path(name)}: {_sentence(error)}") from error

    @contextlib.contextmanager
    def _parquet(self, name: str) -> Iterator[None]:
        with self._said(name):
            try:
                yield
            except pa.ArrowInvalid as error:
                raise CorpusError(self.path(name), "not a readable Parquet file", "Delete it and run again") from error


def _s3() -> ModuleType:
    from vila2_ray import s3  # boto3 is slow to import, and local folders do without

    return s3


def _content_version(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _open_local(path: Path) -> BinaryIO:
    return open(path, "rb")


def _stamp(info: pafs.FileInfo, is_local: bool) -> str:
    """Object stores tell whole seconds to one question and parts of them to another."""
    return f"{info.size} {info.mtime_ns if is_local else info.mtime_ns // 10**9 * 10**9}"


def _write_local(path: Path, source: BinaryIO | pa.NativeFile) -> None:
    """Copy `source` to a file that appears when it is whole; both are closed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{_TEMPORARY}{uuid.uuid4().hex}")
    try:
        with source, open(temporary, "wb") as file:
            shutil.copyfileobj(source, file, _CHUNK_BYTES)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def _sentence(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return "the disk is full; free some space and run the same command again, finished work is kept"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "permission denied; check who owns the folder and whether it is writable"
    return str(error)
