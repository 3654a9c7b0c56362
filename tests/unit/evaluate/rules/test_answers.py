"""How single answers are read: rules worked out by hand, as the benchmarks publish them."""

from __future__ import annotations

import pytest

from vila2_ray.evaluate.items import Item
from vila2_ray.evaluate.rules import exact, letters, mmmu, vqa, yesno

PETS = ("cat", "dog", "two dogs")


@pytest.mark.parametrize(
    ("said", "plain"),
    [
        ("The Two dogs", "2 dogs"),
        ("none", "0"),
        ("red/blue", "red blue"),
        ("red / blue", "red blue"),
        ("t-shirt", "t shirt"),
        ("yes, it is", "yes it is"),
        ("1,000", "1000"),
        ("3.5 m.", "3.5 m"),
        ("U.S.A.", "usa"),
        ("dont", "don't"),
        ("couldnt've", "couldn't've"),
        ("well", "well"),
        (" a\nb\tc ", "b c"),
        ("", ""),
    ],
)
def test_vqav2_brings_answers_to_one_form(said: str, plain: str) -> None:
    assert vqa.plain_answer(said) == plain


def test_short_answers_part_the_genitive_and_drop_commas() -> None:
    assert vqa.plain_short_answer("Is it McDonald's, yes?") == "is it mcdonald 's yes"


@pytest.mark.parametrize(("others", "score"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_the_vqa_accuracy_leaves_each_person_out_once(others: int, score: float) -> None:
    answers = ["yes"] * others + ["no"] * (10 - others)
    assert vqa.agreement("yes", answers) == pytest.approx(score)
    assert vqa.agreement("yes", []) == 0.0


@pytest.mark.parametrize(
    ("said", "pope", "mme"),
    [
        ("Yes", "yes", "yes"),
        ("no", "no", "no"),
        ("No, there is none.", "no", "no"),
        ("There is no dog", "no", "other"),
        ("There is not. Yes", "no", "other"),
        ("I do, so yes", "yes", "other"),
        ("y", "yes", "yes"),
        ("Nobody", "yes", "no"),
        ("", "", "other"),
    ],
)
def test_yes_or_no(said: str, pope: str, mme: str) -> None:
    assert (yesno.pope_answer(said), yesno.mme_answer(said)) == (pope, mme)


@pytest.mark.parametrize(
    ("said", "scienceqa", "seed", "mmbench"),
    [
        ("B", "B", "B", "B"),
        ("b", "B", "B", ""),
        ("B. a dog", "B", "B", "B"),
        ("(B)", "", "(", "B"),
        ("The answer is B.", "", "T", "B"),
        ("A dog", "", "A", "A"),
        ("It is A small dog", "", "I", "B"),
        ("B or C", "", "B", ""),
        ("two dogs", "", "T", ""),
        ("the cat", "", "T", "A"),
        ("", "", "", ""),
    ],
)
def test_letters_are_read_in_three_ways(said: str, scienceqa: str, seed: str, mmbench: str) -> None:
    assert letters.scienceqa_letter(said) == scienceqa
    assert letters.seed_letter(said) == seed
    assert letters.mmbench_letter(said, PETS) == mmbench


@pytest.mark.parametrize(
    ("said", "letter"),
    [
        ("B", "B"),
        ("(A) rather than (C)", "C"),
        ("A or B .", "B"),
        ("It is C.", "C"),
        ("In this picture I see a cat", "A"),
        ("a cat", ""),
        ("", ""),
    ],
)
def test_mmmu_options(said: str, letter: str) -> None:
    assert mmmu.option_letter(said, PETS) == letter


def test_mmmu_guesses_the_same_every_time() -> None:
    items = [Item(f"validation_Art_{n}", (), "", ("A",), PETS) for n in range(300)]
    guesses = [mmmu.guess(item) for item in items]
    assert guesses == [mmmu.guess(item) for item in items]
    assert all(70 < guesses.count(letter) < 130 for letter in "ABC")


@pytest.mark.parametrize(
    ("said", "answer", "is_right"),
    [
        ("The answer is 12.", "12", True),
        ("x = 3 so 2x = 6", "6", True),
        ("x = 3 so 2x = 6", "3", False),
        ("about 1,200.004", "1200", True),
        ("1.2e3", "1200", True),
        ("It is the blue car.", "Blue", True),
        ("I would say red", "blue", False),
        ("it is blob", "b", False),
        ("it is b or c", "b", True),
    ],
)
def test_mmmu_open_answers(said: str, answer: str, is_right: bool) -> None:
    assert mmmu.is_right(said, [answer]) == is_right


def test_exact_answers() -> None:
    assert exact.is_same(" Blue. ", "blue")
    assert not exact.is_same("dark blue", "blue")
