"""The pipeline with vLLM in its actors, killed in the middle: fp32 greedy captions equal an undisturbed engine's."""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path

import psutil
import pytest

from vila2_ray.config import EngineConfig, RecaptionConfig, SamplingConfig
from vila2_ray.corpus.layers import Parts
from vila2_ray.engines.choice import open_engine, vllm_problem
from vila2_ray.progress import NullProgress
from vila2_ray.recaption.alone import AloneJob, recaption_alone
from vila2_ray.recaption.rows import caption
from vila2_ray.recipes.tiny.corpus import write_corpus

pytestmark = [
    pytest.mark.usefixtures("ray_cluster"),
    pytest.mark.skipif(bool(vllm_problem()), reason=vllm_problem()),
]
BASE = Path(__file__).parents[2] / "vila2_ray" / "recipes" / "tiny" / "base"


def test_captions_survive_the_death_of_their_actor(tmp_path: Path) -> None:
    write_corpus(tmp_path, pretrain_shards=3, shard_size=40, sft=1, heldout=1, experts=1, seed=3, processes=1)
    config = RecaptionConfig(
        prompt_ids=("detailed", "brief"),
        prompts={"detailed": "describe the image in detail.", "brief": "caption"},
        num_variants=2,
        sampling=SamplingConfig(max_tokens=32),
        range_rows=16,
        engine=EngineConfig(name="vllm", dtype="float32", batch_size=16),
    )
    alone = AloneJob(str(BASE), str(tmp_path / "pretrain"), str(tmp_path / "out"), config, max_pixels=10_000_000)
    parts, killed = alone.job(alone.open_corpus()).parts, list[int]()
    killer = threading.Thread(target=kill_an_actor_after_the_first_part, args=(parts, killed), daemon=True)
    killer.start()
    layer, summary = recaption_alone(alone, NullProgress())
    assert killed, "nothing was killed, so nothing was tested"
    assert not engines_left(), "no engine is left behind with memory in its hands"
    assert (summary.num_rows, summary.num_failed) == (120, 0)
    assert summary.engine.startswith("vllm ")
    corpus, job = alone.open_corpus(), alone.job(alone.open_corpus())
    engine = open_engine(EngineConfig(name="transformers", dtype="float32"), BASE)
    expected = [row for ref in corpus.shards for row in caption(engine, corpus.read(ref), job.plan)]
    found = layer.to_table().to_pylist()
    same = ("shard", "row", "variant", "sample_id", "image_sha256", "status", "text", "prompt_id", "num_output_tokens")
    assert [[row[name] for name in same] for row in found] == [[row[name] for name in same] for row in expected]
    assert len({row["text"] for row in found}) > 60, "scenes must be told apart, or this proves nothing"


def engines_left() -> list[str]:
    """Processes that hold an engine, a while after the pipeline has ended."""
    until = time.monotonic() + 20
    while True:
        names = [name_of(process) for process in psutil.Process().children(recursive=True)]
        found = [name for name in names if "VLLM" in name or "CaptionActor" in name]
        if not found or time.monotonic() > until:
            return found
        time.sleep(0.5)


def name_of(process: psutil.Process) -> str:
    """What a process calls itself; empty for one that has just ended (a zombie holds no memory)."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return f"{process.name()} {' '.join(process.cmdline())}"
    return ""


def kill_an_actor_after_the_first_part(parts: Parts, killed: list[int]) -> None:
    while not killed:
        time.sleep(0.02)
        if not parts.ranges():
            continue
        for process in psutil.Process().children(recursive=True):
            if "CaptionActor" in name_of(process):
                process.kill()
                killed.append(process.pid)
                return
