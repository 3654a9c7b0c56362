"""The follower, the routes and the fleet of one process together, with fake engines: no Ray, no waiting."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest

from tests.unit.serve.campaigns import FakeCampaign, ask, right
from vila2_ray.campaign.serving import Word, say
from vila2_ray.errors import EngineDied, NotReady, Overloaded, SampleError, StorageError
from vila2_ray.serve.captioner import Question, Standing
from vila2_ray.serve.follower import Follower
from vila2_ray.serve.following import Bounds
from vila2_ray.serve.local_fleet import LocalFleet
from vila2_ray.serve.routing import RoutingCaptioner
from vila2_ray.serve.worker import Worker, WorkerSpec

QUICK = ("serve.poll_seconds=0.01", "serve.drain_seconds=60")


@pytest.fixture
def campaign(tmp_path: Path) -> FakeCampaign:
    return FakeCampaign(tmp_path)


class World:
    """An endpoint in this process, and what a test does to it."""

    def __init__(self, campaign: FakeCampaign, *overrides: str) -> None:
        self.setup = campaign.setup(*QUICK, *overrides)
        self.fleet = LocalFleet(self.setup, self.open)
        self.broken: Exception | None = None
        self.num_opened = 0
        self.follower = self.new_follower()
        self.captioner = RoutingCaptioner(self.follower, self.fleet.line, self.setup.settings.models)

    async def open(self, spec: WorkerSpec) -> Worker:
        self.num_opened += 1
        if self.broken is not None:
            raise self.broken
        return await Worker.open(spec)

    def new_follower(self) -> Follower:
        settings, bounds = self.setup.settings, Bounds(self.setup.settings.load_timeout_seconds, grace_seconds=0.05)
        return Follower(settings.models, self.setup.look, self.fleet, bounds, settings.poll_seconds)

    def standing(self) -> Standing:
        return self.captioner.standing()[0]

    def key(self) -> str:
        """Of the version that questions go to."""
        [route] = self.captioner._table.routes.values()
        return route.key

    async def until(self, condition: Callable[[], object]) -> None:
        async def wait() -> None:
            while not condition():
                await asyncio.sleep(0.005)

        await asyncio.wait_for(wait(), 120.0)

    async def serves(self, model: str) -> None:
        await self.until(lambda: (served := self.standing().served) is not None and served.model == model)

    async def answer(self, question: Question) -> str:
        async with aclosing(self.captioner.answer(question)) as pieces:
            return "".join([said.piece.text async for said in pieces])


@asynccontextmanager
async def world(campaign: FakeCampaign, *overrides: str) -> AsyncIterator[World]:
    made = World(campaign, *overrides)
    task = asyncio.create_task(made.follower.run())
    await made.captioner.start()
    try:
        yield made
    finally:
        await made.captioner.close()
        task.cancel()
        await asyncio.wait((task,))
        await made.follower.close()
    assert await made.fleet.runs() == []


def test_it_follows_and_keeps_what_works(campaign: FakeCampaign) -> None:
    async def scenario() -> None:
        async with world(campaign) as here:
            await here.until(lambda: "nothing is promoted" in here.standing().detail)
            with pytest.raises(NotReady):
                await here.answer(ask(1))
            old = campaign.promote("0", seconds_per_token=0.002)
            await here.serves("vlm-0")
            slow = asyncio.create_task(here.answer(ask(2, streamed=True)))
            campaign.promote("1")
            await here.serves("vlm-1")
            assert await here.answer(ask(1)) == right(1, "vlm-1")
            assert await slow == right(2, "vlm-0"), "begun with the old one, ended with it"
            campaign.promote("2", load_failure="was told to fail")
            await here.until(lambda: "was told to fail" in here.standing().detail)
            campaign.promote("3", fail_image_keys=["*"])
            await here.until(lambda: "vlm-3" in here.standing().detail and "failed" in here.standing().detail)
            assert await here.answer(ask(1)) == right(1, "vlm-1")
            say(campaign.store, Word("promoted", "pin", old, "me", "to see"))
            await here.serves("vlm-0")
            assert here.standing().detail == "pinned by me: to see"
            campaign.promote("4")
            say(campaign.store, Word("promoted", "unpin", None, "me"))
            await here.serves("vlm-4")

    asyncio.run(scenario())


def test_a_checkpoint_that_failed_is_tried_again_when_an_operator_asks(campaign: FakeCampaign) -> None:
    async def scenario() -> None:
        async with world(campaign) as here:
            target = campaign.promote("0", load_failure="was told to fail")
            await here.until(lambda: here.standing().state == "failed")
            (campaign.folder / target.checkpoint / "fake.json").write_text('{"signature": "by vlm-0"}', "utf-8")
            say(campaign.store, Word("promoted", "pin", target, "me"))
            await here.serves("vlm-0")

    asyncio.run(scenario())


@pytest.mark.parametrize(("error", "passes"), [(struct.error("no header"), False), (StorageError("away"), True)])
def test_only_what_may_pass_is_tried_again(
    campaign: FakeCampaign, monkeypatch: pytest.MonkeyPatch, error: Exception, passes: bool
) -> None:
    monkeypatch.setattr("vila2_ray.serve.states.FIRST_WAIT_SECONDS", 0.01)

    async def scenario() -> None:
        async with world(campaign) as here:
            here.broken = error
            campaign.promote("0")
            await here.until(lambda: here.standing().state == "failed")
            assert ("tried again" in here.standing().detail) is passes
            here.broken = None
            if passes:
                await here.serves("vlm-0")
            else:
                for _ in range(10):
                    await here.follower.step()
                assert here.num_opened == 1

    asyncio.run(scenario())


def test_without_room_it_reloads_and_the_old_one_comes_back(campaign: FakeCampaign) -> None:
    async def scenario() -> None:
        async with world(campaign, "recaption.engine.gpus_per_actor=1") as here:
            campaign.promote("0")
            await here.serves("vlm-0")
            campaign.promote("1", load_failure="was told to fail", seconds_to_load=0.1)
            await here.until(lambda: here.standing().served is None and "made room" in here.standing().detail)
            await here.serves("vlm-0")
            assert "was told to fail" in here.standing().detail
            campaign.promote("2")
            await here.serves("vlm-2")

    asyncio.run(scenario())


def test_a_new_follower_goes_on_without_a_gap(campaign: FakeCampaign) -> None:
    async def scenario() -> None:
        async with world(campaign) as here:
            campaign.promote("0")
            await here.serves("vlm-0")
            second = here.new_follower()
            campaign.promote("1", seconds_to_load=0.05)
            await second.step()
            first = await asyncio.wait_for(asyncio.gather(second.table(""), steps(second)), 120.0)
            assert first[0].routes["promoted"].served.model in ("vlm-0", "vlm-1"), "never a table without a route"

    async def steps(follower: Follower) -> None:
        for _ in range(40):
            await follower.step()
            await asyncio.sleep(0.005)

    asyncio.run(scenario())


def test_what_is_served_stays_while_the_campaign_cannot_be_read(
    campaign: FakeCampaign, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with world(campaign) as here:
            campaign.promote("0")
            await here.serves("vlm-0")
            seen = []

            def broken() -> tuple[()]:
                seen.append(1)
                raise StorageError("the storage is away")

            monkeypatch.setattr(here.follower, "_look", broken)
            await here.until(lambda: len(seen) > 3)
            assert await here.answer(ask(1)) == right(1, "vlm-0")

    asyncio.run(scenario())


def test_bounds_bad_pictures_and_disconnects(campaign: FakeCampaign) -> None:
    async def scenario() -> None:
        async with world(campaign, "recaption.engine.batch_size=1", "serve.max_waiting=1") as here:
            campaign.promote("0", note_aborts=True, seconds_per_token=0.02)
            await here.serves("vlm-0")
            with pytest.raises(SampleError):
                await here.answer(Question(**{**vars(ask(1)), "image": b"no picture"}))
            streams = [here.captioner.answer(ask(k, streamed=True)) for k in range(2)]
            await anext(streams[0])
            waiting = asyncio.create_task(anext(streams[1]))  # type: ignore[arg-type]
            while (await here.fleet.worker(here.key())).num_in_hand < 2:
                await asyncio.sleep(0)
            with pytest.raises(Overloaded) as caught:
                await here.answer(ask(3))
            assert caught.value.retry_after_seconds >= 1
            await streams[0].aclose()
            await waiting
            await streams[1].aclose()
            assert len(list(campaign.folder.rglob("aborted-*"))) == 2

    asyncio.run(scenario())


def test_a_dead_engine_is_opened_again(campaign: FakeCampaign) -> None:
    async def scenario() -> None:
        async with world(campaign) as here:
            deadly = ask(5).image_key
            campaign.promote("0", die_image_keys=[deadly], max_deaths=1)
            await here.serves("vlm-0")
            assert await here.answer(ask(5)) == right(5, "vlm-0"), "asked once more, of the new engine"
            campaign.promote("1", die_image_keys=[deadly])
            await here.serves("vlm-1")
            with pytest.raises(EngineDied):
                await here.answer(ask(5))
            assert await here.answer(ask(6)) == right(6, "vlm-1")

    asyncio.run(scenario())
