"""A campaign small enough for tests: the shipped base, a few dozen composed scenes, a few training steps a stage."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from vila2_ray.config import Config
from vila2_ray.recipe import load_config

NUM_PRETRAIN = 3 * 24


@functools.cache
def corpus() -> Path:
    """Composed once per process: 3 pretraining shards of 24, 16 SFT and 12 held-out scenes."""
    from vila2_ray.recipes.tiny.corpus import write_corpus

    folder = Path(tempfile.mkdtemp(prefix="vila2-micro-"))
    write_corpus(folder, pretrain_shards=3, shard_size=24, sft=16, heldout=12, experts=24, seed=5, processes=1)
    return folder


def overrides(campaign: Path, *more: str) -> list[str]:
    where = corpus()
    return [
        f"campaign={campaign}",
        f"corpus.pretrain={where}/pretrain",
        f"corpus.sft={where}/sft",
        f"corpus.heldout={where}/heldout",
        "train.align.num_epochs=2",
        "train.align.batch_size=8",
        "train.pretrain.num_epochs=1",
        "train.pretrain.batch_size=8",
        "train.sft.num_epochs=2",
        "train.sft.batch_size=8",
        "recaption.range_rows=8",
        "recaption.sampling.max_tokens=24",
        "recaption.engine.batch_size=16",
        "evaluate.max_tokens=24",
        "rounds.max=1",
        "specialists=[]",
        *more,
    ]


def config(campaign: Path, *more: str) -> Config:
    return load_config("tiny", overrides(campaign, *more))


def driver(campaign: Path, *more: str) -> subprocess.Popen[bytes]:
    """A driver process of its own, to be killed."""
    command = [sys.executable, "-m", "vila2_ray.cli", "run", "--recipe", "tiny", *overrides(campaign, *more)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    log = open(Path(campaign.parent, f"{campaign.name}.log"), "ab")  # noqa: SIM115  closed with the process
    return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True)
