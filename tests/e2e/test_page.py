"""The page in a real Chromium: pictures come in, models answer side by side, boxes lie where they belong."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.browser import Endpoint, answer, ask, choose, model, named, picture, until
from tests.e2e.browser import chromium as chromium
from tests.e2e.browser import endpoint as endpoint
from tests.e2e.browser import page as page
from tests.e2e.page_models import BOXED

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
from playwright.sync_api import expect


def whole(page: Any, model: str = "promoted", number: int = 0) -> Any:
    """The answer, once it is whole."""
    found = answer(page, model, number)
    expect(found).to_have_attribute("data-state", "whole")
    return found


def test_pictures_are_chosen_dropped_and_pasted(page: Any, tmp_path: Path) -> None:
    choose(page, named("chosen.png", picture()), named("second.png", picture(20, 30)))
    expect(page.locator("#pictures li")).to_have_count(2)

    dropped = tmp_path / "dropped.png"
    dropped.write_bytes(picture())
    (tmp_path / "notes.txt").write_text("no picture")
    drag = {"items": [], "files": [str(dropped), str(tmp_path / "notes.txt")], "dragOperationsMask": 1}
    devtools = page.context.new_cdp_session(page)
    for kind in ("dragEnter", "dragOver"):
        devtools.send("Input.dispatchDragEvent", {"type": kind, "x": 700, "y": 500, "data": drag})
    expect(page.locator("#overlay")).to_be_visible()
    devtools.send("Input.dispatchDragEvent", {"type": "drop", "x": 700, "y": 500, "data": drag})
    expect(page.locator("#pictures li")).to_have_count(3)
    expect(page.locator("#overlay")).to_be_hidden()
    expect(page.get_by_role("alert")).to_have_text("notes.txt: only images can be asked about.")

    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.evaluate(
        """async () => {
          const canvas = new OffscreenCanvas(9, 9);
          canvas.getContext("2d").fillRect(0, 0, 9, 9);
          const png = await canvas.convertToBlob({ type: "image/png" });
          await navigator.clipboard.write([new ClipboardItem({ "image/png": png })]);
        }"""
    )
    page.keyboard.press("Control+V")
    expect(page.locator("#pictures li")).to_have_count(4)

    page.get_by_role("button", name="Remove second.png").click()
    expect(page.locator("#pictures li")).to_have_count(3)
    expect(page.get_by_role("button", name="Remove dropped.png")).to_be_focused()


def test_two_models_answer_side_by_side_about_two_pictures(page: Any, endpoint: Endpoint) -> None:
    endpoint.models.asked.clear()
    choose(page, named("wide.png", picture(640, 200)), named("tall.png", picture(200, 640, "#6688aa")))
    model(page, "vlm-0").check()
    page.get_by_label("Prompt", exact=True).select_option("brief")
    ask(page)
    for number in (0, 1):
        for name in ("promoted", "vlm-0"):
            caption = whole(page, name, number).locator(".caption")
            expect(caption).to_have_text(BOXED[name])
    first, second = (answer(page, name).bounding_box() for name in ("promoted", "vlm-0"))
    assert first["y"] == second["y"]
    assert first["x"] + first["width"] <= second["x"]
    expect(answer(page, "promoted").locator("h4")).to_contain_text("vlm-1 · 5be0a1c2d3e4 · fake 1")
    expect(answer(page, "promoted").locator(".facts")).to_contain_text("12 tokens")
    expect(page.get_by_role("status")).to_contain_text("4 answers in")
    asked = endpoint.models.asked
    assert sorted(one.name for one in asked) == ["promoted", "promoted", "vlm-0", "vlm-0"]
    assert len({one.image_key for one in asked}) == 2
    assert {one.turns[-1].text for one in asked} == {"Say in one short sentence what this picture shows."}


def test_boxes_lie_where_the_caption_says(page: Any) -> None:
    choose(page, named("wide.png", picture(640, 400)))
    model(page, "vlm-0").check()
    ask(page)
    whole(page)
    whole(page, "vlm-0")
    image = page.locator(".frame img").first.bounding_box()
    drawn = {box.get_attribute("title"): box for box in answer(page, "promoted").locator(".box").all()}
    assert list(drawn) == ["small dog", "red ball"]
    for name, corners in {"small dog": (100, 200, 500, 700), "red ball": (600, 550, 850, 800)}.items():
        box = drawn[name].bounding_box()
        left, top = image["x"] + image["width"] * corners[0] / 999, image["y"] + image["height"] * corners[1] / 999
        right, bottom = image["x"] + image["width"] * corners[2] / 999, image["y"] + image["height"] * corners[3] / 999
        found = (box["x"], box["y"], box["x"] + box["width"], box["y"] + box["height"])
        assert found == pytest.approx((left, top, right, bottom), abs=1)
    expect(answer(page, "vlm-0").locator(".box")).to_have_count(3)  # two birds share their words

    dog = answer(page, "promoted").get_by_role("button", name="small dog")
    dog.hover()
    expect(page.locator(".box.lit")).to_have_count(1)
    assert drawn["small dog"].evaluate("box => box.classList.contains('lit')")
    page.mouse.move(2, 2)
    expect(page.locator(".box.lit")).to_have_count(0)
    answer(page, "vlm-0").get_by_role("button", name="birds").focus()
    expect(page.locator(".box.lit")).to_have_count(2)
    page.keyboard.press("Enter")
    page.locator("#question").focus()
    expect(page.locator(".box.lit")).to_have_count(2)  # kept
    page.get_by_label("Boxes").uncheck()
    expect(page.locator(".box").first).to_be_hidden()


def test_a_caption_and_its_boxes_are_seen_while_it_is_written(page: Any, endpoint: Endpoint) -> None:
    closed = endpoint.models.num_closed
    choose(page, named("one.png", picture()))
    ask(page, "slow")
    found = answer(page, "promoted")
    expect(found).to_have_attribute("data-state", "writing")
    expect(found.locator(".caption")).to_have_attribute("aria-busy", "true")
    before = len(found.locator(".caption").text_content())
    until(page, lambda: len(found.locator(".caption").text_content()) > before)
    page.get_by_role("button", name="Stop").click()
    expect(found).to_have_attribute("data-state", "stopped")
    expect(page.get_by_role("status")).to_have_text("Stopped.")
    expect(page.get_by_role("button", name="Ask", exact=False).first).to_be_focused()
    assert "and on" in found.locator(".caption").text_content()
    page.wait_for_function("() => true")
    until(page, lambda: endpoint.models.num_closed == closed + 1)


def test_answers_are_copied_as_json_and_as_a_command_that_runs(page: Any, endpoint: Endpoint, tmp_path: Path) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    name = 'it\'s; a "picture".png'
    (tmp_path / name).write_bytes(picture())
    page.locator("#files").set_input_files(tmp_path / name)
    page.get_by_text("Sampling", exact=True).click()
    page.get_by_label("Max tokens").fill("77")
    page.get_by_label("Seed").fill("5")
    ask(page, "What's $HOME & `this`?")
    found = whole(page)
    found.get_by_role("button", name="Copy JSON").click()
    expect(found.get_by_role("button", name="Copied")).to_be_visible()
    copied = json.loads(page.evaluate("navigator.clipboard.readText()"))
    assert (copied["image"], copied["text"]) == (name, BOXED["promoted"])
    assert copied["request"] == {
        "model": "promoted", "question": "What's $HOME & `this`?", "max_tokens": "77", "seed": "5"
    }  # fmt: skip
    assert copied["boxes"][0] == {"phrase": "small dog", "box": [100, 200, 500, 700]}

    found.get_by_role("button", name="Copy curl").click()
    until(page, lambda: page.evaluate("navigator.clipboard.readText()").startswith("curl"))
    command = page.evaluate("navigator.clipboard.readText()")
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    done = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, timeout=60, env=environment)
    told = json.loads(done.stdout)["captions"][0]
    assert told["text"] == BOXED["promoted"]
    last = endpoint.models.asked[-1]
    assert last.turns[-1].text == "What's $HOME & `this`?"
    assert (last.sampling.max_tokens, last.seed) == (77, 5)


def test_prompt_and_question_say_the_same(page: Any, endpoint: Endpoint) -> None:
    select, words = page.get_by_label("Prompt", exact=True), page.get_by_label("Question in words")
    expect(select).to_have_value("")
    select.select_option("ocr")
    expect(words).to_have_value("Write down the text in this picture and nothing else.")
    words.fill("What breed is the dog?")
    expect(select.locator("option:checked")).to_have_text("A question of my own")
    choose(page, named("one.png", picture()))
    page.keyboard.press("Control+Enter")
    whole(page)
    assert endpoint.models.asked[-1].turns[-1].text == "What breed is the dog?"
    expect(page.locator(".run h2").first).to_have_text("What breed is the dog?")
    model(page, "promoted").uncheck()
    model(page, "grounding").check()
    words.fill("")
    expect(select).to_have_value("")
    ask(page)
    whole(page, "grounding")
    assert endpoint.models.asked[-1].turns[-1].text.startswith("Describe this picture and give the place")
    expect(page.locator(".run")).to_have_count(2)


def test_everything_can_be_done_by_keyboard(page: Any) -> None:
    choosers: list[Any] = []
    page.on("filechooser", lambda chooser: choosers.append(chooser))
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the answers")).to_be_focused()
    while page.evaluate("document.activeElement.id") != "files":
        page.keyboard.press("Tab")
    outlined = "getComputedStyle(document.querySelector('.drop')).outlineStyle"
    assert page.evaluate(outlined) == "solid"
    page.keyboard.press("Enter")
    until(page, lambda: bool(choosers))
    choosers[0].set_files([named("one.png", picture())])
    expect(page.locator("#pictures li")).to_have_count(1)
    seen = []
    while not seen or seen[-1] != "stop":
        page.keyboard.press("Tab")
        seen.append(
            page.evaluate("document.activeElement.id || document.activeElement.value || document.activeElement.tagName")
        )
        assert page.evaluate("document.activeElement.matches(':focus-visible')")
        if seen[-1] == "vlm-0":
            page.keyboard.press("Space")
        if seen[-1] == "question":
            page.keyboard.type("slow")
        if seen[-1] == "go":
            page.keyboard.press("Enter")
            expect(page.locator("#stop")).to_be_visible()
    assert {"prompt", "question", "promoted", "vlm-0", "go", "stop"} <= set(seen)
    page.keyboard.press("Escape")
    expect(page.get_by_role("status")).to_have_text("Stopped.")
    expect(answer(page, "vlm-0")).to_have_attribute("data-state", "stopped")


def test_a_promotion_is_seen(page: Any, endpoint: Endpoint) -> None:
    from dataclasses import replace

    before = dict(endpoint.models.served)
    page.clock.install()
    page.reload()
    expect(model(page, "promoted")).to_be_checked()
    expect(page.locator(".model").first).to_contain_text("vlm-1")
    try:
        endpoint.models.served["promoted"] = replace(before["promoted"], model="vlm-2", digest="ab" * 32)
        page.clock.run_for(6000)
        expect(page.locator(".model").first).to_contain_text("vlm-2 · abababababab")
        expect(page.locator(".model[data-state=loading]")).to_contain_text("vlm-1-ocr is being loaded")
    finally:
        endpoint.models.served = before
