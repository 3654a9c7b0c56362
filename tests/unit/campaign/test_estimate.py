"""Where a plan's figures come from: counted corpora, stated rates, the architecture; and what it admits not to know."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.unit.evaluate.published.folders import picture, write_lines
from tests.unit.train import small
from vila2_ray.campaign.estimate import EstimateRow, estimate, read_architecture, training_costs
from vila2_ray.recipe import load_config
from vila2_ray.recipes.tiny import BASE_FOLDER

NOTHING = ["corpus.pretrain=", "corpus.sft=", "corpus.heldout="]


def rows(tmp_path: Path, *settings: str, recipe: str = "tiny") -> dict[str, EstimateRow]:
    config = load_config(recipe, [f"campaign={tmp_path / 'campaign'}", "rounds.max=0", "specialists=[]", *settings])
    return {row.stage: row for row in estimate(config)}


def test_samples_are_counted_over_the_mixture(tmp_path: Path) -> None:
    pairs, more = small.write_shards(tmp_path / "pairs"), small.write_shards(tmp_path / "more", num_shards=1)
    chat = small.write_shards(tmp_path / "chat", sft=True)
    settings = [f"corpus.pretrain={pairs}", f"corpus.sft={chat}", "corpus.heldout=", "train.pretrain.num_epochs=1"]
    settings += [f"corpus.sources.more.uri={more}", "corpus.sources.more.weight=0.5", "corpus.sources.more.repeat=4"]
    lines = [json.dumps({"text": f"line {n}"}) for n in range(7)]
    (tmp_path / "words.jsonl").write_text("\n".join(lines))
    settings += [f"corpus.sources.words.uri={tmp_path / 'words.jsonl'}", "corpus.sources.words.kind=text"]
    found = rows(tmp_path, *settings)
    assert found["pretrain-0"].samples == 12 + 6 * 0.5 * 4 + 7
    assert found["align"].samples == 4 * 12
    assert found["sft-0"].samples == 8 * 12
    assert found["align"].basis == load_config("tiny").rates.basis
    assert found["align"].seconds == pytest.approx(4 * 12 / 144)


def test_without_corpora_the_recipes_figures_are_taken_and_time_is_computed(tmp_path: Path) -> None:
    found = rows(tmp_path, "train.num_workers=16", recipe="vila2-8b")
    pretrain = found["pretrain-0"]
    assert (pretrain.samples, pretrain.tokens) == (51_000_000, 51_000_000 * 360)
    assert pretrain.basis == "computed: 40% of 16 × 989 TFLOP/s"
    assert pretrain.seconds is not None
    assert pretrain.dollars == pytest.approx(pretrain.seconds / 3600 * 2 * 39.28), "two nodes"
    assert found["align"].samples == 581 * 1024


def test_questions_of_benchmarks_are_counted(tmp_path: Path) -> None:
    heldout = small.write_shards(tmp_path / "heldout")
    picture(tmp_path / "own/images", "0.png")
    asked = [{"image": "0.png", "question": f"{n}?", "answers": ["a cat"]} for n in range(5)]
    write_lines(tmp_path / "own", "questions.jsonl", asked)
    mine = ["evaluate.benchmarks.mine.kind=own", f"evaluate.benchmarks.mine.path={tmp_path / 'own'}"]
    settings = [*NOTHING, f"corpus.heldout={heldout}"]
    assert rows(tmp_path, *settings)["evaluate-0"].samples == 12
    found = rows(tmp_path, *settings, *mine)["evaluate-0"]
    assert found.samples == 12 + 5
    assert found.seconds == pytest.approx(17 / load_config("tiny").rates.captions)
    assert found.basis.endswith("; 5 benchmark questions, each as a caption")
    elsewhere = ["evaluate.benchmarks.mine.kind=own", f"evaluate.benchmarks.mine.path={tmp_path / 'none'}"]
    found = rows(tmp_path, *settings, *elsewhere)["evaluate-0"]
    assert (found.samples, found.basis.rpartition("; ")[2]) == (12, "without benchmarks")


def test_a_plan_needs_nobody_who_scores(tmp_path: Path) -> None:
    picture(tmp_path / "vet/images", "0.png")
    told = {"v1_0": {"imagename": "0.png", "question": "What?", "answer": "a cat", "capability": ["rec"]}}
    (tmp_path / "vet" / "mm-vet.json").write_text(json.dumps(told), "utf-8")
    mine = ["evaluate.benchmarks.vet.kind=mmvet", f"evaluate.benchmarks.vet.path={tmp_path / 'vet'}"]
    judged = ["judge.endpoint=http://127.0.0.1:9/v1", "judge.key=KEY_THAT_NOBODY_SET"]
    heldout = small.write_shards(tmp_path / "heldout")
    assert rows(tmp_path, *NOTHING, f"corpus.heldout={heldout}", *mine, *judged)["evaluate-0"].samples == 12 + 1


def test_what_is_not_known_is_not_guessed(tmp_path: Path) -> None:
    found = rows(tmp_path, *NOTHING, "rates.align_samples=0")
    assert (found["align"].samples, found["align"].seconds, found["align"].basis) == (
        None,
        None,
        "unknown until measured",
    )


def test_the_architecture_is_the_base_folders_where_there_is_one(tmp_path: Path) -> None:
    tiny = load_config("tiny", [*NOTHING, "specialists=[]"])
    architecture = read_architecture(tiny)
    assert architecture is not None
    assert architecture.image_tokens == 16
    assert set(training_costs(tiny)) == {"align", "pretrain", "sft"}
    config = json.loads((BASE_FOLDER / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "qwen2_vl"}))
    other = load_config("vila2-8b", [f"base.checkpoint={tmp_path}"])
    assert read_architecture(other) is None
    assert training_costs(other) == {}
    assert read_architecture(load_config("", [])) is None


def test_specialists_have_rows_of_their_own(tmp_path: Path) -> None:
    pairs, chat = small.write_shards(tmp_path / "pairs"), small.write_shards(tmp_path / "chat", sft=True)
    settings = [f"corpus.pretrain={pairs}", f"corpus.sft={chat}", f"corpus.heldout={pairs}", "fuse.rule=concat"]
    settings += [
        "specialists=[ocr,spatial]",
        f"skills.spatial.data={chat}",
        "skills.ocr.images=",
        "skills.spatial.images=/unread",
    ]
    settings += [
        "skills.turns=joined",
        "skills.ocr.max_samples=5",
        "skills.train.num_epochs=2",
        "skills.ocr.max_tokens=9",
    ]
    settings += ["skills.train.batch_size=5", "train.pretrain.num_epochs=1"]
    found = rows(tmp_path, *settings)
    samples = {name: row.samples for name, row in found.items() if "ocr" in name or "spatial" in name}
    assert samples == {
        "build-ocr": 5,
        "sft-ocr": 10,
        "evaluate-ocr": 24,
        "recaption-ocr": 12,
        "filter-ocr": 12,
        "sft-spatial": 24,
        "evaluate-spatial": 24,
        "recaption-spatial": 12,
        "filter-spatial": 12,
    }
    assert found["recaption-ocr"].tokens == 12 * 9
    assert found["pretrain-final"].samples == 12
    # 12 conversations, and a half of the pairs with a question to each specialist; two epochs
    again = ["skills.rehearsal=0.5", "skills.turns=apart", "train.sft.num_epochs=2", "train.sft.batch_size=4"]
    assert rows(tmp_path, *settings, *again)["sft-final"].samples == 2 * (12 + 12)
    assert rows(tmp_path, *settings, *again, "skills.turns=joined")["sft-final"].samples == 2 * (12 + 6)
    assert rows(tmp_path, *settings, *again, "skills.rehearsal=0")["sft-final"].samples == 2 * 12
    assert set(training_costs(load_config("tiny", [*settings, f"campaign={tmp_path}"]))) == {
        "align",
        "pretrain",
        "sft",
        "sft of specialists",
    }
