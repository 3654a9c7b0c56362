"""Folders on any filesystem: listing, ranged reads, atomic writes, conditional writes.

Everything the project stores goes through `Store`. A write is seen whole or not at all: locally by a temporary name and
a rename, on S3 because an object appears only when its upload is complete. Conditional writes (the lease, promotion)
compare the version that the caller has seen: a file lock and a content hash locally, `If-Match` / `If-None-Match` on
S3.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import io
import os
import posixpath
import re
import shutil
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from vila2_ray.errors import ConditionFailed, ConfigError, CorpusError, StorageError

_TEMPORARY = ".tmp-"
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


def glob(uri: str) -> list[str]:
    """Files that a folder (searched below), a glob or a file names, as absolute URIs in order of name.

    Raises CorpusError when there are none.
    """
    full = absolute(uri)
    fixed = re.split(r"[*?\[]", full, maxsplit=1)[0]
    is_glob = fixed != full
    folder = posixpath.dirname(fixed) if is_glob else full
    store = Store(folder)
    if not is_glob and store.is_file():
        return [full]
    names = [posixpath.join(folder, name) for name in store.list()]
    if is_glob:
        pattern = _glob_pattern(full)
        names = [name for name in names if pattern.match(name)]
    if not names:
        raise CorpusError(
            uri, "no file there", "Check the path; a folder, a glob in quotes or a single shard is expected"
        )
    return names


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

    def sub(self, *parts: str) -> Store:
        """A folder below this one."""
        return Store(posixpath.join(self.uri, *parts))

    def path(self, name: str = "") -> str:
        """The URI of a file in this folder."""
        return posixpath.join(self.uri, name) if name else self.uri

    # --- looking -----------------------------------------------------------------------------------------------------

    def list(self, prefix: str = "", suffix: str = "") -> list[str]:
        """Names of the files below `prefix` (a folder), in order; empty when the folder is missing."""
        filesystem, root = self._open()
        base = posixpath.join(root, prefix) if prefix else root
        with self._said(prefix):
            infos = filesystem.get_file_info(pafs.FileSelector(base, allow_not_found=True, recursive=True))
        names = (posixpath.relpath(info.path, root) for info in infos if info.type == pafs.FileType.File)
        return sorted(n for n in names if n.endswith(suffix) and not posixpath.basename(n).startswith(_TEMPORARY))

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
        """Bytes and time of the last change of a file, by one request: where it differs, the file may have changed."""
        info = self._info(name)
        if info.type != pafs.FileType.File:
            raise StorageError(f"{self.path(name)}: no such file")
        return f"{info.size} {info.mtime_ns}"

    # --- reading -----------------------------------------------------------------------------------------------------

    def open(self, name: str) -> pa.NativeFile:
        """Random access to a file."""
        filesystem, root = self._open()
        with self._said(name):
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
            return pq.ParquetFile(file).read(columns=None if columns is None else [*columns])

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
        with self._said(name):
            if self.is_local:
                _write_local(Path(self.uri, name), data)
                return
            filesystem, root = self._open()
            with filesystem.open_output_stream(posixpath.join(root, name)) as stream:
                stream.write(data)

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
        filesystem, root = self._open()
        with contextlib.suppress(FileNotFoundError), self._said(name, keep_missing=True):
            filesystem.delete_file(posixpath.join(root, name))

    def delete_tree(self, name: str = "") -> None:
        """Remove a folder and all below it; a missing one is fine."""
        filesystem, root = self._open()
        with contextlib.suppress(FileNotFoundError), self._said(name, keep_missing=True):
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
        return self._s3().read(self._s3_key(name))

    def put_if(self, name: str, data: bytes, version: str | None) -> str:
        """Replace a file if its version is still `version` (None: if it does not exist); the new version.

        Raises ConditionFailed when somebody else wrote first.
        """
        if not self.is_local:
            return self._s3().put_if(self._s3_key(name), data, version, self.path(name))
        path = Path(self.uri, name)
        with self._said(name):
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path.with_name(path.name + ".lock"), "w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                found = self.read_versioned(name)
                if (found[1] if found else None) != version:
                    raise ConditionFailed(f"{path}: written by somebody else in the meantime")
                _write_local(path, data)
        return _content_version(data)

    # --- folders -----------------------------------------------------------------------------------------------------

    def upload_folder(self, local: Path, name: str = "") -> None:
        """Copy the files of a local folder here, in order of name."""
        for file in sorted(p for p in local.rglob("*") if p.is_file()):
            self.write_bytes(posixpath.join(name, file.relative_to(local).as_posix()), file.read_bytes())

    def local_folder(self, name: str = "") -> Path:
        """This folder on the local disk: itself, or a copy in the cache, made once for each content."""
        if self.is_local:
            return Path(self.uri, name) if name else Path(self.uri)
        source = self.sub(name) if name else self
        names = source.list()
        if not names:
            raise StorageError(f"{source.uri}: no such folder")
        sizes = "\n".join(f"{n} {source._info(n).size} {source._info(n).mtime_ns}" for n in names)
        target = cache_folder("folders", hashlib.sha256(f"{source.uri}\n{sizes}".encode()).hexdigest()[:16])
        if not target.exists():
            staging = target.with_name(f"{_TEMPORARY}{uuid.uuid4().hex}")
            for n in names:
                _write_local(staging / n, source.read_bytes(n))
            with contextlib.suppress(OSError):  # another process was faster
                staging.rename(target)
            shutil.rmtree(staging, ignore_errors=True)
        return target

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

    def _info(self, name: str) -> pafs.FileInfo:
        filesystem, root = self._open()
        with self._said(name):
            return filesystem.get_file_info(posixpath.join(root, name) if name else root)

    def _s3(self) -> _S3:
        if not self.uri.startswith("s3://"):
            raise ConfigError("campaign", self.uri, "conditional writes need a local folder or an s3:// URI")
        return _S3()

    def _s3_key(self, name: str) -> tuple[str, str]:
        bucket, _, key = self.path(name)[len("s3://") :].partition("/")
        return bucket, key

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


class _S3:
    """Versioned objects by boto3, which knows the conditional headers that pyarrow does not."""

    def __init__(self) -> None:
        import boto3

        self._client: Any = boto3.client("s3")

    def read(self, key: tuple[str, str]) -> tuple[bytes, str] | None:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            found = self._client.get_object(Bucket=key[0], Key=key[1])
            return found["Body"].read(), found["ETag"]
        except ClientError as error:
            if error.response["Error"]["Code"] in ("NoSuchKey", "404"):
                return None
            raise StorageError(f"s3://{key[0]}/{key[1]}: {error.response['Error']['Code']}") from error
        except BotoCoreError as error:
            raise StorageError(f"s3://{key[0]}/{key[1]}: {type(error).__name__}") from error

    def put_if(self, key: tuple[str, str], data: bytes, version: str | None, uri: str) -> str:
        from botocore.exceptions import BotoCoreError, ClientError

        condition = {"IfNoneMatch": "*"} if version is None else {"IfMatch": version}
        try:
            return str(self._client.put_object(Bucket=key[0], Key=key[1], Body=data, **condition)["ETag"])
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] in (404, 409, 412):
                raise ConditionFailed(f"{uri}: written by somebody else in the meantime") from error
            raise StorageError(f"{uri}: {error.response['Error']['Code']}") from error
        except BotoCoreError as error:
            raise StorageError(f"{uri}: {type(error).__name__}") from error


def cache_folder(*parts: str) -> Path:
    """A folder under `$VILA2_CACHE` (default `~/.cache/vila2_ray`); the parent exists."""
    path = Path(os.environ.get("VILA2_CACHE") or "~/.cache/vila2_ray").expanduser().joinpath(*parts)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _content_version(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _write_local(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{_TEMPORARY}{uuid.uuid4().hex}")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
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
