"""Do rounds of self-augmentation pay? Three seeds, two controls matched in tokens, and an oracle as the ceiling.

For each seed a corpus is composed and a campaign of up to three rounds is run on it, as `make run` does. Then, from the
same aligned base:

- *control alt text*: VLM_0, its pretraining prolonged on raw alt text by all tokens that the rounds up to the best one
  spent;
- *control SFT*: VLM_0, its SFT prolonged by the same number of tokens;
- *oracle*: one round's training on true captions instead of recaptions.

    python benchmarks/rounds.py --seeds 0 1 2 --to benchmarks/results

Scores are of the held-out scenes, by truth that no training sees. Finished parts are kept under `--work`, so the
benchmark resumes; several processes may work on different seeds. The last line is one JSON object: for each figure the
minimum over the seeds.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
from trials.models import Models, Scores, processor, spread, tiny_config

from vila2_ray.campaign.runner import run
from vila2_ray.config import Config, StageConfig
from vila2_ray.corpus.layers import Layer
from vila2_ray.progress import LineProgress
from vila2_ray.recipes.tiny.world import careful_caption
from vila2_ray.schema import CAPTION, Status
from vila2_ray.storage import Store

F1, HALLUCINATION = "object_place_f1", "hallucination_rate"
SHOWN = (
    "object_precision",
    "object_recall",
    "object_f1",
    F1,
    "object_place_size_f1",
    HALLUCINATION,
    "vqa_accuracy",
    "words_per_caption",
)


def one_seed(seed: int, work: Path, num_sft: int, overrides: list[str]) -> dict[str, Any]:
    """Everything for one seed; read back when it was finished before."""
    result = work / f"seed-{seed}.json"
    if result.is_file():
        return json.loads(result.read_text())
    config = tiny_config(seed, work, ["specialists=[]", *overrides], sft=num_sft)
    outcome = run(config, progress=LineProgress(every_seconds=20))
    rounds = outcome.scores
    best = max(range(len(rounds)), key=lambda k: rounds[k][F1])
    controls = Controls(config, best, work)
    found = {
        "seed": seed,
        "rounds": rounds,
        "best_round": best,
        "control_alt_text": controls.alt_text(),
        "control_sft": controls.sft(),
        "oracle": controls.oracle(),
        "extra_tokens": controls.extra_tokens,
    }
    result.write_text(json.dumps(found, indent=1))
    return found


class Controls:
    """Trains what the rounds are compared with, from the campaign's own aligned base."""

    def __init__(self, config: Config, best: int, work: Path) -> None:
        self._models = Models(config, Store(str(work / f"controls-{config.seed}")))
        later = range(1, max(best, 1) + 1)
        self.extra_tokens = sum(self._models.tokens(f"{kind}-{k}") for kind in ("pretrain", "sft") for k in later)

    def alt_text(self) -> Scores:
        """VLM_0 with the later rounds' tokens spent on raw alt text."""
        return self._model("alt-text", pretrain=self._prolonged("pretrain"))

    def sft(self) -> Scores:
        """VLM_0 with the later rounds' tokens spent on the SFT set."""
        return self._model("sft", sft=self._prolonged("sft"))

    def oracle(self) -> Scores:
        """A round on true captions."""
        return self._model("oracle", layers=[(self._truth_layer(), None)])

    def _prolonged(self, stage: str) -> StageConfig:
        models = self._models
        spent = models.tokens(f"{stage}-0")
        return models.prolonged(models.config.train.stage(stage), (spent + self.extra_tokens) / spent)

    def _model(self, name: str, layers: list[Any] | None = None, **stages: StageConfig) -> Scores:
        models = self._models
        init = models.checkpoint("base", "align")
        init = models.train(name, "pretrain", init, stages.get("pretrain"), layers=layers or [])
        return models.score(name, models.train(name, "sft", init, stages.get("sft")))["general"]

    def _truth_layer(self) -> Layer:
        """Truth captions as a caption layer, so that the oracle is trained by the very same code as a round."""
        models = self._models
        layer, corpus = Layer(models.work.sub("oracle", "layer")), models.campaign.corpus()
        for shard in corpus.shards:
            rows = [
                {
                    "source": s.source,
                    "shard": s.shard,
                    "row": s.row,
                    "sample_id": s.sample_id,
                    "variant": 0,
                    "status": Status.CAPTIONED.value,
                    "text": careful_caption(s.truth),
                    "prompt_id": models.config.evaluate.prompt_id,
                    "finish_reason": "stop",
                }
                for s in corpus.read(shard, truth=True, images=False)
                if s.truth is not None
            ]
            layer.write(shard.source, shard.shard, pa.Table.from_pylist(rows, schema=CAPTION), {"layer": "oracle"})
        return layer


def figures(found: dict[str, Any]) -> dict[str, float]:
    """What one seed says, in points of 100 and shares."""
    rounds, best = found["rounds"], found["best_round"]
    first, last = rounds[0], rounds[best]
    gain = lambda scores: 100 * (scores[F1] - first[F1])  # noqa: E731
    control = max(gain(found["control_alt_text"]), gain(found["control_sft"]))
    return {
        "f1_gain_points": gain(last),
        "gain_over_controls_points": gain(last) - control,
        "hallucination_cut": 1 - last[HALLUCINATION] / first[HALLUCINATION],
        "share_of_oracle_gain": gain(last) / gain(found["oracle"]),
    }


def table(results: list[dict[str, Any]]) -> str:
    """Markdown: rows are models, cells `median (min–max)` over the seeds."""
    rows: list[tuple[str, Callable[[dict[str, Any]], Scores | None]]] = [
        *((f"VLM_{k}", lambda r, k=k: r["rounds"][k] if k < len(r["rounds"]) else None) for k in range(4)),
        ("best round", lambda r: r["rounds"][r["best_round"]]),
        ("control: alt text", lambda r: r["control_alt_text"]),
        ("control: SFT", lambda r: r["control_sft"]),
        ("oracle", lambda r: r["oracle"]),
    ]
    names = [name for name in SHOWN if name in results[0]["rounds"][0]]
    names += sorted(name for name in results[0]["rounds"][0] if name.startswith("vqa_") and name not in names)
    lines = ["| | seeds | " + " | ".join(names) + " |", "|---" * (len(names) + 2) + "|"]
    for label, pick in rows:
        scores = [s for s in map(pick, results) if s is not None]
        if scores:
            cells = [spread([s[name] for s in scores]) for name in names]
            lines.append(f"| {label} | {len(scores)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--sft", type=int, default=32, help="careful scenes of the SFT set")
    parser.add_argument("--work", type=Path, default=Path("runs/benchmark-rounds"))
    parser.add_argument("--to", type=Path, help="folder for the dated result")
    parser.add_argument("overrides", nargs="*", help="key=value, as for vila2 run")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    results = [one_seed(seed, args.work, args.sft, args.overrides) for seed in args.seeds]
    per_seed = [figures(found) for found in results]
    last = {f"{name}_min": round(min(f[name] for f in per_seed), 3) for name in per_seed[0]}
    text = table(results)
    for found, each in zip(results, per_seed, strict=True):
        shown = ", ".join(f"{name} {value:.3f}" for name, value in each.items())
        text += f"\n\nSeed {found['seed']}: best round {found['best_round']}; {shown}."
    print(text)
    if args.to:
        args.to.mkdir(parents=True, exist_ok=True)
        command = (
            "python benchmarks/rounds.py --seeds "
            + " ".join(map(str, args.seeds))
            + "".join(f" {o}" for o in args.overrides)
        )
        made = f"`{command}` on {processor()}, {len(results)} seeds; median (min–max)."
        head = f"# Rounds, {date.today().isoformat()}\n\n{made}\n\n"
        (args.to / "rounds.md").write_text(f"{head}{text}\n\n```json\n{json.dumps(last)}\n```\n", "utf-8")
        (args.to / "rounds.json").write_text(json.dumps({"figures": last, "seeds": results}, indent=1) + "\n", "utf-8")
    print(json.dumps(last))


if __name__ == "__main__":
    main()
