from __future__ import annotations

import asyncio
import dataclasses
from contextlib import aclosing
from pathlib import Path

from tests.unit.serve.campaigns import FakeCampaign, ask
from vila2_ray.engines.fake import FakeBehaviour
from vila2_ray.engines.live_fake import LiveFake
from vila2_ray.serve.captioner import Question
from vila2_ray.serve.states import Version
from vila2_ray.serve.worker import MOST_PICTURES, Worker

PIXELS = 22 * 16
"""Of the largest picture that these tests ask about."""


def test_so_many_large_pictures_are_in_memory_and_no_more(tmp_path: Path) -> None:
    campaign = FakeCampaign(tmp_path)
    version = Version("promoted", campaign.promote("0"))
    spec = dataclasses.replace(campaign.setup().worker(version), max_pixels=PIXELS)

    async def scenario() -> None:
        engine = LiveFake(128, FakeBehaviour(seconds_per_token=600.0))
        worker = Worker(spec, engine)

        async def hold(question: Question) -> None:
            async with aclosing(worker.answer(question)) as pieces:
                async for _ in pieces:
                    pass

        largest = ask(6)  # 22 × 16
        tasks = [asyncio.create_task(hold(dataclasses.replace(largest, key=f"{n}"))) for n in range(40)]
        while engine.num_running < MOST_PICTURES:
            await asyncio.sleep(0.001)
        assert worker.num_in_hand == 40
        assert worker._pixels.left == 0
        for task in tasks:
            task.cancel()
            await asyncio.wait((task,))
            assert engine.num_running <= MOST_PICTURES
        assert (worker.num_in_hand, worker._pixels.left) == (0, MOST_PICTURES * PIXELS)
        await worker.close()

    asyncio.run(asyncio.wait_for(scenario(), 120))
