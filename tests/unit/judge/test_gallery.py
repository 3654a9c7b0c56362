"""Pictures while they are judged: kept within bounds; why one cannot be shown is known however much else was shown."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.unit.judge.studies import corpus, study
from vila2_ray.corpus.corpus import Corpus
from vila2_ray.errors import Reason, SampleError, StorageError
from vila2_ray.judge import gallery as galleries
from vila2_ray.judge.gallery import Gallery, Picture
from vila2_ray.judge.study import Pair

PICTURE: Picture = (b"x" * 100, "image/png")


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows in the order in which they were decoded; of odd rows there is no picture to be had."""
    rows: list[int] = []

    def encode(_: Corpus, pair: Pair, max_side: int) -> Picture:
        rows.append(pair.row)
        if pair.row % 2:
            raise SampleError(Reason.NO_IMAGE, "gone")
        return PICTURE

    monkeypatch.setattr(galleries, "encoded", encode)
    return rows


def made(folder: Path, **bounds: int) -> tuple[Gallery, list[Pair]]:
    held = corpus(folder)
    return Gallery(lambda source: held, **bounds), study(folder).pairs()


def test_a_picture_that_was_let_go_of_is_decoded_again_and_a_problem_is_not(tmp_path: Path, decoded: list[int]) -> None:
    gallery, pairs = made(tmp_path, kept_bytes=150)
    for row in (0, 0, 1, 2, 1, 0):
        if row == 1:
            with pytest.raises(SampleError, match="gone"):
                gallery.picture(pairs[row])
        else:
            assert gallery.picture(pairs[row]) == PICTURE
    assert decoded == [0, 1, 2, 0]
    assert [bool(gallery.problem(pairs[row])) for row in (0, 1, 2)] == [False, True, False]
    assert decoded == [0, 1, 2, 0], "what is known is not tried again"


def test_a_problem_that_nobody_has_seen_yet_is_found(tmp_path: Path) -> None:
    held = corpus(tmp_path, broken=(1,))
    gallery, pairs = Gallery(lambda source: held), study(tmp_path).pairs()
    assert [gallery.problem(pairs[row]).partition(":")[0] for row in (0, 1)] == ["", "image_unreadable"]


def test_a_store_that_is_away_is_no_problem_of_a_picture(tmp_path: Path) -> None:
    held, is_away = corpus(tmp_path, broken=(0,)), True

    def opened(source: str) -> Corpus:
        if is_away:
            raise StorageError("no route")
        return held

    gallery, [pair, *_] = Gallery(opened), study(tmp_path).pairs()
    assert gallery.problem(pair) == ""
    is_away = False
    assert gallery.problem(pair).startswith("image_unreadable"), "nothing was learnt of it before"


def test_two_that_ask_for_one_picture_at_once_count_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both, rows = threading.Barrier(2, timeout=60), []

    def encode(corpus: Corpus, pair: Pair, max_side: int) -> Picture:
        rows.append(pair.row)
        if pair.row == 0:
            both.wait()
        return PICTURE

    monkeypatch.setattr(galleries, "encoded", encode)
    gallery, pairs = made(tmp_path, kept_bytes=250)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(gallery.picture, [pairs[0]] * 2))
    gallery.picture(pairs[1])
    for pair in pairs[:2] * 2:
        gallery.picture(pair)
    assert rows == [0, 0, 1], "both are still there"
