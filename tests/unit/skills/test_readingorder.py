"""Reading order: columns, rows, tables, slanted lines."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vila2_ray.captions.boxes import Box
from vila2_ray.skills.readingorder import reading_order
from vila2_ray.skills.things import Line


def column(names: str, left: int, right: int, top: int = 100, step: int = 40, slant: int = 0) -> list[Line]:
    """A line per letter, one below the other; `slant` makes boxes taller, as those of slanted lines are."""
    return [
        Line(name, Box(left, top + step * row, right, top + step * row + 30 + slant)) for row, name in enumerate(names)
    ]


def read(lines: list[Line], aspect: float = 1.0) -> str:
    """The names in reading order, which must not depend on the order given."""
    shuffled = random.Random(len(lines)).sample(lines, len(lines))
    assert reading_order(shuffled, aspect) == reading_order(lines, aspect)
    return "".join(line.text for line in reading_order(lines, aspect))


def test_nothing_and_one_line() -> None:
    assert reading_order([]) == ()
    assert read(column("a", 0, 100)) == "a"


def test_rows_from_top_to_bottom_and_left_to_right_within() -> None:
    assert read([*column("ac", 0, 200), *column("bd", 400, 700)]) == "abcd"


def test_columns_are_read_one_after_the_other() -> None:
    assert read([*column("abcde", 0, 450), *column("fghij", 500, 950)]) == "abcdefghij"


def test_columns_need_no_common_rows() -> None:
    assert read([*column("abcde", 0, 450), *column("fghi", 500, 950, top=117, step=47)]) == "abcdefghi"


def test_three_columns() -> None:
    assert read([*column("abcd", 0, 300), *column("efgh", 340, 640), *column("ijkl", 680, 990)]) == "abcdefghijkl"


def test_a_title_and_a_footer_across_columns() -> None:
    title, footer = column("T", 100, 900, top=10), column("F", 300, 700, top=400)
    assert read([*title, *column("abcd", 0, 450), *column("efgh", 500, 950), *footer]) == "TabcdefghF"


def test_a_line_that_crosses_columns_parts_them() -> None:
    above = [*column("abc", 0, 450), *column("def", 500, 950)]
    below = [*column("ghi", 0, 450, top=400), *column("jkl", 500, 950, top=400)]
    assert read([*above, *column("X", 0, 950, top=300), *below]) == "abcdefXghijkl"


def test_a_table_is_read_row_by_row() -> None:
    assert read([*column("aceg", 0, 300), *column("bdfh", 800, 900)]) == "abcdefgh", "prices of a menu"


def test_few_words_far_apart_are_rows() -> None:
    assert read([*column("ac", 0, 450), *column("bd", 500, 950)]) == "abcd", "a sign"
    assert read([*column("b", 0, 300, top=600), *column("a", 600, 900, top=50)]) == "ab", "the upper one first"


def test_the_gutter_is_measured_in_pixels() -> None:
    lines = [*column("aceg", 0, 480), *column("bdfh", 492, 980)]  # 12 thousandths, lines 30 high
    assert read(lines, aspect=1.0) == "abcdefgh", "as far apart as words"
    assert read(lines, aspect=3.0) == "acegbdfh", "a wide page: as far apart as columns"


@pytest.mark.parametrize("slant", [10, 25, 60])
def test_slanted_lines(slant: int) -> None:
    """Boxes of slanted lines overlap their neighbours' in height."""
    assert read(column("abcdef", 0, 900, slant=slant)) == "abcdef"
    assert read([*column("abcd", 0, 450, slant=slant), *column("efgh", 500, 950, slant=slant)]) == "abcdefgh"


def test_words_of_a_slanted_row() -> None:
    row = [
        Line(name, Box(left, 300 - 8 * i, left + 90, 340 - 8 * i))
        for i, (name, left) in enumerate(zip("abc", (0, 120, 240), strict=True))
    ]
    below = [
        Line(line.text.upper(), line.box._replace(ymin=line.box.ymin + 60, ymax=line.box.ymax + 60)) for line in row
    ]
    assert read([*row, *below]) == "abcABC"


BOXES = st.builds(
    lambda x, y, w, h: Box(x, y, min(999, x + w), min(999, y + h)),
    st.integers(0, 900), st.integers(0, 900), st.integers(1, 600), st.integers(1, 200),
)  # fmt: skip


@given(st.lists(BOXES, max_size=40), st.floats(0.1, 10))
def test_any_layout_keeps_every_line_once(boxes: list[Box], aspect: float) -> None:
    lines = [Line(str(number), box) for number, box in enumerate(boxes)]
    assert sorted(map(id, reading_order(lines, aspect))) == sorted(map(id, lines))


def test_a_thousand_lines_are_quick() -> None:
    rng = random.Random(0)
    lines = [
        Line("x", Box(x, y, x + 20, y + 5)) for x, y in ((rng.randrange(970), rng.randrange(990)) for _ in range(1000))
    ]
    table = [Line("x", Box(x, y, x + 100, y + 2)) for x in (0, 600) for y in range(0, 990, 3)]
    assert len(reading_order(lines)) == 1000
    assert [line.box.xmin for line in reading_order(table)][:4] == [0, 600, 0, 600]
