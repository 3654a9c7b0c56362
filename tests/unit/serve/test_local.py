"""The captioner of one process: decodes, bounds who waits, and opens an engine again that died."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vila2_ray.config import EngineConfig, SamplingConfig
from vila2_ray.config.serving import ServeConfig
from vila2_ray.engines.fake import fake_caption, pixels_digest
from vila2_ray.engines.live import Turn
from vila2_ray.errors import EngineDied, NotReady, Overloaded, Reason, SampleError, UnknownModel
from vila2_ray.serve.captioner import Question, Said, Served
from vila2_ray.serve.local import LocalCaptioner

PICTURE = Image.effect_noise((12, 9), 60).convert("RGB")


def png(image: Image.Image = PICTURE) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def question(key: str = "q", name: str = "promoted", image: bytes | None = None, streamed: bool = True) -> Question:
    data = png() if image is None else image
    turns = (Turn("user", "describe"),)
    return Question(key, name, data, sha256(data).hexdigest(), turns, SamplingConfig(max_tokens=64), 0, streamed)


async def hear(captioner: LocalCaptioner, asked: Question) -> list[Said]:
    async with aclosing(captioner.answer(asked)) as answer:
        return [said async for said in answer]


async def ready(captioner: LocalCaptioner) -> None:
    while any(standing.state == "loading" for standing in captioner.standing()):
        await asyncio.sleep(0.001)


def run(
    folders: dict[str, Path],
    scenario: Callable[[LocalCaptioner], Awaitable[None]],
    capacity: int = 4,
    **settings: Any,
) -> None:
    async def serve() -> None:
        served = {
            name: (Served(name, f"vlm-{n}", "ab" * 32), folder) for n, (name, folder) in enumerate(folders.items())
        }
        captioner = LocalCaptioner(served, EngineConfig(name="fake"), ServeConfig(**settings), capacity=capacity)
        await captioner.start()
        try:
            await scenario(captioner)
        finally:
            await captioner.close()

    asyncio.run(serve())


def fake(folder: Path, **told: Any) -> Path:
    folder.mkdir()
    (folder / "fake.json").write_text(json.dumps(told), "utf-8")
    return folder


def test_questions_are_answered_by_whom_they_name(tmp_path: Path) -> None:
    folders = {"promoted": fake(tmp_path / "one"), "ocr": fake(tmp_path / "two", signature="reads")}

    async def scenario(captioner: LocalCaptioner) -> None:
        with pytest.raises(NotReady):
            await hear(captioner, question())
        await ready(captioner)
        expected = fake_caption(pixels_digest(PICTURE.size, PICTURE.tobytes()), "describe")
        for name, ending in (("promoted", ""), ("ocr", " reads")):
            for streamed in (True, False):
                answer = await hear(captioner, question(name=name, streamed=streamed))
                assert "".join(said.piece.text for said in answer) == expected + ending
                assert {(said.by.name, said.by.engine) for said in answer} == {(name, "fake 1")}
                assert (len(answer) > 1) == streamed
        with pytest.raises(UnknownModel, match="promoted, ocr"):
            await hear(captioner, question(name="nobody"))
        with pytest.raises(SampleError) as raised:
            await hear(captioner, question(image=b"not a picture"))
        assert raised.value.reason is Reason.IMAGE_TYPE
        assert [standing.state for standing in captioner.standing()] == ["serving", "serving"]

    run(folders, scenario)


def test_more_than_may_wait_are_told_when_to_come_again(tmp_path: Path) -> None:
    folders = {"promoted": fake(tmp_path / "slow", seconds_per_token=600.0)}

    async def scenario(captioner: LocalCaptioner) -> None:
        await ready(captioner)
        tasks = [asyncio.create_task(hear(captioner, question(f"{n}"))) for n in range(3)]
        await asyncio.sleep(0.01)
        with pytest.raises(Overloaded) as raised:
            await hear(captioner, question("late"))
        assert raised.value.retry_after_seconds >= 1
        tasks[0].cancel()
        await asyncio.wait((tasks[0],))
        tasks.append(asyncio.create_task(hear(captioner, question("in time"))))
        await asyncio.sleep(0.01)
        assert not tasks[-1].done()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    run(folders, scenario, capacity=1, max_waiting=2)


def test_an_engine_that_dies_is_opened_again_and_asked_again(tmp_path: Path) -> None:
    folders = {"promoted": fake(tmp_path / "dies", die_image_keys=["*"], max_deaths=1)}

    async def scenario(captioner: LocalCaptioner) -> None:
        await ready(captioner)
        answers = await asyncio.gather(*(hear(captioner, question(f"{n}")) for n in range(4)))
        assert all(answer[-1].piece.finish_reason == "stop" for answer in answers)
        assert captioner.standing()[0].state == "serving"

    run(folders, scenario)
    folders = {"promoted": fake(tmp_path / "always", die_image_keys=["*"])}

    async def hopeless(captioner: LocalCaptioner) -> None:
        await ready(captioner)
        with pytest.raises(EngineDied):
            await hear(captioner, question())
        await ready(captioner)
        assert captioner.standing()[0].state == "serving", "the next question may be another one"

    run(folders, hopeless)


def test_what_cannot_be_loaded_is_said_and_the_others_serve(tmp_path: Path) -> None:
    folders = {
        "ocr": fake(tmp_path / "broken", load_failure="has no weights"),
        "slow": fake(tmp_path / "slow", seconds_to_load=600.0),
        "promoted": fake(tmp_path / "fine"),
    }

    async def scenario(captioner: LocalCaptioner) -> None:
        await ready(captioner)
        broken, slow, fine = captioner.standing()
        assert (broken.state, slow.state, fine.state) == ("failed", "failed", "serving")
        assert "has no weights" in broken.detail
        assert "within 0.05 s" in slow.detail
        assert fine.served is not None
        assert fine.served.since > 0
        with pytest.raises(NotReady, match="has no weights"):
            await hear(captioner, question(name="ocr"))

    run(folders, scenario, load_timeout_seconds=0.05)
