"""Models and data of a few kilobytes, for tests of training."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from transformers import LlamaConfig, SiglipVisionConfig

from vila2_ray.config import Config, StageConfig
from vila2_ray.corpus.corpus import Corpus
from vila2_ray.model.configuration import VilaConfig
from vila2_ray.model.modeling import VilaForConditionalGeneration
from vila2_ray.recipe import load_config
from vila2_ray.recipes.tiny import BASE_FOLDER
from vila2_ray.storage import Store
from vila2_ray.train.job import TrainingJob
from vila2_ray.train.packplan import LENGTHS, ItemKey, PackPlan, make_plan
from vila2_ray.train.parallelize import Place
from vila2_ray.train.source import ImageKey, MemorySource, Tokens

IMAGE_TOKEN, PAD, VOCABULARY = 4, 0, 40
CPU = Place(torch.device("cpu"), torch.float32)


def model(seed: int = 0) -> VilaForConditionalGeneration:
    """A random `vila`: 32-pixel images in patches of 8, so 4 image tokens."""
    vision = SiglipVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        image_size=32, patch_size=8, vision_use_head=False,
    )  # fmt: skip
    language = LlamaConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
        vocab_size=VOCABULARY, pad_token_id=PAD, bos_token_id=1, eos_token_id=2, tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(seed)
    config = VilaConfig(
        vision_config=vision, text_config=language, image_token_index=IMAGE_TOKEN, tie_word_embeddings=True
    )
    return VilaForConditionalGeneration(config)


def data(num: int = 24, seed: int = 0, undecodable: tuple[int, ...] = ()) -> tuple[MemorySource, pa.Table]:
    """`num` items of one image each, in shards of 8, and their lengths."""
    rng = np.random.default_rng(seed)
    tokens, pixels, rows = {}, {}, []
    for number in range(num):
        key = ItemKey("pretrain", f"{number // 8:05d}", number % 8, 0)
        text = rng.integers(5, VOCABULARY, int(rng.integers(2, 9)))
        ids = np.concatenate([[1], [IMAGE_TOKEN] * 4, text, [2]]).astype(np.int32)
        supervised = np.arange(len(ids)) > 4
        image = ImageKey(*key[:3])
        tokens[key] = Tokens(ids, supervised, (image,))
        drawn = torch.from_numpy(rng.standard_normal((3, 32, 32), np.float32))
        pixels[image] = None if number in undecodable else drawn
        rows.append((*key, len(ids), int(supervised.sum()), 1))
    columns = zip(*rows, strict=True)
    table = pa.table([pa.array(c, f.type) for c, f in zip(columns, LENGTHS, strict=True)], schema=LENGTHS)
    return MemorySource(tokens, pixels), table


def stage(**settings: Any) -> StageConfig:
    defaults: dict[str, Any] = {
        "trained": ("connector", "language"),
        "num_epochs": 2,
        "batch_size": 4,
        "peak_lr": 1e-2,
        "warmup_share": 0.2,
        "max_length": 64,
    }
    return StageConfig(**{**defaults, **settings})


def plan(table: pa.Table, settings: StageConfig, seed: int = 0) -> PackPlan:
    return make_plan(table, settings, seed=seed, shuffle_window=1000)


def _png(color: tuple[int, int, int]) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (48, 48), color).save(stream, "PNG")
    return stream.getvalue()


def write_shards(
    folder: Path, num_shards: int = 2, size: int = 6, *, sft: bool = False, bad: int | None = None
) -> Path:
    """Tar shards of coloured squares. `bad`: row of the first shard whose image passes for a PNG but is none."""
    folder.mkdir(parents=True, exist_ok=True)
    for shard in range(num_shards):
        with tarfile.open(folder / f"{shard:05d}.tar", "w") as archive:
            for row in range(size):
                image = _png((40 * shard, 40 * row, 90))
                members = {"png": image[: len(image) // 2] if (shard, row) == (0, bad) else image}
                if sft:
                    turns = [
                        ("human", f"<image>\nwhat is there {row} ?"),
                        ("gpt", "a cat ."),
                        ("human", "how many ?"),
                        ("gpt", str(row)),
                    ]
                    members["json"] = json.dumps(
                        {"conversations": [{"from": f, "value": v} for f, v in turns]}
                    ).encode()
                else:
                    members["txt"] = f"a picture of thing {shard} {row}".encode()
                for ending, content in members.items():
                    member = tarfile.TarInfo(f"{row:03d}.{ending}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
    return folder


def job(
    folder: Path, stage_name: Any = "align", *settings: str, shards: Path | None = None, **more: Any
) -> TrainingJob:
    """A whole stage from the shipped base on a dozen squares."""
    source = "sft" if stage_name == "sft" else "pretrain"
    shards = shards or write_shards(folder / source, sft=stage_name == "sft")
    config: Config = load_config("tiny", [f"train.{stage_name}.batch_size=4", "train.autocast=float32", *settings])
    corpus = Corpus.open(str(shards), source, Store(folder / "index"))
    where = {name: Store(folder / name / stage_name) for name in ("packs", "state", "out")}
    return TrainingJob("m", stage_name, more.pop("init", BASE_FOLDER), corpus, more.pop("layers", []), config, **where)
