"""ScienceQA, SEED-Bench, MMBench, MMMU: their files, and scores worked out by hand."""

from __future__ import annotations

import base64
import csv
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vila2_ray.errors import CorpusError

from .folders import ASKED_LETTER, ASKED_SHORT, opened, picture, png, scores, write_json


def write_scienceqa(folder: Path) -> None:
    problem = {
        "choices": ["iron", "wood"],
        "answer": 1,
        "hint": "Look.",
        "image": "image.png",
        "subject": "natural science",
    }
    problems = {
        "5": {**problem, "question": "What floats?"},
        "7": {**problem, "question": "Which burns?", "hint": "", "answer": 0, "subject": "language science"},
        "9": {**problem, "question": "Without an image", "image": None},
        "11": {**problem, "question": "Of another split"},
    }
    write_json(folder, "problems.json", problems)
    write_json(folder, "pid_splits.json", {"train": ["11"], "test": ["5", "7", "9"]})
    picture(folder, "images/test/5/image.png", "images/test/7/image.png")


def test_scienceqa_asks_what_has_an_image(tmp_path: Path) -> None:
    write_scienceqa(tmp_path)
    found = opened(tmp_path, "scienceqa")
    assert [item.id for item in found.items] == ["5", "7"]
    assert found.items[0].prompt == "Context: Look.\nWhat floats?\nA. iron\nB. wood" + ASKED_LETTER
    assert scores(found, {"5": "b", "7": "A. iron"})["accuracy"] == 1.0
    told = scores(found, {"5": "B.", "7": "The answer is A"})
    assert told == {"accuracy": 0.5, "accuracy_natural_science": 1.0, "accuracy_language_science": 0.0}


def test_an_answer_that_is_no_choice_is_refused(tmp_path: Path) -> None:
    write_scienceqa(tmp_path)
    file = tmp_path / "problems.json"
    file.write_text(file.read_text().replace('"answer": 0', '"answer": 2'))
    with pytest.raises(CorpusError, match=r"problems.json: 7.answer is 2, not the number of one of the choices"):
        opened(tmp_path, "scienceqa")


def test_seed_counts_the_first_letter_of_image_questions(tmp_path: Path) -> None:
    choices = {f"choice_{letter}": f"choice {letter}" for letter in "abcd"}
    image = {**choices, "data_type": "image", "question": "Which?", "answer": "B"}
    questions = [
        {**image, "question_id": "101669", "data_id": "1454426_2591111986", "question_type_id": 1},
        {**image, "question_id": "101670", "data_id": "1454426_2591111986", "question_type_id": 2},
        {**image, "question_id": "v1", "data_id": "x", "question_type_id": 10, "data_type": "video"},
    ]
    kinds = {"Scene Understanding": 1, "Instance Identity": 2, "Action Recognition": 10}
    write_json(tmp_path, "SEED-Bench.json", {"question_type": kinds, "questions": questions})
    picture(tmp_path / "SEED-Bench-image", "1454426_2591111986")
    found = opened(tmp_path, "seed")
    assert len(found.items) == 2
    told = scores(found, {"101669": " b) it is", "101670": "choice b"})
    assert told == {"accuracy": 0.5, "accuracy_scene_understanding": 1.0, "accuracy_instance_identity": 0.0}


COLUMNS = ("index", "question", "hint", "A", "B", "C", "D", "answer", "category", "image", "source", "l2-category")


def write_mmbench(folder: Path, rows: list[dict[str, object]]) -> None:
    folder.mkdir(exist_ok=True)
    with open(folder / "MMBench_DEV_EN.tsv", "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, delimiter="\t", restval="")
        writer.writeheader()
        writer.writerows(rows)


def row(index: int, answer: str, *options: str, image: str | None = None) -> dict[str, object]:
    told = dict(zip("ABCD", options, strict=False))
    data = base64.b64encode(png(index % 200)).decode() if image is None else image
    kinds = {"category": f"kind {index % 10}", "l2-category": "coarse"}
    return {"index": index, "question": "What\nis it?", "answer": answer, "image": data, **told, **kinds}


def test_mmbench_asks_each_question_in_all_turns(tmp_path: Path) -> None:
    write_mmbench(tmp_path, [row(1, "B", "cat", "dog", "gnu"), row(2, "A", "sun", "moon")])
    found = opened(tmp_path, "mmbench")
    asked = {item.id: (item.choices, item.answers) for item in found.items}
    assert asked == {
        "1/0": (("cat", "dog", "gnu"), ("B",)),
        "1/1": (("dog", "gnu", "cat"), ("A",)),
        "1/2": (("gnu", "cat", "dog"), ("C",)),
        "2/0": (("sun", "moon"), ("A",)),
        "2/1": (("moon", "sun"), ("B",)),
    }
    assert found.items[0].prompt == "What\nis it?\nA. cat\nB. dog\nC. gnu" + ASKED_LETTER
    said = {"1/0": "B", "1/1": "A.", "1/2": "It shows a dog", "2/0": "A", "2/1": "A"}
    told = {"accuracy": 0.5, "accuracy_kind_1": 1.0, "accuracy_kind_2": 0.0, "accuracy_coarse": 0.5, "single_turn": 0.8}
    assert scores(found, said) == pytest.approx(told)


def test_mmbench_may_bring_its_own_turns(tmp_path: Path) -> None:
    turns = [row(241, "A", "cat", "dog"), row(1_000_241, "B", "dog", "cat", image="241")]
    write_mmbench(tmp_path, turns)
    found = opened(tmp_path, "mmbench")
    assert [item.id for item in found.items] == ["241", "1000241"]
    assert found.items[0].pictures == found.items[1].pictures
    assert scores(found, {"241": "A", "1000241": "B"})["accuracy"] == 1.0
    assert scores(found, {"241": "A", "1000241": "A"})["accuracy"] == 0.0


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"image": "no base64!" * 20}, r"MMBench_DEV_EN.tsv: line 2.image is .*not base64"),
        ({"answer": "E"}, r"line 2.answer is 'E', not the letter"),
        ({"index": "first"}, r"line 2.index is 'first', not a whole number"),
        ({"image": "77"}, r"1 of 1 questions are without their picture"),
    ],
)
def test_a_row_of_another_form_is_refused(changed: dict[str, object], told: str, tmp_path: Path) -> None:
    write_mmbench(tmp_path, [{**row(1, "A", "cat", "dog"), **changed}])
    with pytest.raises(CorpusError, match=told):
        opened(tmp_path, "mmbench")


def write_mmmu(folder: Path, rows: list[dict[str, object]]) -> None:
    (folder / "Art_Theory").mkdir(parents=True)
    blank = {f"image_{number}": None for number in range(1, 8)}
    table = pa.Table.from_pylist([{**blank, **row} for row in rows])
    pq.write_table(table, folder / "Art_Theory/validation-00000-of-00001.parquet")


def mmmu_row(number: int, **fields: object) -> dict[str, object]:
    found = {
        "id": f"validation_Art_Theory_{number}",
        "question_type": "multiple-choice",
        "options": "['Monet', 'Manet']",
    }
    pictures = {"image_1": {"bytes": png(1), "path": "1.png"}, "image_2": {"bytes": png(2), "path": "2.png"}}
    return {**found, "question": "Who painted <image 1>?", "answer": "A", **pictures, **fields}


def test_mmmu_reads_letters_texts_and_numbers(tmp_path: Path) -> None:
    rows = [
        mmmu_row(1),
        mmmu_row(2, question="<image 2> or <image 1>?", answer="B"),
        mmmu_row(3, question_type="open", options="[]", answer="1,200", question="How many?"),
        mmmu_row(4, question_type="open", options="[]", answer="['twelve', '12']", question="How much?"),
    ]
    write_mmmu(tmp_path, rows)
    found = opened(tmp_path, "mmmu")
    first, second, third, _ = found.items
    assert first.prompt == "Who painted <image 1>?\nA. Monet\nB. Manet\n" + ASKED_LETTER
    assert third.prompt == "How many?\n" + ASKED_SHORT
    assert [picture.read() for picture in second.pictures] == [png(1), png(2)]
    name = "validation_Art_Theory_{}".format
    said = {
        name(1): "(A)",
        name(2): "I am quite sure that this is by Manet",
        name(3): "so it is 1200.",
        name(4): "= 12",
    }
    assert scores(found, said) == {"accuracy": 1.0, "accuracy_art_theory": 1.0}
    said = {name(1): "B", name(2): "A", name(3): "120", name(4): None}
    assert scores(found, said)["accuracy"] == 0.0


def test_mmmu_options_are_a_list_of_texts_and_no_code(tmp_path: Path) -> None:
    write_mmmu(tmp_path, [mmmu_row(1, options="__import__('os').getcwd()")])
    with pytest.raises(CorpusError, match=r"row 0.options is .*not a list of texts"):
        opened(tmp_path, "mmmu")
    with pytest.raises(CorpusError, match=r"no …/test-….parquet there"):
        opened(tmp_path, "mmmu", split="test")
