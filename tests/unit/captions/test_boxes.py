import pytest
from hypothesis import given
from hypothesis import strategies as st

from vila2_ray.captions.boxes import Box, format_box, iou, parse_boxes

SIDES = st.tuples(st.integers(0, 999), st.integers(0, 999)).filter(lambda pair: pair[0] != pair[1]).map(sorted)
BOXES = st.builds(lambda x, y: Box(x[0], y[0], x[1], y[1]), SIDES, SIDES)


def test_parse() -> None:
    found = parse_boxes("A cat [10, 20,300,400] beside a dog [0,0,999,999].")
    assert [box for _, box in found.valid] == [Box(10, 20, 300, 400), Box(0, 0, 999, 999)]
    assert found.valid[0][0] == 6
    assert found.num_malformed == 0


@pytest.mark.parametrize(
    "text", ["[1,2,3]", "[a,b,c,d]", "[5,5,5,9]", "[9,9,1,1]", "[0,0,1000,5]", "[0.1,0.2,0.3,0.4]", "[1,2,3,4", "[]"]
)
def test_malformed(text: str) -> None:
    found = parse_boxes(f"a cat {text} here")
    assert found.valid == []
    assert found.num_malformed == 1


@given(BOXES)
def test_format_reads_back(box: Box) -> None:
    assert parse_boxes(format_box(box)) == ([(0, box)], 0)


@given(BOXES, BOXES)
def test_iou_is_symmetric_and_a_share(one: Box, other: Box) -> None:
    assert iou(one, other) == iou(other, one)
    assert 0 <= iou(one, other) <= 1
    assert iou(one, one) == 1


def test_iou() -> None:
    assert iou(Box(0, 0, 10, 10), Box(5, 0, 15, 10)) == pytest.approx(1 / 3)
    assert iou(Box(0, 0, 10, 10), Box(20, 20, 30, 30)) == 0
    assert iou(Box(5, 5, 5, 5), Box(5, 5, 5, 5)) == 0


@given(st.text(alphabet="[],0123456789 a"))
def test_any_text_can_be_parsed(text: str) -> None:
    found = parse_boxes(text)
    assert all(box.is_valid for _, box in found.valid)
