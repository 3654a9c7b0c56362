"""How near does training come to a loop written by hand? Same model, batches and cores, in one go.

- *ours*: `train.loop.fit`, started by Ray Train on two ranks (gloo), fed from tar shards by the pack plan;
- *our_loop*: the same started by torchrun, so that what the loop costs is told apart from what Ray's own processes
  take of the same cores;
- *torchrun*: `rivals/torchrun_fsdp.py`, FSDP2 and a DataLoader by hand, two ranks;
- *ours_alone* and *hf_trainer*: one process that computes on one core and has another for its data, ours and
  transformers' `Trainer` (`rivals/hf_trainer.py`);
- *our_data* and *webdataset*: the data path alone on one core, 384 px JPEGs in tar shards → processed pixels and
  tokens; ours as the loop's reader gives them, the other by webdataset and torch's DataLoader
  (`rivals/webdataset_loader.py`), once with the checkpoint's image processor, once with its arithmetic by hand.

Every run is a process of its own. Rates are of the steps after the first `--warmup`; what comes before is told as time
to the first step. Runs of a comparison alternate, the order changing from one to the next; a ratio is the median over
them, its interval from bootstrapping. That all trained the same is checked: their losses must agree. The results' file
is written anew after every comparison, so that a run that is broken off has said what it knew.

    python benchmarks/train.py                        # some 25 minutes, on a machine that does nothing else
    python benchmarks/train.py --pairs 1 --steps 10   # whether everything runs

The last line is one JSON object: `ratio_to_torchrun`, `ratio_to_hf_trainer`, `ratio_to_webdataset`, `real_token_share`.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[1]
RIVALS = REPOSITORY / "benchmarks" / "rivals"
RANKS = 2
SHARD = 250
BATCH, MICRO_BATCH, LENGTH = 8, 4, 256
VOCABULARY = 2048
"""More than the tokenizer has: the head's share of the work is then that of an 8 B model's."""
TOWER = {"hidden_size": 192, "intermediate_size": 768, "num_hidden_layers": 4, "num_attention_heads": 6}
LANGUAGE = {"hidden_size": 320, "intermediate_size": 896, "num_hidden_layers": 8, "num_attention_heads": 5}
DATA_SIDE, DATA_IMAGES, DATA_BATCH = 384, 1024, 32
STAGE = {"peak_lr": 5e-4, "weight_decay": 0.05, "adam_beta2": 0.98, "warmup_share": 0.1, "max_grad_norm": 1.0}

Course = dict[str, Any]
"""Of a run: `began`, `ends` of its steps (Unix time), `losses`, `waits` for data (seconds), `peak_bytes`."""


# --- what is trained on what ------------------------------------------------------------------------------------------


def prepare(folder: Path, num_steps: int, dtype: str) -> dict[str, Any]:
    """Model, corpus and pack plan; the same sequences for those that read no plan. Returns what the tables need."""
    import numpy as np
    import torch
    from transformers.utils import logging

    from vila2_ray.progress import NullProgress
    from vila2_ray.recipes.tiny.corpus import write_corpus
    from vila2_ray.train.parallelize import find_place
    from vila2_ray.train.work import open_source, ready_plan

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    num_parameters = write_model(folder / "model", 96, 8)
    num_shards = -(-num_steps * BATCH * LENGTH // 40 // SHARD)  # no sample is shorter than that many tokens
    write_corpus(
        folder / "corpus", pretrain_shards=num_shards, shard_size=SHARD, sft=1, heldout=1, experts=1, processes=2
    )
    job = make_job(folder, num_steps)
    source = open_source(job)
    plan = ready_plan(job, source, NullProgress())
    assert plan.num_steps == num_steps, "the corpus is too small for the steps"
    numbers = {ref.shard: number for number, ref in enumerate(job.corpus.shards)}
    indexes = {ref.shard: job.corpus.index(ref) for ref in job.corpus.shards}
    columns: dict[str, list[Any]] = {name: [] for name in ("ids", "learned", "item", "images")}
    starts, image_starts, by_step = [0], [0], np.zeros((num_steps, 2), np.int64)
    for number in range(plan.num_sequences):
        keys = plan.sequence(number)
        for at, (key, tokens) in enumerate(zip(keys, source.tokens(keys), strict=True)):
            columns["ids"].append(tokens.input_ids)
            columns["learned"].append(tokens.supervised)
            columns["item"].append(np.full(len(tokens.input_ids), at, np.int32))
            row = indexes[key.shard].slice(key.row, 1).to_pylist()[0]
            columns["images"].append([[numbers[key.shard], row["image_offset"], row["image_bytes"]]])
            by_step[number // BATCH] += (len(tokens.input_ids), 1)
        starts.append(sum(map(len, columns["ids"])))
        image_starts.append(len(columns["images"]))
    arrays = {name: np.concatenate(values) for name, values in columns.items()}
    np.savez(folder / "sequences.npz", starts=starts, image_starts=image_starts, **arrays)
    place = find_place(dtype)  # type: ignore[arg-type]
    found = "bfloat16" if place.compute_dtype == torch.bfloat16 else "float32"
    settings = {**STAGE, "num_steps": num_steps, "batch_size": BATCH, "micro_batch_size": MICRO_BATCH, "dtype": found}
    settings |= {"attention": place.attention}
    (folder / "settings.json").write_text(json.dumps(settings))
    return {
        "tokens": by_step[:, 0].tolist(),
        "samples": by_step[:, 1].tolist(),
        "num_parameters": num_parameters,
        "dtype": found,
        "real_token_share": plan.real_token_share(MICRO_BATCH, RANKS),
    }


def write_model(folder: Path, image_side: int, patch: int) -> int:
    """A random `vila` with the tiny recipe's tokenizer; its number of parameters."""
    from transformers import LlamaConfig, SiglipVisionConfig

    from vila2_ray.model import build_processor, build_vila
    from vila2_ray.recipes.tiny import tokenizer

    words = tokenizer.build()
    vision = SiglipVisionConfig(**TOWER, image_size=image_side, patch_size=patch, vision_use_head=False)
    special = {f"{name}_token_id": getattr(words, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    language = LlamaConfig(
        **LANGUAGE, num_key_value_heads=LANGUAGE["num_attention_heads"], vocab_size=VOCABULARY, **special
    )
    model, words = build_vila(vision, language, tokenizer=words, vision_feature_layer=-1)
    model.save_pretrained(folder)
    build_processor(model.config, words).save_pretrained(folder)
    return sum(parameter.numel() for parameter in model.parameters())


def make_job(folder: Path, num_steps: int, **stage: Any) -> Any:
    """The stage as a campaign would be asked for it: all parts trained, several samples to a sequence."""
    from vila2_ray.corpus.corpus import Corpus
    from vila2_ray.recipe import load_config
    from vila2_ray.storage import Store
    from vila2_ray.train.job import TrainingJob

    wanted = {**STAGE, "trained": "[vision,connector,language]", "num_epochs": 1, "max_steps": num_steps}
    wanted |= {"batch_size": BATCH, "micro_batch_size": MICRO_BATCH, "max_length": LENGTH}
    wanted |= {"max_samples_per_sequence": 64, **stage}
    config = load_config("tiny", [f"train.pretrain.{name}={value}" for name, value in wanted.items()])
    corpus = Corpus.open(str(folder / "corpus" / "pretrain"), "pretrain", Store(folder / "index"))
    packs, state, out = (Store(folder / name) for name in ("packs", "state", "out"))
    return TrainingJob("benchmark", "pretrain", folder / "model", corpus, [], config, packs, state, out)


def write_jpegs(folder: Path, num: int) -> None:
    """Tar shards of JPEGs as img2dataset leaves them: shorter side 384 px, some 60 kB each, a sentence beside."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    words = ["a", "red", "blue", "large", "cat", "dog", "tree", "house", "on", "the", "left", "right", "of", "near"]
    for shard in range(0, num, SHARD):
        folder.mkdir(parents=True, exist_ok=True)
        with tarfile.open(folder / f"{shard // SHARD:05d}.tar", "w") as archive:
            for row in range(shard, min(shard + SHARD, num)):
                width, height = ((512, DATA_SIDE), (DATA_SIDE, 512), (DATA_SIDE, DATA_SIDE))[row % 3]
                coarse = Image.fromarray(rng.integers(0, 256, (24, 24, 3), np.uint8)).resize((width, height), 3)
                grain = rng.integers(-12, 13, (height, width, 3), np.int16)
                pixels = np.clip(np.asarray(coarse, np.int16) + grain, 0, 255).astype(np.uint8)
                stream = io.BytesIO()
                Image.fromarray(pixels).save(stream, "JPEG", quality=88)
                text = " ".join(rng.choice(words, 20)).encode()
                for ending, content in (("jpg", stream.getvalue()), ("txt", text)):
                    member = tarfile.TarInfo(f"{row:06d}.{ending}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))


# --- the ways, each in a process of its own ---------------------------------------------------------------------------


def ours(folder: Path) -> None:
    """Two ranks under Ray Train."""
    import ray
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    began = time.time()
    ray.init(address="local", num_cpus=RANKS, include_dashboard=False, log_to_driver=False, logging_level="error")
    TorchTrainer(
        lambda config: train_here(Path(config["folder"]), config["began"]),
        train_loop_config={"folder": str(folder), "began": began},
        torch_config=TorchConfig(backend="gloo"),
        scaling_config=ScalingConfig(num_workers=RANKS, resources_per_worker={"CPU": 1}),
        run_config=RunConfig(storage_path=str(folder / "ray")),
    ).fit()


def our_loop(folder: Path) -> None:
    """One of torchrun's ranks."""
    import torch.distributed as dist

    dist.init_process_group("gloo")
    train_here(folder, time.time())
    dist.destroy_process_group()


def ours_alone(folder: Path) -> None:
    """One process."""
    train_here(folder, time.time())


def train_here(folder: Path, began: float) -> None:
    """Train as this rank; the first one writes the course."""
    import torch

    from vila2_ray.model.loading import load_model
    from vila2_ray.train.loop import StepReport, fit
    from vila2_ray.train.parallelize import find_place
    from vila2_ray.train.work import open_source, read_plan

    settings = json.loads((folder / "settings.json").read_text("utf-8"))
    job = make_job(folder, settings["num_steps"])
    place, source, plan = find_place(settings["dtype"], 1), open_source(job), read_plan(job)
    assert plan is not None
    course: Course = {"began": began, "ends": [], "losses": [], "waits": []}

    def note(report: StepReport) -> None:
        course["ends"].append(time.time())
        course["losses"].append(report.loss)
        course["waits"].append(report.data_seconds)

    model = load_model(job.init, torch.float32)
    fit(model, plan, source, job.settings, pad_token_id=source.pad_token_id, place=place, on_step=note)
    if place.rank == 0:
        write_course(folder, course)


def write_course(folder: Path, course: Course) -> None:
    course["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    (folder / "course.json").write_text(json.dumps(course))


def our_data(folder: Path) -> None:
    """What the loop's reader gives, stacked as the loop stacks it, on one core."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    import torch

    from vila2_ray.progress import NullProgress
    from vila2_ray.train.reading import Reader
    from vila2_ray.train.work import open_source, read_plan, ready_plan

    torch.set_num_threads(1)
    job = make_job(folder, 0, batch_size=DATA_BATCH, micro_batch_size=DATA_BATCH, max_samples_per_sequence=1)
    plan = read_plan(job) or ready_plan(job, None, NullProgress())
    source = open_source(job)
    reader = Reader(plan, source, DATA_BATCH, source.pad_token_id, source._tokenizer.image_token_id)
    began, num = time.monotonic(), 0
    for data in reader.steps(0, ()):
        for batch in data.batches:
            num += len(torch.stack([data.pixels[key] for key in batch.images]))
    print(json.dumps({"samples": num, "seconds": time.monotonic() - began}))


WAYS: dict[str, Callable[[Path], None]] = {way.__name__: way for way in (ours, our_loop, ours_alone, our_data)}
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(RANKS)]
COMMANDS = {
    "torchrun": [*TORCHRUN, str(RIVALS / "torchrun_fsdp.py")],
    "hf_trainer": [str(RIVALS / "hf_trainer.py")],
    "webdataset": [str(RIVALS / "webdataset_loader.py")],
    **{way: [__file__, "--one", way] for way in WAYS},
    "our_loop": [*TORCHRUN, __file__, "--one", "our_loop"],
}

TRAINING_WAYS = ("ours", "our_loop", "torchrun", "ours_alone", "hf_trainer")
DATA_WAYS = (("our_data",), ("webdataset", "processor"), ("webdataset", "handmade"))


def run(way: str, folder: Path, *arguments: str) -> dict[str, Any]:
    """One way in a process of its own: its course, or what its last line says."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    paths = [str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment.update(PYTHONPATH=os.pathsep.join(paths), RAY_AUTH_MODE="disabled", RAY_USAGE_STATS_ENABLED="0")
    environment.update(RAY_worker_niceness="0", RAY_TRAIN_V2_ENABLED="1")
    (folder / "course.json").unlink(missing_ok=True)
    began = time.time()
    command = [sys.executable, *COMMANDS[way], str(folder), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    if done.returncode:
        raise SystemExit(f"{way}: {(done.stdout + done.stderr)[-3000:]}")
    if "data" in way:
        return dict(json.loads(done.stdout.splitlines()[-1]))
    return {**json.loads((folder / "course.json").read_text()), "began": began}


# --- figures ----------------------------------------------------------------------------------------------------------


def seconds_of(course: Course, warmup: int) -> list[float]:
    """Of each step after the first `warmup`."""
    ends = course["ends"][warmup - 1 :]
    return [b - a for a, b in itertools.pairwise(ends)]


def rate(course: Course, amounts: Sequence[int], warmup: int) -> float:
    """Of tokens or samples, per second."""
    return sum(amounts[warmup:]) / sum(seconds_of(course, warmup))


def interval(values: Sequence[float], draws: int = 2000) -> tuple[float, float]:
    """90 % bootstrap interval of the median."""
    rng = random.Random(0)
    medians = sorted(statistics.median(rng.choices(values, k=len(values))) for _ in range(draws))
    return medians[int(0.05 * draws)], medians[int(0.95 * draws)]


def check_alike(ours: Course, rival: Course, dtype: str, num_steps: int) -> None:
    """Same weights, batches and schedule: the losses of the first steps agree but for rounding."""
    tolerance = 0.02 if dtype == "bfloat16" else 0.002
    for step, (a, b) in enumerate(zip(ours["losses"][:num_steps], rival["losses"][:num_steps], strict=True)):
        if abs(a - b) > tolerance * b:
            raise SystemExit(f"step {step + 1}: the loss is {a:.4f} here and {b:.4f} there; this is no comparison")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--pairs", type=int, default=10, help="of comparisons with torchrun")
    parser.add_argument("--others", type=int, default=3, help="of the other two comparisons")
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--warmup", type=int, default=6, help="steps that are not counted")
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto")
    parser.add_argument("--to", type=Path, default=REPOSITORY / "benchmarks" / "results")
    parser.add_argument("--one", choices=list(WAYS), help=argparse.SUPPRESS)
    parser.add_argument("folder", nargs="?", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        WAYS[options.one](options.folder)
        sys.stdout.flush()
        os._exit(0)
    options.others = min(options.others, options.pairs)
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(options, Path(folder))))


def measure(options: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Run everything, write the results' file, return the figures of the last line."""
    training, data = folder / "training", folder / "data"
    facts = prepare(training, options.steps, options.dtype)
    write_model(data / "model", DATA_SIDE, 32)
    write_jpegs(data / "corpus" / "pretrain", DATA_IMAGES)
    runs: dict[str, list[dict[str, Any]]] = {}
    figures: dict[str, float] = {}
    for ways, num in (
        (("ours", "our_loop", "torchrun"), options.pairs),
        (("ours_alone", "hf_trainer"), options.others),
    ):
        for number in range(num):
            for way in (*ways[number % len(ways) :], *ways[: number % len(ways)]):
                runs.setdefault(way, []).append(run(way, training))
            # the Trainer's warm-up begins at a rate of zero, so only the first step's batch and weights are the same
            for way in ways[1:]:
                check_alike(runs[ways[0]][-1], runs[way][-1], facts["dtype"], 1 if way == "hf_trainer" else 5)
            told = (f"{way} {rate(runs[way][-1], facts['tokens'], options.warmup):,.0f} tokens/s" for way in ways)
            print(f"{number + 1}: {', '.join(told)}", flush=True)
            figures = write_results(options, facts, runs)
    if options.others:
        run("our_data", data)  # makes the plan
    for number in range(options.others):
        for names in DATA_WAYS if number % 2 else reversed(DATA_WAYS):
            runs.setdefault(" ".join(names), []).append(run(names[0], data, *names[1:]))
        rates = (f"{name} {data_rate(runs[name][-1]):,.0f}" for name in map(" ".join, DATA_WAYS))
        print(f"data {number + 1}: {', '.join(rates)} samples/s", flush=True)
        figures = write_results(options, facts, runs)
    return figures


def write_results(
    options: argparse.Namespace, facts: dict[str, Any], runs: dict[str, list[dict[str, Any]]]
) -> dict[str, float]:
    """Write the results' file; the figures of the last line."""
    warmup, tokens, samples = options.warmup, facts["tokens"], facts["samples"]

    def ratios(one: str, other: str, of: Callable[[dict[str, Any]], float]) -> list[float]:
        return [of(a) / of(b) for a, b in zip(runs.get(one, []), runs.get(other, []), strict=True)]

    def speed(course: Course) -> float:
        return rate(course, tokens, warmup)

    ours, same, near = data = [" ".join(way) for way in DATA_WAYS]
    every = {
        "ratio_to_torchrun": ratios("ours", "torchrun", speed),
        "ratio_to_torchrun_without_ray": ratios("our_loop", "torchrun", speed),
        "ratio_to_hf_trainer": ratios("ours_alone", "hf_trainer", speed),
        "ratio_to_webdataset": ratios(ours, same, data_rate),
        "ratio_to_webdataset_handmade": ratios(ours, near, data_rate),
    }
    found = {name: values for name, values in every.items() if values}
    ways = [way for way in TRAINING_WAYS if way in runs]
    steps = {way: statistics.median(s for c in runs[way] for s in seconds_of(c, warmup)) for way in ways}
    overhead = [
        1000 * (statistics.median(seconds_of(a, warmup)) - statistics.median(seconds_of(b, warmup)))
        for a, b in zip(runs["ours"], runs["torchrun"], strict=True)
    ]
    lines = [
        "# Training beside loops written by hand",
        "",
        f"{date.today()}, {processor_name()}, {os.cpu_count()} cores. `vila` of {facts['num_parameters'] / 1e6:.1f} M "
        f"parameters ({LANGUAGE['num_hidden_layers']} × {LANGUAGE['hidden_size']} language, "
        f"{TOWER['num_hidden_layers']} × {TOWER['hidden_size']} vision), all trained; steps of {BATCH} packed "
        f"sequences of at most {LENGTH} tokens, {facts['dtype']}; {options.steps} steps a run, the first {warmup} "
        "not counted. "
        f"Made by `python benchmarks/train.py --pairs {options.pairs} --others {options.others} "
        f"--steps {options.steps}`.",
        "",
        "| ratio of rates | median | 90 % interval | comparisons |",
        "|---|---|---|---|",
    ]
    titles = {
        "ratio_to_torchrun": "tokens/s: ours ÷ hand-written torchrun FSDP2 loop, two ranks",
        "ratio_to_torchrun_without_ray": "the same, ours started by torchrun: Ray's own processes take no time then",
        "ratio_to_hf_trainer": "tokens/s: ours ÷ transformers' `Trainer`, one process",
        "ratio_to_webdataset": "samples/s: our data path ÷ webdataset + DataLoader, the same pixels, one core",
        "ratio_to_webdataset_handmade": "the same, with the image processor's arithmetic by hand there",
    }
    for name, values in found.items():
        low, high = interval(values)
        lines.append(f"| {titles[name]} | **{statistics.median(values):.3f}** | {low:.3f}–{high:.3f} | {len(values)} |")
    low, high = interval(overhead)
    lines += [
        "",
        f"A step takes {statistics.median(overhead):+.1f} ms (90 % interval {low:+.1f} to {high:+.1f}) against the "
        f"hand-written loop's {1000 * steps['torchrun']:.0f}. Of the positions that were computed, "
        f"{facts['real_token_share']:.3f} held a token.",
        "",
        "| way | tokens/s | samples/s | step, ms | waiting for data | peak memory, MB a rank | first step after, s |",
        "|---|---|---|---|---|---|---|",
    ]
    for way in ways:
        courses = runs[way]
        waits = [sum(c["waits"][warmup:]) / sum(seconds_of(c, warmup)) for c in courses if c.get("waits")]
        waited = f"{statistics.median(waits):.1%}" if waits else "not told"
        lines.append(
            f"| {way} | {statistics.median(map(speed, courses)):,.0f} "
            f"| {statistics.median(rate(c, samples, warmup) for c in courses):,.1f} | {1000 * steps[way]:.0f} "
            f"| {waited} | {statistics.median(c['peak_bytes'] for c in courses) / 1e6:,.0f} "
            f"| {statistics.median(c['ends'][0] - c['began'] for c in courses):.1f} |"
        )
    lines += [
        "",
        f"| data path, {DATA_IMAGES:,} JPEGs, one core | samples/s | lowest – highest | runs |",
        "|---|---|---|---|",
    ]
    for name in (name for name in data if name in runs):
        rates = [data_rate(found) for found in runs[name]]
        lines.append(
            f"| {name} | {statistics.median(rates):,.0f} | {min(rates):,.0f} – {max(rates):,.0f} | {len(rates)} |"
        )
    options.to.mkdir(parents=True, exist_ok=True)
    (options.to / "train.md").write_text("\n".join([*lines, ""]), "utf-8")
    figures = {name: round(statistics.median(values), 3) for name, values in found.items()}
    return {**figures, "real_token_share": round(facts["real_token_share"], 4)}


def data_rate(found: dict[str, Any]) -> float:
    return float(found["samples"]) / float(found["seconds"])


def processor_name() -> str:
    with open("/proc/cpuinfo", encoding="utf-8") as info:
        return next((line.split(":")[1].strip() for line in info if line.startswith("model name")), "processor")


if __name__ == "__main__":
    main()
