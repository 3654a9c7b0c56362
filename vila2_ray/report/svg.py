"""Charts as inline SVG: no library, no style attributes, colours by class so that they follow light and dark."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup, escape

from vila2_ray.report.data import DrawnBox

WIDTH, HEIGHT = 280, 136
"""Of a panel, in its own units, which are about one CSS pixel."""
_LEFT, _RIGHT, _TOP, _BOTTOM = 26, 26, 22, 26


def element(name: str, attributes: dict[str, object], *children: str) -> Markup:
    """An SVG element; attribute values and plain-text children are escaped."""
    written = "".join(f' {key.replace("_", "-")}="{escape(str(value))}"' for key, value in attributes.items())
    inside = Markup("").join(escape(child) for child in children)
    return Markup(f"<{name}{written}>{inside}</{name}>")


def line_panel(
    title: str, names: Sequence[str], values: Sequence[float | None], labels: Sequence[str], best: int | None
) -> Markup:
    """One score over rounds: a line with its values written at the points, and a dashed line where it began.

    `names` [N] stand under the points, `labels` [N] at them; `best` is the index that is marked. None: no value there.
    """
    known = [value for value in values if value is not None]
    if not known:
        return Markup("")
    low, high = min(known), max(known)
    spread = (high - low) or abs(high) * 0.1 or 1.0

    def x(index: int) -> float:
        steps = max(len(values) - 1, 1)
        middle = (WIDTH - _LEFT - _RIGHT) / 2 if len(values) == 1 else 0
        return round(_LEFT + middle + index * (WIDTH - _LEFT - _RIGHT) / steps, 1)

    def y(value: float) -> float:
        share = (value - low) / spread if high > low else 0.5
        return round(HEIGHT - _BOTTOM - 22 - share * (HEIGHT - _TOP - _BOTTOM - 22), 1)

    points = [(x(i), y(value), i) for i, value in enumerate(values) if value is not None]
    floor = HEIGHT - _BOTTOM + 4
    parts = [element("line", {"class": "axis", "x1": 4, "x2": WIDTH - 4, "y1": floor, "y2": floor})]
    if len(points) > 1:
        start = points[0][1]
        parts.append(element("line", {"class": "base", "x1": 4, "x2": WIDTH - 4, "y1": start, "y2": start}))
        parts.append(element("polyline", {"class": "line", "points": " ".join(f"{px},{py}" for px, py, _ in points)}))
    sparse = max(1, -(-len(values) // 6))  # more than six names would run into each other
    for place, (px, py, i) in enumerate(points):
        beside = [points[n][1] for n in (place - 1, place + 1) if 0 <= n < len(points)]
        is_valley = bool(beside) and sum(beside) / len(beside) < py - 1  # the line leaves upwards: write below
        marker = "dot best" if i == best else "dot"
        parts.append(element("circle", {"class": marker, "cx": px, "cy": py, "r": 5.5 if i == best else 4}))
        if i % sparse == 0 or i in (best, len(values) - 1):
            kind = "value best" if i == best else "value"
            at = {"x": px, "y": py + (19 if is_valley else -10)}
            parts.append(element("text", {"class": kind, **at, "text_anchor": "middle"}, labels[i]))
    for i, name in enumerate(names):
        if i % sparse == 0:
            parts.append(element("text", {"class": "tick", "x": x(i), "y": HEIGHT - 6, "text_anchor": "middle"}, name))
    said = ", ".join(f"{name} {label}" for name, label in zip(names, labels, strict=True))
    return element(
        "svg",
        {"viewBox": f"0 0 {WIDTH} {HEIGHT}", "role": "img", "aria_label": f"{title}: {said}", "class": "panel"},
        *parts,
    )


def bar(share: float, kind: str = "") -> Markup:
    """A bar of `share` of the width; anything above nothing stays visible."""
    length = 0.0 if share <= 0 else min(100.0, max(0.6, 100 * share))
    return _strip(
        element("rect", {"class": "track", "x": 0, "y": 0, "width": 100, "height": 10}),
        element("rect", {"class": f"fill {kind}".strip(), "x": 0, "y": 0, "width": round(length, 2), "height": 10}),
    )


def range_bar(low: float, mean: float, high: float, largest: float) -> Markup:
    """A span from `low` to `high` with the mean marked, on a scale from 0 to `largest`."""
    scale = 100 / largest if largest > 0 else 0
    left, right, middle = (round(value * scale, 2) for value in (low, high, mean))
    return _strip(
        element("rect", {"class": "track", "x": 0, "y": 0, "width": 100, "height": 10}),
        element("rect", {"class": "span", "x": left, "y": 2.5, "width": max(0.6, round(right - left, 2)), "height": 5}),
        element("rect", {"class": "fill", "x": min(99.2, max(0, middle - 0.4)), "y": 0, "width": 0.8, "height": 10}),
    )


def share_bar(low: float, value: float, high: float) -> Markup:
    """A share with its interval, beside a line at one half, where neither of two is better."""
    left, middle, right = (round(100 * min(1.0, max(0.0, share)), 2) for share in (low, value, high))
    return _strip(
        element("rect", {"class": "track", "x": 0, "y": 0, "width": 100, "height": 10}),
        element("rect", {"class": "half", "x": 49.75, "y": 0, "width": 0.5, "height": 10}),
        element("rect", {"class": "span", "x": left, "y": 2, "width": max(0.6, round(right - left, 2)), "height": 6}),
        element(
            "rect",
            {"class": "fill", "x": min(98.8, max(0, round(middle - 0.6, 2))), "y": 0, "width": 1.2, "height": 10},
        ),
    )


def boxes(size: tuple[int, int], found: Sequence[DrawnBox]) -> Markup:
    """Boxes with their names, to lie over a picture of this width and height whatever size it is shown at."""
    scale_x, scale_y = (side / max(size) for side in size)
    parts: list[Markup] = []
    for box in found:
        left, top, right, bottom = (
            round(edge * scale, 1) for edge, scale in zip(box.corners, (scale_x, scale_y) * 2, strict=True)
        )
        kind = {True: "right", False: "wrong", None: "open"}[box.is_right]
        said = {True: "a thing of that name is there", False: "no such thing is there", None: "not known"}[box.is_right]
        parts.append(
            element(
                "g",
                {"class": kind},
                element("title", {}, f"{box.name}: {said}"),
                element("rect", {"x": left, "y": top, "width": right - left, "height": bottom - top}),
                element("text", {"x": left + 8, "y": max(52.0, top - 10)}, box.name),
            )
        )
    frame = f"0 0 {round(1000 * scale_x, 1)} {round(1000 * scale_y, 1)}"
    label = f"Boxes of the grounding specialist: {', '.join(box.name for box in found)}"
    return element("svg", {"viewBox": frame, "class": "boxes", "role": "img", "aria_label": label}, *parts)


def _strip(*parts: str) -> Markup:
    attributes: dict[str, object] = {"viewBox": "0 0 100 10", "preserveAspectRatio": "none", "class": "bar"}
    return element("svg", {**attributes, "aria_hidden": "true"}, *parts)
