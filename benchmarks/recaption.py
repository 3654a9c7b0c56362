"""How near does recaptioning come to the bare engine? Same images, checkpoint, prompt, tokens and cores, in one go.

- *bare*: `vllm.LLM.generate` on images that are decoded beforehand;
- *pipeline*: `recaption()`, from tar shards to committed layer files, with the vLLM engine;
- *ray_data_llm*: `ray.data.llm` with the same engine arguments, fed decoded images as rows with `multimodal_data`;
- *transformers*: the pipeline with the transformers engine.

Every run is a process of its own. Its clock starts when its engine is there and stops at the last caption (for the
pipelines: at the last layer file); for `ray_data_llm`, whose start cannot be seen from outside, a run on `--short`
images is subtracted from one on `--images`. Start-up is told beside it. `min_tokens` equals `max_tokens`, so that all
write the same number of tokens. Bare and pipeline run in alternating pairs, the order changing from pair to pair; the
ratio is the median over pairs, its interval from bootstrapping them.

    python benchmarks/recaption.py --images 2000 --pairs 10

The last line is one JSON object: `ratio_to_bare_engine`, `ratio_to_ray_data_llm`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[1]
BASE = REPOSITORY / "vila2_ray" / "recipes" / "tiny" / "base"
PROMPT = "describe the image in detail."
BATCH = 128
SHARD = 250
CPUS = 2


def bare(corpus: Path, num_images: int, num_tokens: int, dtype: str) -> dict[str, Any]:
    """`vllm.LLM.generate` as its users call it."""
    from vila2_ray.corpus.corpus import Corpus
    from vila2_ray.engines.turns import turn_token_ids
    from vila2_ray.engines.vllm_arguments import set_environment
    from vila2_ray.model.loading import load_processor
    from vila2_ray.storage import Store

    began = time.monotonic()
    set_environment()
    from vllm import LLM, SamplingParams

    llm = LLM(**engine_arguments(dtype))
    shards = Corpus.open(str(corpus), "pretrain", Store(corpus.parent / "index"))
    samples = [sample for ref in shards.shards for sample in shards.read(ref)][:num_images]
    images = [shards.decode(sample) for sample in samples]
    ids = list(turn_token_ids(load_processor(BASE), PROMPT))
    prompts = [{"prompt_token_ids": ids, "multi_modal_data": {"image": image}} for image in images]
    sampling = SamplingParams(temperature=0.0, max_tokens=num_tokens, min_tokens=num_tokens)
    llm.generate(prompts[:8], sampling, use_tqdm=False)  # the first call of a model is slower than all others
    llm.reset_mm_cache()
    ready = time.monotonic()
    outputs = llm.generate(prompts, sampling, use_tqdm=False)
    seconds = time.monotonic() - ready
    tokens = sum(len(output.outputs[0].token_ids) for output in outputs)
    return {"tokens": tokens, "seconds": seconds, "start_seconds": ready - began}


def pipeline(corpus: Path, num_images: int, num_tokens: int, dtype: str, engine: str = "vllm") -> dict[str, Any]:
    """Tar shards in, layer files out."""
    import ray

    from vila2_ray.config import EngineConfig, RecaptionConfig, SamplingConfig
    from vila2_ray.progress import NullProgress
    from vila2_ray.recaption.alone import AloneJob, recaption_alone

    began = time.monotonic()
    ray.init(address="local", num_cpus=CPUS, include_dashboard=False, log_to_driver=False, logging_level="error")
    config = RecaptionConfig(
        prompt_ids=("detailed",),
        prompts={"detailed": PROMPT},
        sampling=SamplingConfig(max_tokens=num_tokens, min_tokens=num_tokens),
        engine=EngineConfig(name=engine, dtype=dtype, batch_size=BATCH),  # type: ignore[arg-type]
    )
    with tempfile.TemporaryDirectory() as to:
        job = AloneJob(str(BASE), str(corpus), to, config, max_pixels=10_000_000)
        _, summary = recaption_alone(job, NullProgress())
    whole = time.monotonic() - began
    ray.shutdown()
    assert summary.num_captioned == num_images, summary
    return {
        # the token that ends a turn is not one of the caption's; `min_tokens` keeps it away until the last
        "tokens": summary.num_tokens,
        "seconds": summary.generating_seconds,
        "start_seconds": whole - summary.generating_seconds,
        "parts": summary.seconds_by_part,
    }


def ray_data_llm(corpus: Path, num_images: int, num_tokens: int, dtype: str) -> dict[str, Any]:
    """`ray.data.llm` without its own image stage, which does not run beside plugins."""
    import ray

    from vila2_ray.corpus.corpus import Corpus
    from vila2_ray.engines.turns import user_turn
    from vila2_ray.engines.vllm_arguments import set_environment
    from vila2_ray.model.loading import load_processor
    from vila2_ray.storage import Store

    set_environment()
    os.environ["VLLM_CPU_KVCACHE_SPACE"] = "1"
    ray.init(address="local", num_cpus=CPUS, include_dashboard=False, log_to_driver=False, logging_level="error")
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig

    shards = Corpus.open(str(corpus), "pretrain", Store(corpus.parent / "index"))
    prompt = user_turn(load_processor(BASE), PROMPT)
    sampling = {"temperature": 0.0, "max_tokens": num_tokens, "min_tokens": num_tokens}
    arguments = engine_arguments(dtype)
    model = arguments.pop("model")
    processor = build_processor(
        vLLMEngineProcessorConfig(
            model_source=model,
            engine_kwargs=arguments,
            batch_size=64,
            concurrency=1,
            chat_template_stage=False,
            tokenize_stage=False,
            detokenize_stage=False,
            prepare_multimodal_stage=False,
            placement_group_config={"bundle_per_worker": {"CPU": 1}},
        ),
        preprocess=lambda row: {
            "prompt": prompt,
            "multimodal_data": {"image": _decode(row["image"])},
            "sampling_params": sampling,
        },
        postprocess=lambda row: {"text": row["generated_text"], "tokens": row["num_generated_tokens"]},
    )
    samples = [sample for ref in shards.shards for sample in shards.read(ref)][:num_images]
    rows = ray.data.from_items([{"image": sample.image} for sample in samples], override_num_blocks=8)
    began = time.monotonic()
    out = processor(rows).take_all()
    seconds = time.monotonic() - began
    ray.shutdown()
    assert len(out) == num_images
    return {"tokens": sum(int(row["tokens"]) for row in out), "seconds": seconds, "start_seconds": 0.0}


def _decode(data: bytes) -> Any:
    from vila2_ray.corpus.images import decode_image

    return decode_image(data, 10_000_000)


def transformers(corpus: Path, num_images: int, num_tokens: int, dtype: str) -> dict[str, Any]:
    return pipeline(corpus, num_images, num_tokens, dtype, "transformers")


def engine_arguments(dtype: str) -> dict[str, Any]:
    """What the pipeline's engine is opened with, for the others."""
    from vila2_ray.config import EngineConfig
    from vila2_ray.engines.vllm_arguments import engine_arguments as arguments

    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    return arguments(BASE, EngineConfig(name="vllm", dtype=dtype, batch_size=BATCH))  # type: ignore[arg-type]


WAYS = {way.__name__: way for way in (bare, pipeline, ray_data_llm, transformers)}


def run(way: str, corpus: Path, num_images: int, options: argparse.Namespace) -> dict[str, Any]:
    """One way in a process of its own."""
    command = [sys.executable, __file__, "--one", way, "--corpus", str(corpus), "--images", str(num_images)]
    command += ["--tokens", str(options.tokens), "--dtype", options.dtype]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(REPOSITORY)}
    environment.update(RAY_AUTH_MODE="disabled", RAY_USAGE_STATS_ENABLED="0", RAY_worker_niceness="0")
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1200)
    if done.returncode:
        raise SystemExit(f"{way}: {done.stderr[-3000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def rate(figures: dict[str, Any]) -> float:
    return float(figures["tokens"]) / float(figures["seconds"])


def interval(values: Sequence[float], draws: int = 2000) -> tuple[float, float]:
    """90 % bootstrap interval of the median."""
    rng = random.Random(0)
    medians = sorted(statistics.median(rng.choices(values, k=len(values))) for _ in range(draws))
    return medians[int(0.05 * draws)], medians[int(0.95 * draws)]


def shards_of(num_images: int, folder: Path) -> Path:
    """Composed scenes, each different, `SHARD` to a tar."""
    from vila2_ray.recipes.tiny.corpus import write_corpus

    write_corpus(
        folder, pretrain_shards=num_images // SHARD, shard_size=SHARD, sft=1, heldout=1, experts=1, processes=CPUS
    )
    return folder / "pretrain"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--images", type=int, default=2000, help=f"a multiple of {SHARD}")
    parser.add_argument("--short", type=int, default=500, help="images of the run that is subtracted, a multiple, too")
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--others", type=int, default=3, help="runs of the two other ways")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--to", type=Path, default=REPOSITORY / "benchmarks" / "results")
    parser.add_argument("--one", choices=list(WAYS), help=argparse.SUPPRESS)
    parser.add_argument("--corpus", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(WAYS[options.one](options.corpus, options.images, options.tokens, options.dtype)), flush=True)
        os._exit(0)
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(options, Path(folder))))


def measure(options: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Run everything, write the results' file, return the figures of the last line."""
    figures: dict[str, float] = {}
    corpus = shards_of(options.images, folder / "long")
    few = shards_of(options.short, folder / "short")
    runs: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    for number in range(options.pairs):
        for way in ("bare", "pipeline") if number % 2 else ("pipeline", "bare"):
            runs[way].append(run(way, corpus, options.images, options))
        print(f"pair {number + 1}: {told(runs, 'bare', 'pipeline')}", flush=True)
        figures = write_results(options, runs)
    for number in range(options.others):
        runs["transformers"].append(run("transformers", corpus, options.images, options))
        short = run("ray_data_llm", few, options.short, options)
        long = run("ray_data_llm", corpus, options.images, options)
        tokens, seconds = (long[key] - short[key] for key in ("tokens", "seconds"))
        start = short["seconds"] - short["tokens"] / (tokens / seconds)
        runs["ray_data_llm"].append({"tokens": tokens, "seconds": seconds, "start_seconds": start})
        print(f"others {number + 1}: {told(runs, 'transformers', 'ray_data_llm')}", flush=True)
        figures = write_results(options, runs)
    return figures


def told(runs: dict[str, list[dict[str, Any]]], *ways: str) -> str:
    return ", ".join(f"{way} {rate(runs[way][-1]):,.0f} tokens/s" for way in ways)


def write_results(options: argparse.Namespace, runs: dict[str, list[dict[str, Any]]]) -> dict[str, float]:
    """Write what is known so far; the figures of the last line."""
    ratios = [rate(p) / rate(b) for p, b in zip(runs["pipeline"], runs["bare"], strict=True)]
    medians = {way: statistics.median(map(rate, found)) for way, found in runs.items() if found}
    figures = {"ratio_to_bare_engine": round(statistics.median(ratios), 3)}
    if "ray_data_llm" in medians:
        figures["ratio_to_ray_data_llm"] = round(medians["pipeline"] / medians["ray_data_llm"], 3)
    low, high = interval(ratios)
    parts = [run["parts"] for run in runs["pipeline"]]
    spent = {part: statistics.median(run[part] for run in parts) for part in parts[0]}
    lines = [
        "# Recaptioning beside the bare engine",
        "",
        f"{date.today()}, {platform.processor() or platform.machine()}, {os.cpu_count()} cores; {options.images} "
        f"images, {options.tokens} tokens each, {options.dtype}, tiny model. Made by "
        f"`python benchmarks/recaption.py --images {options.images} --pairs {options.pairs}`.",
        "",
        f"Pipeline ÷ bare engine: **{figures['ratio_to_bare_engine']}**, 90 % interval {low:.3f}–{high:.3f}, "
        f"{len(ratios)} alternating pairs.",
        "",
        "| way | output tokens ÷ second, median | lowest – highest | runs | start, seconds |",
        "|---|---|---|---|---|",
    ]
    for way, median in medians.items():
        rates = [rate(found) for found in runs[way]]
        start = statistics.median(found["start_seconds"] for found in runs[way])
        lines.append(f"| {way} | {median:,.0f} | {min(rates):,.0f} – {max(rates):,.0f} | {len(rates)} | {start:.1f} |")
    seconds = statistics.median(run["seconds"] for run in runs["pipeline"])
    lines += [
        "",
        f"Where the pipeline's {seconds:.1f} s went, in seconds of its threads, which overlap: "
        + ", ".join(f"{part} {spent[part]:.1f}" for part in spent)
        + ".",
        "",
    ]
    options.to.mkdir(parents=True, exist_ok=True)
    (options.to / "recaption.md").write_text("\n".join(lines), "utf-8")
    return figures


if __name__ == "__main__":
    main()
