"""Operators' pins: what they mean, that they stay, and that no word is lost."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from vila2_ray.campaign.serving import (
    PROMOTED,
    Serving,
    Target,
    Word,
    entry_before,
    entry_target,
    find_target,
    read_serving,
    say,
    trained,
)
from vila2_ray.campaign.state import Marker
from vila2_ray.errors import ConfigError
from vila2_ray.storage import Store


def marker(about: str, digest: str) -> Marker:
    return Marker(f"sft-{about}", "f", {}, {}, digest, 1)


def promoted(*targets: Target) -> dict[str, Any]:
    entries = [{"model": t.model, "checkpoint": t.checkpoint, "digest": t.digest} for t in targets]
    return {"current": entries[-1] if entries else None, "history": entries}


def target(model: str, digest: str) -> Target:
    return Target(model, f"checkpoints/{model}/sft", digest)


A, B, C = target("vlm-0", "aa11"), target("vlm-1", "bb22"), target("vlm-2", "cc33")


def test_a_stage_tells_its_model_and_skill() -> None:
    assert trained(marker("1", "bb22")) == B
    assert trained(marker("ocr", "dd")) == Target("ocr", "checkpoints/ocr/sft", "dd", "ocr")
    assert trained(marker("final", "ee")).model == "vlm-final"


def test_the_last_word_counts_and_unpin_takes_back() -> None:
    words = (
        Word(PROMOTED, "pin", A, "me", at=1.0),
        Word("ocr", "pin", B, "me", at=2.0),
        Word(PROMOTED, "pin", B, "me", at=3.0),
    )
    assert Serving(words).pin_of(PROMOTED) == words[2]
    after = Serving((*words, Word(PROMOTED, "unpin", None, "me", at=4.0)))
    assert after.pin_of(PROMOTED) is None
    assert after.word_on(PROMOTED) is not None
    assert after.pin_of("ocr") == words[1]


def test_words_are_kept_whoever_writes_at_once(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert read_serving(store) == Serving()
    threads = [
        threading.Thread(target=say, args=(store, Word(f"vlm-{k}", "pin", A, "me", why="§", at=float(k))))
        for k in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(word.name for word in read_serving(store).words) == [f"vlm-{k}" for k in range(6)]


def test_a_model_is_found_by_name_and_digest() -> None:
    markers = {"sft-1": marker("1", "bb99"), "sft-ocr": marker("ocr", "dd"), "evaluate-1": marker("1", "x")}
    history = promoted(A, B)
    assert find_target("vlm-1", history, markers).digest == "bb99", "what is trained now goes before what was promoted"
    assert find_target("vlm-1@bb22", history, markers) == B
    assert find_target("@aa", history, markers) == A
    assert find_target("ocr", history, markers).skill == "ocr"
    with pytest.raises(ConfigError, match="vlm-1@bb99"):
        find_target("vlm-7", history, markers)
    with pytest.raises(ConfigError, match="more than one"):
        find_target("vlm-1@bb", history, markers)


def test_a_rollback_goes_one_promotion_back_each_time() -> None:
    history = promoted(A, B, C)
    assert entry_before(C, history) == B
    assert entry_before(B, history) == A
    for current in (A, None, target("vlm-9", "ff")):
        with pytest.raises(ConfigError, match="nothing was promoted before"):
            entry_before(current, history)
    assert entry_before(entry_target(history["current"]), history) == B
