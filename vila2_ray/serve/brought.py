"""Bytes that requests bring, by body or by address: bounded of each, and of all that are not answered yet."""

from __future__ import annotations

from contextvars import ContextVar

from vila2_ray.errors import Overloaded
from vila2_ray.serve.problems import Problem

_RETRY_SECONDS = 2


class Hold:
    """What all requests of an endpoint hold together. Belongs to one event loop."""

    def __init__(self, max_bytes: int, max_bytes_in_all: int) -> None:
        self.max_bytes, self.max_bytes_in_all = max_bytes, max_bytes_in_all
        self.num_bytes = 0
        """In hand now."""


class Brought:
    """What one request holds, until `release`."""

    def __init__(self, hold: Hold) -> None:
        self._hold, self.num_bytes = hold, 0
        self._is_over = False

    @property
    def max_bytes(self) -> int:
        """Of this request."""
        return self._hold.max_bytes

    def add(self, num_bytes: int) -> None:
        """Raises Problem (413) past the bound of a request, Overloaded past that of all, or once it is released."""
        if self._is_over:  # a fetch that outlives its request: nobody would give its bytes back
            raise Overloaded("the request has ended", _RETRY_SECONDS)
        self.num_bytes += num_bytes
        self._hold.num_bytes += num_bytes
        if self.num_bytes > self.max_bytes:
            raise too_large(self.max_bytes)
        if self._hold.num_bytes > self._hold.max_bytes_in_all:
            in_hand = f"{self._hold.num_bytes:,} bytes of pictures are in hand already"
            raise Overloaded(in_hand, _RETRY_SECONDS)

    def release(self) -> None:
        self._is_over = True
        self._hold.num_bytes -= self.num_bytes
        self.num_bytes = 0


BY_THIS_REQUEST: ContextVar[Brought | None] = ContextVar("brought", default=None)
"""Of the request that is being answered; None outside of one."""


def too_large(max_bytes: int) -> Problem:
    """A request brings more than one may."""
    detail = f"the request brings more than {max_bytes:,} bytes: send fewer or smaller pictures at once"
    return Problem(413, "body-too-large", "Too many bytes", detail)
