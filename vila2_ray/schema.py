"""Arrow schemas of every table that the project writes, and the closed sets that their columns draw from.

A sample's key is (`source`, `shard`, `row`): `source` is the corpus's name in the configuration, `shard` the shard
file's name without its ending, `row` the sample's position in the shard from 0. `sample_id` is `<shard>/<key>`, for
people.
"""

from __future__ import annotations

from enum import Enum

import pyarrow as pa

FORMAT_VERSION = 1
"""Of a campaign folder; raised when a reader of the older format could not read the newer one."""


class Status(str, Enum):
    """What became of one (sample, variant) in a caption layer."""

    CAPTIONED = "captioned"
    NOT_SELECTED = "not_selected"
    FAILED = "failed"


INDEX = pa.schema(
    [
        pa.field("row", pa.int32(), nullable=False),  # position in the shard, from 0
        pa.field("key", pa.string(), nullable=False),
        pa.field("image_name", pa.string()),  # member name in a tar, column name in Parquet, file name in a folder
        pa.field(
            "image_offset", pa.int64()
        ),  # bytes from the start of the tar; null where rows are not addressed by bytes
        pa.field("image_bytes", pa.int64()),
        pa.field("text_offset", pa.int64()),
        pa.field("text_bytes", pa.int64()),
        pa.field("json_offset", pa.int64()),
        pa.field("json_bytes", pa.int64()),
        pa.field("truth_offset", pa.int64()),  # `<key>.truth.json`, read only by scoring and the report
        pa.field("truth_bytes", pa.int64()),
        pa.field("alt_text_chars", pa.int32(), nullable=False),  # 0: no usable alt text
        pa.field("problem", pa.string()),  # a Reason, when the sample is known bad before it is decoded
        pa.field("problem_detail", pa.string()),
    ]
)

INDEX_WITH_PICTURES = pa.schema(
    [
        *INDEX,
        pa.field("picture_numbers", pa.list_(pa.int16())),  # ascending; null where the sample has none
        pa.field("picture_offsets", pa.list_(pa.int64())),  # as image_offset, one for each number; tars only
        pa.field("picture_bytes", pa.list_(pa.int64())),
    ]
)
"""The index of a shard that holds documents or conversations about several images: those are numbered."""

CAPTION = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("row", pa.int32(), nullable=False),
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("image_sha256", pa.string()),  # hex; null when there are no image bytes or the row was not selected
        pa.field("variant", pa.int16(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("text", pa.string()),
        pa.field("error", pa.string()),  # a Reason
        pa.field("error_detail", pa.string()),
        pa.field("prompt_id", pa.string()),
        pa.field("finish_reason", pa.string()),  # stop | length
        pa.field("num_output_tokens", pa.int32()),
        pa.field("mean_logprob", pa.float32()),
        pa.field("min_logprob", pa.float32()),
    ]
)
"""One row per (sample, variant), in shard order, variants of a sample next to each other."""

VERDICT = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("row", pa.int32(), nullable=False),
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("variant", pa.int16(), nullable=False),
        pa.field("flags", pa.list_(pa.string()), nullable=False),  # empty: KEPT; any flag: the caption is left out
        pa.field("text", pa.string()),  # a person's edit, which is trained on in the caption's place; null: no edit
    ]
)
"""One row per captioned row of the layer that it judges, in the layer's order."""

IMAGE_VERDICT = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("row", pa.int32(), nullable=False),
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("width", pa.int32()),  # pixels, upright; null where the image cannot be read
        pa.field("height", pa.int32()),
        pa.field("image_sha256", pa.string()),  # hex, of the encoded bytes; null where there are none
        pa.field("phash", pa.string()),  # hex, perceptual hash of 64 bits; null where no rule asks for it
        pa.field("flags", pa.list_(pa.string()), nullable=False),  # empty: KEPT; any flag: the sample is left out
    ]
)
"""What screening found of each sample: one row per sample of the shard, in shard order."""

HOOK_VERDICT = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("row", pa.int32(), nullable=False),
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("score", pa.float32()),  # 0 to 1, of the worst of its images or texts; null where nothing was judged
        pa.field("label", pa.string()),  # what that score is of
        pa.field("problem", pa.string()),  # why something of the sample could not be judged; null where all was
    ]
)
"""What an export hook says of each sample: one row per sample of the shard, in shard order."""

PAIR = pa.schema(
    [
        pa.field("pair_id", pa.string(), nullable=False),  # hex digits, "f" first: no number to a spreadsheet
        pa.field("source", pa.string(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("row", pa.int32(), nullable=False),
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("first_layer", pa.string(), nullable=False),  # alt_text: what the corpus came with
        pa.field("first_variant", pa.int16(), nullable=False),
        pa.field("first_text", pa.string(), nullable=False),
        pa.field("second_layer", pa.string(), nullable=False),
        pa.field("second_variant", pa.int16(), nullable=False),
        pa.field("second_text", pa.string(), nullable=False),
    ]
)
"""Two captions of one image that are compared in a study."""

JUDGEMENT = pa.schema(
    [
        *(field for field in PAIR if not field.name.endswith("_text")),
        pa.field("first_digest", pa.string()),  # of the text as it was shown (captions.votes); null: any
        pa.field("second_digest", pa.string()),
        pa.field("rater", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),  # person | model
        pa.field("swapped", pa.bool_(), nullable=False),  # the second one stood on the left
        pa.field("criterion", pa.string(), nullable=False),  # what was asked; "edit" of an edit
        pa.field("answer", pa.string(), nullable=False),  # first | second | tie; of an edit first | second
        pa.field("edit", pa.string()),  # the text that the caption should have been; null unless it is an edit
        pa.field("voted_at", pa.string(), nullable=False),  # ISO 8601, UTC
        pa.field("seconds", pa.float32(), nullable=False),  # from showing to voting
        pa.field("reason", pa.string(), nullable=False),
    ]
)
"""What raters say, as it is exported: one row per criterion of a vote, and one per edit."""

PACK = pa.schema(
    [
        pa.field("sequence", pa.int64(), nullable=False),  # step t is the sequences [t·G, (t+1)·G)
        pa.field("slot", pa.int16(), nullable=False),  # place within the sequence, from 0
        pa.field("source", pa.string(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("row", pa.int32(), nullable=False),
        pa.field("item", pa.int16(), nullable=False),  # which training item of the sample (fusion can make several)
        pa.field("num_tokens", pa.int32(), nullable=False),
        pa.field("num_supervised", pa.int32(), nullable=False),
        pa.field("num_images", pa.int16(), nullable=False),
    ]
)
"""The pack plan: which samples make which training sequence."""

HELDOUT = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("row", pa.int32(), nullable=False),
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("error", pa.string()),  # a Reason: this sample was skipped, and nothing below is set
        pa.field("error_detail", pa.string()),
        pa.field("caption", pa.string()),
        pa.field("finish_reason", pa.string()),
        pa.field("mean_logprob", pa.float32()),
        pa.field("min_logprob", pa.float32()),
        pa.field("object_f1", pa.float32()),  # null where no truth is known
        pa.field("object_place_f1", pa.float32()),
        pa.field("hallucination_rate", pa.float32()),
        pa.field("reference_f1", pa.float32()),  # null where there is no reference caption
        pa.field(
            "answers",
            pa.list_(
                pa.struct(
                    [
                        pa.field("kind", pa.string()),
                        pa.field("question", pa.string()),
                        pa.field("expected", pa.string()),
                        pa.field("given", pa.string()),
                        pa.field("is_right", pa.bool_()),
                    ]
                )
            ),
        ),
    ]
)
"""One row per held-out sample that a model was scored on."""
