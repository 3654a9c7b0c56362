"""A benchmark and its results on a real S3 server."""

from __future__ import annotations

import json

from tests.unit.evaluate.published.folders import png
from vila2_ray.config import BenchmarkConfig
from vila2_ray.engines.fake import FakeEngine
from vila2_ray.evaluate.suite import Suite, read_results
from vila2_ray.storage import Store


def test_a_benchmark_lies_on_s3(bucket: str) -> None:
    store = Store(f"{bucket}/pope")
    rows = [{"question_id": n, "image": f"{n % 2}.jpg", "text": "A cat?", "label": "yes"} for n in range(4)]
    store.write_text("coco_pope_random.json", "".join(json.dumps(row) + "\n" for row in rows))
    for n in range(2):
        store.write_bytes(f"val2014/{n}.jpg", png(n))
    config = BenchmarkConfig(kind="pope", path=store.uri, split="random")
    suite = Suite({"pope": config}, Store(f"{bucket}/campaign/metrics/benchmarks/vlm-0"), "digest")
    found = suite.ask(FakeEngine)
    assert (found["pope"].num_items, found["pope"].scores["f1"]) == (4, 1.0)
    assert read_results(Store(f"{bucket}/campaign/metrics/benchmarks")) == {"vlm-0": found}
