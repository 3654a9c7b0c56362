"""The page for people who judge, served under uvicorn, for a module's tests in a real Chromium."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from tests.e2e.browser import until
from tests.e2e.served import served
from tests.unit.corpus.conftest import Build
from vila2_ray.corpus.corpus import Corpus
from vila2_ray.judge.app import create_judge_app
from vila2_ray.judge.rubric import CRITERIA
from vila2_ray.judge.study import Pair, Shown, Study, Vote
from vila2_ray.serve.keys import Keys
from vila2_ray.storage import Store

HOSTILE = "<img src=x onerror=document.title='owned'><b>bold</b> & a dog"
PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True, "device_scale_factor": 2}
TEXTS = (
    (
        "A red house beside a tree.",
        "A small red house with a brown door stands to the left of a tall green tree; a yellow sun is in the sky.",
    ),
    ("Photo of the day!!! buy now", HOSTILE),
    ("Two houses and a boat on a lake.", "A red house, a tree, and nothing else."),
)


@dataclass
class Judged:
    """A running server and its study."""

    url: str
    study: Study

    def votes(self, rater: str = "ann") -> dict[str, Vote]:
        """By pair."""
        return {vote.pair_id: vote for vote in self.study.votes(rater)}


def scene(number: int, size: tuple[int, int] = (960, 640)) -> bytes:
    """A house and a tree, the house a bit further on in each."""
    width, height = size
    image = Image.new("RGB", size, "#a9cfe6")
    draw = ImageDraw.Draw(image)
    at = width * (0.12 + 0.06 * number)
    draw.rectangle((0, height * 0.72, width, height), fill="#7fa860")
    draw.rectangle((at, height * 0.45, at + width * 0.2, height * 0.8), fill="#b4472f")
    eaves = height * 0.45
    draw.polygon([(at - 20, eaves), (at + width * 0.1, height * 0.25), (at + width * 0.2 + 20, eaves)], "#5c2f27")
    draw.rectangle((width * 0.72, height * 0.5, width * 0.75, height * 0.82), fill="#6b4a2b")
    draw.ellipse((width * 0.63, height * 0.2, width * 0.84, height * 0.58), fill="#3f7d3a")
    draw.ellipse((width * 0.86, height * 0.06, width * 0.95, height * 0.2), fill="#f2c94c")
    out = io.BytesIO()
    image.save(out, "JPEG", quality=90)
    return out.getvalue()


def patches(size: tuple[int, int], colour_boxes: dict[str, tuple[int, int, int, int]]) -> bytes:
    """A grey picture with coloured patches, their corners in thousandths of it."""
    image = Image.new("RGB", size, "#808080")
    for colour, corners in colour_boxes.items():
        at = [corner / 999 * size[n % 2] for n, corner in enumerate(corners)]
        ImageDraw.Draw(image).rectangle((at[0], at[1], at[2] - 1, at[3] - 1), fill=colour)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=95, subsampling=0)
    return out.getvalue()


@contextmanager
def judged(
    folder: Path,
    num: int = 6,
    broken: tuple[int, ...] = (),
    keys: Keys | None = None,
    texts: Sequence[tuple[str, str]] = TEXTS,
    pictures: Sequence[bytes] = (),
) -> Iterator[Judged]:
    """A study of `num` pairs, served on a free port of loopback; of scenes, unless other `pictures` are given."""
    members: list[tuple[str, bytes]] = []
    for n in range(num):
        shown = pictures[n] if pictures else scene(n % 8)
        members += [(f"{n:03}.jpg", b"\xff\xd8\xff gone" if n in broken else shown), (f"{n:03}.txt", b"alt")]
    Build.tar(folder / "shards" / "00000.tar", members)
    corpus: Corpus = Build.corpus(folder / "shards", folder / "index", max_pixels=10_000_000)
    pairs = []
    for n in range(num):
        layers = zip(("alt_text", "round-1"), texts[n % len(texts)], strict=True)
        sides = [Shown(layer, 0, text) for layer, text in layers]
        pairs.append(Pair(f"{n:016x}", "pretrain", "00000", n, f"00000/{n:03}", *sides))
    study = Study.draw(Store(folder / "votes"), pairs, {"seed": 1}, list(CRITERIA))
    with served(create_judge_app(study, lambda source: corpus, keys)) as url:
        yield Judged(f"{url}/", study)


def enter(page: Any, rater: str = "ann") -> None:
    """Says who judges, and waits for a pair."""
    page.get_by_label("Name").fill(rater)
    page.get_by_role("button", name="Begin").click()
    page.locator("#pair").wait_for()


def place(page: Any) -> str:
    return str(page.locator("#count").text_content())


def reach(page: Any, said: str) -> None:
    """Waits until the page is at a pair, "2 of 6", and shows it."""
    page.wait_for_function(
        "said => document.querySelector('#count').textContent === said"
        " && document.querySelector('#stage').dataset.state === 'shown'",
        arg=said,
    )


def wait_for_votes(page: Any, at: Judged, num: int, rater: str = "ann") -> dict[str, Vote]:
    """The votes, once there are so many pairs with one."""
    found: Callable[[], bool] = lambda: len(at.study.judged_by(rater)) == num  # noqa: E731
    until(page, found)
    return at.votes(rater)
