"""Pictures of a study's pairs while they are judged: decoded a few at a time, and kept for whoever asks next."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

from vila2_ray.corpus.corpus import Corpus
from vila2_ray.errors import SampleError, Vila2Error
from vila2_ray.judge.pictures import encoded
from vila2_ray.judge.study import Pair

MAX_SIDE = 1600
"""Pixels: enough to look closely, on any screen."""
_AT_ONCE = 4
"""Decoding: a large picture takes hundreds of megabytes."""
_KEPT_BYTES = 64 * 2**20

Picture = tuple[bytes, str]
"""Bytes and media type."""
_Key = tuple[str, str, int]
"""Source, shard and row."""


class Gallery:
    """May be asked by several threads."""

    def __init__(
        self, open_corpus: Callable[[str], Corpus], max_side: int = MAX_SIDE, kept_bytes: int = _KEPT_BYTES
    ) -> None:
        """`open_corpus` gives the corpus of a source; `kept_bytes` bounds the pictures that are kept."""
        self._open, self.max_side, self.kept_bytes = open_corpus, max_side, kept_bytes
        self._corpora: dict[str, Corpus] = {}
        self._kept: OrderedDict[_Key, Picture] = OrderedDict()
        self._num_bytes = 0
        self._problems: dict[_Key, SampleError | None] = {}
        """Of each picture that was tried, None where it was good: as many as the study has pairs at most."""
        self._lock, self._opening = threading.Lock(), threading.Lock()
        self._decoding = threading.Semaphore(_AT_ONCE)

    def picture(self, pair: Pair) -> Picture:
        """The picture of a pair. Raises SampleError where there is none to show."""
        key = (pair.source, pair.shard, pair.row)
        with self._lock:
            kept, problem = self._kept.get(key), self._problems.get(key)
        if kept is not None:
            return kept
        if problem is not None:
            raise SampleError(problem.reason, problem.detail)  # anew: one that is raised again and again grows
        with self._decoding:
            try:
                made = encoded(self._corpus(pair.source), pair, self.max_side)
            except SampleError as error:
                with self._lock:
                    self._problems[key] = SampleError(error.reason, error.detail)
                raise
        self._keep(key, made)
        return made

    def problem(self, pair: Pair) -> str:
        """Why the picture of a pair cannot be shown, "" where it can; tries it where nobody has asked for it yet."""
        key = (pair.source, pair.shard, pair.row)
        with self._lock:
            if key in self._problems:
                return str(self._problems[key] or "")
        try:
            self.picture(pair)
        except SampleError as error:
            return str(error)
        except (Vila2Error, OSError):
            pass  # it cannot be told now; a vote is not to be lost for that
        return ""

    def _corpus(self, source: str) -> Corpus:
        with self._opening:
            if source not in self._corpora:
                self._corpora[source] = self._open(source)
            return self._corpora[source]

    def _keep(self, key: _Key, made: Picture) -> None:
        with self._lock:
            self._problems[key] = None
            if (before := self._kept.pop(key, None)) is not None:  # two asked at once
                self._num_bytes -= len(before[0])
            self._kept[key] = made
            self._num_bytes += len(made[0])
            while self._num_bytes > self.kept_bytes:
                self._num_bytes -= len(self._kept.popitem(last=False)[1][0])
