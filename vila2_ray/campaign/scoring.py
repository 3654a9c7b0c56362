"""The evaluate stages: held-out scores of a round's model, of the final one, of a specialist beside the generalist."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from vila2_ray.campaign import plan as plans
from vila2_ray.campaign.ledger import CHARGED
from vila2_ray.campaign.view import Done, Run, connect_ray
from vila2_ray.captions.prompts import Prompts
from vila2_ray.config import Config, EngineConfig, EvaluateConfig, SkillName
from vila2_ray.corpus.corpus import Corpus
from vila2_ray.errors import StageFailed
from vila2_ray.evaluate.ranking import RICHEST_FIRST
from vila2_ray.evaluate.suite import Result, Suite, read_result, resolved, sentence
from vila2_ray.raytasks import MAX_RETRIES, outcome
from vila2_ray.storage import Store

if TYPE_CHECKING:
    import pyarrow as pa

_NOTED = (*RICHEST_FIRST, "hallucination_rate", "words_per_caption")
"""Scores that the log tells of; the marker and the report hold all of them."""

Scored = tuple[dict[str, float], "pa.Table"]
"""Scores by name, and a record per held-out sample."""


class SkillAsked(NamedTuple):
    """How a skill is asked for, with the texts themselves."""

    skill: SkillName
    prompts: tuple[str, ...]
    questions: tuple[str, ...]
    max_tokens: int
    min_score: float
    """Confidence from which on the OCR engine is believed, where no truth is known."""

    @classmethod
    def of(cls, config: Config, skill: SkillName, prompts: Prompts) -> SkillAsked:
        """As configured."""
        skills, settings = config.skills, config.skills.of(skill)
        texts = tuple(prompts.text(prompt_id) for prompt_id in skills.prompt_ids(skill))
        return cls(skill, texts, skills.questions(skill), settings.max_tokens, settings.min_score)


@dataclass(frozen=True)
class Examination:
    """What a model is scored on. Picklable."""

    corpus: Corpus
    config: EvaluateConfig
    prompts: Prompts
    engine: EngineConfig
    settings: dict[str, Any]
    """Keyword arguments of `open_engine`."""
    general: bool = True
    skills: Sequence[SkillAsked] = ()
    suite: Suite | None = None
    """Benchmarks, asked through the same engine; their results lie where the suite says."""

    def __call__(self, folder: str) -> tuple[Scored | None, dict[str, Scored]]:
        """General scores of the checkpoint folder (a URI), and those by skill, as far as they are asked for."""
        from vila2_ray.engines.choice import open_engine
        from vila2_ray.evaluate.heldout import evaluate
        from vila2_ray.evaluate.skills import evaluate_skill
        from vila2_ray.progress import NullProgress

        local = Store(folder).local_folder()
        opened = open_engine(self.engine, local, **self.settings)
        try:
            general = evaluate(self.corpus, opened, self.config, self.prompts, NullProgress()) if self.general else None
            skills: dict[str, Scored] = {}
            for asked in self.skills:
                skills[asked.skill] = evaluate_skill(
                    self.corpus,
                    opened,
                    asked.skill,
                    asked.prompts,
                    asked.questions,
                    self.config,
                    asked.max_tokens,
                    reader=_reader(asked),
                    caption_prompt=self.prompts.text(self.config.prompt_id),
                )
            if self.suite is not None:
                self.suite.ask(lambda: opened)
        finally:
            opened.close()
        if self.suite is not None:
            self.suite.run_commands(local)
        return general, skills


def score_checkpoint(
    corpus: Corpus,
    folder: str,
    config: EvaluateConfig,
    prompts: Prompts,
    engine: EngineConfig,
    settings: dict[str, Any],
) -> Scored:
    """Held-out scores and per-sample records of a checkpoint folder (a URI), in this process."""
    general, _ = Examination(corpus, config, prompts, engine, settings)(folder)
    assert general is not None
    return general


def evaluate_model(run: Run, stage: plans.Stage, fingerprint: str) -> Done:
    """A round's model, or the final one, which is asked for every skill as well."""
    started = time.monotonic()
    suite = _suite(run, stage)
    before = _known(run, stage, suite)
    general, skills = _examine(run, stage, stage.model, stage.skills, suite=suite)
    assert general is not None
    scores = _keep_general(run, stage.model, general)
    summary: dict[str, Any] = {"scores": scores, "model": stage.model, "source": _source(run)}
    results = _results(run, stage, suite)
    if results:
        summary["benchmarks"] = {name: _told(result) for name, result in results.items()}
        if charged := _charged(before, results):
            summary[CHARGED] = charged
    if stage.is_final:
        summary["skills"] = {skill: _keep_skill(run, stage.model, skill, found) for skill, found in skills.items()}
    told = [scores, summary["skills"]] if stage.is_final else scores
    if results:
        told = [*(told if isinstance(told, list) else [told]), *(result.scores for result in results.values())]
    return Done(_digest(told), summary, time.monotonic() - started)


def evaluate_specialist(run: Run, stage: plans.Stage, fingerprint: str) -> Done:
    """The specialist and the generalist beside which it was finetuned, on its skill; whether it is the better one."""
    from vila2_ray.skills.scores import MAIN

    started, skill, generalist = time.monotonic(), stage.specialist, plans.model_of(f"{run.best_round}")
    assert skill is not None
    general, own = _examine(run, stage, skill, (skill,))
    assert general is not None
    _, other = _examine(run, stage, generalist, (skill,), general=False)
    scores = _keep_general(run, skill, general)
    mine, theirs = _keep_skill(run, skill, skill, own[skill]), _keep_skill(run, generalist, skill, other[skill])
    metric = MAIN[skill]
    is_better = metric in mine and (_number(mine[metric]) > _number(theirs.get(metric, math.nan)))
    told = f"{metric} {mine.get(metric, math.nan):.4f}, that of {generalist} {theirs.get(metric, math.nan):.4f}"
    reason = f"the specialist {'beats' if is_better else 'does not beat'} the generalist: its {told}"
    run.progress.note(f"{skill}: {reason}")
    summary = {
        "skill": mine,
        "generalist": theirs,
        "metric": metric,
        "beats": is_better,
        "reason": reason,
        "scores": scores,
        "model": skill,
        "beside": generalist,
        "source": _source(run),
    }
    return Done(_digest([scores, mine, theirs]), summary, time.monotonic() - started)


def _suite(run: Run, stage: plans.Stage) -> Suite | None:
    """The configured benchmarks for the stage's model; None where there are none."""
    if not run.config.evaluate.benchmarks:
        return None
    return Suite(
        benchmarks=resolved(run.config.evaluate.benchmarks),
        to=run.layout.benchmarks(stage.model),
        checkpoint=run.markers[f"sft-{stage.about}"].digest,
        seed=run.config.seed,
        asked_by=json.dumps(run.config.recaption.engine_settings, sort_keys=True, default=str),
        judge=run.config.judge,
    )


def _known(run: Run, stage: plans.Stage, suite: Suite | None) -> dict[str, Result | None]:
    store = run.layout.benchmarks(stage.model)
    return {name: read_result(store, name) for name in (suite.benchmarks if suite is not None else ())}


def _charged(before: Mapping[str, Result | None], now: Mapping[str, Result]) -> float:
    """Dollars that judges took for what had not been judged before."""
    return sum(result.charged_dollars for name, result in now.items() if result != before.get(name))


def _results(run: Run, stage: plans.Stage, suite: Suite | None) -> dict[str, Result]:
    """What the suite has written. Raises StageFailed where rounds go by a benchmark whose files have changed."""
    results: dict[str, Result] = {}
    for name in suite.benchmarks if suite is not None else ():
        found = read_result(run.layout.benchmarks(stage.model), name)
        assert found is not None, f"{name} was asked and left no result"
        results[name] = found
        run.progress.note(f"{stage.model} on {name}: {sentence(found)}")
    decides = run.config.rounds.metric.partition(".")[0]
    before = run.markers["evaluate-0"].summary.get("benchmarks", {}) if "evaluate-0" in run.markers else {}
    if decides in results and decides in before and before[decides]["data"] != results[decides].data:
        remedy = "put back the files that round 0 was scored on, or score all rounds anew with --from evaluate-0"
        raise StageFailed(f"{stage.name}: the files of {decides} have changed, and rounds are compared by it: {remedy}")
    if decides in results and decides in before and before[decides].get("judge", "") != results[decides].judge:
        remedy = "name the judge that scored round 0, or score all rounds anew with --from evaluate-0"
        raise StageFailed(f"{stage.name}: another model judges {decides}, and rounds are compared by it: {remedy}")
    return results


def _told(result: Result) -> dict[str, Any]:
    return {
        "main": result.main,
        "scores": result.scores,
        "intervals": {name: list(interval) for name, interval in result.intervals.items()},
        "data": result.data,
        **({"judge": result.judge} if result.judge else {}),
    }


def _examine(
    run: Run,
    stage: plans.Stage,
    model: str,
    skills: Sequence[SkillName],
    general: bool = True,
    suite: Suite | None = None,
) -> tuple[Scored | None, dict[str, Scored]]:
    """Where the engine's resources are."""
    import ray

    connect_ray()
    engine, config, source = run.config.recaption.engine, run.config.evaluate, _source(run)
    if source == "pretrain":
        run.progress.note("no held-out corpus: scoring what needs none, on a share of the pretraining corpus")
        config = replace(config, max_samples=config.max_samples or 200)
    asked = tuple(SkillAsked.of(run.config, skill, run.prompts) for skill in skills)
    settings = run.config.recaption.engine_settings
    examination = Examination(run.corpus(source), config, run.prompts, engine, settings, general, asked, suite)
    run.progress.start(f"{stage.name}: {model}", 0, "samples")
    task = ray.remote(
        num_cpus=engine.cpus_per_actor,
        num_gpus=engine.gpus_per_actor,
        label_selector=dict(engine.label_selector),
        max_retries=MAX_RETRIES,
    )(_examined)
    found = outcome(task.remote(examination, run.layout.checkpoint(model, "sft").uri))
    run.progress.finish()
    return found


def _examined(examination: Examination, folder: str) -> tuple[Scored | None, dict[str, Scored]]:
    return examination(folder)


def _reader(asked: SkillAsked) -> Any:
    """The OCR engine, where printed words are asked for and it is installed."""
    from vila2_ray.experts.choice import has_reader

    if asked.skill != "ocr" or not has_reader():
        return None
    from vila2_ray.experts.reader import open_reader

    return open_reader(asked.min_score)


def _keep_general(run: Run, model: str, scored: Scored) -> dict[str, float]:
    scores, records = scored
    run.layout.store.write_table(run.layout.evaluation(model), records)
    shown = ", ".join(f"{name} {scores[name]:.3f}" for name in _NOTED if name in scores)
    run.progress.note(f"{model}: {shown}")
    return scores


def _keep_skill(run: Run, model: str, skill: str, scored: Scored) -> dict[str, float]:
    scores, records = scored
    run.layout.store.write_table(run.layout.skill_evaluation(model, skill), records)
    run.progress.note(f"{model} on {skill}: " + ", ".join(f"{name} {value:.3f}" for name, value in scores.items()))
    return scores


def _source(run: Run) -> str:
    return "heldout" if run.config.corpus.heldout else "pretrain"


def _number(value: float) -> float:
    """What is not a number is worse than everything."""
    return -math.inf if math.isnan(value) else value


def _digest(scores: Any) -> str:
    told = sorted(scores.items()) if isinstance(scores, dict) else [sorted(each.items()) for each in scores]
    return hashlib.sha256(repr(told).encode()).hexdigest()
