"""Do specialists pay? What the generalist learns of each skill from their captions, and what it loses in general.

For each seed a corpus is composed and a campaign is run on it to its end, as `make run` does: rounds, a specialist for
each skill, and the final model. Beside it, from the same aligned base:

- *VLM_K + one*: the final training with one specialist's layer alone;
- *control, finetuned directly*: VLM_K's pretrained weights finetuned on the specialists' finetuning data and the SFT
  set at once, with the settings of a specialist;
- *control, more steps*: VLM_K, its pretraining on layer K prolonged to as many tokens as the final one's.

    python benchmarks/specialists.py --seeds 0 1 2 --to benchmarks/results
    python benchmarks/specialists.py --quick

Scores are of the held-out scenes, by truth that no training sees; a skill's is that of its best wording
(`evaluate.skills`). Finished parts are kept under `--work`, so the benchmark resumes. The last line is one JSON object:
the least gain of any skill and the change in general, for each the minimum over the seeds. `--quick` shows that all of
it runs; its numbers say nothing.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

from trials.models import Models, processor, spread, tiny_config

from vila2_ray.campaign.runner import run
from vila2_ray.config import Config, StageConfig
from vila2_ray.progress import LineProgress
from vila2_ray.skills.scores import MAIN
from vila2_ray.storage import Store
from vila2_ray.train.job import TrainingSource
from vila2_ray.train.packplan import Share

GENERAL = "object_place_f1"
SHOWN = (GENERAL, "object_f1", "hallucination_rate", "vqa_accuracy")
QUICK = {"pretrain_shards": 2, "shard_size": 250, "heldout": 60, "experts": 600}
QUICK_OVERRIDES = ["rounds.max=1", "train.align.num_epochs=6", "skills.grounding.max_samples=200"]
Rows = dict[str, dict[str, Any]]
"""Model → `{"general": scores, "skills": {skill: scores}}`, in the order shown."""


def one_seed(seed: int, work: Path, quick: bool, overrides: list[str]) -> dict[str, Any]:
    """Everything for one seed; read back when it was finished before."""
    result = work / f"seed-{seed}.json"
    if result.is_file():
        return json.loads(result.read_text())
    counts = QUICK if quick else {}
    config = tiny_config(seed, work, [*(QUICK_OVERRIDES if quick else []), *overrides], **counts)
    run(config, progress=LineProgress(every_seconds=20))
    trials = Trials(config, work)
    found = {"seed": seed, "best_round": trials.best, "kept": trials.kept, "rows": trials.rows()}
    result.write_text(json.dumps(found, indent=1))
    return found


class Trials:
    """The campaign's own models and what they are compared with."""

    def __init__(self, config: Config, work: Path) -> None:
        self._models = Models(config, Store(str(work / f"trials-{config.seed}")))
        campaign = self._models.campaign
        self._specialists = campaign.specialists()
        self.kept = [told["skill"] for told in self._specialists if told["beats"]]
        self.best = int(self._specialists[0]["beside"].removeprefix("vlm-"))
        best = f"round-{self.best}"
        self._layers = [(campaign.layer(best), campaign.verdicts(best))] if self.best else []

    def rows(self) -> Rows:
        """All models with their scores."""
        campaign, generalist = self._models.campaign, f"VLM_{self.best}"
        asked = {told["skill"]: told["generalist_scores"] for told in self._specialists}
        rows: Rows = {generalist: {"general": campaign.scores()[self.best], "skills": asked}}
        for told in self._specialists:
            rows[f"specialist: {told['skill']}"] = {
                "general": told["general"],
                "skills": {told["skill"]: told["scores"]},
            }
        if len(self.kept) > 1:
            rows |= {f"{generalist} + {skill}": self._fused(skill) for skill in self.kept}
        final = campaign.final_scores()
        if final is not None:
            rows[f"{generalist} + all"] = {"general": final["scores"], "skills": final["skills"]}
            rows["control: finetuned directly"] = self._finetuned()
            rows["control: more steps"] = self._more_steps()
        return rows

    def _fused(self, skill: str) -> dict[str, Any]:
        """The final training with one specialist's layer."""
        campaign = self._models.campaign
        layers = [(skill, campaign.layer(skill), campaign.verdicts(skill))]
        return self._whole(f"plus-{skill}", self._final_settings(), specialists=layers)

    def _final_settings(self) -> StageConfig:
        """Pretraining with room for the specialists' turns."""
        config = self._models.config
        return replace(config.train.pretrain, max_length=config.skills.max_length or config.train.pretrain.max_length)

    def _more_steps(self) -> dict[str, Any]:
        """VLM_K with the tokens that the final pretraining spends beyond it spent on its own layer."""
        models = self._models
        by = models.tokens("pretrain-final") / models.tokens(f"pretrain-{self.best}")
        return self._whole("more-steps", models.prolonged(models.config.train.pretrain, by))

    def _whole(self, name: str, settings: StageConfig, **parts: Any) -> dict[str, Any]:
        models = self._models
        init = models.train(
            name, "pretrain", models.checkpoint("base", "align"), settings, layers=self._layers, **parts
        )
        return models.score(name, models.train(name, "sft", init), skills=True)

    def _finetuned(self) -> dict[str, Any]:
        """VLM_K with the specialists' finetuning data in its SFT."""
        models = self._models
        settings, markers = models.config.skills.train, models.campaign.markers()
        mixture = tuple(
            TrainingSource(
                models.campaign.layout.conversations(skill, markers[f"build-{skill}"].fingerprint).corpus(
                    f"{skill}.data", models.config
                ),
                "chat",
            )
            for skill in models.config.specialists
        )
        # the SFT set as often as VLM_K saw it
        share = Share(repeat=max(1, math.ceil(models.config.train.sft.num_epochs / settings.num_epochs)))
        init = models.checkpoint(f"vlm-{self.best}", "pretrain")
        folder = models.train("finetuned", "sft", init, settings, mixture=mixture, share=share)
        return models.score("finetuned", folder, skills=True)


def figures(found: dict[str, Any]) -> dict[str, float]:
    """What one seed says, in points of 100: nothing is gained where no specialist was better."""
    rows, generalist = found["rows"], found["rows"][f"VLM_{found['best_round']}"]
    final = rows.get(f"VLM_{found['best_round']} + all", generalist)
    gains = {
        skill: 100 * (final["skills"][skill][MAIN[skill]] - scores[MAIN[skill]])
        for skill, scores in generalist["skills"].items()
    }
    change = 100 * (final["general"][GENERAL] - generalist["general"][GENERAL])
    return {
        **{f"{skill}_gain_points": gain for skill, gain in gains.items()},
        "skill_gain_points": min(gains.values()),
        "general_change_points": change,
    }


def table(results: list[dict[str, Any]]) -> str:
    """Markdown: rows are models, cells `median (min–max)` over the seeds."""
    skills = list(next(iter(results[0]["rows"].values()))["skills"])
    heads = [*(f"{skill}: {MAIN[skill]}" for skill in skills), *SHOWN]
    lines = ["| | seeds | " + " | ".join(heads) + " |", "|---" * (len(heads) + 2) + "|"]
    named = [{_common(name, found): row for name, row in found["rows"].items()} for found in results]
    for name in dict.fromkeys(name for rows in named for name in rows):
        there = [rows[name] for rows in named if name in rows]
        cells = []
        for skill in skills:
            values = [row["skills"][skill][MAIN[skill]] for row in there if skill in row["skills"]]
            cells.append(spread(values) if values else "")
        cells += [spread([row["general"][metric] for row in there]) for metric in SHOWN]
        lines.append(f"| {name} | {len(there)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _common(name: str, found: dict[str, Any]) -> str:
    """Seeds may have another best round."""
    return name.replace(f"VLM_{found['best_round']}", "VLM_K")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--quick", action="store_true", help="one seed on a small corpus, to see that it runs")
    parser.add_argument("--work", type=Path, default=Path("runs/benchmark-specialists"))
    parser.add_argument("--to", type=Path, help="folder for the dated result")
    parser.add_argument("overrides", nargs="*", help="key=value, as for vila2 run")
    args = parser.parse_args()
    seeds, work = (args.seeds[:1], args.work / "quick") if args.quick else (args.seeds, args.work)
    work.mkdir(parents=True, exist_ok=True)
    results = [one_seed(seed, work, args.quick, args.overrides) for seed in seeds]
    per_seed = [figures(found) for found in results]
    last = {f"{name}_min": round(min(each[name] for each in per_seed), 3) for name in per_seed[0]}
    text = table(results)
    for found, each in zip(results, per_seed, strict=True):
        shown = ", ".join(f"{name} {value:.1f}" for name, value in each.items())
        text += f"\n\nSeed {found['seed']}: best round {found['best_round']}, kept {', '.join(found['kept'])}; {shown}."
    print(text)
    if args.to:
        args.to.mkdir(parents=True, exist_ok=True)
        command = " ".join(["python benchmarks/specialists.py --seeds", *map(str, seeds), *args.overrides])
        made = f"`{command}` on {processor()}, {len(results)} seeds; median (min–max)."
        head = f"# Specialists, {date.today().isoformat()}\n\n{made}\n\n"
        (args.to / "specialists.md").write_text(f"{head}{text}\n\n```json\n{json.dumps(last)}\n```\n", "utf-8")
    print(json.dumps(last))


if __name__ == "__main__":
    main()
