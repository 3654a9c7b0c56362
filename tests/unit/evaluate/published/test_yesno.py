"""POPE and MME: their files, and scores worked out by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from vila2_ray.errors import CorpusError

from .folders import ASKED_SHORT, opened, picture, scores, write_lines

IMAGE = "COCO_val2014_000000310196.jpg"


def write_pope(folder: Path) -> None:
    for part, labels in {"random": "yn", "popular": "yn", "adversarial": "ynyn"}.items():
        rows = [
            {"question_id": n, "image": IMAGE, "text": f"Is there a {n}?", "label": {"y": "yes", "n": "no"}[label]}
            for n, label in enumerate(labels, 1)
        ]
        write_lines(folder, f"coco_pope_{part}.json", rows)
    picture(folder / "val2014", IMAGE)


def test_pope_by_its_three_parts(tmp_path: Path) -> None:
    write_pope(tmp_path)
    found = opened(tmp_path, "pope")
    assert found.items[0].prompt == "Is there a 1?" + ASKED_SHORT
    said = {
        "random/1": "Yes",
        "random/2": "No.",
        "popular/1": "Yes, there is.",
        "popular/2": "Yes",
        "adversarial/1": "There is not, no matter where. Yes!",
        "adversarial/2": "no",
        "adversarial/3": "yes",
        "adversarial/4": None,
    }
    # yes and right: 3. Yes and wrong: 1. Missed: 1. Right: 3 yes + 2 no; nothing said is neither
    found_scores = scores(found, said)
    assert found_scores["precision"] == 0.75
    assert found_scores["recall"] == 0.75
    assert found_scores["f1"] == 0.75
    assert found_scores["accuracy"] == 5 / 8
    assert found_scores["yes_ratio"] == 0.5
    assert found_scores["f1_random"] == 1.0
    assert found_scores["f1_popular"] == pytest.approx(2 / 3)
    assert found_scores["f1_adversarial"] == pytest.approx(2 / 3)
    assert found_scores["accuracy_adversarial"] == 0.5


def test_one_part_of_pope_alone(tmp_path: Path) -> None:
    write_pope(tmp_path)
    assert len(opened(tmp_path, "pope", split="adversarial").items) == 4
    (tmp_path / "coco_pope_popular.json").rename(tmp_path / "coco_pope_popular.jsonl")
    assert len(opened(tmp_path, "pope").items) == 8
    (tmp_path / "coco_pope_popular.jsonl").unlink()
    with pytest.raises(CorpusError, match=r"no coco_pope_popular.json there"):
        opened(tmp_path, "pope")


def test_popes_labels_are_yes_or_no(tmp_path: Path) -> None:
    write_pope(tmp_path)
    row = {"question_id": 1, "image": IMAGE, "text": "?", "label": "perhaps"}
    write_lines(tmp_path, "coco_pope_random.json", [row])
    with pytest.raises(CorpusError, match=r"coco_pope_random.json: \[0\].label is 'perhaps', not yes or no"):
        opened(tmp_path, "pope")
    (tmp_path / "coco_pope_random.json").write_text('{"question_id": 1}\n{nonsense\n')
    with pytest.raises(CorpusError, match="line 2 is not JSON"):
        opened(tmp_path, "pope")


def write_mme(folder: Path) -> None:
    """Two images of one subtask side by side, one of another with folders of their own."""
    for name in ("000001", "000002"):
        picture(folder, f"existence/{name}.jpg")
        lines = "Is there a cat in this image? Please answer yes or no.\tYes\nIs there a dog?\tNo\n"
        (folder / f"existence/{name}.txt").write_text(lines)
    picture(folder, "code_reasoning/images/0001.png")
    (folder / "code_reasoning/questions_answers_YN").mkdir()
    (folder / "code_reasoning/questions_answers_YN/0001.txt").write_text("Is it C?\tYes\nIs it Python?\tNo")


@pytest.mark.parametrize("above", ["", "MME_Benchmark_release_version"])
def test_mme_adds_accuracy_and_accuracy_of_both(above: str, tmp_path: Path) -> None:
    write_mme(tmp_path / above)
    found = opened(tmp_path, "mme")
    assert found.items[0].prompt == "Is there a cat in this image?" + ASKED_SHORT
    said = {
        "existence/000001/0": "Yes",
        "existence/000001/1": "No, there is none",
        "existence/000002/0": "yes.",
        "existence/000002/1": "Perhaps",
        "code_reasoning/0001/0": "y",
        "code_reasoning/0001/1": "n",
    }
    # existence: 3 of 4 answers right, both of them for 1 of 2 images: 75 + 50
    expected = {"existence": 125.0, "perception": 125.0, "code_reasoning": 200.0, "cognition": 200.0}
    assert scores(found, said) == pytest.approx(expected)


def test_mme_of_another_form_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no folder of MME's subtasks"):
        opened(tmp_path, "mme")
    write_mme(tmp_path)
    (tmp_path / "existence/000001.txt").write_text("Is there a cat?  Yes\n")
    with pytest.raises(CorpusError, match=r"existence/000001.txt: line 1 is no question, tab and Yes or No"):
        opened(tmp_path, "mme")
    (tmp_path / "existence/000001.jpg").unlink()
    with pytest.raises(CorpusError, match=r"1 of 5 questions are without their picture"):
        opened(tmp_path, "mme")
