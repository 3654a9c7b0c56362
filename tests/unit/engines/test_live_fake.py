"""The fake engine while it serves: the words of the stepped one, in pieces, and every way to fail."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from pathlib import Path

import pytest

from tests.unit.engines.conftest import MakeRequests
from tests.unit.engines.live import ask, live, whole
from vila2_ray.engines.base import generate_all
from vila2_ray.engines.fake import FakeBehaviour, FakeEngine
from vila2_ray.engines.live_fake import LiveFake
from vila2_ray.errors import CheckpointError, EngineDied, SampleError


def test_streamed_and_not_it_says_what_the_stepped_engine_says(make_requests: MakeRequests) -> None:
    requests = make_requests(6, max_tokens=30) + make_requests(2, prompts=("cut",), max_tokens=3)
    behaviour = FakeBehaviour(signature="by one")
    expected = generate_all(FakeEngine(behaviour=behaviour), requests[:6]) + generate_all(
        FakeEngine(behaviour=behaviour), requests[6:]
    )

    async def scenario() -> None:
        engine = LiveFake(4, behaviour)
        for streamed in (True, False):
            answers = await asyncio.gather(*(ask(engine, live(request, streamed)) for request in requests))
            for pieces, wanted in zip(answers, expected, strict=True):
                assert len(pieces) == (wanted.num_output_tokens if streamed else 1)
                assert whole(pieces) == wanted.text
                last = pieces[-1]
                assert (last.finish_reason, last.num_output_tokens) == (wanted.finish_reason, wanted.num_output_tokens)
                assert (last.mean_logprob, last.min_logprob) == (wanted.mean_logprob, wanted.min_logprob)
        assert engine.num_running == engine.num_aborted == 0

    asyncio.run(scenario())


def test_closing_and_cancelling_give_the_place_free(make_requests: MakeRequests) -> None:
    one, other = (live(request) for request in make_requests(2, max_tokens=30))

    async def scenario() -> None:
        engine = LiveFake(1, FakeBehaviour(seconds_per_token=600.0))
        async with aclosing(engine.generate(one)) as pieces:
            await anext(pieces)
            assert engine.num_running == 1
        assert (engine.num_running, engine.num_aborted) == (0, 1)
        task = asyncio.create_task(ask(engine, other))
        while not engine.num_running:
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait((task,))
        assert (engine.num_running, engine.num_aborted) == (0, 2)

    asyncio.run(scenario())


def test_death_ends_all_and_a_failing_image_itself(make_requests: MakeRequests) -> None:
    bad, deadly, good = (live(request) for request in make_requests(3, max_tokens=30))
    behaviour = FakeBehaviour(
        fail_image_keys=(bad.image_key,), die_image_keys=(deadly.image_key,), seconds_per_token=600.0
    )

    async def scenario() -> None:
        engine = LiveFake(4, behaviour)
        with pytest.raises(SampleError, match="told to"):
            await ask(engine, bad)
        await engine.check()
        running = asyncio.create_task(ask(engine, good))
        while not engine.num_running:
            await asyncio.sleep(0)
        with pytest.raises(EngineDied, match="of an image"):
            await ask(engine, deadly)
        for late in (running, ask(engine, good), engine.check()):
            with pytest.raises(EngineDied):
                await late
        await engine.close()
        await engine.close()

    asyncio.run(scenario())


def test_a_folder_says_how_it_behaves(tmp_path: Path, make_requests: MakeRequests) -> None:
    file, request = tmp_path / "fake.json", live(make_requests(1)[0])
    told = {"die_image_keys": ["*"], "max_deaths": 1, "note_aborts": True, "seconds_per_token": 600.0}
    file.write_text(json.dumps(told), "utf-8")

    async def scenario() -> None:
        dying = await LiveFake.open(tmp_path, 2)
        with pytest.raises(EngineDied):
            await ask(dying, request)
        living = await LiveFake.open(tmp_path, 2)
        async with aclosing(living.generate(request)) as pieces:
            await anext(pieces)
        assert (tmp_path / "aborted-0").exists()
        file.write_text(json.dumps({"load_failure": "was told to fail"}), "utf-8")
        with pytest.raises(CheckpointError, match="was told to fail"):
            await LiveFake.open(tmp_path, 2)

    asyncio.run(scenario())
