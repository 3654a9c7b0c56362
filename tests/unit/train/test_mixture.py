"""A stage that mixes pairs, documents, text and conversations, whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.train import small
from vila2_ray.config import SourceKind
from vila2_ray.corpus.corpus import Corpus
from vila2_ray.corpus.screening import Screening, Takedowns
from vila2_ray.model.loading import load_processor
from vila2_ray.progress import NullProgress
from vila2_ray.recipes.tiny import BASE_FOLDER
from vila2_ray.storage import Store
from vila2_ray.train.job import TrainingJob, TrainingSource
from vila2_ray.train.packplan import Share
from vila2_ray.train.trainer import train_in_process
from vila2_ray.train.work import open_source, ready_plan

DOCUMENTS = [
    {"images": ["0.png", None, "1.png", None], "texts": [None, "a cat", None, "a dog"]},
    {"images": ["gone.png", None], "texts": [None, "one tree"]},
    {"images": [None], "texts": ["a red car"]},
]


def talk(question: str, answer: str) -> list[dict[str, str]]:
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


CHATS: list[dict[str, Any]] = [
    {"image": ["0.png", "1.png"], "conversations": talk("<image> and <image> ?", "a cat and a dog")},
    {"conversations": talk("how are you ?", "fine")},
]


def job(folder: Path, *settings: str, **more: Any) -> TrainingJob:
    """Pretraining on a dozen pairs, three documents, two texts and two conversations."""
    for number in range(2):
        (folder / f"{number}.png").write_bytes(small._png((90 * number, 40, 90)))
    lines: dict[SourceKind, list[Any]] = {
        "documents": DOCUMENTS, "text": [{"text": "a house"}, {"text": "two trees"}], "chat": CHATS
    }  # fmt: skip
    made = small.job(folder, "pretrain", "fuse.prompted=false", *settings)
    mixture = []
    for kind, samples in lines.items():
        file = folder / f"{kind}.jsonl"
        file.write_text("".join(json.dumps(sample) + "\n" for sample in samples))
        corpus = Corpus.open(str(file), f"my-{kind}", Store(folder / "index"), holds=kind)
        mixture.append(TrainingSource(corpus, kind, more.get(kind, Share())))
    made.mixture = tuple(mixture)
    return made


def test_each_kind_is_learned_where_it_should_be(tmp_path: Path) -> None:
    made = job(tmp_path)
    source, processor = open_source(made), load_processor(BASE_FOLDER)
    plan = ready_plan(made, source, NullProgress())
    learned: dict[str, set[str]] = {}
    for number in range(plan.num_sequences):
        for key, tokens in zip(plan.sequence(number), source.tokens(plan.sequence(number)), strict=True):
            text = processor.tokenizer.decode(tokens.input_ids[tokens.supervised]).replace(" </s>", "</s>")
            learned.setdefault(key.source, set()).add(text)
            shown = (tokens.input_ids == processor.tokenizer.convert_tokens_to_ids("<image>")).sum()
            assert shown == 16 * len(tokens.images)
    assert learned["pretrain"] <= {f"a picture of thing {s} {r}</s>" for s in range(2) for r in range(6)}
    assert learned["my-documents"] <= {"a cat a dog</s>", "one tree</s>", "a red car</s>"}
    assert learned["my-text"] <= {"a house</s>", "two trees</s>"}
    assert learned["my-chat"] <= {"a cat and a dog</s>", "fine</s>"}
    assert set(map(len, learned.values())) != {0}


@pytest.mark.parametrize("most", [1, 0])
def test_a_mixed_stage_trains_and_tells_its_sources(tmp_path: Path, most: int) -> None:
    settings = ("train.pretrain.num_epochs=2", "train.pretrain.batch_size=1", "train.pretrain.micro_batch_size=1")
    made = job(tmp_path, *settings, f"train.pretrain.max_samples_per_sequence={most}", text=Share(repeat=3))
    summary = train_in_process(made, NullProgress())
    found = {name: told["items"] for name, told in summary.by_source.items()}
    assert found == {"pretrain": 24, "my-documents": 6, "my-text": 12, "my-chat": 4}
    assert sum(told["tokens"] for told in summary.by_source.values()) == summary.num_tokens
    assert summary.by_source["my-documents"]["images"] == 6
    assert summary.by_source["my-text"]["images"] == 0
    assert summary.by_source["my-chat"]["images"] == 4
    assert summary.num_masked == 2  # the document whose picture is gone, in each epoch
    assert train_in_process(made, NullProgress()) == summary


def test_a_takedown_reaches_every_source(tmp_path: Path) -> None:
    made = job(tmp_path, "train.pretrain.batch_size=1", "train.pretrain.num_epochs=1")
    (tmp_path / "list.txt").write_text("text/000000001\n")
    lists = Takedowns.look(Store(tmp_path / "takedown"), str(tmp_path / "list.txt"))
    documents, text, chat = made.mixture
    screened = TrainingSource(text.corpus, "text", screening=Screening(text.corpus, None, lists))
    made.mixture = (documents, screened, chat)
    assert ready_plan(made, None, NullProgress()).by_source()["my-text"]["items"] == 1
