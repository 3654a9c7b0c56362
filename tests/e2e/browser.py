"""A real headless Chromium and a real server with the page, for a module's tests."""

from __future__ import annotations

import io
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvicorn
from PIL import Image

from tests.e2e.page_models import PageModels
from vila2_ray.captions.prompts import Prompts
from vila2_ray.config.serving import ServeConfig
from vila2_ray.serve.app import create_app
from vila2_ray.serve.keys import Keys

PATIENCE_MS = 60_000
"""With a loaded machine."""
WATCH = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) => {
  window.violations.push(event.violatedDirective + " " + event.blockedURI);
});
"""


@dataclass
class Endpoint:
    """A running server."""

    url: str
    models: PageModels
    settings: ServeConfig


@contextmanager
def serving(settings: ServeConfig | None = None, keys: Keys | None = None) -> Iterator[Endpoint]:
    """The app under uvicorn, on a free port of loopback."""
    settings, models = settings or ServeConfig(), PageModels()
    app = create_app(models, settings, Prompts(), keys)
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        yield Endpoint(f"http://127.0.0.1:{listening.getsockname()[1]}/", models, settings)
    finally:
        server.should_exit = True
        thread.join(timeout=20)
        listening.close()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """The machine's own Chromium, headless; one for a module."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no Chromium on this machine")
    playwright.expect.set_options(timeout=PATIENCE_MS)
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def endpoint(chromium: Any) -> Iterator[Endpoint]:
    """One server for a module; no keys."""
    with serving() as running:
        yield running


@dataclass
class Visit:
    """What a page complained of while it was open."""

    complaints: list[str] = field(default_factory=list)
    expected: tuple[str, ...] = ()
    """Parts of complaints that a test provokes."""

    def watch(self, page: Any) -> None:
        page.add_init_script(WATCH)
        page.on("pageerror", lambda error: self.complaints.append(f"page error: {error}"))
        page.on(
            "console", lambda said: self.complaints.append(said.text) if said.type in ("error", "warning") else None
        )
        page.on("request", lambda asked: self._foreign(page, asked.url))

    def _foreign(self, page: Any, url: str) -> None:
        here = page.url.split("/")[:3]
        if here[0].startswith("http") and url.startswith("http") and url.split("/")[:3] != here:
            self.complaints.append(f"asks another host: {url}")

    def check(self, page: Any) -> None:
        found = [said for said in self.complaints if not any(part in said for part in self.expected)]
        found += page.evaluate("window.violations")
        assert not found, found


@contextmanager
def visiting(browser: Any, url: str, expected: tuple[str, ...] = (), **context: Any) -> Iterator[Any]:
    """A page of its own at `url`; at the end nothing may have been complained of beyond what is `expected`."""
    visit = Visit(expected=expected)
    opened = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **context})
    opened.set_default_timeout(PATIENCE_MS)
    try:
        page = opened.new_page()
        visit.watch(page)
        page.goto(url)
        yield page
        visit.check(page)
    finally:
        opened.close()


@pytest.fixture
def page(chromium: Any, endpoint: Endpoint) -> Iterator[Any]:
    """The page as it is opened, connected."""
    with visiting(chromium, endpoint.url) as opened:
        model(opened, "promoted").wait_for()
        yield opened


def picture(width: int = 640, height: int = 480, colour: str = "#88aa66") -> bytes:
    """A PNG."""
    out = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(out, "PNG")
    return out.getvalue()


def named(name: str, content: bytes, kind: str = "image/png") -> dict[str, Any]:
    """A file as Playwright hands it to a file input."""
    return {"name": name, "mimeType": kind, "buffer": content}


def choose(page: Any, *files: dict[str, Any]) -> None:
    page.locator("#files").set_input_files(list(files))


def ask(page: Any, question: str | None = None) -> None:
    """Fills the question in and asks."""
    if question is not None:
        page.get_by_label("Question in words").fill(question)
    page.get_by_role("button", name="Ask", exact=False).first.click()


def model(page: Any, name: str) -> Any:
    """The checkbox of a model."""
    return page.get_by_role("checkbox", name=name)


def until(page: Any, is_so: Callable[[], bool]) -> None:
    """Waits for what the page itself cannot see."""
    for _ in range(PATIENCE_MS // 50):
        if is_so():
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"not within {PATIENCE_MS / 1000:g} seconds")


def answer(page: Any, model: str, picture: int = 0) -> Any:
    """One model's answer about one picture of the newest run."""
    return page.locator(".run").first.locator(".sheet").nth(picture).get_by_role("region", name=model, exact=True)
