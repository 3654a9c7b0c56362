"""Annotations on a real S3 server."""

import json
from pathlib import Path

import pyarrow as pa
import pytest

from vila2_ray import nodecache
from vila2_ray.captions.boxes import Box
from vila2_ray.corpus.samples import Sample
from vila2_ray.experts.annotations import open_annotations
from vila2_ray.skills.things import Annotation, Thing
from vila2_ray.storage import Store


def test_annotations_of_a_folder(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VILA2_CACHE", str(tmp_path))
    monkeypatch.setattr(nodecache, "_in_use", {})
    store = Store(f"{bucket}/annotations")
    phrases = [{"key": "1", "caption": "a cat", "noun_chunks": [[0, 5, 0.0, 0.0, 0.5, 0.5]]}]
    store.write_table("grit.parquet", pa.Table.from_pylist(phrases))
    store.write_text("own.jsonl", json.dumps({"key": "2", "things": [{"name": "dog", "box": [1, 2, 3, 4]}]}) + "\n")
    store.write_text("genome.json", json.dumps([{"image_id": 3, "width": 9, "height": 9, "objects": []}]))
    found = open_annotations(store.uri)
    told = [found.of(Sample("web", "0", 0, key, None, "")) for key in ("1", "2", "3", "4")]
    cat = Thing("cat", Box(0, 0, 500, 500), span=(0, 5))
    dog = Thing("dog", Box(1, 2, 3, 4))
    assert told == [Annotation((cat,), caption="a cat"), Annotation((dog,)), Annotation(()), None]
