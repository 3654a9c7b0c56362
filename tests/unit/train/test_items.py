from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.unit.train import small
from vila2_ray.captions.fuse import IMAGE_PLACE, Turn
from vila2_ray.corpus.corpus import Corpus
from vila2_ray.corpus.layers import Layer
from vila2_ray.corpus.samples import Sample
from vila2_ray.corpus.verdicts import Verdicts
from vila2_ray.errors import Reason, SampleError
from vila2_ray.recipe import load_config
from vila2_ray.schema import CAPTION, VERDICT
from vila2_ray.storage import Store
from vila2_ray.train.interleaved import SampleItems, conversation_items, exchanges
from vila2_ray.train.items import StageItems


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    return Corpus.open(str(small.write_shards(tmp_path / "pretrain")), "pretrain", Store(tmp_path / "index"))


def layer(
    folder: Path, rows: list[dict[str, Any]], flagged: tuple[int, ...] = (), edits: dict[int, str] | None = None
) -> tuple[Layer, Verdicts]:
    """A layer and verdicts; `rows` say what differs in the first shard from a captioned row, `edits` are there, too."""
    made, judged = Layer(Store(folder / "layer")), Verdicts(Store(folder / "verdicts"))
    for shard in ("00000", "00001"):
        full = [
            {
                "status": "captioned",
                "text": f"caption {row}.",
                "prompt_id": "detailed",
                **(rows[row] if shard == "00000" else {}),
            }
            for row in range(6)
        ]
        key = [
            {"source": "pretrain", "shard": shard, "row": r, "sample_id": f"{shard}/{r:03d}", "variant": 0}
            for r in range(6)
        ]
        table = [dict.fromkeys(CAPTION.names) | k | f for k, f in zip(key, full, strict=True)]
        made.write("pretrain", shard, pa.Table.from_pylist(table, schema=CAPTION), {})
        flags = [{**k, "flags": ["length"] if shard == "00000" and k["row"] in flagged else []} for k in key]
        if shard == "00000":
            flags = [{**told, "text": (edits or {}).get(told["row"])} for told in flags]
        judged.write("pretrain", shard, pa.Table.from_pylist(flags, schema=VERDICT), {})
    return made, judged


def texts(items: list[SampleItems]) -> dict[int, list[tuple[str, ...]]]:
    return {made.row: [tuple(turn.text for turn in item) for item in made.items] for made in items}


def make(corpus: Corpus, stage: Any, layers: Any = (), **overrides: str) -> dict[int, list[tuple[str, ...]]]:
    config = load_config("tiny", [f"{name.replace('__', '.')}={value}" for name, value in overrides.items()])
    kind: Any = "chat" if stage == "sft" else "pairs"
    return texts(list(StageItems(corpus, layers, config, stage, kind).of_shard(corpus.shards[0])))


def test_align_is_each_alt_text_once_whatever_layers_there_are(corpus: Corpus, tmp_path: Path) -> None:
    found = make(corpus, "align", [layer(tmp_path, [{}] * 6)], fuse__prompted="false")
    assert found == {row: [(f"a picture of thing 0 {row}",)] for row in range(6)}


def test_an_edit_is_trained_on_as_it_is_in_place_of_its_caption(corpus: Corpus, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"text": "So it is. So it is."} for _ in range(6)]
    judged = layer(tmp_path, rows, flagged=(2,), edits={1: "Is it so? Is it so?", 2: "Nobody reads this."})
    found = make(corpus, "pretrain", [judged], fuse__rule="recaption", fuse__prompted="false")
    assert found[0] == [("So it is.",)]
    assert found[1] == [("Is it so? Is it so?",)], "a person's text is not cut"
    assert found[2] == [("a picture of thing 0 2",)]


def test_pretrain_fuses_kept_captions_and_drops_a_flagged_caption_not_its_sample(
    corpus: Corpus, tmp_path: Path
) -> None:
    rows: list[dict[str, Any]] = [{} for _ in range(6)]
    rows[1] = {"status": "failed", "text": None, "error": Reason.ENGINE_ERROR.value}
    rows[2] = {"status": "failed", "text": None, "error": Reason.IMAGE_UNREADABLE.value}
    rows[3] = {"status": "not_selected", "text": None}
    rows[4] = {"text": "one cat. one cat. one cat."}
    found = make(corpus, "pretrain", [layer(tmp_path, rows, flagged=(5,))], fuse__prompted="false", fuse__rule="mixed")
    alt = [(f"a picture of thing 0 {row}",) for row in range(6)]
    assert found == {
        0: [alt[0], ("caption 0.",)],
        1: [alt[1]],  # the engine failed, the image is fine
        3: [alt[3]],  # row 2's image is bad: it is not there at all
        4: [alt[4], ("one cat.",)],
        5: [alt[5]],  # flagged
    }


def test_pretrain_concatenates_or_asks_as_configured(corpus: Corpus, tmp_path: Path) -> None:
    layers = [layer(tmp_path, [{}] * 6)]
    assert make(corpus, "pretrain", layers, fuse__prompted="false", fuse__rule="concat")[0] == [
        ("a picture of thing 0 0. caption 0.",)
    ]
    asked = make(corpus, "pretrain", layers, fuse__prompted="true", fuse__rule="mixed")[0]
    assert asked == [("caption", "a picture of thing 0 0"), ("describe the image in detail.", "caption 0.")]
    assert make(corpus, "pretrain", [], fuse__rule="mixed")[0] == [("caption", "a picture of thing 0 0")]


def said(corpus: Corpus, folder: Path, *overrides: str, flagged: tuple[int, ...] = ()) -> list[list[tuple[str, ...]]]:
    """Items of the first shard's samples with two specialists' layers; the second one's captions are one word each."""
    spatial = layer(folder / "spatial", [{"text": f"the cat is left of the dog. {row}"} for row in range(6)])
    rows: list[dict[str, Any]] = [{"text": f"STOP{row}"} for row in range(6)]
    rows[1] = {"status": "failed", "text": None, "error": Reason.ENGINE_ERROR.value}
    read = layer(folder / "ocr", rows, flagged)
    config = load_config("", ["fuse.rule=mixed", *overrides])
    general = [layer(folder / "general", [{}] * 6)]
    items = StageItems(corpus, general, config, "pretrain", specialists=[("spatial", *spatial), ("ocr", *read)])
    return list(texts(list(items.of_shard(corpus.shards[0]))).values())


def test_specialists_answer_questions_after_the_alt_text(corpus: Corpus, tmp_path: Path) -> None:
    found = said(corpus, tmp_path, flagged=(2,))
    skills = load_config("", []).skills
    spoken = [{"the cat is left of the dog. 0", "STOP0"}, {"the cat is left of the dog. 1"}]
    for row, (first, second) in enumerate(found):
        assert first[0] == f"a picture of thing 0 {row}"
        assert second == (f"caption {row}.",)
        assert len(first) == (3 if row in (1, 2) else 5), "a flagged and a failed caption are no answer"
        pairs = dict(zip(first[2::2], first[1::2], strict=True))
        for answer, question in pairs.items():
            assert question in skills.questions("ocr" if answer.startswith("STOP") else "spatial")
        if row < 2:
            assert set(pairs) == spoken[row]
    firsts = {first[2].startswith("STOP") for first, _ in found if len(first) == 5}
    assert firsts == {True, False}, "turns are shuffled"
    assert said(corpus, tmp_path, flagged=(2,)) == found, "the same on every machine"
    assert said(corpus, tmp_path, "seed=5", flagged=(2,)) != found


def test_turns_can_be_items_of_their_own(corpus: Corpus, tmp_path: Path) -> None:
    for row, items in enumerate(said(corpus, tmp_path, "skills.turns=apart", "fuse.prompted=true")):
        lengths = [len(item) for item in items]
        assert lengths == [2] * (3 if row == 1 else 4)
        assert items[0][1] == f"a picture of thing 0 {row}"


def test_a_job_is_other_work_once_specialists_teach_it(tmp_path: Path) -> None:
    job = small.job(tmp_path, "pretrain")
    before = job.plan_key()
    made, judged = layer(tmp_path, [{}] * 6)
    job.specialists = [("ocr", made, judged)]
    with_ocr = job.plan_key()
    assert with_ocr != before
    assert job.sources[0].specialists == job.specialists
    job.config = load_config("tiny", ["train.pretrain.batch_size=4", "train.autocast=float32", "skills.turns=joined"])
    assert job.plan_key() not in (before, with_ocr)


def sample(conversations: Any, problem: Reason | None = None) -> Sample:
    said = SampleError(problem, "") if problem else None
    return Sample("sft", "0", 3, "3", None, "", {"conversations": conversations}, problem=said)


def talk(*texts_: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(texts_)]


def test_conversations_lose_their_image_mark_and_keep_their_turns() -> None:
    made = conversation_items(sample(talk("<image>\nwhat?", "a cat", "where?", "left")))
    assert made.images == (0,)
    assert made.items == [
        (Turn("user", "what?"), Turn("assistant", "a cat"), Turn("user", "where?"), Turn("assistant", "left"))
    ]


def test_a_conversation_taken_apart_is_its_exchanges() -> None:
    made = exchanges(conversation_items(sample(talk("<image>\nwhat?", "a cat", "where?", "left", "and?"))))
    assert (made.row, made.images) == (3, (0,)), "each of them shows the image"
    assert made.items == [
        (Turn("user", "what?"), Turn("assistant", "a cat")),
        (Turn("user", "where?"), Turn("assistant", "left")),
    ]
    assert exchanges(SampleItems(3, [])).items == []


def test_a_conversation_about_several_images_stays_whole() -> None:
    turns = (Turn("user", f"{IMAGE_PLACE}?"), Turn("assistant", "a"), Turn("user", "and?"), Turn("assistant", "b"))
    assert exchanges(SampleItems(0, [turns], (0, 1))) == SampleItems(0, [turns], (0, 1))


def test_conversations_without_image_are_text_and_with_a_missing_one_left_out() -> None:
    alone = conversation_items(sample(talk("hello", "hi"), Reason.NO_IMAGE))
    assert alone.items
    assert alone.images == ()
    assert conversation_items(sample(talk("<image>what?", "a cat"), Reason.NO_IMAGE)).items == []
    assert conversation_items(sample(talk("what?", "a cat"), Reason.IMAGE_UNREADABLE)).items == []


@pytest.mark.parametrize(
    "conversations",
    [None, "text", [], [3], talk("only a question"), [{"from": "gpt", "value": "x"}], [{"from": "human"}]],
)
def test_malformed_conversations_have_no_items(conversations: Any) -> None:
    assert conversation_items(sample(conversations)).items == []


def test_an_unanswered_question_at_the_end_is_cut() -> None:
    assert conversation_items(sample(talk("q", "a", "q2"))).items == [(Turn("user", "q"), Turn("assistant", "a"))]


def test_interleaved_documents_are_not_trained_on_as_pairs_and_text_conversations_still_are(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "how are you ?"}, {"from": "gpt", "value": "fine ."}]
    contents = {"a": {"images": [None], "texts": ["a text"], "caption": "x"}, "b": {"conversations": turns}}
    with tarfile.open(tmp_path / "0.tar", "w") as archive:
        for name, fields in contents.items():
            data = json.dumps(fields).encode()
            member = tarfile.TarInfo(f"{name}.json")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    corpus = Corpus.open(str(tmp_path / "0.tar"), "pretrain", Store(tmp_path / "index"))
    assert make(corpus, "align") == make(corpus, "pretrain") == {}
    assert make(corpus, "sft") == {1: [("how are you ?", "fine .")]}
