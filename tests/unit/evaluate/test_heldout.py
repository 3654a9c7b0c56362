import io
import json
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vila2_ray.captions.prompts import Prompts
from vila2_ray.config import ColumnsConfig, EvaluateConfig
from vila2_ray.corpus.corpus import Corpus
from vila2_ray.engines.base import Generation, GenerationRequest, Key
from vila2_ray.engines.fake import FakeBehaviour, FakeEngine
from vila2_ray.errors import ConfigError, CorpusError, EngineDied, Reason, SampleError
from vila2_ray.evaluate.heldout import evaluate
from vila2_ray.evaluate.ranking import richest_metric
from vila2_ray.schema import HELDOUT
from vila2_ray.storage import Store

PROMPTS = Prompts((), {"detailed": "describe."})
CONFIG = EvaluateConfig(max_tokens=32, answer_max_tokens=4)
CAT = {"objects": [{"name": "cat", "size": "small", "place": "left"}], "words": []}
DOG = {"objects": [{"name": "dog", "size": "large", "place": "top right"}], "words": []}


@dataclass
class TableEngine(FakeEngine):
    """Answers from a table by image and prompt; a few at a time, newest first."""

    batch_size: int = 3
    told: dict[tuple[str, str], str] = field(default_factory=dict)
    asked: list[GenerationRequest] = field(default_factory=list)

    def add(self, request: GenerationRequest) -> None:
        super().add(request)
        self.asked.append(request)

    def _answer(self, request: GenerationRequest) -> Generation:
        text = self.told[request.image_key, request.prompt]
        return Generation(request.key, text, "stop", len(text.split()), -0.5, -1.0)


@dataclass
class Picky(TableEngine):
    """Fails on requests with these keys."""

    fails: tuple[Key, ...] = ()

    def _answer(self, request: GenerationRequest) -> Generation:
        if request.key in self.fails:
            return Generation.failed(request.key, SampleError(Reason.ENGINE_ERROR, "not this one"))
        return super()._answer(request)


def png(shade: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def tar(path: Path, samples: dict[str, dict[str, bytes]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as shard:
        for key, members in samples.items():
            for ending, data in members.items():
                info = tarfile.TarInfo(f"{key}.{ending}")
                info.size = len(data)
                shard.addfile(info, io.BytesIO(data))


def a_sample(shade: int, alt_text: str = "", truth: Any = None, **fields: Any) -> dict[str, bytes]:
    members = {"png": png(shade), "txt": alt_text.encode(), "json": json.dumps(fields).encode()}
    if truth is not None:
        members["truth.json"] = json.dumps(truth).encode()
    return members


def open_corpus(folder: Path) -> Corpus:
    columns = ColumnsConfig(alt_text="text")  # so that the field `caption` is a reference
    return Corpus.open(str(folder / "shards"), "heldout", Store(str(folder / "index")), columns)


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    questions = [
        {"kind": "where", "question": "where is the cat?", "answer": "left"},
        {"kind": "exist", "question": "is there a dog?", "answer": "no"},
        {"kind": "broken", "question": 7, "answer": "x"},
        "no question at all",
    ]
    where = [{"kind": "where", "question": "where is the dog?", "answer": "top right"}]
    tar(
        tmp_path / "shards" / "00000.tar",
        {
            "a": a_sample(10, "cat picture", CAT, caption="a small cat at the left", questions=questions),
            "bad": {"png": b"\x89PNG\r\n\x1a\nnothing", "txt": b"broken"},
            "b": a_sample(20, "my holiday", DOG, questions=where),
        },
    )
    tar(tmp_path / "shards" / "00001.tar", {"c": a_sample(30, "")})
    return open_corpus(tmp_path)


TOLD = {
    ("00000/a", "describe."): "a small cat at the left.",
    ("00000/a", "where is the cat?"): "left",
    ("00000/a", "is there a dog?"): "yes",
    ("00000/b", "describe."): "a large dog at the bottom, a small cat at the left.",
    ("00000/b", "where is the dog?"): "at the top right.",
    ("00001/c", "describe."): "a blue wall.",
}


def test_scores_of_everything_that_can_be_scored(corpus: Corpus) -> None:
    scores, table = evaluate(corpus, TableEngine(told=TOLD), CONFIG, PROMPTS)
    assert scores["object_f1"] == pytest.approx(2 * 2 / (3 + 2))
    assert scores["object_place_f1"] == pytest.approx(2 * 1 / (3 + 2))
    assert scores["hallucination_rate"] == pytest.approx(1 / 3)
    assert scores["vqa_where_accuracy"] == 1
    assert scores["vqa_exist_accuracy"] == 0
    assert scores["vqa_accuracy"] == 0.5
    assert scores["reference_f1"] == 1
    assert scores["alt_text_recall"] == pytest.approx((1 / 2 + 0) / 2)
    assert scores["words_per_caption"] == pytest.approx((6 + 12 + 3) / 3)
    assert scores["mean_logprob"] == -0.5
    assert scores["unfinished_share"] == 0
    assert (scores["num_samples"], scores["num_skipped"]) == (3, 1)
    assert all(isinstance(value, float) for value in scores.values())
    assert richest_metric(scores) == "object_place_f1"
    assert table.schema == HELDOUT


def test_records_stand_in_the_corpus_order_under_their_own_captions(corpus: Corpus) -> None:
    _, table = evaluate(corpus, TableEngine(told=TOLD), CONFIG, PROMPTS)
    rows = table.to_pylist()
    assert [(row["shard"], row["row"], row["sample_id"]) for row in rows] == [
        ("00000", 0, "00000/a"),
        ("00000", 1, "00000/bad"),
        ("00000", 2, "00000/b"),
        ("00001", 0, "00001/c"),
    ]
    assert [row["caption"] for row in rows] == [
        TOLD["00000/a", "describe."],
        None,
        TOLD["00000/b", "describe."],
        TOLD["00001/c", "describe."],
    ]
    assert [row["error"] for row in rows] == [None, "image_unreadable", None, None]
    assert rows[1]["error_detail"]
    assert [row["object_place_f1"] for row in rows] == [1.0, None, 0.0, None]
    assert [row["hallucination_rate"] for row in rows] == [0.0, None, 0.5, None]
    assert [row["reference_f1"] for row in rows] == [1.0, None, None, None]
    assert [(a["kind"], a["given"], a["is_right"]) for a in rows[0]["answers"]] == [
        ("where", "left", True),
        ("exist", "yes", False),
    ]
    assert rows[3]["answers"] == []


def test_everything_is_asked_greedily_with_its_own_length(corpus: Corpus) -> None:
    engine = TableEngine(told=TOLD)
    evaluate(corpus, engine, CONFIG, PROMPTS)
    lengths = {request.prompt: request.sampling.max_tokens for request in engine.asked}
    assert lengths["describe."] == 32
    assert lengths["where is the cat?"] == 4
    assert {request.sampling.temperature for request in engine.asked} == {0.0}
    assert len(engine.asked) == 6


def test_a_corpus_of_images_and_alt_texts_is_scored_without_truth(tmp_path: Path) -> None:
    tar(tmp_path / "shards" / "0.tar", {str(i): a_sample(i, "a red wall") for i in range(4)})
    scores, table = evaluate(open_corpus(tmp_path), FakeEngine(batch_size=2), CONFIG, PROMPTS)
    assert not any(name.startswith(("object", "vqa", "reference")) for name in scores)
    assert richest_metric(scores) == "alt_text_recall"
    assert table.num_rows == 4


def test_images_alone_are_scored_by_log_probability(tmp_path: Path) -> None:
    tar(tmp_path / "shards" / "0.tar", {"a": {"png": png()}})
    scores, _ = evaluate(open_corpus(tmp_path), FakeEngine(), CONFIG, PROMPTS)
    assert richest_metric(scores) == "mean_logprob"


def test_a_caption_field_that_is_the_alt_text_is_no_reference(tmp_path: Path) -> None:
    tar(tmp_path / "shards" / "0.tar", {"a": a_sample(1, "a red wall", caption="a red wall")})
    scores, _ = evaluate(open_corpus(tmp_path), FakeEngine(), CONFIG, PROMPTS)
    assert "reference_f1" not in scores


@pytest.mark.parametrize("truth", [[], {"objects": "many"}, {"objects": [{"name": "cat"}]}, {"label": 3}])
def test_truth_of_another_kind_is_left_alone(tmp_path: Path, truth: Any) -> None:
    tar(tmp_path / "shards" / "0.tar", {"a": a_sample(1, "a red wall", truth)})
    scores, table = evaluate(open_corpus(tmp_path), FakeEngine(), CONFIG, PROMPTS)
    assert "object_f1" not in scores
    assert table.to_pylist()[0]["object_f1"] is None


def test_things_beyond_the_tiny_world_are_scored_by_the_names_in_the_truth(tmp_path: Path) -> None:
    truth = {"objects": [{"name": "lighthouse", "size": "large", "place": "left"}]}
    tar(tmp_path / "shards" / "0.tar", {"a": a_sample(1, "", truth), "b": a_sample(2, "", truth)})
    told = {("0/a", "describe."): "a large lighthouse at the left.", ("0/b", "describe."): "a wall."}
    scores, _ = evaluate(open_corpus(tmp_path), TableEngine(told=told), CONFIG, PROMPTS)
    assert scores["object_f1"] == pytest.approx(2 / 3)


def test_what_the_engine_fails_on_is_skipped_and_counted(corpus: Corpus) -> None:
    scores, table = evaluate(corpus, Picky(told=TOLD, fails=((0,), (2, 0))), CONFIG, PROMPTS)
    assert scores["num_skipped"] == 2
    assert "vqa_accuracy" not in scores  # the one question that was asked has no answer
    rows = table.to_pylist()
    assert rows[0]["error"] == "engine_error"
    assert rows[2]["answers"] == []


def test_a_dead_engine_raises(corpus: Corpus) -> None:
    with pytest.raises(EngineDied):
        evaluate(corpus, FakeEngine(behaviour=FakeBehaviour(die_after_steps=1), batch_size=1), CONFIG, PROMPTS)


def test_a_corpus_of_which_nothing_can_be_scored_is_refused(tmp_path: Path) -> None:
    tar(tmp_path / "shards" / "0.tar", {"a": {"png": b"nothing", "txt": b"x"}})
    with pytest.raises(CorpusError, match="image_type"):
        evaluate(open_corpus(tmp_path), FakeEngine(), CONFIG, PROMPTS)


def test_an_unknown_prompt_is_refused_by_name(corpus: Corpus) -> None:
    with pytest.raises(ConfigError, match="nonesuch"):
        evaluate(corpus, FakeEngine(), EvaluateConfig(prompt_id="nonesuch"), PROMPTS)


@pytest.mark.parametrize(("max_samples", "expected"), [(0, 10), (4, 4), (10, 10), (50, 10), (1, 1)])
def test_a_share_is_taken_evenly_over_the_shards(tmp_path: Path, max_samples: int, expected: int) -> None:
    tar(tmp_path / "shards" / "0.tar", {str(i): a_sample(i, "a wall") for i in range(5)})
    tar(tmp_path / "shards" / "1.tar", {str(i): a_sample(i + 5, "a wall") for i in range(5)})
    scores, table = evaluate(open_corpus(tmp_path), FakeEngine(), EvaluateConfig(max_samples=max_samples), PROMPTS)
    assert scores["num_samples"] == expected
    if max_samples == 4:
        found = [(row["shard"], row["row"]) for row in table.to_pylist()]
        assert found == [("0", 0), ("0", 2), ("1", 0), ("1", 2)]
    assert evaluate(open_corpus(tmp_path), FakeEngine(), EvaluateConfig(max_samples=max_samples), PROMPTS)[1] == table


class Watched:
    """Progress that remembers."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int, int]] = []

    def start(self, stage: str, total: int, unit: str) -> None:
        self.seen.append((stage, total, 0))

    def update(self, done: int, **figures: float | str) -> None:
        stage, total, _ = self.seen[-1]
        self.seen[-1] = (stage, total, done)

    def finish(self) -> None: ...

    def note(self, text: str) -> None: ...


def test_progress_is_told(corpus: Corpus) -> None:
    watched = Watched()
    evaluate(corpus, TableEngine(told=TOLD), CONFIG, PROMPTS, watched)
    assert watched.seen == [("evaluate", 4, 3), ("answer", 3, 3)]
