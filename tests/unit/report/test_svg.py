from xml.etree import ElementTree as ET

import pytest

from vila2_ray.report import svg


def test_attributes_and_texts_are_escaped() -> None:
    made = svg.element("text", {"aria_label": '"><script>'}, "<b>", svg.element("g", {}))
    assert made == '<text aria-label="&#34;&gt;&lt;script&gt;">&lt;b&gt;<g></g></text>'


@pytest.mark.parametrize(
    "values", [[0.3], [0.3, 0.3], [0.3, None, 0.5], [-5.0, -4.0, -4.5], [0.0, 0.0], [float(k) for k in range(30)]]
)
def test_a_panel_stays_inside_its_frame(values: list[float | None]) -> None:
    names = [f"VLM_{k}" for k in range(len(values))]
    panel = ET.fromstring(svg.line_panel("F1", names, values, [str(v) for v in values], 0))
    circles = panel.findall("circle")
    assert len(circles) == sum(value is not None for value in values)
    for circle in circles:
        assert 0 <= float(circle.attrib["cx"]) <= svg.WIDTH
        assert 0 <= float(circle.attrib["cy"]) <= svg.HEIGHT
    for text in panel.findall("text"):
        assert 9 <= float(text.attrib["y"]) <= svg.HEIGHT
    assert panel.attrib["aria-label"].startswith("F1: VLM_0 ")


def test_higher_values_stand_higher() -> None:
    panel = ET.fromstring(svg.line_panel("F1", ["a", "b"], [0.2, 0.4], ["", ""], None))
    low, high = (float(circle.attrib["cy"]) for circle in panel.findall("circle"))
    assert high < low


def test_no_values_make_no_panel() -> None:
    assert svg.line_panel("F1", ["a"], [None], ["–"], None) == ""


@pytest.mark.parametrize("share", [-1.0, 0.0, 1e-9, 0.5, 1.0, 7.0])
def test_bars_end_inside_and_small_ones_are_seen(share: float) -> None:
    fill = ET.fromstring(svg.bar(share)).findall("rect")[1]
    width = float(fill.attrib["width"])
    assert 0 <= width <= 100
    assert (width > 0.5) == (share > 0)


def test_a_range_bar_of_nothing() -> None:
    assert ET.fromstring(svg.range_bar(0, 0, 0, 0)) is not None
