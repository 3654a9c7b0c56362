"""A campaign's own model behind `vila2 serve`, asked through OpenAI's client: questions, and pairs by the rubric."""

from __future__ import annotations

import asyncio
import base64
import json
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from trials.endpoints import environment
from trials.processes import Server, free_port
from trials.written import Scene

from vila2_ray.errors import in_one_line
from vila2_ray.judge.rubric import CRITERIA
from vila2_ray.judge.study import Answer

if TYPE_CHECKING:
    from openai import AsyncOpenAI

START_SECONDS = 600.0
AT_ONCE = 32
ANSWER_TOKENS = VERDICT_TOKENS = 64
_SIDES: dict[str, Answer] = {"a": "first", "b": "second", "tie": "tie"}


@dataclass(frozen=True)
class Couple:
    """Two captions of one scene, of which the first is read first."""

    scene: int
    first: str
    second: str


@dataclass(frozen=True)
class Opinion:
    """What a judge says of a couple as it was shown; `problem`: why that is nothing."""

    answer: Answer | None
    problem: str = ""
    said: str = ""


class Judge(Protocol):
    """Says which of two captions makes up less."""

    async def __call__(self, scene: Scene, couple: Couple) -> Opinion: ...


@contextmanager
def served(campaign: str, model: str, log: Path) -> Iterator[str]:
    """The base URL of the campaign's endpoint while it runs. Raises SystemExit where it does not start."""
    port = free_port()
    command = [sys.executable, "-m", "vila2_ray.cli", "serve", campaign, f"serve.port={port}"]
    server = Server.start([*command, f"serve.models=[{model}]", "serve.access_log=false"], environment(), log)
    try:
        while not _is_ready(port):
            if server.process.poll() is not None:
                raise SystemExit(f"the endpoint of {campaign} ended: {server.log_tail()}")
            if time.monotonic() - server.began > START_SECONDS:
                raise SystemExit(f"the endpoint of {campaign} was not ready in time: {server.log_tail()}")
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.end()


def _is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=10) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@dataclass(frozen=True)
class Asker:
    """Asks one model about scenes, `AT_ONCE` questions at a time."""

    url: str
    model: str

    def answers(self, scenes: Mapping[int, Scene], asked: Sequence[tuple[int, str]]) -> dict[tuple[int, str], str]:
        """What is said to each question about a scene. Raises openai.APIError when the endpoint fails for good."""

        async def one(client: AsyncOpenAI, question: tuple[int, str]) -> str:
            return await say(client, self.model, scenes[question[0]], question[1], ANSWER_TOKENS)

        return dict(zip(asked, asyncio.run(self._all(one, asked)), strict=True))

    def opinions(self, scenes: Mapping[int, Scene], couples: Sequence[Couple]) -> list[Opinion]:
        """What is said of each couple, in order; what the endpoint refuses is an opinion with a problem."""

        async def one(client: AsyncOpenAI, couple: Couple) -> Opinion:
            judge: Judge = RubricJudge(client, self.model)
            return await judge(scenes[couple.scene], couple)

        return asyncio.run(self._all(one, couples))

    async def _all(self, one, given):  # type: ignore[no-untyped-def]
        from openai import AsyncOpenAI

        places = asyncio.Semaphore(AT_ONCE)
        async with AsyncOpenAI(base_url=self.url, api_key="none", max_retries=5, timeout=300.0) as client:

            async def placed(each):  # type: ignore[no-untyped-def]
                async with places:
                    return await one(client, each)

            return await asyncio.gather(*(placed(each) for each in given))


async def say(client: AsyncOpenAI, model: str, scene: Scene, text: str, max_tokens: int) -> str:
    """The greedy answer to a text beside the scene's picture, which is sent inline."""
    url = f"data:{scene.media_type};base64,{base64.b64encode(scene.encoded).decode()}"
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": text}]
    answer = await client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": content}],  # type: ignore[misc,list-item]
        max_tokens=max_tokens,
        temperature=0.0,
    )
    return answer.choices[0].message.content or ""


@dataclass(frozen=True)
class RubricJudge:
    """Asks for a JSON verdict on the rubric's hallucination."""

    client: AsyncOpenAI
    model: str

    async def __call__(self, scene: Scene, couple: Couple) -> Opinion:
        from openai import APIStatusError

        try:
            said = await say(self.client, self.model, scene, wording(couple), VERDICT_TOKENS)
        except APIStatusError as error:
            if error.status_code >= 500 or error.status_code in (401, 403, 429):
                raise
            return Opinion(None, f"refused: {in_one_line(error)}")  # a text that is too long for it, for example
        return read(said)


def wording(couple: Couple) -> str:
    """As short as it can be said: the tiny recipe's models have 512 positions, of which a picture takes its share."""
    criterion = CRITERIA["hallucination"]
    asks = f"Which caption {criterion.asks} {criterion.hint}"
    answer = 'Answer in JSON: {"hallucination": "A"}, "B" or "tie".'
    return f"A: {couple.first}\nB: {couple.second}\n{asks} {answer}"


def read(said: str) -> Opinion:
    """The verdict in an answer, words around it passed over."""
    start, stop = said.find("{"), said.rfind("}")
    try:
        found = json.loads(said[start : stop + 1])
        return Opinion(_SIDES[str(found["hallucination"]).strip().lower()], said=said)
    except (ValueError, KeyError, TypeError):
        return Opinion(None, "no verdict", said)
