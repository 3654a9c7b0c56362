import pytest
from hypothesis import given
from hypothesis import strategies as st

from vila2_ray.captions.boxes import Box, BoxProblem, format_box, iou, named_boxes, parse_boxes, thousandths

SIDES = st.tuples(st.integers(0, 999), st.integers(0, 999)).filter(lambda pair: pair[0] != pair[1]).map(sorted)
BOXES = st.builds(lambda x, y: Box(x[0], y[0], x[1], y[1]), SIDES, SIDES)


def test_parse() -> None:
    found = parse_boxes("A cat [10, 20,300,400] beside a dog [0,0,999,999].")
    assert [box for _, box in found.valid] == [Box(10, 20, 300, 400), Box(0, 0, 999, 999)]
    assert found.valid[0][0] == 6
    assert found.problems == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[1,2,3]", "malformed"),
        ("[a,b,c,d]", "malformed"),
        ("[0.1,0.2,0.3,0.4]", "malformed"),
        ("[1,2,3,4", "malformed"),
        ("[]", "malformed"),
        ("[٣,٤,٥,٦]", "malformed"),
        ("[0,0,1000,5]", "out_of_range"),
        ("[-1,0,10,5]", "out_of_range"),
        ("[5,5,5,9]", "corners"),
        ("[9,9,1,1]", "corners"),
    ],
)
def test_problems_are_told_apart(text: str, problem: str) -> None:
    found = parse_boxes(f"a cat {text} here")
    assert found.valid == []
    assert found.problems == [(6, BoxProblem(problem))]


@given(BOXES)
def test_format_reads_back(box: Box) -> None:
    assert parse_boxes(format_box(box)) == ([(0, box)], [])
    assert [(named.name, named.box) for named in named_boxes(f"a cat {format_box(box)}.")] == [("cat", box)]


@given(BOXES, BOXES)
def test_iou_is_symmetric_and_a_share(one: Box, other: Box) -> None:
    assert iou(one, other) == iou(other, one)
    assert 0 <= iou(one, other) <= 1
    assert iou(one, one) == 1


def test_iou() -> None:
    assert iou(Box(0, 0, 10, 10), Box(5, 0, 15, 10)) == pytest.approx(1 / 3)
    assert iou(Box(0, 0, 10, 10), Box(20, 20, 30, 30)) == 0
    assert iou(Box(5, 5, 5, 5), Box(5, 5, 5, 5)) == 0


@given(st.one_of(st.text(), st.text(alphabet="[],-0123456789 a.")))
def test_any_text_can_be_parsed(text: str) -> None:
    found = parse_boxes(text)
    assert all(box.is_valid for _, box in found.valid)
    for names in (None, (), ("a",)):
        named = named_boxes(text, names)
        assert [box for _, box, _ in named] == [box for _, box in found.valid]
        assert all(text[start:].lower().startswith(name.split(" ")[0]) for name, _, start in named)


B = "[1,2,3,4]"


@pytest.mark.parametrize(
    ("text", "nouns"),
    [
        (f"A red apple {B}, an alarm clock {B}.", ["red apple", "alarm clock"]),
        (f"two dogs {B} and {B}, a cat {B}", ["dogs", "dogs", "cat"]),
        (f"the cat is at {B}. {B}", ["cat", ""]),
        (f"cat: {B}; dog ({B})", ["cat", "dog"]),
        (f"{B} is here", [""]),
        (f"a cat [9,9,1,1] and a dog {B}", ["dog"]),
        (f"the man with a hat {B}", ["hat"]),
        (f"a cat sits here. The picture also shows its Christmas-tree {B}", ["christmas-tree"]),
    ],
)
def test_the_noun_before_each_box(text: str, nouns: list[str]) -> None:
    assert [named.name for named in named_boxes(text)] == nouns


def test_known_names_are_preferred_to_guessed_nouns() -> None:
    text = f"A big Red-Apple standing there {B} and two dogs {B} by a unicorn {B}"
    found = named_boxes(text, ("apple", "red apple", "dog"))
    assert [(named.name, named.start) for named in found[:2]] == [("red apple", 6), ("dog", text.index("dogs"))]
    assert found[2].name == ""


def test_thousandths_of_pixels_and_shares() -> None:
    assert thousandths((48, 0, 96, 96), 96, 96) == Box(500, 0, 999, 999)
    assert thousandths((-0.1, 0.25, 0.5, 1.2), 1, 1) == Box(0, 250, 500, 999)
    assert not thousandths((5, 5, 5, 9), 10, 10).is_valid
