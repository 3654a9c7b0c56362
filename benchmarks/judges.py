"""Does the judge know? What cheap filters, rules of picking and a VLM judge are worth, held against the truth.

Scenes are composed that no model saw. A finished tiny campaign's promoted model captions them, once greedily, as the
recipe does, and several times by sampling, so that there are better and worse captions of one scene. What a caption
makes up is known: things that are not there, or are named more often than they are there, and words that are not
printed there. Then, on one and the same half of the scenes:

- *filters*: every flag, and borders on log-probabilities and agreement, as detectors of captions that hallucinate.
  The setting that tells best (recall less false alarms) is chosen on the other half of the scenes;
- *pick*: which of a scene's sampled captions each rule takes, beside the first, the shortest and the best there is;
- *VLM judge*: the served model (`vila2 serve`, asked through OpenAI's client). By questions that it was taught: a
  caption is judged to hallucinate where an answer contradicts it. And by the rubric, two captions at a time, in both
  orders: a model this small cannot follow it, and the table says so. `--judge URL` has another model compare them,
  behind any endpoint that speaks OpenAI's chat completions, by the rubric of `vila2 judge ask`;
- *teacher and pupil*: with several campaigns, each model's judgement of its own captions beside the others' of them.

    python benchmarks/judges.py --campaign runs/tiny --to benchmarks/results
    python benchmarks/judges.py --quick

`--campaign` names one or more finished campaigns, which are only read; without it a campaign of one round is run below
`--work` first. Captions and answers are kept there, so the benchmark resumes. The last line is one JSON object:
`filter_precision`, `filter_recall` of that setting, and more; medians over the campaigns.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from trials.endpoint import Asker, Couple, Opinion, opinions_of, served
from trials.judgesreport import Result, write_report
from trials.judging import Writer, examined
from trials.models import tiny_config
from trials.verdicts import pairs, questions, told
from trials.written import Scene, checkpoint, compose_scenes, prompt, write

from vila2_ray.campaign import Campaign
from vila2_ray.campaign.runner import run
from vila2_ray.config import JudgeConfig
from vila2_ray.errors import Vila2Error
from vila2_ray.model.loading import checkpoint_digest
from vila2_ray.progress import LineProgress

SCENES_SEED = 1000
"""No campaign's corpus has it."""
QUICK = {"pretrain_shards": 2, "shard_size": 250, "heldout": 60, "experts": 60}
QUICK_OVERRIDES = ["train.align.num_epochs=6"]


@dataclass(frozen=True)
class Course:
    """What is asked, and where what was found is kept."""

    scenes: list[Scene]
    drawn: int
    temperature: float
    num_pairs: int
    model: str
    work: Path
    judge: JudgeConfig
    """Who compares pairs, where that is not the campaign's own model."""

    def kept(self, what: str, campaign: Campaign) -> Path:
        """A file of one campaign's checkpoint and of these settings."""
        said = [len(self.scenes), self.drawn, self.temperature, self.num_pairs, self.model]
        key = json.dumps([campaign.uri, checkpoint_digest(checkpoint(campaign, self.model)), *said])
        return self.work / f"{what}-{hashlib.sha256(key.encode()).hexdigest()[:10]}.json"

    def writer(self, number: int, campaign: Campaign) -> Writer:
        """A campaign's captions with their truth."""
        kept = self.kept("captions", campaign)
        captions = write(campaign, self.model, self.scenes, self.drawn, self.temperature, kept)
        found = told(captions, {scene.number: scene.truth for scene in self.scenes})
        return Writer(
            number=number,
            prompt=prompt(campaign),
            alt_texts={scene.number: scene.alt_text for scene in self.scenes},
            filters=campaign.config.filters,
            greedy=[t for t in found if not t.caption.variant],
            drawn=[t for t in found if t.caption.variant],
        )

    def ask(self, campaign: Campaign, own: Writer, writers: Sequence[Writer]) -> Writer:
        """The writer with its model's answers about all writers' captions, and its opinions of its own pairs."""
        kept, by_number = self.kept("answers", campaign), {scene.number: scene for scene in self.scenes}
        asked = {(t.caption.scene, q) for w in writers for t in [*w.greedy, *w.drawn] for q in questions(t, own.prompt)}
        found = json.loads(kept.read_text()) if kept.is_file() else {"answers": [], "opinions": []}
        answers = {(scene, question): said for scene, question, said in found["answers"]}
        missing = sorted(asked - answers.keys())
        chosen = list(pairs(own.reported(own.drawn)))[: self.num_pairs]
        couples = [
            Couple(a.caption.scene, a.caption.text, b.caption.text) for x, y in chosen for a, b in ((x, y), (y, x))
        ]
        opinions = [Opinion(**each) for each in found["opinions"]]
        if missing or len(opinions) != len(couples):
            with served(campaign.uri, self.model, kept.with_suffix(".log")) as url:
                asker = Asker(url, self.model)
                answers |= asker.answers(by_number, missing)
                opinions = asker.opinions(by_number, couples)
            rows = [[scene, question, said] for (scene, question), said in answers.items()]
            kept.write_text(json.dumps({"answers": rows, "opinions": [asdict(each) for each in opinions]}))
        if self.judge.endpoint:
            opinions = opinions_of(self.judge, by_number, couples)
        both = list(zip(opinions[::2], opinions[1::2], strict=True))
        return replace(own, answers=answers, rubric=[(*pair, *each) for pair, each in zip(chosen, both, strict=True)])


def own_campaign(work: Path, quick: bool) -> str:
    """A campaign of one round, run to its end where it is not."""
    overrides = ["rounds.max=1", "specialists=[]", *(QUICK_OVERRIDES if quick else [])]
    config = tiny_config(0, work, overrides, **(QUICK if quick else {}))
    run(config, progress=LineProgress(every_seconds=20))
    return config.campaign


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--campaign", nargs="+", help="URIs of finished campaigns of the tiny recipe")
    parser.add_argument("--model", default="promoted", help="of each campaign: promoted, or for example vlm-1")
    parser.add_argument("--scenes", type=int, default=400)
    parser.add_argument("--drawn", type=int, default=4, help="sampled captions of each scene, at least 2")
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--pairs", type=int, default=200, help="pairs that are asked by the rubric, in both orders")
    parser.add_argument("--judge", default="", metavar="URL", help="an endpoint whose model compares the pairs instead")
    parser.add_argument("--judge-model", default="", help="of that endpoint; default: its only one")
    parser.add_argument("--judge-key", default="", metavar="NAME", help="the environment variable that holds its key")
    parser.add_argument("--quick", action="store_true", help="few scenes, to see that it runs")
    parser.add_argument("--work", type=Path, default=Path("runs/benchmark-judges"))
    parser.add_argument("--to", type=Path, help="folder for the dated result")
    args = parser.parse_args()
    if args.scenes < 2 or args.drawn < 2:
        parser.error("at least two scenes, one to choose on and one to report, and two captions of each")
    if args.quick:
        args.scenes, args.pairs, args.work = min(args.scenes, 40), min(args.pairs, 10), args.work / "quick"
    args.work.mkdir(parents=True, exist_ok=True)
    campaigns = [Campaign(uri) for uri in args.campaign or [own_campaign(args.work, args.quick)]]
    scenes = compose_scenes(SCENES_SEED, args.scenes)
    judge = JudgeConfig(endpoint=args.judge, model=args.judge_model, key=args.judge_key)
    course = Course(scenes, args.drawn, args.temperature, args.pairs, args.model, args.work, judge)
    written = [course.writer(number, campaign) for number, campaign in enumerate(campaigns)]
    writers = [course.ask(campaign, own, written) for campaign, own in zip(campaigns, written, strict=True)]
    named = " ".join(args.campaign or [campaign.uri for campaign in campaigns])
    command = f"python benchmarks/judges.py --campaign {named} --model {args.model} --scenes {args.scenes}"
    command += f" --drawn {args.drawn} --temperature {args.temperature:g} --pairs {args.pairs}"
    command += f" --judge-model {args.judge_model or 'default'}" if args.judge else ""
    result: Result = examined(writers)
    text, last = write_report(args.to, command, result, writers)
    print(text)
    print(json.dumps(last))


if __name__ == "__main__":
    try:
        main()
    except Vila2Error as error:
        raise SystemExit(f"{error}") from error
