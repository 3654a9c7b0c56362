"""COCO captions, CHAIR, MM-Vet, questions of one's own: their files, and scores worked out by hand."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from vila2_ray.errors import CorpusError

from .folders import opened, picture, scores, write_json, write_lines

IMAGES = [
    {"id": 9, "file_name": "COCO_val2014_000000000009.jpg"},
    {"id": 25, "file_name": "COCO_val2014_000000000025.jpg"},
]
FILES = [str(image["file_name"]) for image in IMAGES]
CAPTIONS = {9: ["a red bus", "the bus"], 25: ["two giraffes by a tree"]}


def write_captions(folder: Path) -> None:
    annotations = [{"image_id": n, "id": n, "caption": text} for n, texts in CAPTIONS.items() for text in texts]
    write_json(folder, "annotations/captions_val2014.json", {"images": IMAGES, "annotations": annotations})
    picture(folder / "val2014", *FILES)


def test_cider_of_coco_captions(tmp_path: Path) -> None:
    write_captions(tmp_path)
    found = opened(tmp_path, "coco")
    assert found.items[0].answers == ("a red bus", "the bus")
    assert found.items[0].prompt == "Provide a one-sentence caption for the provided image."
    # word for word the one reference of image 25: four cosines of 1, times 10. `a` is in both images and weighs nothing
    told = scores(found, {"9": "nothing of it", "25": "Two giraffes by a tree."})
    assert told == pytest.approx({"cider": 5.0, "words_per_caption": 4.0})


def test_karpathys_split(tmp_path: Path) -> None:
    sentences = [{"raw": text, "tokens": text.split()} for text in CAPTIONS[9]]
    entry = {"filepath": "val2014", "filename": FILES[0], "sentences": sentences, "cocoid": 9, "split": "test"}
    other = {**entry, "filename": "gone.jpg", "split": "train", "cocoid": 10}
    write_json(tmp_path, "dataset_coco.json", {"images": [entry, other], "dataset": "coco"})
    picture(tmp_path / "val2014", FILES[0])
    assert [item.answers for item in opened(tmp_path, "coco").items] == [("a red bus", "the bus")]


def test_chair_counts_objects_that_are_not_there(tmp_path: Path) -> None:
    kinds = [{"id": 6, "name": "bus"}, {"id": 1, "name": "person"}, {"id": 25, "name": "giraffe"}]
    annotations = [
        {"image_id": 9, "category_id": 6, "segmentation": [[1.0] * 8]},
        {"image_id": 9, "category_id": 1},
        {"image_id": 25, "category_id": 25},
    ]
    whole = {"images": IMAGES, "annotations": annotations, "categories": kinds}
    write_json(tmp_path, "annotations/instances_val2014.json", whole)
    picture(tmp_path / "val2014", *FILES)
    found = opened(tmp_path, "chair")
    assert [item.answers for item in found.items] == [("bus", "person"), ("giraffe",)]
    said = {"9": "A man and two women wait for a bus near a dog and another dog.", "25": "A giraffe."}
    # named: person, person, bus, dog, dog; giraffe. 2 of 6 are not there; all 3 that are there are named
    told = {"chair_i": 2 / 6, "chair_s": 0.5, "recall": 1.0, "words_per_caption": 8.5}
    assert scores(found, said) == pytest.approx(told)
    assert scores(found, {"9": "A bus", "25": None}) == pytest.approx(
        {"chair_i": 0.0, "chair_s": 0.0, "recall": 1 / 3, "words_per_caption": 2.0}
    )
    write_captions(tmp_path)  # what people name is there as well
    assert [item.answers for item in opened(tmp_path, "chair").items] == [("bus", "person"), ("giraffe",)]
    people = {"images": IMAGES, "annotations": [{"image_id": 9, "caption": "a puppy on a bus"}]}
    write_json(tmp_path, "annotations/captions_val2014.json", people)
    assert opened(tmp_path, "chair").items[0].answers == ("bus", "dog", "person")
    write_json(tmp_path, "annotations/instances_val2014.json", {**whole, "categories": kinds[:1]})
    with pytest.raises(CorpusError, match=r"annotations\[1\].category_id is '1', not the id of one of the categories"):
        opened(tmp_path, "chair")


JUDGE = """
import json, sys
asked = json.load(sys.stdin)
print(0.5 if asked["question"].endswith("?") and asked["answer"] in asked["truth"] else 0)
"""


def test_mm_vet_goes_by_a_judge(tmp_path: Path) -> None:
    entry = {"imagename": "v1_0.png", "imagesource": "x", "capability": ["ocr", "math"]}
    questions = {
        "v1_0": {**entry, "question": "What is x?", "answer": "-1<AND>-5"},
        "v1_1": {**entry, "question": "Who is it?", "answer": "Ada", "capability": ["rec"]},
    }
    write_json(tmp_path, "mm-vet.json", questions)
    picture(tmp_path / "images", "v1_0.png")
    found = opened(tmp_path, "mmvet", command=(sys.executable, "-c", JUDGE))
    assert [item.prompt for item in found.items] == ["What is x?", "Who is it?"]
    told = scores(found, {"v1_0": "-5", "v1_1": None})
    assert told == {"score": 0.25, "score_ocr": 0.5, "score_math": 0.5, "score_rec": 0.0}


def test_questions_of_ones_own(tmp_path: Path) -> None:
    rows = [
        {"id": "q1", "image": "a/1.png", "question": "Colour?", "answers": ["red", "crimson"], "group": "colour"},
        {"id": "q2", "image": "a/1.png", "question": "Which?", "choices": ["cat", "dog"], "answers": ["B"]},
    ]
    write_lines(tmp_path, "questions.jsonl", rows)
    picture(tmp_path / "images", "a/1.png")
    found = opened(tmp_path, "own")
    assert found.items[0].prompt == "Colour?"
    assert found.items[1].prompt.startswith("Which?\nA. cat\nB. dog\nAnswer with")
    assert scores(found, {"q1": "Crimson.", "q2": "B. dog"}) == {"accuracy": 1.0, "accuracy_colour": 1.0}
    assert scores(found, {"q1": "dark red", "q2": "cat"}) == {"accuracy": 0.0, "accuracy_colour": 0.0}
    judged = opened(tmp_path, "own", command=(sys.executable, "-c", JUDGE))
    assert scores(judged, {"q1": "red", "q2": "B"})["score"] == 0.5
    write_lines(tmp_path, "questions.jsonl", [rows[0], rows[0]])
    with pytest.raises(CorpusError, match="two questions have the same id"):
        opened(tmp_path, "own")
