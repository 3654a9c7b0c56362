"""A campaign through its specialists, every stage for real but for who wins: a few steps of training beat nobody."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.e2e import micro
from vila2_ray import Campaign
from vila2_ray.campaign.runner import run
from vila2_ray.campaign.state import write_marker
from vila2_ray.corpus.corpus import Corpus
from vila2_ray.skills.things import Annotation
from vila2_ray.storage import Store

SKILLS = ("grounding", "ocr")
FINAL = ("pretrain-final", "sft-final", "evaluate-final")


@pytest.fixture(scope="module", autouse=True)
def ray_cluster() -> Iterator[None]:
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def annotations(folder: Path) -> Path:
    """Boxes of the pretraining scenes, as an annotator would give them."""
    lines = []
    scenes = Corpus.open(str(micro.corpus() / "pretrain"), "pretrain", Store(folder / "index"))
    for ref in scenes.shards:
        for sample in scenes.read(ref, truth=True, images=False):
            assert sample.truth is not None
            told = Annotation(things=Annotation.from_truth(sample.truth).things).as_json()
            lines.append(json.dumps({"sample_id": sample.sample_id, **told}))
    file = folder / "boxes.jsonl"
    file.write_text("\n".join(lines))
    return file


@pytest.mark.slow
def test_specialists_teach_the_final_model(tmp_path: Path) -> None:
    folder = tmp_path / "campaign"
    settings = (
        "specialists=[grounding,ocr]",
        "skills.grounding.images=",
        "skills.ocr.images=",
        f"skills.grounding.annotations={annotations(tmp_path)}",
        "skills.grounding.images=",
        "skills.ocr.images=",
        "skills.ocr.max_samples=40",
        "skills.train.num_epochs=10",
        "skills.train.batch_size=8",
        "skills.train.max_length=192",
        "skills.grounding.max_tokens=64",
        "skills.ocr.max_tokens=12",
        "skills.max_general_loss=1",
        "skills.max_length=192",
        "skills.rehearsal=1",
        "recaption.prompts.grounding=locate the objects .",
        "recaption.prompts.grounding-plain=list the things with a box .",
        "recaption.prompts.ocr=read the text .",
        "recaption.prompts.ocr-plain=what does the sign say ?",
        "skills.grounding.questions=[where are the things ?,describe the objects with a box .]",
        "skills.ocr.questions=[what word is there ?,read the sign .]",
        "filters.min_mean_logprob=-100",
        "filters.drop_lowest_min_logprob_share=0",
        "filters.max_repeated_ngram_share=1",
        "filters.drop_unfinished=false",
        "drift.stop=false",
    )
    config = micro.config(folder, *settings)
    campaign = None
    for skill in SKILLS:
        run(config, until=f"evaluate-{skill}")
        campaign = Campaign(str(folder))
        (told,) = (found for found in campaign.specialists() if found["skill"] == skill)
        assert told["metric"] in told["scores"]
        assert told["metric"] in told["generalist_scores"]
        assert told["general"]["num_samples"] == 12
        assert (folder / f"metrics/{skill}-{skill}.parquet").is_file()
        marker = campaign.markers()[f"evaluate-{skill}"]  # as if it had been trained for longer
        write_marker(campaign.store, replace(marker, summary={**marker.summary, "beats": True}))
    assert campaign is not None
    assert campaign.markers()["build-grounding"].summary["num_samples"] > 0
    states = {row.name: (row.state, row.unit) for row in campaign.status()}
    assert states["build-ocr"] == ("done", "conversations")
    assert states["recaption-grounding"] == ("done", "rows")

    outcome = run(config)
    assert outcome.ran[-6:-3] == list(FINAL)
    assert campaign.layers() == ["round-1", *SKILLS]
    for skill in SKILLS:
        frame = campaign.layer(skill).to_pandas()
        assert len(frame) == micro.NUM_PRETRAIN
        assert set(frame["prompt_id"]) == {skill, f"{skill}-plain"}
        file = next(folder.glob(f"captions/{skill}/*/pretrain/*.parquet"))
        metadata = {k.decode(): v.decode() for k, v in pq.read_schema(file).metadata.items()}
        assert (metadata["specialist"], metadata["model"]) == (skill, skill)
        assert metadata["checkpoint_digest"] == campaign.markers()[f"sft-{skill}"].digest
        assert json.loads(metadata["prompts"])[skill] == config.recaption.prompts[skill]
        assert campaign.markers()[f"filter-{skill}"].summary["expert"]
    assert outcome.promoted is not None
    assert outcome.promoted["model"] == "vlm-final"
    assert (folder / "checkpoints/vlm-final/sft/model.safetensors").is_file()
    assert "word_accuracy" in campaign.final_scores()["skills"]["ocr"]
    tokens = {name: campaign.markers()[name].summary["num_tokens"] for name in ("pretrain-1", "pretrain-final")}
    assert tokens["pretrain-final"] > tokens["pretrain-1"], "the turns are trained on"
    finetuned = campaign.markers()["sft-final"].summary["by_source"]
    assert finetuned["pretrain"]["items"] > 0, "and rehearsed"
    assert finetuned["sft"]["items"] > campaign.markers()["sft-1"].summary["by_source"]["sft"]["items"], "taken apart"
    assert run(config).ran == []
