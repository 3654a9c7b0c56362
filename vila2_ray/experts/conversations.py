"""Finetuning conversations of one shard: its images, annotated by an expert, put into questions and answers.

A row is an image with something to learn from it: LLaVA-style `conversations`, the encoded image as it was, and where
the knowledge comes from. Rows go to a local file as they are made, so that memory holds a batch and not a shard.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from vila2_ray.captions.prompts import seed as drawn
from vila2_ray.config import SkillName
from vila2_ray.corpus.corpus import Corpus
from vila2_ray.corpus.samples import Sample
from vila2_ray.corpus.shards import ShardRef
from vila2_ray.errors import SampleError
from vila2_ray.experts.choice import Expert
from vila2_ray.skills import grounding, ocr, spatial
from vila2_ray.skills.things import Annotation, Conversation, Line, Thing
from vila2_ray.storage import Store

if TYPE_CHECKING:
    from PIL.Image import Image

ROW = pa.schema(
    [
        pa.field("key", pa.string()),
        pa.field("image", pa.binary()),  # encoded, as the corpus has it
        pa.field("conversations", pa.list_(pa.struct([("from", pa.string()), ("value", pa.string())]))),
        pa.field("skill", pa.string()),
        pa.field("expert", pa.string()),
        pa.field("expert_version", pa.string()),
        pa.field("confidence", pa.float32()),  # the lowest of what the annotation holds; null where it holds nothing
        pa.field("languages", pa.list_(pa.string())),  # of the printed lines
        pa.field("annotation", pa.string()),  # JSON, `Annotation.from_json` reads it
    ]
)
"""One conversation about one image."""

NO_ANNOTATION = "no_annotation"
NOTHING_TO_LEARN = "nothing_to_learn"
"""The skill's filters and templates left nothing of the annotation."""

SHUFFLED_SHARE = 0.3
"""Of conversations, whose description need not come first."""

_COUNTS = "counts"
_BATCH = 16
"""Images that an expert is given at once; also how often rows go to the file."""
_CONVERSE: dict[str, Callable[..., Conversation]] = {
    "spatial": spatial.converse,
    "grounding": grounding.converse,
    "ocr": ocr.converse,
}


@dataclass(frozen=True)
class Telling:
    """How annotations become conversations, and what rows say of where they come from."""

    skill: SkillName
    prompts: Sequence[str]
    questions: Sequence[str]
    seed: int
    expert: str
    expert_version: str

    def conversation(self, annotation: Annotation, sample_id: str) -> Conversation:
        """Question–answer pairs, the same at every call: the description first, or all in a drawn order.

        A description that comes after answers can be copied from them without a look at the image; but each kind of
        question has to come first now and then, for that is how a model is asked later.
        """
        rng = random.Random(f"{self.seed}/{self.skill}/{sample_id}")
        made = list(_CONVERSE[self.skill](annotation, rng, self.prompts, self.questions))
        if rng.random() < SHUFFLED_SHARE:
            rng.shuffle(made)
        return made


@dataclass
class ShardCounts:
    """What became of a shard's images."""

    num_images: int = 0
    """That were looked at."""
    num_samples: int = 0
    num_turns: int = 0
    """Answers of all conversations."""
    left_out: dict[str, int] = field(default_factory=dict)
    """Reason → images: those of `errors.Reason`, NO_ANNOTATION, NOTHING_TO_LEARN."""
    digest: str = ""
    """Of keys, images and conversations."""


def write_shard(
    corpus: Corpus,
    ref: ShardRef,
    most: int | None,
    expert: Expert,
    telling: Telling,
    out: Store,
    screened: Collection[int] = (),
) -> ShardCounts:
    """Write `<shard>.parquet` (ROW) to `out`, whole or not at all.

    `most`: so many images, drawn by a hash; None: all. Rows in `screened` are not looked at. Raises CorpusError or
    StorageError where the shard cannot be read, and what the expert raises.
    """
    told = Counter[str]()
    rows_wanted = [row for row in chosen_rows(corpus, ref, most, telling) if row not in screened]
    counts, digest = ShardCounts(), hashlib.sha256()
    with tempfile.TemporaryDirectory(prefix="vila2-build-") as scratch:
        with pq.ParquetWriter(Path(scratch, file_name(ref)), ROW, compression="zstd") as file:
            for samples, images in _decoded(corpus, ref, rows_wanted, told, counts):
                rows = []
                for sample, found in zip(samples, expert.annotate(samples, images), strict=True):
                    if not isinstance(found, Annotation):
                        told[NO_ANNOTATION if found is None else found.reason.value] += 1
                        continue
                    if not (said := telling.conversation(found, sample.sample_id)):
                        told[NOTHING_TO_LEARN] += 1
                        continue
                    row = _row(sample, found, said, telling)
                    rows.append(row)
                    counts.num_turns += len(said)
                    shown = hashlib.sha256(sample.image or b"").hexdigest()
                    digest.update(json.dumps([row["key"], shown, row["conversations"]]).encode())
                counts.num_samples += len(rows)
                if rows:
                    file.write_table(pa.Table.from_pylist(rows, schema=ROW))
            counts.left_out, counts.digest = dict(sorted(told.items())), digest.hexdigest()
            file.add_key_value_metadata({_COUNTS: json.dumps(asdict(counts))})
        out.upload_folder(Path(scratch))
    return counts


def read_counts(out: Store, ref: ShardRef) -> ShardCounts:
    """What `write_shard` returned as it wrote the file that is there."""
    with out.open(file_name(ref)) as file:
        return ShardCounts(**json.loads(pq.ParquetFile(file).metadata.metadata[_COUNTS.encode()]))


def file_name(ref: ShardRef) -> str:
    return f"{ref.shard}.parquet"


def chosen_rows(corpus: Corpus, ref: ShardRef, most: int | None, telling: Telling) -> list[int]:
    """The rows that are looked at, in order: those of the lowest hashes of seed, skill and sample."""
    keys = corpus.index(ref)["key"].to_pylist()
    if most is None or most >= len(keys):
        return list(range(len(keys)))
    plan = f"build:{telling.seed}:{telling.skill}"
    hashed = ((drawn(plan, f"{ref.shard}/{key}"), row) for row, key in enumerate(keys))
    return sorted(row for _, row in heapq.nsmallest(most, hashed))


def _decoded(
    corpus: Corpus, ref: ShardRef, rows: Sequence[int], told: Counter[str], counts: ShardCounts
) -> Iterator[tuple[list[Sample], list[Image]]]:
    """Batches of samples with their images; what cannot be decoded is counted under its reason."""
    for batch in corpus.read_decoded(ref, rows, _BATCH):
        samples, images = [], []
        for sample, image in batch:
            counts.num_images += 1
            if isinstance(image, SampleError):
                told[image.reason.value] += 1
            else:
                samples.append(sample)
                images.append(image)
        if samples:
            yield samples, images


def _row(sample: Sample, annotation: Annotation, said: Conversation, telling: Telling) -> dict[str, Any]:
    turns = []
    for number, (human, answer) in enumerate(said):
        turns.append({"from": "human", "value": human if number else f"<image>\n{human}"})
        turns.append({"from": "gpt", "value": answer})
    found: list[Thing | Line] = [*(annotation.things or ()), *(annotation.lines or ())]
    return {
        "key": sample.key,
        "image": sample.image,
        "conversations": turns,
        "skill": telling.skill,
        "expert": telling.expert,
        "expert_version": telling.expert_version,
        "confidence": min((one.score for one in found), default=None),
        "languages": sorted({line.language for line in annotation.lines or () if line.language}),
        "annotation": json.dumps(annotation.as_json(), ensure_ascii=False),
    }
