"""Serving with transformers on tiny random weights: whatever the company, what the stepped engine says."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import random
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tests.unit.engines.conftest import MakeRequests
from tests.unit.engines.live import ask, live, whole
from tests.unit.engines.tiny_llava import write_llava
from vila2_ray.config import EngineConfig, SamplingConfig
from vila2_ray.engines.base import Generation, generate_all
from vila2_ray.engines.choice import open_live_engine
from vila2_ray.engines.continuous import Continuous
from vila2_ray.engines.live import LiveRequest, Piece, Turn
from vila2_ray.engines.live_batching import LiveBatching
from vila2_ray.engines.rows import Row
from vila2_ray.engines.spelling import Spelling
from vila2_ray.engines.transformers import TransformersEngine
from vila2_ray.errors import CheckpointError, ConfigError, EngineDied, SampleError

CONFIG = EngineConfig(name="transformers", dtype="float32")


def serve(
    folder: Path, scenario: Callable[[LiveBatching], Awaitable[None]], capacity: int = 8, lean: bool = True
) -> None:
    """Run a scenario with an engine of its own."""

    async def run() -> None:
        engine = await LiveBatching.open(folder, torch.float32, "cpu", capacity, lean=lean)
        try:
            await scenario(engine)
        finally:
            await engine.close()

    asyncio.run(run())


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what must happen; far longer than it takes, for busy machines."""
    patience = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < patience
        await asyncio.sleep(0.001)


def agree(pieces: list[Piece], wanted: Generation) -> None:
    last = pieces[-1]
    assert whole(pieces) == wanted.text
    assert (last.num_output_tokens, last.finish_reason) == (wanted.num_output_tokens, wanted.finish_reason)
    assert last.mean_logprob == pytest.approx(wanted.mean_logprob, abs=1e-4)
    assert last.min_logprob == pytest.approx(wanted.min_logprob, abs=1e-4)
    assert last.num_prompt_tokens > 4


@pytest.mark.parametrize("lean", [True, False])
def test_in_company_everyone_hears_what_the_stepped_engine_says(
    vila_folder: Path, make_requests: MakeRequests, lean: bool
) -> None:
    """Requests of many kinds come and go while others run; more than run together."""
    stepped = TransformersEngine.load(vila_folder, torch.float32, batch_size=32)
    kinds: list[dict[str, Any]] = [
        {"max_tokens": 20},
        {"max_tokens": 5, "prompts": ("what is there in the image on the left", "describe")},
        {"max_tokens": 30, "temperature": 1.0, "top_p": 0.9, "min_tokens": 10},
        {"max_tokens": 12, "min_tokens": 12, "prompts": ("where is the cat in the picture and what does it do there",)},
    ]
    groups = [make_requests(8, **kind) for kind in kinds]
    expected = [answer for group in groups for answer in generate_all(stepped, group)]
    requests = [
        dataclasses.replace(live(request, streamed=n % 3 > 0), key=f"{n}")
        for n, request in enumerate(request for group in groups for request in group)
    ]
    assert len({answer.text for answer in expected}) > len(requests) // 2, "the answers must differ"

    async def scenario(engine: LiveBatching) -> None:
        when = random.Random(3)

        async def later(request: LiveRequest) -> list[Piece]:
            for _ in range(when.randrange(60)):
                await asyncio.sleep(0.001)
            return await ask(engine, request)

        answers = await asyncio.gather(*(later(request) for request in requests))
        for request, pieces, wanted in zip(requests, answers, expected, strict=True):
            agree(pieces, wanted)
            assert request.streamed or len(pieces) == 1
        assert max(map(len, answers)) > 5, "they stream"
        del answers
        patience = time.monotonic() + 60
        while any(type(left) in (Row, Spelling) for left in gc.get_objects()):
            assert time.monotonic() < patience, "nothing is kept"
            await asyncio.sleep(0.01)
            gc.collect()

    serve(vila_folder, scenario, capacity=16, lean=lean)


def test_rows_join_and_leave_while_others_run(
    vila_folder: Path, make_requests: MakeRequests, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    arrived = threading.Event()
    original = Continuous.step

    def counting(self: Continuous, told: Callable[[], None]) -> None:
        if self.rows and self.rows[0].sampling.min_tokens == 90:
            sizes.append(len(self.rows))
            assert len(sizes) != 4 or arrived.wait(60)
        original(self, told)

    monkeypatch.setattr(Continuous, "step", counting)
    long, short = make_requests(2, max_tokens=90, min_tokens=90)
    short = dataclasses.replace(short, sampling=SamplingConfig(max_tokens=4, min_tokens=4))

    async def scenario(engine: LiveBatching) -> None:
        running = asyncio.create_task(ask(engine, live(long)))
        while len(sizes) < 4:
            await asyncio.sleep(0.001)
        second = asyncio.create_task(ask(engine, live(short)))
        while engine._inbox.empty():
            await asyncio.sleep(0.001)
        arrived.set()
        await asyncio.gather(running, second)
        assert sizes[:10] == [1, 1, 1, 1, 2, 2, 2, 2, 1, 1]

    serve(vila_folder, scenario)


def test_who_goes_away_leaves_the_batch(vila_folder: Path, make_requests: MakeRequests) -> None:
    requests = [live(request) for request in make_requests(3, max_tokens=100, min_tokens=100)]

    async def scenario(engine: LiveBatching) -> None:
        async with aclosing(engine.generate(requests[0])) as pieces:
            await anext(pieces)
        task = asyncio.create_task(ask(engine, requests[1]))
        await asyncio.sleep(0.02)
        task.cancel()
        await asyncio.wait((task,))
        only_place = asyncio.create_task(ask(engine, requests[2]))
        assert len(whole(await only_place)) > 10
        assert engine._work._running == []

    serve(vila_folder, scenario, capacity=1)


def test_who_goes_away_while_waiting_is_forgotten_at_once(
    vila_folder: Path, make_requests: MakeRequests, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [live(request) for request in make_requests(5)]

    async def scenario(engine: LiveBatching) -> None:
        monkeypatch.setattr(Continuous, "step", lambda self, told: time.sleep(0.001))  # the first never gets on
        tasks = [asyncio.create_task(ask(engine, request)) for request in requests]
        await until(lambda: len(engine._work._waiting) == 4)
        for task in tasks:
            if task is not tasks[0]:
                task.cancel()
        await until(lambda: not engine._work._waiting)
        assert not tasks[0].done()
        monkeypatch.undo()
        assert whole(await tasks[0])

    serve(vila_folder, scenario, capacity=1)


def test_a_bad_request_fails_alone(vila_folder: Path, make_requests: MakeRequests) -> None:
    good = make_requests(4)
    closed = Image.new("RGB", (8, 8))
    closed.close()
    bad = dataclasses.replace(live(good[0]), key="bad", image=closed, image_key="bad")
    long = dataclasses.replace(live(good[1]), key="long", turns=(Turn("user", "what is it " * 90),))
    template = dataclasses.replace(live(good[1]), key="turns", turns=(Turn("assistant", "well"),))
    expected = generate_all(TransformersEngine.load(vila_folder, torch.float32), good)

    async def scenario(engine: LiveBatching) -> None:
        tasks = [asyncio.create_task(ask(engine, r)) for r in (bad, *map(live, good), long, template)]
        await asyncio.wait(tasks)
        for task, said in zip((tasks[0], *tasks[-2:]), ("", "context of 128", "ends with the user"), strict=True):
            assert isinstance(task.exception(), SampleError)
            assert said in str(task.exception())
        for task, wanted in zip(tasks[1:5], expected, strict=True):
            agree(task.result(), wanted)

    serve(vila_folder, scenario)


def test_one_that_does_not_fit_into_memory_waits_for_the_others(
    vila_folder: Path, make_requests: MakeRequests, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Continuous.begin

    def hungry(self: Continuous, rows: Any) -> None:
        if len(self.rows) + len(rows) > 2:
            raise torch.OutOfMemoryError("no")
        original(self, rows)

    monkeypatch.setattr(Continuous, "begin", hungry)
    requests = make_requests(7)
    expected = generate_all(TransformersEngine.load(vila_folder, torch.float32), requests)

    async def scenario(engine: LiveBatching) -> None:
        answers = await asyncio.gather(*(ask(engine, live(request)) for request in requests))
        for pieces, wanted in zip(answers, expected, strict=True):
            agree(pieces, wanted)

    serve(vila_folder, scenario)


def test_death_and_closing_reach_everyone(
    vila_folder: Path, make_requests: MakeRequests, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [live(request) for request in make_requests(3, max_tokens=100, min_tokens=100)]

    async def scenario(engine: LiveBatching) -> None:
        monkeypatch.setattr(Continuous, "step", lambda self, told: time.sleep(0.001))
        tasks = [asyncio.create_task(ask(engine, request)) for request in requests[:2]]
        await until(lambda: len(engine._work._running) == len(engine._work._waiting) == 1)
        monkeypatch.setattr(Continuous, "step", lambda self, told: 1 / 0)
        for task in tasks:
            with pytest.raises(EngineDied, match="ZeroDivisionError"):
                await task
        with pytest.raises(EngineDied):
            await engine.check()
        with pytest.raises(EngineDied):
            await ask(engine, requests[2])
        monkeypatch.undo()

    serve(vila_folder, scenario, capacity=1)

    async def closing(engine: LiveBatching) -> None:
        monkeypatch.setattr(Continuous, "step", lambda self, told: time.sleep(0.001))
        tasks = [asyncio.create_task(ask(engine, request)) for request in requests]
        await until(lambda: len(engine._work._running) == 1)
        await engine.close()
        for task in tasks:
            with pytest.raises(EngineDied, match="closed"):
                await task

    serve(vila_folder, closing, capacity=1)


def test_a_conversation_goes_on(vila_folder: Path, make_requests: MakeRequests) -> None:
    asked = live(make_requests(1)[0])

    async def scenario(engine: LiveBatching) -> None:
        first = whole(await ask(engine, asked))
        turns = (*asked.turns, Turn("assistant", first), Turn("user", "what is there on the left <image>"))
        pieces = await ask(engine, dataclasses.replace(asked, key="second", turns=turns))
        assert pieces[-1].num_prompt_tokens > 20

    serve(vila_folder, scenario)


def test_another_family_and_the_choice_of_engine(tmp_path: Path, make_requests: MakeRequests) -> None:
    folder, requests = write_llava(tmp_path / "llava"), make_requests(4)
    expected = generate_all(TransformersEngine.load(folder, torch.float32), requests)

    async def run() -> None:
        engine = await open_live_engine(CONFIG, folder, capacity=3)
        assert (engine.name, engine.capacity) == ("transformers", 3)
        answers = await asyncio.gather(*(ask(engine, live(request)) for request in requests))
        for pieces, wanted in zip(answers, expected, strict=True):
            agree(pieces, wanted)
        await engine.close()
        await engine.close()
        with pytest.raises(ConfigError, match=r"recaption\.quantization"):
            await open_live_engine(CONFIG, folder, quantization="fp8")
        with pytest.raises(CheckpointError):
            await open_live_engine(CONFIG, tmp_path / "nothing")

    asyncio.run(run())
