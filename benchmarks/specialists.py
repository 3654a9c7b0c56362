"""Do specialists pay? What the generalist learns of each skill from their captions, and what it loses in general.

For each seed a corpus is composed and a campaign is run on it to its end, as `make run` does: rounds, a specialist for
each skill, and the final model. Beside it, from the same aligned base:

- *VLM_K + one*: the final training with one specialist's layer alone;
- *control, finetuned directly*: VLM_K's pretrained weights finetuned on the specialists' finetuning data and the SFT
  set at once, with the settings of a specialist;
- *control, more steps*: VLM_K, its pretraining on layer K prolonged to as many steps as the final one's, its
  finetuning rehearsing captions of layer K for as many as the final one rehearses what specialists answered.

Both controls take the SFT set apart where the final model does.

    python benchmarks/specialists.py --seeds 0 1 2 --to benchmarks/results
    python benchmarks/specialists.py --quick

Scores are of the held-out scenes, by truth that no training sees; a skill's is that of its best wording
(`evaluate.skills`). Finished parts are kept under `--work`, so the benchmark resumes; the result in `--to` is written
anew after every model: for all seeds first the campaign and both controls, then the layers one by one. The last line is
one JSON object: the least gain of any skill and the change in general, for each the minimum over the seeds. `--quick`
shows that all of it runs; its numbers say nothing.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

from trials.models import Models, processor, spread, tiny_config

from vila2_ray.campaign import plan as plans
from vila2_ray.campaign.runner import run
from vila2_ray.config import Config, StageConfig
from vila2_ray.progress import LineProgress
from vila2_ray.skills.scores import MAIN
from vila2_ray.storage import Store
from vila2_ray.train.job import TrainingSource, rehearsed
from vila2_ray.train.packplan import Share

GENERAL = "object_place_f1"
SHOWN = (GENERAL, "object_f1", "hallucination_rate", "vqa_accuracy")
QUICK = {"pretrain_shards": 2, "shard_size": 250, "heldout": 60, "experts": 600}
QUICK_OVERRIDES = ["rounds.max=1", "train.align.num_epochs=6", "skills.grounding.max_samples=200"]
CONTROLS = ("control: finetuned directly", "control: more steps")
Rows = dict[str, dict[str, Any]]
"""Model → `{"general": scores, "skills": {skill: scores}}`, in the order shown."""


def one_seed(seed: int, work: Path, quick: bool, overrides: list[str]) -> Iterator[dict[str, Any]]:
    """What is known of one seed, anew after every model, at last all of it; read back when it was finished before."""
    result = work / f"seed-{seed}.json"
    if result.is_file():
        yield json.loads(result.read_text())
        return
    counts = QUICK if quick else {}
    config = tiny_config(seed, work, [*(QUICK_OVERRIDES if quick else []), *overrides], **counts)
    run(config, progress=LineProgress(every_seconds=20))
    trials = Trials(config, work)
    found = {"seed": seed, "best_round": trials.best, "kept": trials.kept, "is_whole": False, "rows": trials.own()}
    yield found
    for name, scores in trials.others():
        found["rows"][name] = scores
        yield found
    found["is_whole"] = True
    result.write_text(json.dumps(found, indent=1))
    yield found


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
        self._final = {stage.kind: stage for stage in plans.stages(config) if stage.is_final}

    def own(self) -> Rows:
        """The campaign's models with their scores."""
        campaign, generalist = self._models.campaign, f"VLM_{self.best}"
        asked = {told["skill"]: told["generalist_scores"] for told in self._specialists}
        rows: Rows = {generalist: {"general": campaign.scores()[self.best], "skills": asked}}
        for told in self._specialists:
            rows[f"specialist: {told['skill']}"] = {
                "general": told["general"],
                "skills": {told["skill"]: told["scores"]},
            }
        final = campaign.final_scores()
        if final is not None:
            rows[f"{generalist} + all"] = {"general": final["scores"], "skills": final["skills"]}
        return rows

    def others(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """What the final model is compared with, what says most first; nothing where there is no final model."""
        if self._models.campaign.final_scores() is None:
            return
        for name, trained in zip(CONTROLS, (self._finetuned, self._more_steps), strict=True):
            yield name, trained()
        if len(self.kept) > 1:
            for skill in self.kept:
                yield f"VLM_{self.best} + {skill}", self._fused(skill)

    def _fused(self, skill: str) -> dict[str, Any]:
        """The final training with one specialist's layer."""
        campaign = self._models.campaign
        layers = [(skill, campaign.layer(skill), campaign.verdicts(skill))]
        asked = TrainingSource(campaign.corpus("pretrain"), "pairs", specialists=layers)
        settings = plans.settings_of(self._final["pretrain"], self._models.config)
        return self._whole(f"plus-{skill}", settings, self._beside(asked), specialists=layers)

    def _more_steps(self) -> dict[str, Any]:
        """VLM_K with the steps that the final model takes beyond it taken on its own layer."""
        models, campaign = self._models, self._models.campaign
        by = models.told("pretrain-final")["num_steps"] / models.told(f"pretrain-{self.best}")["num_steps"]
        pairs = campaign.corpus("pretrain")
        asked = TrainingSource(pairs, "pairs")
        parts = self._beside(asked)
        if parts:
            again = models.told("sft-final")["by_source"]["pretrain"]["items"] / models.config.train.sft.num_epochs
            there = models.told(f"filter-{self.best}")["flags"]["kept"] if self.best else pairs.total_rows()
            repeat = math.ceil(again / there)
            share = Share(again / there / repeat, repeat)
            parts["mixture"] = (replace(asked, layers=self._layers, share=share, alt_text=not self.best),)
        return self._whole("more-steps", models.prolonged(models.config.train.pretrain, by), parts)

    def _beside(self, asked: TrainingSource) -> dict[str, Any]:
        """Parts of a finetuning that rehearses as the final one does."""
        skills = self._models.config.skills
        if not skills.rehearsal:
            return {}
        own = TrainingSource(self._models.campaign.corpus("sft"), "chat")
        told, again = rehearsed([own], asked, skills.rehearsal, skills.turns == "apart")
        return {"apart": told.apart, "mixture": (again,)}

    def _whole(self, name: str, settings: StageConfig, finetuned: dict[str, Any], **parts: Any) -> dict[str, Any]:
        models = self._models
        init = models.train(
            name, "pretrain", models.checkpoint("base", "align"), settings, layers=self._layers, **parts
        )
        short = plans.settings_of(self._final["sft"], models.config)
        return models.score(name, models.train(name, "sft", init, short, **finetuned), skills=True)

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
        skills = models.config.skills
        apart = skills.rehearsal > 0 and skills.turns == "apart"
        folder = models.train("finetuned", "sft", init, settings, mixture=mixture, share=share, apart=apart)
        return models.score("finetuned", folder, skills=True)


def is_whole(found: dict[str, Any]) -> bool:
    """Whether all models of a seed are known."""
    return bool(found["is_whole"])


def is_controlled(found: dict[str, Any]) -> bool:
    """Whether both controls are, or there are none."""
    return is_whole(found) or set(CONTROLS) <= set(found["rows"])


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


def told(results: list[dict[str, Any]]) -> tuple[str, dict[str, float]]:
    """Table and seeds as Markdown, and the figures over all seeds."""
    per_seed = [figures(found) for found in results]
    text = table(results)
    for found, each in zip(results, per_seed, strict=True):
        shown = ", ".join(f"{name} {value:.1f}" for name, value in each.items())
        text += f"\n\nSeed {found['seed']}: best round {found['best_round']}, kept {', '.join(found['kept'])}; {shown}."
        text += "" if found["is_whole"] else " Not all that it is compared with is finished."
    return text, {f"{name}_min": round(min(each[name] for each in per_seed), 3) for name in per_seed[0]}


def write(to: Path, command: str, text: str, last: dict[str, float], results: list[dict[str, Any]]) -> None:
    """The dated result: `specialists.md` to be read, `specialists.json` with every score."""
    to.mkdir(parents=True, exist_ok=True)
    made = f"`{command}` on {processor()}, {len(results)} seeds; median (min–max)."
    head = f"# Specialists, {date.today().isoformat()}\n\n{made}\n\n"
    (to / "specialists.md").write_text(f"{head}{text}\n\n```json\n{json.dumps(last)}\n```\n", "utf-8")
    (to / "specialists.json").write_text(json.dumps({"figures": last, "seeds": results}, indent=1) + "\n", "utf-8")


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
    command = " ".join(["python benchmarks/specialists.py --seeds", *map(str, seeds), *args.overrides])
    results: dict[int, dict[str, Any]] = {}
    courses = {seed: one_seed(seed, work, args.quick, args.overrides) for seed in seeds}
    text, last = "", {}
    for is_enough in (is_controlled, is_whole):  # of all seeds what says most, then the rest
        for seed, course in courses.items():
            for found in course:
                results[seed] = found
                text, last = told(list(results.values()))
                if args.to:
                    write(args.to, command, text, last, list(results.values()))
                if is_enough(found):
                    break
    print(text)
    print(json.dumps(last))


if __name__ == "__main__":
    main()
