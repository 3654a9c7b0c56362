"""What the serving benchmark compares: how each way is started, and the model and pictures that all of them get."""

from __future__ import annotations

import json
import os
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

REPOSITORY = Path(__file__).parents[2]
BASE = REPOSITORY / "vila2_ray" / "recipes" / "tiny" / "base"
PROMPT = "describe the image in detail."
MODEL = "vlm-0"
SHARD = 250


@dataclass(frozen=True)
class Facts:
    """What all ways share."""

    pictures: Path
    """A folder of JPEGs."""
    campaign: Path
    """With MODEL promoted."""
    arguments: dict[str, Any]
    """Of vLLM's engine."""
    prompt_ids: tuple[int, ...]
    engine_settings: tuple[str, ...]
    """The same as `key=value` for `vila2 serve`."""
    logical_cpus: int = 8


@dataclass(frozen=True)
class Way:
    """One thing that answers."""

    title: str
    routes: tuple[str, ...] = ("chat",)
    """Asked in this order; the first is the one that is compared."""


WAYS = {
    "engine": Way("bare engine: vLLM `AsyncLLM` asked in its own process", ()),
    "ours": Way("`vila2 serve`", ("captions", "chat")),
    "ours_on_ray": Way("`vila2 serve serve.process=own`: a replica on Ray Serve", ("captions", "chat")),
    "vllm_server": Way("vLLM's OpenAI server"),
    "ray_serve_llm": Way("`ray.serve.llm`"),
}


def command(way: str, facts: Facts, port: int) -> list[str]:
    """What starts a server on 127.0.0.1:`port`."""
    folder, arguments = str(facts.arguments["model"]), facts.arguments
    if way in ("ours", "ours_on_ray"):
        vila2 = [sys.executable, "-m", "vila2_ray.cli", "serve", str(facts.campaign), f"serve.port={port}"]
        return [*vila2, *facts.engine_settings, *(["serve.process=own"] if way == "ours_on_ray" else [])]
    if way == "vllm_server":
        # What `vllm serve` runs; that command itself does not find its version in vLLM's CPU build.
        server = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1"]
        # What the checkpoint's folder says of sampling is not asked for here.
        named = ["--port", str(port), "--served-model-name", MODEL, "--generation-config", "vllm"]
        named += ["--disable-uvicorn-access-log"]
        return [*server, *named, *flags(arguments)]
    assert way == "ray_serve_llm", way
    others = json.dumps({**{k: v for k, v in arguments.items() if k != "model"}, "generation_config": "vllm"})
    rival = [sys.executable, "-m", "rivals.ray_serve_llm", "--port", str(port), "--model", folder, "--name", MODEL]
    return [*rival, "--arguments", others]


def bare_command(facts: Facts, asked: list[str]) -> list[str]:
    """The engine's own process, which asks as well."""
    ids = [str(one) for one in facts.prompt_ids]
    bare = [sys.executable, "-m", "rivals.bare_vllm", "--arguments", json.dumps(facts.arguments)]
    return [*bare, *asked, "--prompt-ids", *ids]


def flags(arguments: dict[str, Any]) -> list[str]:
    """Engine arguments as vLLM's command line writes them."""
    found = []
    for name, value in arguments.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            found.append(f"--{flag}" if value else f"--no-{flag}")
        elif value is not None:
            found += [f"--{flag}", json.dumps(value) if isinstance(value, dict) else str(value)]
    return found


def environment() -> dict[str, str]:
    """One thread to compute with, as everywhere on CPUs here; Ray's workers as important as everybody else's."""
    paths = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "benchmarks")])
    ray = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
    vllm = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_NO_USAGE_STATS": "1"}
    # On CPUs this means one process for scheduler and model instead of two that talk at every step: quicker for all.
    vllm["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    common = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "ERROR", "PYTHONPATH": paths}
    return {**ray, **vllm, **common}


def prepare(folder: Path, num_scenes: int, dtype: str, batch: int) -> Facts:
    """Write pictures and a campaign that has promoted the tiny recipe's base weights."""
    from vila2_ray.campaign.promotion import promote
    from vila2_ray.config import EngineConfig
    from vila2_ray.engines.turns import turn_token_ids
    from vila2_ray.engines.vllm_arguments import engine_arguments
    from vila2_ray.model.loading import checkpoint_digest, load_processor
    from vila2_ray.recipe import load_config, to_yaml
    from vila2_ray.storage import Store

    engine = EngineConfig(name="vllm", dtype=dtype, batch_size=batch, prefix_caching=False)  # type: ignore[arg-type]
    settings = [f"name={engine.name}", f"dtype={dtype}", f"batch_size={batch}", "prefix_caching=false"]
    settings = [f"recaption.engine.{one}" for one in settings]
    campaign = folder / "campaign"
    weights = campaign / "checkpoints" / MODEL / "sft"
    weights.parent.mkdir(parents=True)
    weights.symlink_to(BASE)
    store = Store(campaign)
    store.write_text("campaign.yaml", to_yaml(load_config("tiny", [f"campaign={campaign}", *settings])))
    promote(store, MODEL, f"checkpoints/{MODEL}/sft", checkpoint_digest(BASE), {}, epoch=1)
    return Facts(
        pictures=write_pictures(folder, num_scenes),
        campaign=campaign,
        arguments=engine_arguments(BASE, engine),
        prompt_ids=tuple(turn_token_ids(load_processor(BASE), PROMPT)),
        engine_settings=tuple(settings),
    )


def write_pictures(folder: Path, num_scenes: int) -> Path:
    """Composed scenes as JPEGs, each as it is, mirrored, turned over and both, so that no cache knows any of them."""
    from vila2_ray.recipes.tiny.corpus import write_corpus

    shards = -(-num_scenes // SHARD)
    write_corpus(folder / "corpus", pretrain_shards=shards, shard_size=SHARD, sft=1, heldout=1, experts=1)
    to = folder / "pictures"
    to.mkdir()
    scenes = []
    for path in sorted((folder / "corpus" / "pretrain").glob("*.tar")):
        with tarfile.open(path) as tar:
            scenes += [Image.open(tar.extractfile(m)).convert("RGB") for m in tar if m.name.endswith(".jpg")]  # type: ignore[arg-type]
    turned = [scenes, [ImageOps.mirror(s) for s in scenes], [ImageOps.flip(s) for s in scenes]]
    turned.append([ImageOps.mirror(s) for s in turned[2]])
    for number, picture in enumerate(picture for pictures in turned for picture in pictures):
        picture.save(to / f"{number:05d}.jpg", quality=90)
    return to
