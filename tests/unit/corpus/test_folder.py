from __future__ import annotations

from pathlib import Path
from typing import Any

from vila2_ray.errors import Reason


def test_pictures_and_the_texts_beside_them(build: Any, tmp_path: Path) -> None:
    album = tmp_path / "album"
    (album / "sub").mkdir(parents=True)
    for name in ("one.v2.png", "two.jpg", "two.png", "sub/three.png"):
        (album / name).write_bytes(build.picture(format="JPEG" if name.endswith("jpg") else "PNG"))
    (album / "one.v2.txt").write_text("the first")
    (album / "two.json").write_text('{"caption": "the second", "license": "CC0"}')
    (album / "two.txt").write_bytes(b"caf\xe9")
    (album / "sub/three.json").write_text('{"caption": "the third", "n": 3}')
    (album / "sub/three.truth.json").write_text('{"objects": []}')
    corpus = build.corpus(album, tmp_path / "i")
    samples = {s.key: s for s in corpus.read("album-00000", truth=True)}
    assert list(samples) == ["one.v2", "sub/three", "two", "two.png"]
    assert [s.alt_text for s in samples.values()] == ["the first", "the third", "", ""]
    assert samples["sub/three"].extra == {"n": 3}
    assert samples["sub/three"].truth == {"objects": []}
    assert samples["two"].extra == {"caption": "the second", "license": "CC0"}
    assert samples["two"].image == (album / "two.jpg").read_bytes()
    assert all(corpus.decode(s).size == (8, 6) for s in samples.values())


def test_a_picture_that_went_away(build: Any, tmp_path: Path) -> None:
    album = tmp_path / "album"
    album.mkdir()
    for name in ("a.png", "b.png"):
        (album / name).write_bytes(build.picture())
    corpus = build.corpus(album, tmp_path / "i")
    assert corpus.num_rows("album-00000") == 2
    (album / "a.png").unlink()
    a, b = corpus.read("album-00000")
    assert (a.problem and a.problem.reason, b.problem) == (Reason.NO_IMAGE, None)
    assert [s.image for s in corpus.read("album-00000", images=False)] == [None, None]
