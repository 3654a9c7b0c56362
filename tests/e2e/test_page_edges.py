"""The page where things are not as they should be: hostile captions, errors, bounds, keys."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.browser import Endpoint, answer, ask, choose, model, named, picture, serving, until, visiting
from tests.e2e.browser import chromium as chromium
from tests.e2e.browser import endpoint as endpoint
from tests.e2e.browser import page as page
from tests.e2e.page_models import BOXED, HOSTILE
from vila2_ray.config.serving import ServeConfig
from vila2_ray.serve.keys import Keys, add_key

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
from playwright.sync_api import expect

ONE = named("one.png", picture())


def test_what_a_model_says_stays_text(page: Any) -> None:
    choose(page, named('<img src=x onerror="window.hacked=1">.png', picture()))
    ask(page, "hostile")
    found = answer(page, "promoted")
    expect(found).to_have_attribute("data-state", "whole")
    expect(found.locator(".caption")).to_have_text(HOSTILE)
    assert found.locator(".caption img, .caption script, .caption b").count() == 0
    assert page.locator(".box").get_attribute("title") == "b"
    assert page.evaluate("window.hacked") is None


def test_the_policy_holds_against_a_mistake_of_ours(chromium: Any, endpoint: Endpoint) -> None:
    with visiting(
        chromium, endpoint.url, expected=("This document requires", "Content Security Policy", "127.0.0.2")
    ) as page:
        tried = page.evaluate(
            """() => [
              () => { document.body.innerHTML = "<b>"; },
              () => { document.createElement("b").setAttribute("onclick", "window.hacked = 1"); },
              () => { document.createElement("script").src = "data:text/javascript,window.hacked=1"; },
            ].map((mistake) => { try { mistake(); return "done"; } catch (error) { return error.name; } })"""
        )
        assert tried == ["TypeError"] * 3
        page.evaluate("document.body.append(Object.assign(new Image(), { src: 'http://127.0.0.2/x.png' }))")
        until(page, lambda: page.evaluate("violations").count("img-src http://127.0.0.2/x.png") == 1)
        page.evaluate("violations.length = 0")


def test_errors_are_sentences(chromium: Any, endpoint: Endpoint) -> None:
    with visiting(chromium, endpoint.url, expected=("status of 429", "status of 5")) as page:
        model(page, "promoted").wait_for()
        ask(page)
        expect(page.get_by_role("status")).to_have_text("Choose a picture first.")
        expect(page.locator("#files")).to_be_focused()

        broken = named("broken.png", b"not a picture")
        choose(page, ONE, broken)
        ask(page)
        expect(answer(page, "promoted", 0)).to_have_attribute("data-state", "whole")
        expect(answer(page, "promoted", 1)).to_have_attribute("data-state", "failed")
        expect(answer(page, "promoted", 1).get_by_role("alert")).to_contain_text("Not a picture that can be read")
        expect(page.get_by_role("status")).to_have_text("1 of 2 answers failed.")
        page.get_by_role("button", name="Remove broken.png").click()

        endpoint.models.num_refusals = 1
        ask(page, "full")
        found = answer(page, "promoted")
        expect(found.get_by_role("alert")).to_contain_text(
            "Too many wait: 64 questions wait already. Try again in 2 s."
        )
        found.get_by_role("button", name="Ask again").click()
        expect(found).to_have_attribute("data-state", "whole")
        expect(found.locator(".caption")).to_have_text(BOXED["promoted"])
        expect(found.get_by_role("alert")).to_be_hidden()

        ask(page, "die")
        found = answer(page, "promoted")
        expect(found.get_by_role("alert")).to_contain_text("engine")
        assert found.locator(".caption").text_content().startswith("A small dog")


def test_nobody_answers(chromium: Any) -> None:
    with serving() as short, visiting(chromium, short.url, expected=("ERR_CONNECTION_REFUSED",)) as page:
        model(page, "promoted").wait_for()
        choose(page, ONE)
        page.context.route("**/v1/captions", lambda route: route.abort("connectionrefused"))
        ask(page)
        alert = answer(page, "promoted").get_by_role("alert")
        expect(alert).to_contain_text("The endpoint does not answer. Is it still running")


def test_pictures_beyond_the_bounds_are_left_out(chromium: Any) -> None:
    settings = ServeConfig(max_body_mb=0.5, max_images=2, max_pixels=90_000)
    noise = random.Random(0).randbytes(600_000)
    with serving(settings) as small, visiting(chromium, small.url) as page:
        model(page, "promoted").wait_for()
        choose(page, named("heavy.png", picture(8, 8) + noise), named("large.png", picture(400, 300)))
        expect(page.locator("#pictures li").nth(0)).to_contain_text("the endpoint takes less than 0.5 MB")
        expect(page.locator("#pictures li").nth(1)).to_contain_text("0.1 million pixels")
        ask(page)
        expect(page.get_by_role("status")).to_have_text("No picture is left to ask about.")
        choose(page, *(named(f"{number}.png", picture(9 + number, 9)) for number in range(5)))
        ask(page)  # in three requests: two pictures are the bound
        expect(page.get_by_role("status")).to_contain_text("5 answers in")
        expect(page.locator(".answer[data-state=whole]")).to_have_count(5)


def test_a_key_is_asked_for_and_kept_in_this_tab_alone(chromium: Any, tmp_path: Path) -> None:
    secret = add_key(tmp_path / "keys", "alice")
    with (
        serving(keys=Keys.read(tmp_path / "keys")) as closed,
        visiting(chromium, closed.url, expected=("status of 401",)) as page,
    ):
        key = page.get_by_label("API key", exact=True)
        expect(key).to_be_focused()
        expect(page.get_by_role("status")).to_have_text("The endpoint needs an API key.")
        page.keyboard.type("vila2-wrong")
        page.keyboard.press("Enter")
        expect(page.get_by_role("status")).to_have_text("The endpoint does not accept this API key.")
        key.fill(secret)
        page.keyboard.press("Enter")
        model(page, "promoted").wait_for()
        expect(page.get_by_role("status")).to_have_text("")
        choose(page, ONE)
        ask(page)
        found = answer(page, "promoted")
        expect(found).to_have_attribute("data-state", "whole")
        assert page.url == closed.url
        assert page.evaluate("JSON.stringify(localStorage) + document.cookie") == "{}"
        assert page.evaluate("Object.values(sessionStorage)") == [secret]
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        found.get_by_role("button", name="Copy curl").click()
        expect(found.get_by_role("button", name="Copied")).to_be_visible()
        command = page.evaluate("navigator.clipboard.readText()")
        assert secret not in command
        assert "Bearer $VILA2_API_KEY" in command
        page.reload()
        model(page, "promoted").wait_for()  # still held

        os.truncate(tmp_path / "keys", 0)  # revoked
        add_key(tmp_path / "keys", "bob")
        choose(page, ONE)
        refused = page.get_by_role("status").filter(has_text="does not accept this API key")
        until(page, lambda: ask(page) or refused.count() > 0)  # the file is looked at again within a second
        ask(page)
        expect(page.get_by_label("API key", exact=True)).to_be_focused()
