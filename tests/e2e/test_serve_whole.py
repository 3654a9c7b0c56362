"""The whole endpoint but its model, over HTTP: it follows promotions while clients ask, and lets go of who leaves."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import httpx

from tests.e2e.served import PATIENCE_SECONDS, eventually, served
from tests.unit.serve.campaigns import FakeCampaign, picture, right
from tests.unit.serve.scripted import data_url, in_base64
from vila2_ray.serve.app import create_app
from vila2_ray.serve.configuring import Setup
from vila2_ray.serve.follower import Follower
from vila2_ray.serve.local_fleet import LocalFleet
from vila2_ray.serve.routing import RoutingCaptioner

NUM_CLIENTS = 8


class Following(RoutingCaptioner):
    """One with its follower and its engines, all in the event loop that serves."""

    def __init__(self, made: Setup) -> None:
        fleet, settings = LocalFleet(made), made.settings
        self.follower = Follower(settings.models, made.look, fleet, made.bounds, settings.poll_seconds)
        super().__init__(self.follower, fleet.line, settings.models)

    async def start(self) -> None:
        self.following = asyncio.create_task(self.follower.run())
        await super().start()

    async def close(self) -> None:
        await super().close()
        self.following.cancel()
        await asyncio.wait((self.following,))
        await self.follower.close()


class Clients:
    """They ask without a break, each in another way; every answer is its picture's and its checkpoint's own."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.by: Counter[str] = Counter()

    async def run(self, campaign: FakeCampaign) -> None:
        async with httpx.AsyncClient(base_url=self.url, timeout=PATIENCE_SECONDS) as http:
            asking = [asyncio.create_task(self._client(http, number)) for number in range(NUM_CLIENTS)]
            try:
                await self._until("vlm-0", asking)
                campaign.promote("1", seconds_per_token=0.002)
                await self._until("vlm-1", asking)
            finally:
                for task in asking:
                    task.cancel()
                await asyncio.gather(*asking, return_exceptions=True)

    async def _until(self, model: str, asking: list[asyncio.Task[None]]) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while self.by[model] < 5 * NUM_CLIENTS:
                await asyncio.sleep(0.01)
                for task in asking:
                    if task.done():
                        task.result()

    async def _client(self, http: httpx.AsyncClient, number: int) -> None:
        while True:
            number += NUM_CLIENTS
            text, model = await (self._caption if number % 2 else self._chat)(http, number)
            assert text == right(number, model)
            self.by[model] += 1

    async def _caption(self, http: httpx.AsyncClient, number: int) -> tuple[str, str]:
        body = {"images": [{"data": in_base64(picture(number))}], "question": "tell"}
        got = await http.post("/v1/captions", json=body)
        assert got.status_code == 200, got.text
        (caption,) = got.json()["captions"]
        checkpoint = caption["checkpoint"]
        assert got.headers["X-Vila2-Checkpoint"] == f"{checkpoint['model']}@{checkpoint['digest'][:12]}"
        return caption["text"], checkpoint["model"]

    async def _chat(self, http: httpx.AsyncClient, number: int) -> tuple[str, str]:
        shown: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": data_url(picture(number))}}]
        messages = [{"role": "user", "content": [*shown, {"type": "text", "text": "tell"}]}]
        got = await http.post("/v1/chat/completions", json={"model": "promoted", "messages": messages})
        assert got.status_code == 200, got.text
        answer = got.json()
        return answer["choices"][0]["message"]["content"], answer["system_fingerprint"].partition("@")[0]


def test_a_promotion_under_load_fails_no_request_and_mixes_none_up(tmp_path: Path) -> None:
    campaign = FakeCampaign(tmp_path)
    campaign.promote("0", seconds_per_token=0.002)
    made = campaign.setup()
    with served(create_app(Following(made), made.settings, made.prompts())) as url:
        eventually(lambda: httpx.get(f"{url}/readyz", timeout=PATIENCE_SECONDS).status_code == 200)
        clients = Clients(url)
        asyncio.run(clients.run(campaign))
        assert set(clients.by) == {"vlm-0", "vlm-1"}


def test_who_leaves_takes_the_work_out_of_the_engine(tmp_path: Path) -> None:
    campaign = FakeCampaign(tmp_path)
    campaign.promote("0", seconds_per_token=0.05, note_aborts=True)
    made = campaign.setup()
    captioner = Following(made)
    files, said = (
        {"image": ("a.png", picture(1))},
        {"question": "tell " * 600, "max_tokens": "600"},
    )  # the fake repeats it
    with served(create_app(captioner, made.settings, made.prompts())) as url:
        eventually(lambda: httpx.get(f"{url}/readyz", timeout=PATIENCE_SECONDS).status_code == 200)
        with httpx.stream("POST", f"{url}/v1/captions", files=files, data={**said, "stream": "true"}) as got:
            pieces = got.iter_bytes()
            next(pieces)
            assert not list(tmp_path.rglob("aborted-*"))
        eventually(lambda: len(list(tmp_path.rglob("aborted-*"))) == 1)
