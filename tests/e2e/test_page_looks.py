"""How the page looks and reads: on a phone, in light and dark, and its own modules against what they mirror."""

from __future__ import annotations

import random
from typing import Any

import pytest

from tests.e2e.browser import Endpoint, answer, ask, choose, model, named, picture, visiting
from tests.e2e.browser import chromium as chromium
from tests.e2e.browser import endpoint as endpoint
from tests.e2e.browser import page as page
from tests.e2e.page_models import BOXED, HOSTILE
from vila2_ray.captions.boxes import named_boxes

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
from playwright.sync_api import expect

ONE = named("one.png", picture())


def test_a_phone_scrolls_in_one_direction(chromium: Any, endpoint: Endpoint) -> None:
    phone = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True, "device_scale_factor": 2}
    with visiting(chromium, endpoint.url, **phone) as page:
        model(page, "promoted").wait_for()
        choose(page, named("a_very_long_name_without_any_space_" * 4 + ".png", picture(1600, 300)))
        model(page, "vlm-0").check()
        for summary in page.locator("summary").all():
            summary.tap()
        ask(page, "W" * 300)
        expect(page.locator(".answer[data-state=whole]")).to_have_count(2)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        small = page.evaluate(
            """() => [...document.querySelectorAll("button, select, .model, summary, nav a, input, textarea")]
              .filter((element) => element.type !== "checkbox")
              .filter((element) => element.checkVisibility() && !element.closest(".drop"))
              .map((element) => [element.textContent || element.id, element.getBoundingClientRect()])
              .filter(([, { width, height }]) => height < 44 || width < 44).map(([name]) => name)"""
        )
        assert small == []
        answer(page, "promoted").get_by_role("button", name="small dog").tap()
        expect(page.locator(".box.lit")).to_have_count(1)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_light_and_dark(chromium: Any, endpoint: Endpoint, scheme: str) -> None:
    with visiting(chromium, endpoint.url, color_scheme=scheme) as page:
        model(page, "promoted").wait_for()
        choose(page, ONE)
        ask(page)
        expect(answer(page, "promoted")).to_have_attribute("data-state", "whole")
        assert page.evaluate(CONTRASTS) == []
        page.get_by_role("button", name="Light" if scheme == "dark" else "Dark").click()
        assert page.evaluate(CONTRASTS) == []
        assert page.evaluate("getComputedStyle(document.body).colorScheme") == ("light" if scheme == "dark" else "dark")


CONTRASTS = """() => {
  const context = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const paint = (colours) => {  // what several colours over each other come to
    for (const colour of colours) { context.fillStyle = colour; context.fillRect(0, 0, 1, 1); }
    return [...context.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const luminance = (rgb) => {
    const [r, g, b] = rgb.map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const low = [];
  for (const element of document.querySelectorAll("body *:not(.boxes *, :disabled, .vh, noscript)")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!own || !element.checkVisibility() || element.closest(":disabled, .skip, .overlay, noscript")) continue;
    const grounds = [];
    for (let at = element; at; at = at.parentElement) grounds.unshift(getComputedStyle(at).backgroundColor);
    const ground = luminance(paint(grounds)), ink = luminance(paint([...grounds, getComputedStyle(element).color]));
    const ratio = (Math.max(ground, ink) + 0.05) / (Math.min(ground, ink) + 0.05);
    const name = `${element.tagName}.${element.className} ${element.textContent.slice(0, 30)}`;
    if (ratio < 4.5) low.push(`${name} ${ratio.toFixed(2)}`);
  }
  return low;
}"""
TEXTS = (
    *BOXED.values(),
    HOSTILE,
    "",
    "no boxes [1,2,3] [999,0,998,5] [1,2,1000,4] [-1,0,4,4] [a]",
    "[1,2,3,4] first. Then, two dogs [ 1 , 2 , 30 , 40 ] and [5,6,70,80], and a man in a hat [1,1,9,9] at [2,2,8,8]",
    "Three people; Über die Straße läuft ein Hund [1,2,3,4]! An apple’s core [5,5,6,6]\nthe end [7,7,9,9",
    "a big old red wooden toy house by the sea [0,0,999,999] with [1,1,2,2] box of [3,3,4,4]",
)


def test_the_page_reads_boxes_as_the_endpoint_does(page: Any) -> None:
    words = [
        "a",
        "the",
        "dog",
        "red",
        "Ball",
        "and",
        "in",
        "of",
        ",",
        ".",
        ";",
        "[1,2,30,40]",
        "[5, 6,7,8]",
        "[9,9,1,1]",
        "[",
        "]",
        "été",
    ]
    rng = random.Random(7)
    texts = [*TEXTS, *(" ".join(rng.choices(words, k=rng.randrange(1, 16))) for _ in range(300))]
    read = page.evaluate(
        "async (texts) => { const { namedBoxes } = await import('/page/boxes.js'); return texts.map(namedBoxes); }",
        texts,
    )
    for text, found in zip(texts, read, strict=True):
        told = named_boxes(text)
        assert [(one["name"], tuple(one["box"]), one["start"]) for one in found] == [
            (one.name, tuple(one.box), one.start) for one in told
        ], text


def test_events_are_read_however_they_are_cut(page: Any) -> None:
    stream = (
        'event: piece\ndata: {"a":\ndata: "é☃"}\n\n: still here\n\ndata:x\r\n\r\nevent: done\rdata: {}\r\rdata: cut'
    )
    expected = [
        {"event": "piece", "data": '{"a":\n"é☃"}'}, {"event": "message", "data": "x"}, {"event": "done", "data": "{}"}
    ]  # fmt: skip
    read = """async ([text, size]) => {
      const { events } = await import("/page/sse.js");
      const bytes = new TextEncoder().encode(text);
      const body = new ReadableStream({ start(to) {
        for (let at = 0; at < bytes.length; at += size) to.enqueue(bytes.slice(at, at + size));
        to.close();
      } });
      const found = [];
      for await (const event of events(body)) found.push(event);
      return found;
    }"""
    for size in (1, 2, 3, 7, 1000):
        assert page.evaluate(read, [stream, size]) == expected
