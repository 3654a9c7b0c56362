from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from tests.unit.serve.rawasgi import PATIENCE_SECONDS
from tests.unit.serve.scripted import SETTINGS, ScriptedCaptioner, png, said_of, served
from vila2_ray.config import SamplingConfig
from vila2_ray.engines.live import Turn
from vila2_ray.serve.answering import (
    Answer,
    Asked,
    Delta,
    Departed,
    Failed,
    Whole,
    answers,
    collected,
    opened,
    while_connected,
)
from vila2_ray.serve.asking import Addressee, ask
from vila2_ray.serve.intake import picture
from vila2_ray.serve.metrics import Metrics
from vila2_ray.serve.problems import Problem

RED = png("red")
NOBODY_SECONDS = 3600.0


def asked(
    text: str, *, streamed: bool = True, stops: tuple[str, ...] = (), model: str = "", data: bytes = RED
) -> Asked:
    to = Addressee("promoted", model=model)
    question = ask(
        picture(RED, SETTINGS), to, (Turn("user", text),), SamplingConfig(), None, request_id="r", streamed=streamed
    )
    return Asked(question, to, stops)


def run(work: Coroutine[Any, Any, Any]) -> Any:
    async def patiently() -> Any:
        return await asyncio.wait_for(work, PATIENCE_SECONDS)

    return asyncio.run(patiently())


def all_of(captioner: ScriptedCaptioner, *questions: Asked | Problem, seconds: float = NOBODY_SECONDS) -> list[Any]:
    async def work() -> list[Any]:
        return [event async for event in answers(captioner, questions, seconds, Metrics(captioner.standing))]

    return run(work())


def test_pieces_joined_are_the_whole() -> None:
    *deltas, whole = all_of(ScriptedCaptioner(), asked("What?"))
    assert all(isinstance(delta, Delta) for delta in deltas)
    assert "".join(delta.text for delta in deltas) == whole.answer.text == said_of(RED, "What?")
    assert whole.answer.finish_reason == "stop"
    assert whole.answer.num_output_tokens == 6
    assert whole.answer.num_prompt_tokens == 11
    assert whole.answer.by == served("promoted")
    assert 0 <= whole.answer.waiting_seconds <= whole.answer.total_seconds


def test_one_that_is_not_streamed_comes_at_once() -> None:
    (whole,) = all_of(ScriptedCaptioner(), asked("What?", streamed=False))
    assert whole.answer.text == said_of(RED, "What?")


def test_several_questions_and_one_that_could_not_be_asked() -> None:
    bad = Problem(415, "image-type", "No", "no")
    events = all_of(ScriptedCaptioner(), asked("One?", streamed=False), bad, asked("refuse", streamed=False))
    assert {event.index: type(event) for event in events} == {0: Whole, 1: Failed, 2: Failed}
    assert next(event for event in events if event.index == 1).problem is bad


@pytest.mark.parametrize(
    ("text", "status", "slug"),
    [
        ("die", 503, "engine-died"),
        ("midway", 503, "engine-died"),
        ("torn", 503, "engine-died"),
        ("full", 429, "overloaded"),
        ("refuse", 422, "not-answerable"),
        ("break", 500, "internal"),
    ],
)
def test_errors_become_problems(text: str, status: int, slug: str, caplog: pytest.LogCaptureFixture) -> None:
    captioner = ScriptedCaptioner()
    problem = all_of(captioner, asked(text))[-1].problem
    assert (problem.status, problem.slug) == (status, slug)
    assert "secret" not in problem.detail
    assert ("secret internals" in caplog.text) == (text == "break")
    assert not captioner.running


def test_a_late_answer_is_given_up() -> None:
    captioner = ScriptedCaptioner()
    assert all_of(captioner, asked("silence"), seconds=0.05)[-1].problem.status == 504
    assert len(captioner.aborted) == 1
    assert not captioner.running


def test_a_stop_text_ends_the_engines_work() -> None:
    captioner = ScriptedCaptioner()
    *deltas, whole = all_of(captioner, asked("stall", stops=(" sees",)))
    assert whole.answer.text == "".join(delta.text for delta in deltas) == "vlm-1"
    assert whole.answer.finish_reason == "stop"
    assert captioner.aborted == [captioner.questions[0].key]


def test_another_checkpoint_never_answers_by_the_first_ones_name() -> None:
    captioner = ScriptedCaptioner()
    assert isinstance(all_of(captioner, asked("What?", model="vlm-1"))[-1], Whole)
    captioner.put("promoted", served("promoted", "vlm-2"))
    assert all_of(captioner, asked("What?", model="vlm-1"))[-1].problem.status == 404


def test_closing_ends_the_work_on_all() -> None:
    captioner = ScriptedCaptioner()

    async def work() -> None:
        events = answers(captioner, [asked("stall"), asked("silence")], NOBODY_SECONDS, Metrics())
        await anext(events)
        assert len(captioner.running) == 2
        await events.aclose()
        assert len(captioner.aborted) == 2

    run(work())
    assert not captioner.running


def test_many_events_wait_for_a_reader_that_is_slow() -> None:
    captioner = ScriptedCaptioner()
    long = " ".join(f"word{number}" for number in range(600))

    async def work() -> Answer:
        question = asked(long)
        object.__setattr__(question.question, "sampling", SamplingConfig(max_tokens=1000))
        events = answers(captioner, [question], NOBODY_SECONDS, Metrics())
        await anext(events)
        for _ in range(1000):
            await asyncio.sleep(0)
        assert captioner.running, "held back until somebody reads"
        return [event async for event in events][-1].answer

    assert run(work()).text == said_of(RED, long)


def test_opened_knows_who_answers_or_why_nobody_does() -> None:
    async def work(*texts: str) -> tuple[int, str]:
        captioner = ScriptedCaptioner()
        events = answers(captioner, [asked(text) for text in texts], NOBODY_SECONDS, Metrics())
        try:
            seen, by = await opened(events)
            return len(seen), by.model
        finally:
            await events.aclose()
            assert not captioner.running

    assert run(work("What?")) == (1, "vlm-1")
    assert run(work("refuse", "What?"))[1] == "vlm-1"
    with pytest.raises(Problem) as refused:
        run(work("full", "die"))
    assert refused.value.status == 429


def test_collected_raises_only_where_nothing_was_answered() -> None:
    async def work(*texts: str) -> list[Any]:
        questions = [asked(text) for text in texts]
        return await collected(answers(ScriptedCaptioner(), questions, NOBODY_SECONDS, Metrics()), len(texts))

    found = run(work("die", "What?"))
    assert isinstance(found[0], Problem)
    assert isinstance(found[1], Answer)
    with pytest.raises(Problem) as refused:
        run(work("refuse", "die"))
    assert refused.value.status == 422


def test_while_connected() -> None:
    async def forever() -> dict[str, str]:
        await asyncio.Event().wait()
        raise AssertionError

    async def leaves() -> dict[str, str]:
        return {"type": "http.disconnect"}

    async def work() -> None:
        assert await while_connected(forever, asyncio.sleep(0, "done")) == "done"
        stopped = asyncio.Event()

        async def long() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                stopped.set()

        with pytest.raises(Departed):
            await while_connected(leaves, long())
        assert stopped.is_set()
        outer = asyncio.ensure_future(while_connected(forever, long()))
        stopped.clear()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        outer.cancel()
        with pytest.raises(asyncio.CancelledError):
            await outer
        assert stopped.is_set()

    run(work())
