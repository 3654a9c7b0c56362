"""`vila2 recaption`: any corpus, a real model, no campaign."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from tests.unit.engines.tiny_vila import write_vila
from tests.unit.recaption.pictures import png, write_shards
from vila2_ray.config import EngineConfig, RecaptionConfig, SamplingConfig
from vila2_ray.engines.choice import choose_dtype
from vila2_ray.engines.transformers import TransformersEngine
from vila2_ray.progress import NullProgress
from vila2_ray.recaption.alone import AloneJob, recaption_alone
from vila2_ray.recaption.rows import caption

pytestmark = pytest.mark.usefixtures("ray_cluster")


def test_a_real_model_says_through_ray_what_it_says_here(tmp_path: Path) -> None:
    write_shards(tmp_path / "corpus", [21], {(0, 4): b"no picture"})
    model = write_vila(tmp_path / "model")
    config = RecaptionConfig(
        range_rows=8,
        num_variants=2,
        sampling=SamplingConfig(max_tokens=12, temperature=0.7),
        engine=EngineConfig(name="auto", batch_size=16),
    )
    alone = AloneJob(str(model), str(tmp_path / "corpus"), str(tmp_path / "to"), config)
    layer, summary = recaption_alone(alone, NullProgress())
    assert (summary.num_captioned, summary.num_failed, summary.engine.split()[0]) == (40, 2, "transformers")
    rows = layer.to_table().to_pylist()
    torch.set_num_threads(1)
    engine = TransformersEngine.load(model, choose_dtype("cpu"), batch_size=16)
    corpus = alone.open_corpus()
    here = [
        row
        for start in (0, 8, 16)
        for row in caption(engine, corpus.read("00000", range(start, min(start + 8, 21))), alone.job(corpus).plan)
    ]
    assert [row["text"] for row in rows] == [row["text"] for row in here]
    assert len({row["text"] for row in rows}) > 20
    assert all(row["min_logprob"] <= row["mean_logprob"] < 0 for row in rows if row["text"] is not None)
    asked = json.loads(next((tmp_path / "to").glob("recaption-*.json")).read_text())
    assert asked["metadata"] == {k: v for k, v in layer.metadata("corpus", "00000").items() if k in asked["metadata"]}


def test_pictures_parquet_and_later_shards(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    config = RecaptionConfig(range_rows=8, engine=EngineConfig(name="fake", batch_size=8))
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(11):
        Image.new("RGB", (10, 10), (number, 9, 9)).save(pictures / f"{number:02}.png")
    of_pictures = AloneJob(str(tmp_path / "model"), str(pictures), str(tmp_path / "of-pictures"), config)
    layer, summary = recaption_alone(of_pictures, NullProgress())
    assert (summary.num_captioned, layer.to_table().num_rows) == (11, 11)

    tables = tmp_path / "tables"
    tables.mkdir()
    for shard in range(2):
        images = [png(Image.new("RGB", (6, 6), (shard, row, 0))) for row in range(9)]
        pq.write_table(pa.table({"image": images, "caption": ["x"] * 9}), tables / f"{shard}.parquet")
    of_tables = AloneJob(str(tmp_path / "model"), str(tables), str(tmp_path / "of-tables"), config)
    layer, summary = recaption_alone(of_tables, NullProgress())
    assert (summary.num_captioned, len(layer.shards())) == (18, 2)
    before = layer.to_table()
    pq.write_table(pa.table({"image": [images[0]], "caption": ["y"]}), tables / "2.parquet")
    layer, summary = recaption_alone(of_tables, NullProgress())
    assert (summary.num_captioned, summary.num_rows) == (1, 19)
    assert layer.to_table().slice(0, 18).equals(before)
