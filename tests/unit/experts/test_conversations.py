"""Finetuning conversations of a shard: what rows hold, what is left out and counted, the same at every call."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.unit.experts.annotated import CAT_AND_DOG, NOTHING, open_corpus, square, write_shards
from vila2_ray.captions.boxes import Box
from vila2_ray.corpus.corpus import Corpus
from vila2_ray.corpus.samples import Sample
from vila2_ray.errors import Reason, SampleError
from vila2_ray.experts.choice import Found
from vila2_ray.experts.conversations import ROW, Telling, chosen_rows, read_counts, write_shard
from vila2_ray.skills.things import Annotation, Line
from vila2_ray.storage import Store
from vila2_ray.train.interleaved import conversation_items

TELLING = Telling("grounding", ("box all.",), ("where is all?",), 0, "an annotator", "3")


class Known:
    """Knows samples by their ids."""

    def __init__(self, annotations: dict[str, Found]) -> None:
        self.annotations, self.given = annotations, []

    def annotate(self, samples: Sequence[Sample], images: Sequence[Image.Image]) -> list[Found]:
        assert all(image.mode == "RGB" for image in images)
        self.given.append(len(samples))
        return [self.annotations.get(sample.sample_id) for sample in samples]


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    pictures = [square(shade) for shade in range(40)]
    pictures[3] = pictures[3][:40]
    pictures[4] = b"%PDF-1.7 a picture it says"
    write_shards(tmp_path / "images", [pictures])
    return open_corpus(tmp_path)


def everything(corpus: Corpus) -> Known:
    return Known({f"00000/{row:04}": CAT_AND_DOG for row in range(40)})


def test_a_row_is_a_conversation_with_its_image_and_where_it_comes_from(corpus: Corpus, tmp_path: Path) -> None:
    out = Store(tmp_path / "out")
    write_shard(corpus, corpus.shards[0], None, everything(corpus), TELLING, out)
    table = out.read_table("00000.parquet")
    assert table.schema.remove_metadata() == ROW
    row = table.to_pylist()[0]
    assert (row["key"], row["image"]) == ("0000", square(0))
    turns = row["conversations"]
    assert [turn["from"] for turn in turns] == ["human", "gpt"] * (len(turns) // 2)
    assert [turn["value"].count("<image>\n") for turn in turns if turn["from"] == "human"][:2] == [1, 0]
    answers = {turn["value"] for turn in turns if turn["from"] == "gpt"}
    assert "a cat [50,100,350,400], a dog [600,550,950,900]." in answers
    assert (row["skill"], row["expert"], row["expert_version"]) == ("grounding", "an annotator", "3")
    assert (row["confidence"], row["languages"]) == (0.75, [])
    assert Annotation.from_json(json.loads(row["annotation"])) == CAT_AND_DOG


def test_what_is_left_out_is_counted_by_its_reason(corpus: Corpus, tmp_path: Path) -> None:
    expert = everything(corpus)
    del expert.annotations["00000/0010"]
    expert.annotations["00000/0011"] = NOTHING
    expert.annotations["00000/0012"] = SampleError(Reason.ENGINE_ERROR, "OCR: odd")
    out = Store(tmp_path / "out")
    counts = write_shard(corpus, corpus.shards[0], None, expert, TELLING, out)
    found = counts.left_out
    assert found == dict.fromkeys(
        ("engine_error", "image_type", "image_unreadable", "no_annotation", "nothing_to_learn"), 1
    )
    assert (counts.num_images, counts.num_samples) == (40, 35)
    keys = out.read_table("00000.parquet")["key"].to_pylist()
    assert keys == [f"{row:04}" for row in range(40) if row not in (3, 4, 10, 11, 12)]
    assert counts.num_turns == sum(len(c) // 2 for c in out.read_table("00000.parquet")["conversations"].to_pylist())
    assert read_counts(out, corpus.shards[0]) == counts
    assert max(expert.given) <= 16, "memory holds a batch, not a shard"
    assert pq.ParquetFile(tmp_path / "out" / "00000.parquet").num_row_groups == 3


def test_the_same_at_every_call_and_other_by_seed(corpus: Corpus, tmp_path: Path) -> None:
    shard, digests = corpus.shards[0], []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        telling = Telling("grounding", TELLING.prompts, TELLING.questions, seed, "an annotator", "3")
        digests.append(write_shard(corpus, shard, None, everything(corpus), telling, Store(tmp_path / name)).digest)
    assert (tmp_path / "a" / "00000.parquet").read_bytes() == (tmp_path / "b" / "00000.parquet").read_bytes()
    assert digests[0] == digests[1] != digests[2]


def test_a_conversation_begins_with_any_of_its_questions() -> None:
    first = {TELLING.conversation(CAT_AND_DOG, f"00000/{n}")[0][0].split()[0] for n in range(60)}
    assert first == {"box", "where", "give", "what"}


def test_images_are_drawn_by_a_hash(corpus: Corpus) -> None:
    shard = corpus.shards[0]
    few, more = (chosen_rows(corpus, shard, most, TELLING) for most in (7, 20))
    assert (len(few), len(more)) == (7, 20)
    assert few == sorted(few)
    assert set(few) < set(more)
    other = Telling("ocr", (), (), 0, "", "")
    assert chosen_rows(corpus, shard, 7, other) != few
    assert chosen_rows(corpus, shard, 99, TELLING) == list(range(40))


def test_nothing_to_learn_is_an_empty_file_all_the_same(corpus: Corpus, tmp_path: Path) -> None:
    out = Store(tmp_path / "out")
    counts = write_shard(corpus, corpus.shards[0], 5, Known({}), TELLING, out)
    assert (counts.num_samples, sum(counts.left_out.values())) == (0, 5)
    assert out.read_table("00000.parquet").num_rows == 0


def test_shards_are_a_chat_corpus(corpus: Corpus, tmp_path: Path) -> None:
    out = Store(tmp_path / "out")
    write_shard(corpus, corpus.shards[0], None, everything(corpus), TELLING, out)
    chat = Corpus.open(out.uri, "sft", Store(tmp_path / "chat-index"), holds="chat")
    made = [conversation_items(sample) for sample in chat.read(chat.shards[0])]
    assert len(made) == 38
    assert all(len(one.items) == 1 and one.images == (0,) for one in made)
    assert all("<image>" not in turn.text for one in made for turn in one.items[0])
    sample = next(chat.read(chat.shards[0]))
    assert chat.decode(sample).size == (32, 32)


def test_printed_lines_tell_their_languages_and_the_least_confidence(corpus: Corpus, tmp_path: Path) -> None:
    lines = (Line("stop", Box(0, 0, 500, 100), 0.9, "en"), Line("大", Box(0, 200, 500, 400), 0.6, "zh"))
    expert = Known({"00000/0000": Annotation(lines=lines)})
    out = Store(tmp_path / "out")
    write_shard(corpus, corpus.shards[0], None, expert, Telling("ocr", ("read.",), ("say?",), 0, "reader", "1"), out)
    row = out.read_table("00000.parquet").to_pylist()[0]
    assert row["languages"] == ["en", "zh"]
    assert row["confidence"] == pytest.approx(0.6)
    assert Annotation.from_json(json.loads(row["annotation"])).lines == lines
