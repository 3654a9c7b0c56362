"""The picture of a pair as judges see it: decoded with the corpus's bounds, and encoded again, small and bare."""

from __future__ import annotations

import io

from PIL import Image

from vila2_ray.corpus.corpus import Corpus
from vila2_ray.errors import CorpusError, Reason, SampleError
from vila2_ray.judge.study import Pair

_LOSSLESS_PIXELS = 256 * 256
"""Of pictures that are shown enlarged: there JPEG would add what judges might take for the picture's own."""
_QUALITY = 92


def encoded(corpus: Corpus, pair: Pair, max_side: int) -> tuple[bytes, str]:
    """The picture's bytes and their media type; the longer side has at most `max_side` pixels.

    Of the file in the corpus nothing but its pixels goes on: no place, no comment, no name.
    Raises SampleError where it cannot be had, or the corpus now holds another sample there.
    """
    try:
        rows = [pair.row] if pair.row < corpus.index(pair.shard).num_rows else []
        sample = next(corpus.read(pair.shard, rows), None)
    except CorpusError as error:
        raise SampleError(Reason.NO_IMAGE, f"the corpus no longer has it: {error.problem}") from error
    if sample is None or sample.sample_id != pair.sample_id:
        raise SampleError(Reason.NO_IMAGE, f"the corpus changed: row {pair.row} was {pair.sample_id}")
    image = corpus.decode(sample)
    image.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    image.info = {}
    out = io.BytesIO()
    if image.width * image.height <= _LOSSLESS_PIXELS:
        image.save(out, "PNG", optimize=True)
        return out.getvalue(), "image/png"
    image.save(out, "JPEG", quality=_QUALITY, subsampling=0)
    return out.getvalue(), "image/jpeg"
