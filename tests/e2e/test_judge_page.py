"""The page for people who judge, in a real Chromium: clicks and keys, blind, several raters, nothing lost."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.e2e.browser import chromium as chromium
from tests.e2e.browser import until, visiting
from tests.e2e.judge_pages import HOSTILE, PHONE, Judged, enter, judged, patches, place, reach, wait_for_votes
from tests.e2e.test_page_looks import CONTRASTS
from vila2_ray.judge.rubric import CRITERIA
from vila2_ray.serve.keys import Keys, add_key

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
from playwright.sync_api import expect


@pytest.fixture
def at(tmp_path: Path) -> Iterator[Judged]:
    with judged(tmp_path) as running:
        yield running


def shown(page: Any) -> dict[str, str]:
    """Side → the text that stands there."""
    return {side: page.locator(f"#{side} .caption").text_content() for side in ("left", "right")}


def row(page: Any, name: str) -> Any:
    return page.get_by_role("group", name=CRITERIA[name].asks)


def test_two_raters_judge_with_clicks_and_keys_and_what_they_see_is_what_is_kept(chromium: Any, at: Judged) -> None:
    texts = {pair.pair_id: {"first": pair.first.text, "second": pair.second.text} for pair in at.study.pairs()}
    seen: dict[str, list[dict[str, str]]] = {"ann": [], "bob": []}
    with visiting(chromium, at.url) as ann, visiting(chromium, at.url, **PHONE) as bob:
        enter(ann, "ann")
        enter(bob, "bob")
        for number in range(1, 7):
            for page, rater in ((ann, "ann"), (bob, "bob")):
                reach(page, f"{number} of 6")
                seen[rater].append(shown(page))
            ann.keyboard.press("1")  # A has fewer hallucinations
            ann.keyboard.press("2")
            ann.keyboard.press("ArrowRight")
            ann.keyboard.press("3")
            ann.keyboard.press("Enter")
            for name, choice in zip(CRITERIA, ("A", "Tie", "B", "B"), strict=True):
                row(bob, name).locator("label", has_text=re.compile(f"^{choice}$")).tap()
            bob.get_by_role("button", name="Send").tap()
        for page, rater in ((ann, "ann"), (bob, "bob")):
            expect(page.locator("#thanks")).to_have_text(f"Thank you, {rater}.")
            expect(page.locator("#end-text")).to_contain_text("Those were all 6 pairs.")
            votes = wait_for_votes(page, at, 6, rater)
            by_text = {frozenset(text.values()): pair for pair, text in texts.items()}
            assert len(by_text) == 3, "each text stands in two pairs"
            left_of = {p: text["second" if votes[p].swapped else "first"] for p, text in texts.items()}
            assert sorted(left_of.values()) == sorted(one["left"] for one in seen[rater])
            for vote in votes.values():
                a, b = ("second", "first") if vote.swapped else ("first", "second")
                assert vote.answers == {"hallucination": a, "detail": "tie", "fluency": b, "overall": b}
                assert vote.seconds > 0
        sides = [{pair: vote.swapped for pair, vote in at.votes(rater).items()} for rater in ("ann", "bob")]
        assert sides[0] != sides[1], "drawn for each rater"


def test_nothing_the_browser_gets_tells_a_layer(chromium: Any, at: Judged) -> None:
    with visiting(chromium, at.url) as page:
        got: list[str] = []
        page.on("response", lambda answer: got.append(f"{answer.url} {answer.all_headers()} {_text(answer)}"))
        page.reload()
        enter(page)
        for number in (1, 2, 3):
            reach(page, f"{number} of 6")
            for _ in CRITERIA:
                page.keyboard.press("1")
            page.keyboard.press("Enter")
        wait_for_votes(page, at, 3)
        asked = [one for one in got if "/v1/" in one]
        assert len(asked) > 8
        assert not [one for one in asked if re.search(r"alt_text|round-1|\b(first|second|swapped)\b|00000", one)]
        stored = page.evaluate("JSON.stringify({...localStorage}) + document.documentElement.outerHTML")
        assert not re.search(r"alt_text|round-1|swapped|\b(first|second)\b", stored)


def _text(answer: Any) -> str:
    return answer.text() if "image" not in answer.headers.get("content-type", "") else ""


def test_captions_are_text_and_the_picture_can_be_looked_at(chromium: Any, at: Judged) -> None:
    with visiting(chromium, at.url) as page:
        enter(page)
        for number in range(1, 7):
            reach(page, f"{number} of 6")
            if HOSTILE in shown(page).values():
                break
            page.keyboard.press("s")
        assert HOSTILE in shown(page).values()
        assert page.locator(".caption img, .caption b").count() == 0
        assert "owned" not in page.title()
        size = page.locator("#picture").evaluate("image => [image.naturalWidth, image.naturalHeight]")
        assert size == [960, 640]
        page.keyboard.press("f")
        expect(page.locator("#closeup")).to_be_visible()
        page.keyboard.press("1")
        page.keyboard.press("Escape")
        expect(page.locator("#closeup")).to_be_hidden()
        assert page.locator(".choices input:checked").count() == 0, "keys do nothing behind it"
        page.locator("#look").click()
        page.locator("#closeup").click()
        expect(page.locator("#closeup")).to_be_hidden()


COLOUR_BOXES = {"#ff00ff": (100, 150, 450, 400), "#00ff00": (520, 430, 930, 960)}
ONE, OTHER = (f"Here is a kite {list(corners)} and [5, 5, 1]." for corners in COLOUR_BOXES.values())
BOXED = (ONE, OTHER)
DRAWN_SIZE = """async (image) => {
  await image.decode();
  await new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn)));
  return [image.naturalWidth, image.naturalHeight];
}"""
SIZES = {(1200, 400): BOXED, (400, 1200): BOXED, (960, 640): ("Nothing [9, 9, 3, 3] here.", "")}


@pytest.mark.parametrize("device", [{}, PHONE], ids=["desk", "phone"])
def test_boxes_lie_where_the_picture_has_what_they_name(chromium: Any, tmp_path: Path, device: dict[str, Any]) -> None:
    pictures = [patches(size, COLOUR_BOXES) for size in SIZES]
    with (
        judged(tmp_path, 3, texts=tuple(SIZES.values()), pictures=pictures) as at,
        visiting(chromium, at.url, **device) as page,
    ):
        enter(page)
        for number in (1, 2, 3):
            reach(page, f"{number} of 3")
            size = page.locator("#picture").evaluate(DRAWN_SIZE)
            turn = page.get_by_role("button", name="the boxes")
            if SIZES[tuple(size)] != BOXED:
                expect(turn).to_be_hidden()
                assert page.locator(".boxes, .boxed").count() == 0
                page.keyboard.press("s")
                continue
            said = shown(page)
            page.keyboard.press("e")
            page.get_by_label("What A should say").fill("a tree [1, 1, 9, 9]")  # a correction draws none
            page.keyboard.press("Escape")
            for where in ("#stage", "#closeup"):
                if where == "#closeup":
                    page.keyboard.press("f")
                drawn = {side: page.locator(f"{where} .box.of-{side}") for side in said}
                rects = {}
                for side, box in drawn.items():
                    expect(box).to_be_visible()
                    expect(box).to_have_text("kite")
                    rects[said[side]] = box.bounding_box()
                page.keyboard.press("x")
                expect(page.locator(".box:visible")).to_have_count(0)
                for text, colour in zip(BOXED, COLOUR_BOXES, strict=True):
                    assert rects[text] == pytest.approx(patch(page, colour), abs=2)
                page.keyboard.press("x")
                expect(page.locator(f"{where} .box:visible")).to_have_count(2)
            looks = "box => { const { borderTopStyle, borderTopColor } = getComputedStyle(box);"
            left, right = (
                box.evaluate(f"{looks} return [borderTopStyle, borderTopColor]; }}") for box in drawn.values()
            )
            assert left[0] != right[0]
            assert left[1] != right[1]
            page.keyboard.press("f")
            for side, other in (("left", "right"), ("right", "left")):
                caption = page.locator(f"#{side} .caption")
                if device:
                    caption.tap()
                else:
                    caption.hover()
                expect(page.locator(f"#stage .of-{other}")).to_be_hidden()
                expect(page.locator(f"#stage .of-{side}")).to_be_visible()
            turn.click()
            expect(page.locator(".box:visible")).to_have_count(0)
            turn.click()
            page.keyboard.press("s")
        wait_for_votes(page, at, 3)


def patch(page: Any, colour: str) -> dict[str, float]:
    """Where a patch of this colour is seen, in the page's pixels."""
    seen = np.asarray(Image.open(io.BytesIO(page.screenshot(scale="css"))).convert("RGB")).astype(int)
    wanted = [int(colour[at : at + 2], 16) for at in (1, 3, 5)]
    ys, xs = np.nonzero((abs(seen - wanted) < 60).all(axis=2))
    assert len(xs), f"nothing of {colour} is seen"
    x, y = float(xs.min()), float(ys.min())
    return {"x": x, "y": y, "width": xs.max() + 1 - x, "height": ys.max() + 1 - y}


def test_one_goes_on_after_a_reload_back_changes_a_vote_and_skipped_ones_come_again(chromium: Any, at: Judged) -> None:
    with visiting(chromium, at.url) as page:
        enter(page)
        reach(page, "1 of 6")
        page.keyboard.press("Enter")
        expect(page.locator("#status")).to_have_text("4 questions still to answer.")
        page.keyboard.press("1")
        page.keyboard.press("ArrowUp")
        page.keyboard.press("2")  # the same question again
        for _ in range(3):
            page.keyboard.press("3")
        page.keyboard.press("Enter")
        reach(page, "2 of 6")
        [before] = wait_for_votes(page, at, 1).values()
        assert before.answers["hallucination"] == "tie"
        page.keyboard.press("z")
        reach(page, "1 of 6")
        expect(row(page, "hallucination").get_by_label("Tie")).to_be_checked()
        expect(row(page, "detail").get_by_label("B", exact=True)).to_be_checked()
        expect(page.locator("#status")).to_have_text("Your last vote stands until you send another.")
        page.keyboard.press("s")
        reach(page, "2 of 6")
        page.keyboard.press("z")
        reach(page, "1 of 6")
        row(page, "hallucination").locator("label", has_text=re.compile("^A$")).click()
        page.keyboard.press("Enter")
        reach(page, "2 of 6")
        page.keyboard.press("e")
        page.get_by_label("What A should say").fill("Better.")
        page.keyboard.press("Escape")
        page.keyboard.press("s")
        reach(page, "3 of 6")
        page.keyboard.press("s")
        reach(page, "4 of 6")
        wait_for_votes(page, at, 3)
        page.reload()
        reach(page, "4 of 6")
        for number in (3, 2, 1):  # what was said is known after a reload
            page.keyboard.press("z")
            reach(page, f"{number} of 6")
        expect(row(page, "hallucination").get_by_label("A", exact=True)).to_be_checked()
        page.keyboard.press("s")
        reach(page, "2 of 6")
        expect(page.locator("#status")).to_have_text("You skipped this one.")
        expect(page.get_by_label("What A should say")).to_have_value("Better.")
        for number in (2, 3):
            reach(page, f"{number} of 6")
            page.keyboard.press("s")
        reach(page, "4 of 6")
        assert page.locator("#meter").evaluate("meter => meter.value") == 3
        until(page, lambda: len(at.study.store.list(prefix="votes")) == 6)
        votes = at.votes()
        assert votes[before.pair_id].answers["hallucination"] == ("second" if before.swapped else "first")
        page.reload()  # also of those that were skipped before it
        for number in (4, 5, 6):
            reach(page, f"{number} of 6")
            for _ in CRITERIA:
                page.keyboard.press("2")
            page.keyboard.press("Enter")
        assert page.locator("#meter").evaluate("meter => meter.value === meter.max")
        page.get_by_role("button", name="Look again at the 2 you skipped").click()
        for number in (2, 3):
            reach(page, f"{number} of 6")
            expect(page.locator(".choices input:checked")).to_have_count(0)
            told = shown(page)
            for _ in CRITERIA:
                page.keyboard.press("1")
            page.keyboard.press("Enter")
            page.wait_for_function(
                "told => document.querySelector('#left .caption').textContent !== told"
                " || !document.querySelector('#end').hidden",
                arg=told["left"],
            )
        expect(page.locator("#thanks")).to_be_visible()
        expect(page.locator("#look-again")).to_be_hidden()
        until(page, lambda: all(vote.answers for vote in at.votes().values()))
        assert [list(vote.edits.values()) for vote in at.votes().values() if vote.edits] == [["Better."]]


def test_captions_are_corrected_beside_the_vote(chromium: Any, at: Judged) -> None:
    with visiting(chromium, at.url) as page:
        enter(page)
        reach(page, "1 of 6")
        page.keyboard.press("e")
        field = page.get_by_label("What A should say")
        expect(field).to_be_focused()
        expect(field).to_have_value(shown(page)["left"])
        field.fill("A 1 2 3 s z red house.")  # keys of the page are letters here
        page.keyboard.press("Escape")
        page.get_by_role("button", name="Correct B").click()
        page.get_by_label("What B should say").fill("")
        expect(page.get_by_text("Left empty: nothing of this caption is taught.")).to_be_visible()
        page.keyboard.press("Escape")
        for _ in CRITERIA:
            page.keyboard.press("1")
        page.keyboard.press("Control+Enter")
        reach(page, "2 of 6")
        expect(page.locator(".correction:visible")).to_have_count(0)
        page.keyboard.press("r")
        page.get_by_label("What B should say").fill("never sent")
        page.get_by_role("button", name="Discard the correction").click()
        page.keyboard.press("s")
        reach(page, "3 of 6")
        votes = wait_for_votes(page, at, 2)
        [edited] = [vote for vote in votes.values() if vote.answers]
        a, b = ("second", "first") if edited.swapped else ("first", "second")
        assert edited.edits == {a: "A 1 2 3 s z red house.", b: ""}
        assert [vote.edits for vote in votes.values() if not vote.answers] == [{}]
        page.keyboard.press("z")
        page.keyboard.press("z")
        reach(page, "1 of 6")
        expect(page.get_by_label("What A should say")).to_have_value("A 1 2 3 s z red house.")


def test_a_caption_that_is_too_long_to_be_corrected_is_said_to_be(chromium: Any, at: Judged) -> None:
    with visiting(chromium, at.url) as page:
        told = page.request.get(f"{at.url}v1/session", headers={"X-Rater": "ann"}).json()
        page.route("**/v1/session", lambda route: route.fulfill(json={**told, "max_chars": 30}))
        enter(page)
        is_long = set()
        for number in (1, 2, 3):
            reach(page, f"{number} of 6")
            for (side, text), key in zip(shown(page).items(), "er", strict=True):
                button = page.locator(f"#{side} > button")
                is_long.add(len(text) > 30)
                if len(text) <= 30:
                    expect(button).to_be_enabled()
                    continue
                expect(button).to_be_disabled()
                page.keyboard.press(key)
                told_why = "Too long to be corrected here: more than 30 characters."
                expect(page.locator("#status")).to_have_text(told_why)
                expect(button).to_have_attribute("title", told_why)
                expect(page.locator(f"#{side} .correction")).to_be_hidden()
            page.keyboard.press("s")
        assert is_long == {True, False}
        wait_for_votes(page, at, 3)


def test_who_judges_in_one_tab_stays_it_whoever_enters_in_another(chromium: Any, at: Judged) -> None:
    with visiting(chromium, at.url) as ann:
        enter(ann, "ann")
        bob = ann.context.new_page()
        bob.goto(at.url)
        bob.locator("#pair").wait_for()
        bob.locator("#who").click()
        enter(bob, "bob")
        for number in (1, 2):
            reach(ann, f"{number} of 6")
            ann.keyboard.press("s")
            wait_for_votes(ann, at, number, "ann")
            ann.reload()
        expect(ann.locator("#who")).to_have_text("ann")
        assert at.votes("bob") == {}


def test_a_broken_item_among_what_waits_holds_up_no_vote(chromium: Any, at: Judged) -> None:
    expected = ("ERR_INTERNET_DISCONNECTED", "Failed to load resource")
    with visiting(chromium, at.url, expected=expected) as page:
        enter(page)
        reach(page, "1 of 6")
        waiting = "Object.keys(localStorage).filter(name => name.startsWith('vila2-judge:'))"
        page.wait_for_load_state("networkidle")
        page.context.set_offline(True)
        page.keyboard.press("s")
        reach(page, "2 of 6")
        page.evaluate(f"localStorage.setItem({waiting}[0].replace(/[^:]*$/, '0'), '{{')")
        page.context.set_offline(False)
        page.reload()
        reach(page, "2 of 6")
        wait_for_votes(page, at, 1)
        until(page, lambda: page.evaluate(f"{waiting}.length") == 0)
        assert page.evaluate("Object.keys(localStorage).filter(name => name.startsWith('broken:')).length") == 1


def test_votes_without_a_network_are_kept_and_sent_when_it_is_back(chromium: Any, at: Judged) -> None:
    expected = ("ERR_INTERNET_DISCONNECTED", "Failed to load resource")
    with visiting(chromium, at.url, expected=expected) as page:
        enter(page)
        reach(page, "1 of 6")
        page.wait_for_load_state("networkidle")
        page.context.set_offline(True)
        for number in (1, 2):  # the next ones are here already
            reach(page, f"{number} of 6")
            for _ in CRITERIA:
                page.keyboard.press("1")
            page.keyboard.press("Enter")
        expect(page.locator("#sending")).to_contain_text("kept in this browser")
        page.keyboard.press("z")
        reach(page, "2 of 6")
        for name in CRITERIA:
            row(page, name).locator("label", has_text=re.compile("^B$")).click()
        page.keyboard.press("Enter")
        assert at.votes() == {}
        waiting = "Object.keys(localStorage).filter(name => name.startsWith('vila2-judge:')).length"
        assert page.evaluate(waiting) == 2, "one for each pair"
        page.context.set_offline(False)
        page.reload()
        reach(page, "3 of 6")
        votes = wait_for_votes(page, at, 2)
        until(page, lambda: page.evaluate(waiting) == 0)
        expect(page.locator("#sending")).to_be_empty()
        sides = [("second" if vote.swapped else "first") == vote.answers["overall"] for vote in votes.values()]
        assert sorted(sides) == [False, True]
        assert len(at.study.store.list(prefix="votes")) == 2


def test_a_refused_vote_is_said_and_kept_and_the_next_ones_go_on(chromium: Any, at: Judged) -> None:
    with visiting(chromium, at.url, expected=("422",)) as page:
        enter(page)
        problem = {"title": "Not now", "detail": "because"}
        page.route("**/v1/votes", lambda route: route.fulfill(status=422, json=problem), times=1)
        for number in (1, 2):
            reach(page, f"{number} of 6")
            page.keyboard.press("s")
        wait_for_votes(page, at, 1)
        expect(page.locator("#sending")).to_contain_text("A vote was refused, and is kept in this browser. Not now")
        assert page.evaluate("Object.keys(localStorage).filter(name => name.startsWith('refused:')).length") == 1


def test_votes_wait_for_their_study_while_another_one_is_served(chromium: Any, at: Judged, tmp_path: Path) -> None:
    with visiting(chromium, at.url, expected=("404",)) as page, judged(tmp_path / "other", 3) as other:
        enter(page)
        reach(page, "1 of 6")
        page.wait_for_load_state("networkidle")

        def elsewhere(route: Any) -> None:
            headers = {name: value for name, value in route.request.headers.items() if name != "origin"}
            route.fulfill(response=route.fetch(url=route.request.url.replace(at.url, other.url), headers=headers))

        page.route("**/v1/**", elsewhere)
        page.keyboard.press("s")
        reach(page, "1 of 3")
        page.keyboard.press("s")
        wait_for_votes(page, other, 1)
        assert at.votes() == {}
        page.unroute("**/v1/**")
        page.reload()
        reach(page, "2 of 6")
        wait_for_votes(page, at, 1)


def test_a_broken_picture_is_said_and_skipped(chromium: Any, tmp_path: Path) -> None:
    with judged(tmp_path, 1, broken=(0,)) as at, visiting(chromium, at.url, expected=("422",)) as page:
        enter(page)
        expect(page.locator("#no-picture")).to_contain_text("Skip this pair.")
        expect(page.locator("#ballot")).to_be_hidden()
        page.keyboard.press("1")
        page.keyboard.press("Enter")
        page.get_by_role("button", name="Skip").click()
        expect(page.locator("#thanks")).to_be_visible()
        [vote] = wait_for_votes(page, at, 1).values()
        assert vote.problem.startswith("image_unreadable")
        expect(page.locator("#look-again")).to_be_hidden()


def test_with_keys_a_key_says_who_judges(chromium: Any, tmp_path: Path) -> None:
    secret = add_key(tmp_path / "keys", "carla")
    with (
        judged(tmp_path, 2, keys=Keys.read(tmp_path / "keys")) as at,
        visiting(chromium, at.url, expected=("401",)) as page,
    ):
        field = page.get_by_label("Key", exact=True)
        field.fill("vila2-wrong")
        page.get_by_role("button", name="Begin").click()
        expect(page.get_by_role("alert")).to_have_text("This key is not known here.")
        field.fill(secret)
        page.keyboard.press("Enter")
        reach(page, "1 of 2")
        expect(page.locator("#who")).to_have_text("carla")
        page.keyboard.press("s")
        wait_for_votes(page, at, 1, "carla")
        assert secret not in page.url
        assert secret not in page.evaluate("JSON.stringify(localStorage)")
        page.reload()
        reach(page, "2 of 2")


def test_names_that_cannot_be_are_told_and_another_person_can_take_over(chromium: Any, at: Judged) -> None:
    with visiting(chromium, at.url) as page:
        for bad in ("", "a b", "model:x", "é"):
            page.get_by_label("Name").fill(bad)
            page.keyboard.press("Enter")
            expect(page.get_by_role("alert")).to_be_visible()
        enter(page, "ann")
        reach(page, "1 of 6")
        page.keyboard.press("s")
        reach(page, "2 of 6")
        page.locator("#who").click()
        expect(page.get_by_label("Name")).to_have_value("ann")
        enter(page, "dan")
        reach(page, "1 of 6")
        page.locator("#who").click()
        enter(page, "ann")
        reach(page, "2 of 6")


def test_a_phone_scrolls_in_one_direction_and_has_targets_for_thumbs(chromium: Any, at: Judged) -> None:
    with visiting(chromium, at.url, **PHONE) as page:
        enter(page, "a_very_long_name_of_somebody_who_judges@example.org")
        reach(page, "1 of 6")
        page.get_by_role("button", name="Correct A").tap()
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        small = page.evaluate(
            """() => [...document.querySelectorAll("button, .choices label, textarea, input")]
              .filter((element) => element.type !== "radio" && element.checkVisibility())
              .map((element) => [element.textContent || element.id, element.getBoundingClientRect()])
              .filter(([, { width, height }]) => height < 44 || width < 44).map(([name]) => name)"""
        )
        assert small == []
        above, below = (page.locator(f"#{side}").bounding_box() for side in ("left", "right"))
        assert above["y"] + above["height"] <= below["y"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_light_and_dark(chromium: Any, at: Judged, scheme: str) -> None:
    with visiting(chromium, at.url, color_scheme=scheme) as page:
        assert page.evaluate(CONTRASTS) == []
        enter(page)
        reach(page, "1 of 6")
        for key in ("1", "2", "e"):
            page.keyboard.press(key)
        page.get_by_label("What A should say").fill("")
        page.keyboard.press("Control+Enter")
        expect(page.locator(".row.missing")).to_have_count(2)
        page.wait_for_function("() => document.getAnimations().every(({ playState }) => playState !== 'running')")
        assert page.evaluate(CONTRASTS) == []
        a, b = (page.locator(f"#{side}").bounding_box() for side in ("left", "right"))
        assert (a["y"], a["x"] + a["width"] <= b["x"]) == (b["y"], True)
        assert place(page) == "1 of 6"
