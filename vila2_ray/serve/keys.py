"""API keys: a file of names and hashes. Whoever reads the file cannot ask; whoever deletes a line revokes a key.

    # name  created               hash
    alice   2026-11-23T12:00:00Z  sha256:9f86d0…

A key is 32 random bytes, so that one round of sha256 is as good as many: there is nothing to guess.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import logging
import os
import re
import secrets
import stat
import threading
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from vila2_ray.errors import ConfigError
from vila2_ray.serve.logs import SERVE

PREFIX = "vila2-"
"""What keys begin with, so that they are known wherever they turn up."""
_LOG = logging.getLogger(SERVE)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_HASH = re.compile(r"sha256:([0-9a-f]{64})")


@dataclass(frozen=True)
class Entry:
    """One line of the file."""

    name: str
    """Who asks: in the access log."""
    digest: str
    """sha256 of the key, hexadecimal."""


class Keys:
    """The keys that may ask now. A file that changes is read again; a broken one changes nothing and is logged."""

    def __init__(self, path: Path, entries: tuple[Entry, ...], seen: tuple[int, ...], recheck_seconds: float) -> None:
        self._path, self._entries, self._seen = path, entries, seen
        self._recheck_seconds = recheck_seconds
        self._checked_at = time.monotonic()
        self._lock = threading.Lock()

    @classmethod
    def read(cls, path: str | Path, recheck_seconds: float = 1.0) -> Keys:
        """The keys of a file, which is looked at again at most every `recheck_seconds`.

        Raises ConfigError when it cannot be read, holds no key or a malformed line, or is open to strangers.
        """
        file = Path(path)
        seen, entries = _read(file)
        if not entries:
            raise ConfigError("serve.keys", str(path), "holds no key; make one with vila2 serve-key FILE NAME")
        return cls(file, entries, seen, recheck_seconds)

    def check(self, presented: str) -> str | None:
        """The name of the key that `presented` is, or None. Takes as long for any of them; never raises."""
        self._look_again()
        digest = _digest(presented)
        found: str | None = None
        for entry in self._entries:  # to the end, whatever is found
            is_it = hmac.compare_digest(entry.digest, digest)
            found = entry.name if is_it else found
        return found

    def _look_again(self) -> None:
        now = time.monotonic()
        if now - self._checked_at < self._recheck_seconds or not self._lock.acquire(blocking=False):
            return
        try:
            self._checked_at = now
            seen = _version(self._path)
            if seen == self._seen:
                return
            self._seen = seen  # also of a broken file: said once, not at every request
            self._seen, self._entries = _read(self._path)
            _LOG.info("%s changed: %d keys", self._path.name, len(self._entries))
        except ConfigError as error:
            _LOG.error("the keys from before stay valid: %s", error)
        finally:
            self._lock.release()


def new_key(name: str) -> tuple[str, str]:
    """A new key, and the line to put into the file. Raises ConfigError for a name that does not fit into a line."""
    if not _NAME.fullmatch(name):
        raise ConfigError("name", name, "1 to 64 letters, digits and . _ @ -, a letter or digit first")
    secret = PREFIX + secrets.token_urlsafe(32)
    created = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    return secret, f"{name}  {created}  sha256:{_digest(secret)}"


def add_key(path: str | Path, name: str) -> str:
    """A new key, its line appended to the file, which is made if it is missing: the key, shown this once.

    Raises ConfigError when the name is taken, or the file is no file of keys or cannot be written.
    """
    file = Path(path)
    secret, line = new_key(name)
    if file.exists() and any(entry.name == name for entry in _read(file)[1]):
        raise ConfigError("name", name, f"has a key in {path}; delete its line there to replace it")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), "r+", encoding="utf-8") as opened:
            text = opened.read()
            opened.write(("\n" if text and not text.endswith("\n") else "") + line + "\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("serve.keys", str(path), f"cannot be written: {error.__class__.__name__}") from error
    return secret


def remove_key(path: str | Path, name: str) -> None:
    """Take a key out of the file, which is replaced whole. Raises ConfigError where nobody of that name has one."""
    file = Path(path)
    if name not in {entry.name for entry in _read(file)[1]}:
        raise ConfigError("name", name, f"has no key in {path}")
    lines = [line for line in file.read_text("utf-8").splitlines() if not _tells(line) or line.split()[0] != name]
    staging = file.with_name(f".{file.name}.new")
    try:
        with open(os.open(staging, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as opened:
            opened.write("".join(f"{line}\n" for line in lines))
        os.replace(staging, file)
    except OSError as error:
        raise ConfigError("serve.keys", str(path), f"cannot be written: {error.__class__.__name__}") from error


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _version(path: Path) -> tuple[int, ...]:
    """Differs when the file does; empty where there is none."""
    with contextlib.suppress(OSError):
        found = path.stat()
        return found.st_mtime_ns, found.st_size, found.st_ino, found.st_mode
    return ()


def _read(path: Path) -> tuple[tuple[int, ...], tuple[Entry, ...]]:
    """Which version of the file this is, and its entries. Raises ConfigError."""
    seen = _version(path)  # before its contents: a change in between is read again later
    try:
        mode = path.stat().st_mode
        text = path.read_text("utf-8")
    except FileNotFoundError as error:
        remedy = "there is no such file; make one with vila2 serve-key FILE NAME"
        raise ConfigError("serve.keys", str(path), remedy) from error
    except (OSError, UnicodeDecodeError) as error:
        remedy = f"cannot be read as a file of keys ({error.__class__.__name__}); see vila2 serve-key"
        raise ConfigError("serve.keys", str(path), remedy) from error
    if mode & (stat.S_IROTH | stat.S_IWOTH | stat.S_IWGRP):
        raise ConfigError("serve.keys", str(path), f"is open to others ({mode & 0o777:o}); chmod o=,g-w it")
    entries = tuple(_entry(path, number, line) for number, line in enumerate(text.splitlines(), 1) if _tells(line))
    if len({entry.name for entry in entries}) < len(entries):
        raise ConfigError("serve.keys", str(path), "has a name twice; delete one of its lines")
    return seen, entries


def _tells(line: str) -> bool:
    return bool(line.strip()) and not line.lstrip().startswith("#")


def _entry(path: Path, number: int, line: str) -> Entry:
    words = line.split()
    found = _HASH.fullmatch(words[-1])
    if len(words) != 3 or not _NAME.fullmatch(words[0]) or found is None:
        # Without the line: somebody may have put a key itself there.
        remedy = f"line {number} is not `name created sha256:…`, as vila2 serve-key writes it"
        raise ConfigError("serve.keys", str(path), remedy)
    return Entry(words[0], found[1])
