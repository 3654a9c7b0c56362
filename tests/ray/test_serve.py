"""An endpoint on Ray Serve with fake engines: it rolls over, keeps what works, and no answer lands on another."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.unit.serve.campaigns import FakeCampaign, ask, right
from vila2_ray.campaign.serving import Word, say
from vila2_ray.errors import NotReady, Overloaded, SampleError
from vila2_ray.serve.captioner import Question, Standing
from vila2_ray.serve.cluster import ENVIRONMENT, QUIET
from vila2_ray.serve.routing import RoutingCaptioner

PATIENCE_SECONDS = 180.0


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One Ray with Serve for the module, with two CPUs and four pretended places for engines."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        import ray
        from ray import serve
        from ray.serve.context import _set_global_client

        ray.init(
            address="local",
            num_cpus=4,
            num_gpus=1,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="error",
            object_store_memory=200_000_000,
            runtime_env={"env_vars": {"PYTHONPATH": os.environ.get("PYTHONPATH", "")}},
        )
        serve.start(proxy_location="Disabled", logging_config=QUIET)
        yield
        ray.shutdown()
        _set_global_client(None)  # else the next module's Serve is looked for on this cluster


@asynccontextmanager
async def endpoint(campaign: FakeCampaign, *overrides: str) -> AsyncIterator[RoutingCaptioner]:
    """What `vila2 serve` runs, without the app."""
    from vila2_ray.serve.fleet import ServeFleet
    from vila2_ray.serve.follower import Follower
    from vila2_ray.serve.line import ServeLine

    made = campaign.setup("recaption.engine.cpus_per_actor=0.5", "serve.drain_seconds=20", *overrides)
    prefix = f"{campaign.folder.name}."
    settings = made.settings
    follower = Follower(settings.models, made.look, ServeFleet(made, prefix), made.bounds, settings.poll_seconds)
    captioner = RoutingCaptioner(follower, lambda key: ServeLine(prefix + key), settings.models)
    task = asyncio.create_task(follower.run())
    await captioner.start()
    try:
        yield captioner
    finally:
        await captioner.close()
        task.cancel()
        await asyncio.wait((task,))
        await follower.close()


async def until(condition: Callable[[], Any], what: str) -> None:
    patience = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < patience, what
        await asyncio.sleep(0.02)


def standing(captioner: RoutingCaptioner, name: str = "promoted") -> Standing:
    return next(each for each in captioner.standing() if each.name == name)


def serves(captioner: RoutingCaptioner, model: str, name: str = "promoted") -> Callable[[], bool]:
    def told() -> bool:
        served = standing(captioner, name).served
        return served is not None and served.model == model

    return told


async def answer(captioner: RoutingCaptioner, question: Question) -> tuple[str, str]:
    """The text, and which model said it."""
    async with aclosing(captioner.answer(question)) as pieces:
        said = [piece async for piece in pieces]
    assert len({each.by for each in said}) == 1
    return "".join(each.piece.text for each in said), said[0].by.model


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(scenario())


class Clients:
    """Twenty of them ask without a break; every answer must be its picture's and its checkpoint's own."""

    def __init__(self, captioner: RoutingCaptioner, count: int = 20) -> None:
        self.captioner, self.num_answers = captioner, 0
        self.by: dict[str, int] = {}
        self.stopped = False
        self.tasks = [asyncio.create_task(self.client(k)) for k in range(count)]

    async def client(self, k: int) -> None:
        number = 1000 * k
        while not self.stopped:
            text, model = await answer(self.captioner, ask(number, streamed=bool(number % 2)))
            assert text == right(number, model)
            self.by[model] = self.by.get(model, 0) + 1
            self.num_answers += 1
            number += 1

    async def stop(self) -> None:
        self.stopped = True
        await asyncio.gather(*self.tasks)


def test_it_rolls_over_under_load_and_keeps_what_works(serving: None, tmp_path: Path) -> None:
    campaign = FakeCampaign(tmp_path)
    campaign.promote("0", seconds_per_token=0.005)

    async def scenario() -> None:
        async with endpoint(campaign) as captioner:
            await until(serves(captioner, "vlm-0"), "the first checkpoint loads")
            clients = Clients(captioner)
            await until(lambda: clients.by.get("vlm-0", 0) > 40, "answers come")
            campaign.promote("1", seconds_per_token=0.005)
            await until(lambda: clients.by.get("vlm-1", 0) > 40, "the promoted one answers")
            campaign.promote("2", load_failure="was told to fail")
            await until(lambda: "was told to fail" in standing(captioner).detail, "a failed load is told")
            campaign.promote("3", fail_image_keys=["*"])
            await until(lambda: "vlm-3" in standing(captioner).detail, "it is tried")
            await until(lambda: "failed" in standing(captioner).detail, "a failed smoke caption is told")
            assert serves(captioner, "vlm-1")()
            say(campaign.store, Word("promoted", "rollback", campaign.train("0", "vlm-0"), "me", "to try"))
            await until(lambda: serves(captioner, "vlm-0")() and "me" in standing(captioner).detail, "a rollback")
            campaign.promote("4")
            count = clients.num_answers
            await until(lambda: clients.num_answers > count + 100, "answers go on")
            assert serves(captioner, "vlm-0")(), "a promotion does not override an operator"
            say(campaign.store, Word("promoted", "unpin", None, "me"))
            await until(lambda: clients.by.get("vlm-4", 0) > 20, "the promoted one answers again")
            await clients.stop()
            assert set(clients.by) == {"vlm-0", "vlm-1", "vlm-4"}

    run(scenario)


def test_models_side_by_side_bad_pictures_bounds_and_disconnects(serving: None, tmp_path: Path) -> None:
    campaign = FakeCampaign(tmp_path)
    campaign.promote("0", seconds_per_token=0.2, note_aborts=True)
    campaign.train("ocr", "ocr")
    bounds = ("serve.models=[promoted,ocr]", "recaption.engine.batch_size=2", "serve.max_waiting=1")

    async def scenario() -> None:
        async with endpoint(campaign, *bounds) as captioner:
            await until(lambda: serves(captioner, "vlm-0")() and serves(captioner, "ocr", "ocr")(), "both load")
            assert await answer(captioner, ask(1, "ocr")) == (right(1, "ocr"), "ocr")
            bad = ask(1)
            with pytest.raises(SampleError):
                await answer(captioner, Question(**{**vars(bad), "image": b"no picture"}))

            endless = "tell " * 400  # the fake repeats it, so that nobody is done while the others come
            streams = [captioner.answer(ask(k, streamed=True, prompt=endless, max_tokens=400)) for k in range(2)]
            for stream in streams:
                await anext(stream)
            waiting = [asyncio.create_task(answer(captioner, ask(k))) for k in (7, 8)]
            done, _ = await asyncio.wait(waiting, timeout=PATIENCE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            [refused] = [task.exception() for task in done]
            assert isinstance(refused, Overloaded), "one waits, the other is one too many"
            assert refused.retry_after_seconds >= 1

            def aborted() -> int:
                return len(list(campaign.folder.rglob("aborted-*")))

            for task in waiting:
                task.cancel()
            for stream in streams:
                await stream.aclose()
            await until(lambda: aborted() >= 2, "what nobody waits for leaves the engine")
            assert (await answer(captioner, ask(9, max_tokens=1)))[1] == "vlm-0", "and there is room again"

    run(scenario)


def test_without_room_it_reloads_openly(serving: None, tmp_path: Path) -> None:
    campaign = FakeCampaign(tmp_path)
    campaign.promote("0")

    async def scenario() -> None:
        async with endpoint(campaign, "recaption.engine.gpus_per_actor=1") as captioner:
            await until(serves(captioner, "vlm-0"), "the first checkpoint loads")
            campaign.promote("1", load_failure="was told to fail", seconds_to_load=2.0)
            await until(lambda: "made room" in standing(captioner).detail, "it is said")
            with pytest.raises(NotReady, match="made room"):
                await answer(captioner, ask(1))
            await until(serves(captioner, "vlm-0"), "the old one comes back")
            assert "was told to fail" in standing(captioner).detail
            campaign.promote("2")
            await until(serves(captioner, "vlm-2"), "another one is loaded in its place")
            assert await answer(captioner, ask(1)) == (right(1, "vlm-2"), "vlm-2")

    run(scenario)


@pytest.mark.slow
def test_replicas_come_and_go_and_may_die(serving: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray
    from ray.util import list_named_actors

    from vila2_ray.serve import fleet

    monkeypatch.setattr(fleet, "UPSCALE_SECONDS", 1.0)
    monkeypatch.setattr(fleet, "DOWNSCALE_SECONDS", 3.0)
    campaign = FakeCampaign(tmp_path)
    campaign.promote("0", seconds_per_token=0.02)

    def replicas() -> list[str]:
        names = [each["name"] for each in list_named_actors(all_namespaces=True)]
        return [name for name in names if f"{tmp_path.name}." in name]

    async def scenario() -> None:
        few = ("recaption.engine.batch_size=4", "serve.max_waiting=40", "serve.max_replicas=3")
        async with endpoint(campaign, *few) as captioner:
            await until(serves(captioner, "vlm-0"), "it loads")
            clients = Clients(captioner, 12)
            await until(lambda: len(replicas()) >= 2, "full ones get another beside them")
            count = clients.num_answers
            await until(lambda: clients.num_answers > count + 50, "all answer")
            await clients.stop()
            whole = Whole(captioner)
            await until(lambda: whole.num_answers > 20, "answers in one piece come")
            ray.kill(ray.get_actor(replicas()[0], namespace="serve"))
            count = whole.num_answers
            await until(lambda: whole.num_answers > count + 200, "what was lost was asked again")
            await whole.stop()
            await until(lambda: len(replicas()) == 1, "idle ones go")
            assert await answer(captioner, ask(1)) == (right(1, "vlm-0"), "vlm-0")

    run(scenario)


class Whole(Clients):
    """Who wants answers in one piece loses none when a replica dies."""

    async def client(self, k: int) -> None:
        number = 1000 * k
        while not self.stopped:
            assert await answer(self.captioner, ask(number)) == (right(number, "vlm-0"), "vlm-0")
            self.num_answers += 1
            number += 1
