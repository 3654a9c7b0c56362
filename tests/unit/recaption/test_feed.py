"""One engine fed by many ranges at once: right answers, no tail between ranges, and an end when the engine dies."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

from vila2_ray.config import SamplingConfig
from vila2_ray.engines.base import Generation, GenerationRequest
from vila2_ray.engines.fake import FakeBehaviour, FakeEngine, fake_caption, image_digest
from vila2_ray.errors import EngineDied
from vila2_ray.recaption.feed import EngineFeed

SAMPLING = SamplingConfig(max_tokens=99)


class Watched(FakeEngine):
    """Answers two requests a step, and remembers how many it held at each."""

    held: list[int]

    def step(self) -> list[Generation]:
        self.held = [*getattr(self, "held", []), self.num_pending]
        rest = {key: self._pending.pop(key) for key in list(self._pending)[2:]}
        answers = super().step()
        self._pending.update(rest)
        return answers


def request(shard: int, row: int) -> GenerationRequest:
    image = Image.new("RGB", (3, 2), (shard, row % 256, row // 256))
    return GenerationRequest((f"{shard}", row, 0), f"{shard}-{row}", image, "describe", 0, SAMPLING)


def ask(feed: EngineFeed, shard: int, num_rows: int) -> None:
    answers = feed.answer(request(shard, row) for row in range(num_rows))
    assert sorted(answers) == [(f"{shard}", row, 0) for row in range(num_rows)]
    for row in range(num_rows):
        said = fake_caption(image_digest(request(shard, row)), "describe")
        assert answers[f"{shard}", row, 0].text == said


def feed_of(engine: FakeEngine, threads: int = 1) -> tuple[EngineFeed, list[EngineDied]]:
    deaths: list[EngineDied] = []
    return EngineFeed(engine, threads, deaths.append), deaths


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("continuous", [True, False])
def test_every_range_gets_its_own_answers(threads: int, continuous: bool) -> None:
    engine = Watched(batch_size=8, batches_continuously=continuous)
    feed, deaths = feed_of(engine, threads)
    with ThreadPoolExecutor(5) as pool:
        for done in [pool.submit(ask, feed, shard, 1 + 13 * shard) for shard in range(12)]:
            done.result(30)
    assert feed.take_engine_seconds() > 0
    assert not deaths
    feed.close()


def test_the_engine_stays_full_from_one_range_to_the_next() -> None:
    engine = Watched(8, FakeBehaviour(seconds_per_step=0.02))  # slower than requests are made
    feed, _ = feed_of(engine)
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(ask, feed, shard, 40) for shard in range(6)]:
            done.result(30)
    feed.close()
    steps = engine.held[5:-5]
    assert len(steps) > 80
    assert sum(held < 6 for held in steps) <= len(steps) // 8, steps


def test_what_making_raises_comes_back_and_the_others_go_on() -> None:
    feed, _ = feed_of(FakeEngine(batch_size=4))

    def failing() -> Iterator[GenerationRequest]:
        yield request(9, 0)
        raise KeyError("here")

    with pytest.raises(KeyError, match="here"):
        feed.answer(failing())
    ask(feed, 1, 9)
    ask(feed, 9, 3)  # the key that was handed in before the failure is free again
    feed.close()


@pytest.mark.parametrize("continuous", [True, False])
def test_a_dead_engine_is_told_of_and_nobody_waits_for_ever(continuous: bool) -> None:
    engine = FakeEngine(4, FakeBehaviour(die_after_steps=2, seconds_per_step=0.01), batches_continuously=continuous)
    feed, deaths = feed_of(engine)
    raised: list[BaseException] = []

    def one(shard: int) -> None:
        try:
            ask(feed, shard, 50)
        except EngineDied as error:
            raised.append(error)

    threads = [threading.Thread(target=one, args=(shard,)) for shard in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(raised) == 3
    assert deaths
