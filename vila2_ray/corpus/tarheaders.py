"""Walking through the headers of an uncompressed tar, which may be cut off, damaged or hostile.

Python's tarfile follows sizes of up to 8 GB for long names and loops on negative ones; here every step goes forward and
every allocation is bounded. Only regular files are told; links, devices and folders are passed over, and a name is only
a name.
Format: POSIX.1-2017, pax, "ustar Interchange Format", and GNU tar's long names and base-256 numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

BLOCK = 512
_MAX_NAME_BYTES = 64 << 10
_REGULAR, _LONG_NAME, _PAX, _PAX_GLOBAL = b"0\x007", b"L", b"x", b"g"


@dataclass(frozen=True)
class Member:
    """A regular file of the tar. `offset`: bytes from the start of the tar to its content."""

    name: str
    offset: int
    size: int


class NotATarError(Exception):
    """The file does not begin with a tar header."""


class DamagedError(Exception):
    """The tar ends or breaks off; `name` is the member that is incomplete, where known."""

    def __init__(self, problem: str, name: str = "") -> None:
        super().__init__(problem)
        self.problem, self.name = problem, name


def walk(file: BinaryIO, num_bytes: int) -> Iterator[Member]:
    """Members in order. Raises NotATarError at once, or DamagedError after the last whole member."""
    offset, long_name, long_size = 0, "", None
    while offset < num_bytes:
        file.seek(offset)
        header = file.read(BLOCK)
        if len(header) < BLOCK:
            raise DamagedError(f"ends inside a header at byte {offset:,}") if offset else NotATarError
        if not any(header):
            return
        size = _number(header[124:136])
        if size is None or not _checksum_matches(header):
            raise DamagedError(f"broken header at byte {offset:,}") if offset else NotATarError
        kind, data = header[156:157], offset + BLOCK
        if kind in (_LONG_NAME, _PAX):
            if size > _MAX_NAME_BYTES or data + size > num_bytes:
                raise DamagedError(f"broken long name at byte {offset:,}")
            file.seek(data)
            name, pax_size = _extended(file.read(size), kind)
            long_name, long_size = name or long_name, long_size if pax_size is None else pax_size
        elif kind != _PAX_GLOBAL:
            name, size = long_name or _name(header), size if long_size is None else long_size
            long_name, long_size = "", None
            if data + size > num_bytes:
                raise DamagedError(f"ends inside {name!r}", name)
            if kind in _REGULAR and not name.endswith("/"):
                yield Member(name, data, size)
        offset = data + -(-size // BLOCK) * BLOCK


def _number(field: bytes) -> int | None:
    """A size: octal digits, or base-256 as GNU tar writes large ones; None when it is neither or negative."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b"\0 ")
    if not digits:
        return 0
    return int(digits, 8) if all(48 <= d < 56 for d in digits) else None


def _checksum_matches(header: bytes) -> bool:
    told = _number(header[148:156])
    return told == sum(header) - sum(header[148:156]) + 8 * 32


def _name(header: bytes) -> str:
    name = header[:100].split(b"\0", 1)[0]
    prefix = header[345:500].split(b"\0", 1)[0] if header[257:263] == b"ustar\0" else b""
    return (prefix + b"/" + name if prefix else name).decode("utf-8", "replace")


def _extended(data: bytes, kind: bytes) -> tuple[str, int | None]:
    """Name and size that replace those of the next header."""
    if kind == _LONG_NAME:
        return data.split(b"\0", 1)[0].decode("utf-8", "replace"), None
    name, size = "", None
    while data:
        length, _, rest = data.partition(b" ")
        if not length.isdigit() or not len(length) + 1 < int(length[:9]) <= len(data):
            break
        record, data = rest[: int(length) - len(length) - 1], data[int(length) :]
        key, _, value = record.rstrip(b"\n").partition(b"=")
        if key == b"path":
            name = value.decode("utf-8", "replace")
        elif key == b"size" and value.isdigit() and len(value) < 19:
            size = int(value)
    return name, size
