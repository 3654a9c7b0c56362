"""VQAv2, TextVQA, VizWiz, GQA: their files, and scores worked out by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from vila2_ray.errors import CorpusError, StorageError

from .folders import ASKED_SHORT, opened, picture, scores, write_json


def people(*answers: str) -> list[dict[str, object]]:
    return [
        {"answer": answer, "answer_confidence": "yes", "answer_id": number} for number, answer in enumerate(answers, 1)
    ]


def write_vqav2(folder: Path) -> None:
    asked = [
        {"image_id": 42, "question": "How many dogs?", "question_id": 42000},
        {"image_id": 42, "question": "Is it sunny?", "question_id": 42001},
        {"image_id": 73, "question": "What is on the sign?", "question_id": 73000},
    ]
    answers = [
        (42000, "number", people(*["2"] * 2, *["two dogs"] * 8)),
        (42001, "yes/no", people(*["yes"] * 9, "no")),
        (73000, "other", people(*["stop"] * 3, *["a stop-sign"] * 7)),
    ]
    annotations = [
        {"question_id": number, "image_id": number // 1000, "answer_type": kind, "answers": given}
        for number, kind, given in answers
    ]
    write_json(folder, "v2_OpenEnded_mscoco_val2014_questions.json", {"questions": asked})
    write_json(folder, "v2_mscoco_val2014_annotations.json", {"annotations": annotations})
    picture(folder / "val2014", "COCO_val2014_000000000042.jpg", "COCO_val2014_000000000073.jpg")


def test_vqav2_counts_agreement_with_ten_people(tmp_path: Path) -> None:
    write_vqav2(tmp_path)
    found = opened(tmp_path, "vqav2")
    assert [item.id for item in found.items] == ["42000", "42001", "73000"]
    assert found.items[0].prompt == "How many dogs?" + ASKED_SHORT
    assert found.items[0].drawn_with == found.items[1].drawn_with != found.items[2].drawn_with
    # two of ten say 2: those two have one who agrees, the eight others two: (2 × 1/3 + 8 × 2/3) ÷ 10 = 0.6
    # yes: nine of ten have at least three others: 1. `stop sign`: seven people, after the hyphen became a space: 1
    said = {"42000": "Two.", "42001": "yes", "73000": "the stop sign"}
    assert scores(found, said) == pytest.approx(
        {"accuracy": 2.6 / 3, "accuracy_number": 0.6, "accuracy_yes_no": 1.0, "accuracy_other": 1.0}
    )
    # of three, those three have two who agree, the others three: (3 × 2/3 + 7 × 1) ÷ 10 = 0.9; nothing said is wrong
    said = {"42000": "3", "42001": None, "73000": "stop"}
    assert scores(found, said)["accuracy"] == pytest.approx(0.3)


def test_textvqa_lowers_case_and_drops_commas(tmp_path: Path) -> None:
    given = ["nokia"] * 6 + ["Nokia,"] * 2 + ["phone"] * 2
    data = [{"question_id": 34602, "question": "what brand?", "image_id": "003a8ae2ef43b901", "answers": given}]
    write_json(tmp_path, "TextVQA_0.5.1_val.json", {"dataset_type": "val", "data": data})
    picture(tmp_path / "train_images", "003a8ae2ef43b901.jpg")
    found = opened(tmp_path, "textvqa")
    assert scores(found, {"34602": "NOKIA"}) == {"accuracy": pytest.approx(1.0)}
    # two people: 2 × 1/3 + 8 × 2/3 = 6 tenths
    assert scores(found, {"34602": "a phone"}) == {"accuracy": pytest.approx(0.6)}


def test_vizwiz_may_be_unanswerable(tmp_path: Path) -> None:
    name = "VizWiz_val_00000000.jpg"
    entry = {"image": name, "question": "What is this?", "answer_type": "unanswerable", "answerable": 0}
    write_json(tmp_path, "val.json", [{**entry, "answers": people(*["unanswerable"] * 7, *["soda can"] * 3)}])
    picture(tmp_path / "val", name)
    found = opened(tmp_path, "vizwiz")
    assert "respond with 'Unanswerable'." in found.items[0].prompt
    assert scores(found, {name: "Unanswerable"})["accuracy"] == pytest.approx(1.0)
    assert scores(found, {name: "soda can"})["accuracy_unanswerable"] == pytest.approx(0.9)


def test_gqa_wants_the_answer_itself(tmp_path: Path) -> None:
    questions = {
        "201": {"question": "Is it red?", "imageId": "n1", "answer": "no", "types": {"structural": "verify"}},
        "202": {"question": "Who is it?", "imageId": "n1", "answer": "man", "types": {"structural": "query"}},
    }
    write_json(tmp_path, "testdev_balanced_questions.json", questions)
    picture(tmp_path / "images", "n1.jpg")
    found = opened(tmp_path, "gqa")
    assert scores(found, {"201": "No.", "202": "a man"}) == {
        "accuracy": 0.5,
        "accuracy_verify": 1.0,
        "accuracy_query": 0.0,
    }


def test_pictures_may_lie_elsewhere_and_be_asked_otherwise(tmp_path: Path) -> None:
    write_vqav2(tmp_path / "files")
    (tmp_path / "files/val2014").rename(tmp_path / "coco")
    found = opened(tmp_path / "files", "vqav2", images=str(tmp_path / "coco"), instruction="Briefly!", max_tokens=5)
    assert (found.items[0].prompt, found.max_tokens) == ("How many dogs?\nBriefly!", 5)


def test_a_missing_picture_is_refused_or_left_out_by_share(tmp_path: Path) -> None:
    write_vqav2(tmp_path)
    (tmp_path / "val2014/COCO_val2014_000000000073.jpg").unlink()
    with pytest.raises(CorpusError, match=r"1 of 3 questions.*COCO_val2014_000000000073.*max_missing_share"):
        opened(tmp_path, "vqav2")
    found = opened(tmp_path, "vqav2", max_missing_share=0.5)
    assert (len(found.items), found.num_missing) == (2, 1)


def test_fewer_questions_keep_those_of_an_image_together(tmp_path: Path) -> None:
    write_vqav2(tmp_path)
    assert [item.id for item in opened(tmp_path, "vqav2", max_items=2).items] == ["42000", "42001"]


def test_the_digest_is_of_the_files(tmp_path: Path) -> None:
    write_vqav2(tmp_path)
    before = opened(tmp_path, "vqav2").digest
    assert opened(tmp_path, "vqav2").digest == before
    name = tmp_path / "v2_mscoco_val2014_annotations.json"
    name.write_text(name.read_text().replace("two dogs", "three dogs"))
    assert opened(tmp_path, "vqav2").digest != before


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("[", r"TextVQA_0.5.1_val.json: not JSON"),
        ("[" * 100_000, r"not JSON"),
        ("[]", r"is \[\], not a JSON object"),
        ("{}", r"data is None, not a list"),
        ('{"data": [3]}', r"data\[0\] is 3, not a JSON object"),
        ('{"data": [{"image_id": true}]}', r"data\[0\].image_id is True, not a number or a text"),
        (
            '{"data": [{"question_id": 1, "image_id": "../../etc/passwd", "answers": []}]}',
            r"a picture outside of its folder",
        ),
        ('{"data": [{"image_id": "a", "answers": ["x", 3]}]}', r"data\[0\].answers is \['x', 3\], not a list of texts"),
        ('{"data": []}', r"nothing to ask"),
    ],
)
def test_a_file_of_another_form_is_refused_by_field(content: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "TextVQA_0.5.1_val.json").write_text(content)
    picture(tmp_path / "train_images", "a.jpg")
    with pytest.raises(CorpusError, match=told):
        opened(tmp_path, "textvqa")


def test_files_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"no TextVQA_0.5.1_val.json there"):
        opened(tmp_path, "textvqa")
    with pytest.raises(StorageError, match=r"v2_mscoco_val2014_annotations.json: no such file"):
        opened(tmp_path, "vqav2")
    write_vqav2(tmp_path)
    with pytest.raises(CorpusError, match=r"no pictures there. Put them there, or say where they are by `images`"):
        opened(tmp_path, "vqav2", images=str(tmp_path / "elsewhere"))
