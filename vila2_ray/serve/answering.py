"""Drives a captioner: several questions at once, each in time, and only while somebody listens."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import TypeVar

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from vila2_ray.errors import EngineDied
from vila2_ray.serve.asking import Addressee
from vila2_ray.serve.captioner import Captioner, Question, Served
from vila2_ray.serve.logs import SERVE
from vila2_ray.serve.metrics import Metrics
from vila2_ray.serve.problems import Problem, problem_of
from vila2_ray.serve.stops import Cut

T = TypeVar("T")
_LOG = logging.getLogger(SERVE)
_AHEAD = 256
"""Events that wait for a client that reads slowly, before its answers are held back."""


class Departed(ClientDisconnect):
    """The client went away before its answer was whole."""


@dataclass(frozen=True)
class Asked:
    """A question with what the captioner need not know."""

    question: Question
    to: Addressee
    stops: tuple[str, ...] = ()
    """Texts at which the answer ends, without them."""


@dataclass(frozen=True)
class Answer:
    """All of an answer."""

    text: str
    finish_reason: str
    num_prompt_tokens: int
    num_output_tokens: int
    mean_logprob: float | None
    min_logprob: float | None
    by: Served
    waiting_seconds: float
    """Until its first piece."""
    total_seconds: float


@dataclass(frozen=True)
class Delta:
    """New text of one answer."""

    index: int
    text: str
    by: Served


@dataclass(frozen=True)
class Whole:
    """One answer's end."""

    index: int
    answer: Answer


@dataclass(frozen=True)
class Failed:
    """One answer's other end."""

    index: int
    problem: Problem


Event = Delta | Whole | Failed
Put = Callable[[Event], Awaitable[None]]


async def answers(
    captioner: Captioner, asked: Sequence[Asked | Problem], seconds: float, metrics: Metrics
) -> AsyncGenerator[Event, None]:
    """What is said to all questions, as it comes: deltas of those that are streamed, one Whole or Failed for each.

    `seconds` bounds each answer. Closing the generator ends the work on all of them.
    """
    events: asyncio.Queue[Event] = asyncio.Queue(_AHEAD)
    running = [
        asyncio.create_task(_in_time(captioner, index, one, seconds, events.put, metrics))
        for index, one in enumerate(asked)
        if not isinstance(one, Problem)
    ]
    try:
        for index, one in enumerate(asked):
            if isinstance(one, Problem):
                yield Failed(index, one)
        left = len(running)
        while left:
            event = await events.get()
            left -= not isinstance(event, Delta)
            yield event
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def collected(events: AsyncGenerator[Event, None], num: int) -> list[Answer | Problem]:
    """The ends of all `num` answers, in order. Raises the first one's Problem when none came to a good end."""
    ends: dict[int, Answer | Problem] = {}
    async with aclosing(events):
        async for event in events:
            if not isinstance(event, Delta):
                ends[event.index] = event.answer if isinstance(event, Whole) else event.problem
    found = [ends[index] for index in range(num)]
    _raise_if_all_failed(found)
    return found


async def opened(events: AsyncGenerator[Event, None]) -> tuple[list[Event], Served]:
    """The events until one is no failure, and who said it: what a stream must know before its headers go out.

    Raises the first answer's Problem, and closes the generator, when there is none.
    """
    seen: list[Event] = []
    try:
        async for event in events:
            seen.append(event)
            if isinstance(event, Delta):
                return seen, event.by
            if isinstance(event, Whole):
                return seen, event.answer.by
    except BaseException:
        await events.aclose()
        raise
    failed = sorted((event for event in seen if isinstance(event, Failed)), key=lambda event: event.index)
    raise failed[0].problem


async def while_connected(receive: Receive, work: Awaitable[T]) -> T:
    """What `work` comes to. It is cancelled, and Departed raised, when the client goes away first."""
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(gone(receive))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise Departed
    finally:
        working.cancel()
        watching.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def gone(receive: Receive) -> None:
    """Returns when the client has gone away; its body must have been read."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _in_time(captioner: Captioner, index: int, asked: Asked, seconds: float, put: Put, metrics: Metrics) -> None:
    """One answer's events into `put`; whatever it raises becomes its Failed."""
    try:
        with metrics.question(asked.question.name) as measured:
            answer = await asyncio.wait_for(_said(captioner, index, asked, put, measured.begun), seconds)
            measured.ended(answer.finish_reason, answer.num_prompt_tokens, answer.num_output_tokens)
        await put(Whole(index, answer))
    except Exception as error:
        problem = problem_of(error)
        if problem.slug == "internal":
            _LOG.error("question %s failed", asked.question.key, exc_info=error)
        await put(Failed(index, problem))


async def _said(captioner: Captioner, index: int, asked: Asked, put: Put, begun: Callable[[], None]) -> Answer:
    began = time.perf_counter()
    first, num_prompt_tokens, texts, cut = 0.0, 0, [], Cut(asked.stops)
    async with aclosing(captioner.answer(asked.question)) as pieces:
        async for said in pieces:
            piece, by = said.piece, said.by
            if not first:
                asked.to.check(by)
                begun()
                first = time.perf_counter()
            num_prompt_tokens = piece.num_prompt_tokens or num_prompt_tokens
            text = cut.feed(piece.text)
            if piece.finish_reason and not cut.stopped:
                text += cut.rest()
            if text:
                texts.append(text)
                if asked.question.streamed:
                    await put(Delta(index, text, by))
            if piece.finish_reason or cut.stopped:
                return Answer(
                    text="".join(texts),
                    finish_reason="stop" if cut.stopped else piece.finish_reason,
                    num_prompt_tokens=num_prompt_tokens,
                    num_output_tokens=piece.num_output_tokens,
                    mean_logprob=piece.mean_logprob,
                    min_logprob=piece.min_logprob,
                    by=by,
                    waiting_seconds=first - began,
                    total_seconds=time.perf_counter() - began,
                )
    raise EngineDied("the answer broke off before its end")


def _raise_if_all_failed(found: Sequence[Answer | Problem]) -> None:
    if all(isinstance(one, Problem) for one in found):
        assert isinstance(found[0], Problem)
        raise found[0]
