"""What travels to a cluster: the checkout as one small zip file, without data, environments and secrets.

`.gitignore` and `.rayignore` say what stays at home, as they do for `ray job submit --working-dir .`; what is named as
secrets usually are stays at home whatever they say, and a file that holds one stops the submission. The same files make
the same zip, so that a cluster that has it is not sent it again.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pathspec import GitIgnoreSpec

from vila2_ray.errors import ConfigError
from vila2_ray.nodecache import cache_folder

LIMIT_BYTES = 48 * 1024 * 1024
"""Every node fetches it once, out of the head's memory."""
KEEP_SECONDS = 7 * 24 * 3600.0
IGNORE_FILES = (".gitignore", ".rayignore")
SECRET_NAMES = (
    ".env",
    ".env.*",
    ".envrc",
    "*.pem",
    "*.key",
    "*.p12",
    "*.pfx",
    "id_rsa*",
    "id_ecdsa*",
    "id_ed25519*",
    ".netrc",
    ".npmrc",
    ".pypirc",
    ".git-credentials",
    "credentials",
    "credentials.json",
    "*service[-_]account*.json",
    "auth_token",
    ".aws/",
    ".ssh/",
    ".kube/",
    ".docker/",
)
NEVER = (".git", ".venv", "venv/", "__pycache__/", "*.pyc", "node_modules/", "*.egg-info/")
_SECRET_TEXT = re.compile(
    rb"-----BEGIN [A-Z ]*PRIVATE KEY-----|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"
    rb"|(?i:aws_secret_access_key)[\"']?\s*[=:]\s*[\"']?[A-Za-z0-9/+]{40}(?![A-Za-z0-9/+])"
)
_STAMP = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Package:
    """A zip file in the cache, ready to be sent."""

    path: Path
    num_bytes: int
    num_files: int

    @property
    def sentence(self) -> str:
        return f"{self.num_files:,} files, {_size(self.num_bytes)}"


def pack(root: Path, extra: Mapping[str, bytes] | None = None) -> Package:
    """Zip what `root` holds but for what is ignored, and `extra` files by their names in the zip.

    Raises ConfigError: too large (naming what is largest), or a secret in a file.
    """
    files = {name: path.read_bytes() for name, path in travelling(root)} | dict(extra or {})
    for name, data in files.items():
        if _SECRET_TEXT.search(data):
            raise ConfigError("package", name, "holds a key or password; list the file in .rayignore, see --secret")
    folder = cache_folder("packages")
    folder.mkdir(exist_ok=True)
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name}\0{len(files[name])}\0".encode() + files[name])
    path = folder / f"vila2-{digest.hexdigest()[:16]}.zip"
    if not path.exists():
        _write(path, files)
    _forget(folder, path)
    size = path.stat().st_size
    if size > LIMIT_BYTES:
        largest = sorted(files, key=lambda name: len(files[name]), reverse=True)[:3]
        named = ", ".join(f"{name} ({_size(len(files[name]))})" for name in largest)
        path.unlink()
        remedy = f"at most {_size(LIMIT_BYTES)} travel; list what no node needs in .rayignore. Largest: {named}"
        raise ConfigError("package", _size(size), remedy)
    return Package(path, size, len(files))


def travelling(root: Path) -> Iterator[tuple[str, Path]]:
    """Names and places of the files that go along, in order."""
    always = GitIgnoreSpec.from_lines((*NEVER, *SECRET_NAMES))
    ignored: dict[Path, GitIgnoreSpec] = {}

    def stays(path: Path, is_folder: bool) -> bool:
        for base in (root, *(p for p in reversed(path.parents) if p != root and root in p.parents)):
            name = path.relative_to(base).as_posix() + "/" * is_folder
            if base in ignored and ignored[base].match_file(name):
                return True
        return always.match_file(path.relative_to(root).as_posix() + "/" * is_folder)

    for here, folders, names in os.walk(root):
        folder = Path(here)
        lines = [line for name in IGNORE_FILES if (folder / name).is_file() for line in _lines(folder / name)]
        if lines:
            ignored[folder] = GitIgnoreSpec.from_lines(lines)
        folders[:] = sorted(name for name in folders if not stays(folder / name, True))
        for name in sorted(names):
            path = folder / name
            if not stays(path, False) and path.is_file() and path.resolve().is_relative_to(root.resolve()):
                yield path.relative_to(root).as_posix(), path


def _lines(path: Path) -> list[str]:
    return path.read_text("utf-8").splitlines()


def _write(path: Path, files: Mapping[str, bytes]) -> None:
    staging = path.with_suffix(f".{os.getpid()}.tmp")
    with zipfile.ZipFile(staging, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, _STAMP)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, files[name], zipfile.ZIP_DEFLATED, compresslevel=1)  # weights hardly shrink
    staging.replace(path)


def _forget(folder: Path, kept: Path) -> None:
    """Packages that nobody has sent for long."""
    os.utime(kept)
    for path in folder.iterdir():
        if path != kept and path.stat().st_mtime < time.time() - KEEP_SECONDS:
            path.unlink(missing_ok=True)


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:,.1f} MB"
