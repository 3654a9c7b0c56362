"""Pictures of a study's pairs while they are judged: each is decoded once, a few at a time."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

from vila2_ray.corpus.corpus import Corpus
from vila2_ray.errors import SampleError
from vila2_ray.judge.pictures import encoded
from vila2_ray.judge.study import Pair

MAX_SIDE = 1600
"""Pixels: enough to look closely, on any screen."""
_AT_ONCE = 4
"""Decoding: a large picture takes hundreds of megabytes."""
_KEPT_BYTES = 64 * 2**20

Picture = tuple[bytes, str]
"""Bytes and media type."""


class Gallery:
    """May be asked by several threads."""

    def __init__(self, open_corpus: Callable[[str], Corpus], max_side: int = MAX_SIDE) -> None:
        """`open_corpus` gives the corpus of a source."""
        self._open, self.max_side = open_corpus, max_side
        self._corpora: dict[str, Corpus] = {}
        self._kept: OrderedDict[tuple[str, str, int], Picture | SampleError] = OrderedDict()
        self._kept_bytes = 0
        self._lock, self._opening = threading.Lock(), threading.Lock()
        self._decoding = threading.Semaphore(_AT_ONCE)

    def picture(self, pair: Pair) -> Picture:
        """The picture of a pair. Raises SampleError where there is none to show."""
        key = (pair.source, pair.shard, pair.row)
        with self._lock:
            found = self._kept.get(key)
        if found is None:
            with self._decoding:
                found = self._made(pair)
            self._keep(key, found)
        if isinstance(found, SampleError):
            raise found
        return found

    def problem(self, pair: Pair) -> str:
        """Why the picture of a pair could not be shown; "" where it was, or nobody has asked for it."""
        with self._lock:
            found = self._kept.get((pair.source, pair.shard, pair.row))
        return str(found) if isinstance(found, SampleError) else ""

    def _made(self, pair: Pair) -> Picture | SampleError:
        with self._opening:
            if pair.source not in self._corpora:
                self._corpora[pair.source] = self._open(pair.source)
        try:
            return encoded(self._corpora[pair.source], pair, self.max_side)
        except SampleError as problem:
            return problem.with_traceback(None)

    def _keep(self, key: tuple[str, str, int], made: Picture | SampleError) -> None:
        with self._lock:
            if key not in self._kept:
                self._kept_bytes += _size(made)
            self._kept[key] = made
            while self._kept_bytes > _KEPT_BYTES:
                self._kept_bytes -= _size(self._kept.popitem(last=False)[1])


def _size(made: Picture | SampleError) -> int:
    return 0 if isinstance(made, SampleError) else len(made[0])
