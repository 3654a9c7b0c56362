"""Models trained and scored beside a campaign's own, for benchmarks to compare with. Everything resumes."""

from __future__ import annotations

import json
import platform
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vila2_ray.campaign import Campaign
from vila2_ray.campaign.scoring import Examination, SkillAsked
from vila2_ray.captions.prompts import Prompts
from vila2_ray.config import Config, StageConfig
from vila2_ray.progress import LineProgress
from vila2_ray.recipe import load_config
from vila2_ray.recipes.tiny.corpus import SPLITS, write_corpus
from vila2_ray.storage import Store

Scores = dict[str, float]


def tiny_config(seed: int, work: Path, overrides: Sequence[str], **counts: int) -> Config:
    """The tiny recipe on a corpus of its own seed, composed below `work` where it is not there yet."""
    corpus = work / f"corpus-{seed}"
    write_corpus(corpus, seed=seed, processes=1, **counts)
    paths = [f"corpus.{source}={corpus}/{source}" for source in SPLITS if source != "experts"]
    for skill in ("spatial", "grounding", "ocr"):
        paths.append(f"skills.{skill}.images={corpus}/experts")
        paths += [] if skill == "ocr" else [f"skills.{skill}.annotations={corpus}/experts/annotations.jsonl"]
    return load_config("tiny", [f"campaign={work}/campaign-{seed}", f"seed={seed}", *paths, *overrides])


class Models:
    """Trains and scores models from a finished campaign's checkpoints, in this process, each once."""

    def __init__(self, config: Config, work: Store) -> None:
        self.config, self.campaign, self.work = config, Campaign(config.campaign), work
        self._markers = self.campaign.markers()

    def told(self, stage: str) -> dict[str, Any]:
        """What a stage of the campaign says of its work."""
        return self._markers[stage].summary

    def tokens(self, stage: str) -> int:
        """That a stage of the campaign was trained on."""
        return int(self.told(stage)["num_tokens"])

    def prolonged(self, settings: StageConfig, by: float) -> StageConfig:
        """As many times the epochs."""
        return replace(settings, num_epochs=settings.num_epochs * by)

    def checkpoint(self, model: str, stage: str) -> Path:
        """One of the campaign's own."""
        return self.campaign.layout.checkpoint(model, stage).local_folder()

    def train(self, model: str, stage: Any, init: Path, settings: StageConfig | None = None, **parts: Any) -> Path:
        """One stage; the finished folder. `parts`: layers, specialists, mixture and the like of the TrainingJob."""
        from vila2_ray.train.trainer import TrainingJob, train_in_process  # torch: tables need none

        config = self.config
        if settings is not None:
            config = replace(config, train=replace(config.train, **{stage: settings}))
        folder = self.work.sub(model, stage)
        job = TrainingJob(
            model_name=model,
            stage=stage,
            init_folder=init,
            corpus=self.campaign.corpus("sft" if stage == "sft" else "pretrain"),
            layers=parts.pop("layers", []),
            config=config,
            packs=folder.sub("packs"),
            state=folder.sub("state"),
            out=folder.sub("checkpoint"),
            **parts,
        )
        train_in_process(job, LineProgress(every_seconds=20))
        return job.out.local_folder()

    def score(self, model: str, folder: Path, skills: bool = False) -> dict[str, Any]:
        """`{"general": scores, "skills": {skill: scores}}` on the held-out corpus."""
        cached = f"{model}.json"
        if self.work.exists(cached):
            return json.loads(self.work.read_text(cached))
        config = self.config
        prompts = Prompts(config.recaption.prompt_ids, config.recaption.prompts)
        asked = [SkillAsked.of(config, skill, prompts) for skill in config.specialists] if skills else []
        engine, heldout = config.recaption.engine, self.campaign.corpus("heldout")
        settings = config.recaption.engine_settings
        general, found = Examination(heldout, config.evaluate, prompts, engine, settings, True, asked)(str(folder))
        assert general is not None
        scores = {"general": general[0], "skills": {skill: told[0] for skill, told in found.items()}}
        self.work.write_text(cached, json.dumps(scores))
        return scores


def spread(values: Sequence[float]) -> str:
    """`median (min–max)`."""
    return f"{statistics.median(values):.3f} ({min(values):.3f}–{max(values):.3f})"


def processor() -> str:
    """What this machine computes with."""
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
