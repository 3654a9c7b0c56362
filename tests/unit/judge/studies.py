"""Small studies over small pictures, for tests of what people are shown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.unit.corpus.conftest import Build
from vila2_ray.corpus.corpus import Corpus
from vila2_ray.judge.study import Pair, Shown, Study
from vila2_ray.storage import Store

CRITERIA = ("hallucination", "detail", "fluency", "overall")
OLD, NEW = "round-alpha", "round-omega"
"""Layers, by names that nothing else holds."""


def study(
    folder: Path, num: int = 6, criteria: Sequence[str] = CRITERIA, texts: tuple[str, str] = ("Old {n}.", "New {n}.")
) -> Study:
    """One of `num` pairs; pair n is of row n."""
    pairs = [
        Pair(
            f"{n:016x}",
            "pretrain",
            "00000",
            n,
            f"00000/{n:03}",
            Shown(OLD, 0, texts[0].format(n=n)),
            Shown(NEW, 0, texts[1].format(n=n)),
        )
        for n in range(num)
    ]
    return Study.draw(Store(folder / "judgements" / "votes"), pairs, {"seed": 3, "layers": [OLD, NEW]}, criteria)


def corpus(folder: Path, num: int = 6, broken: Sequence[int] = (), size: tuple[int, int] = (40, 30)) -> Corpus:
    """As many pictures, each of a colour of its own; those of the rows `broken` cannot be decoded."""
    members = []
    for n in range(num):
        picture = Build.picture((40 * n % 256, 90, 200 - 30 * n % 200), size)
        members += [
            (f"{n:03}.png", b"\x89PNG\r\n\x1a\n gone" if n in broken else picture),
            (f"{n:03}.txt", b"alt"),
        ]
    Build.tar(folder / "shards" / "00000.tar", members)
    return Build.corpus(folder / "shards", folder / "index", max_pixels=10_000_000)
