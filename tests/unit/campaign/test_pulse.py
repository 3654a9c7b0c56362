"""What a driver shows of itself while it works: `live.json`, which nothing depends on."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.unit.campaign.folders import begin, finish
from vila2_ray.campaign.api import Campaign
from vila2_ray.campaign.garbage import find_garbage
from vila2_ray.campaign.live import NAME, Live, read_live, write_live
from vila2_ray.campaign.pulse import Pulse
from vila2_ray.errors import StageFailed, StorageError
from vila2_ray.storage import Store


@dataclass
class Took:
    seconds: float
    gpu_seconds: float
    dollars: float


class Books:
    """A ledger, as far as a pulse looks at it."""

    def __init__(self) -> None:
        self.took = {"index": Took(10.0, 0.0, 0.5)}

    def spent(self) -> dict[str, Took]:
        return self.took


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_it_beats_while_the_driver_works_and_says_how_it_ended(tmp_path: Path) -> None:
    store, books = Store(tmp_path), Books()
    with Pulse(store, books, {}, every_seconds=0.02) as pulse, pulse.meter.stage("recaption-1", {}):
        pulse.meter.start("round-1", 50, "images")
        pulse.meter.update(20, loss=0.5)
        books.took["recaption-1"] = Took(60.0, 120.0, 2.25)
        until(lambda: (live := read_live(store)) is not None and live.done == 20 and "recaption-1" in live.spent)
        live = read_live(store)
        assert live is not None
        assert (live.stage, live.total, live.figures, live.ended, live.pid) == (
            "recaption-1",
            50,
            {"loss": 0.5},
            "",
            os.getpid(),
        )
        assert live.dollars == 2.75
        assert live.spent["recaption-1"] == {"seconds": 60.0, "gpu_seconds": 120.0, "dollars": 2.25}
        beat = live.beat
        until(lambda: (live := read_live(store)) is not None and live.beat > beat)
    live = read_live(store)
    assert live is not None
    assert (live.ended, live.why, live.stage) == ("done", "", "")


@pytest.mark.parametrize(
    ("error", "ended", "why"),
    [
        (StageFailed("sft-0: the loss is no number"), "failed", "sft-0: the loss is no number"),
        (KeyError("a caption"), "failed", "KeyError"),
        (KeyboardInterrupt(), "interrupted", "KeyboardInterrupt"),
    ],
)
def test_a_driver_that_does_not_end_well_says_why(tmp_path: Path, error: BaseException, ended: str, why: str) -> None:
    with pytest.raises(type(error)), Pulse(Store(tmp_path), Books(), {}) as pulse, pulse.meter.stage("sft-0", {}):
        raise error
    live = read_live(Store(tmp_path))
    assert live is not None
    assert (live.ended, live.why, live.stage) == (ended, why, "sft-0")


def test_a_store_that_refuses_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def refuse(self: Store, name: str, text: str) -> None:
        asked.append(name)
        raise StorageError("refused")

    monkeypatch.setattr(Store, "write_text", refuse)
    with Pulse(Store(tmp_path), Books(), {}, every_seconds=0.02):
        until(lambda: len(asked) > 2)
    assert set(asked) == {NAME}


def test_what_a_later_version_tells_beside_it_is_left_out(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert read_live(store) is None
    write_live(store, Live("host", 1, 0.0, beat=3))
    told = json.loads(store.read_text(NAME))
    store.write_text(NAME, json.dumps({**told, "mood": "good"}))
    live = read_live(store)
    assert live is not None
    assert live.beat == 3


def test_it_is_no_garbage_and_in_nobodys_way(tmp_path: Path) -> None:
    finish(begin(tmp_path / "c"), "index", summary={"pretrain": {"num_samples": 0}})
    campaign = Campaign(str(tmp_path / "c"))
    write_live(campaign.store, Live("host", 1, 0.0))
    assert find_garbage(campaign) == []
    assert set(campaign.markers()) == {"index"}
    assert campaign.store.exists(NAME)
