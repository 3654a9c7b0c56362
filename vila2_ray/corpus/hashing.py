"""A file of hashes of all pictures of a corpus: what screening elsewhere compares with (`screen.heldout_hashes`)."""

from __future__ import annotations

import collections
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from vila2_ray.config import CorpusConfig
from vila2_ray.corpus.corpus import Corpus
from vila2_ray.corpus.samples import Sample
from vila2_ray.corpus.screening import measure
from vila2_ray.progress import Progress
from vila2_ray.storage import Store, split_uri

_AHEAD = 64
"""Pictures that are in memory at once."""


@dataclass(frozen=True)
class Hashed:
    """What became of the pictures."""

    uri: str
    num_pictures: int
    num_unreadable: int
    """Listed by their bytes alone."""

    @property
    def sentence(self) -> str:
        unreadable = f", {self.num_unreadable:,} of them by their bytes alone" if self.num_unreadable else ""
        return f"{self.num_pictures:,} pictures{unreadable}: {self.uri}"


def write_hashes(corpus_uri: str, to: str, config: CorpusConfig, progress: Progress) -> Hashed:
    """Write SHA-256 and perceptual hash of every picture to the file `to`, a hash a line, in corpus order.

    Raises CorpusError where there is no corpus, StorageError where `to` cannot be written.
    """
    lines, unreadable = [f"# pictures of {corpus_uri.rstrip('/').rpartition('/')[2]}: SHA-256, perceptual hash"], 0
    with tempfile.TemporaryDirectory(prefix="vila2-hash-") as scratch:
        corpus = Corpus.open(corpus_uri, "corpus", Store(scratch), config.columns, config.max_pixels)
        progress.start("hash", corpus.total_rows(), "pictures")
        num_pictures = 0
        for number, found in enumerate(_measured(corpus), 1):
            if found["image_sha256"]:
                num_pictures += 1
                unreadable += found["phash"] is None
                lines += [found[name] for name in ("image_sha256", "phash") if found[name]]
            progress.update(number)
        progress.finish()
    folder, name = split_uri(to)
    Store(folder).write_text(name, "".join(f"{line}\n" for line in lines))
    return Hashed(Store(folder).path(name), num_pictures, unreadable)


def _measured(corpus: Corpus) -> Iterator[dict[str, Any]]:
    """Measures of every sample in order, made in threads: decoding lets go of the interpreter."""

    def one(sample: Sample) -> dict[str, Any]:
        return measure(sample, corpus.max_pixels, looks=True)

    samples = (sample for ref in corpus.shards for sample in corpus.read(ref))
    with ThreadPoolExecutor() as pool:
        waiting: collections.deque[Future[dict[str, Any]]] = collections.deque()
        for sample in samples:
            waiting.append(pool.submit(one, sample))
            if len(waiting) >= _AHEAD:
                yield waiting.popleft().result()
        yield from (future.result() for future in waiting)
