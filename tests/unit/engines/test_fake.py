"""The fake engine and the two ways to drive any engine."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.unit.engines.conftest import MakeRequests
from vila2_ray.engines.base import GenerationRequest, generate, generate_all
from vila2_ray.engines.fake import FakeBehaviour, FakeEngine, image_digest
from vila2_ray.errors import EngineDied, Reason


def test_answers_name_image_and_prompt_and_come_in_the_order_of_requests(make_requests: MakeRequests) -> None:
    requests = make_requests(10, prompts=("describe", "locate"))
    answers = generate_all(FakeEngine(batch_size=3), requests)
    for request, answer in zip(requests, answers, strict=True):
        assert answer.key == request.key
        assert image_digest(request) in answer.text or answer.finish_reason == "length"
    assert answers == generate_all(FakeEngine(batch_size=7), requests)


def test_requests_are_read_as_there_is_room(make_requests: MakeRequests) -> None:
    engine, ahead = FakeEngine(batch_size=4), []

    def reading() -> Iterator[GenerationRequest]:
        for number, request in enumerate(make_requests(20)):
            ahead.append(engine.num_pending)
            assert engine.num_pending < 4, number
            yield request

    assert len(list(generate(engine, reading()))) == 20
    assert len(ahead) == 20


def test_failures_and_death_happen_as_told(make_requests: MakeRequests) -> None:
    requests = make_requests(4)
    victims = (requests[2].image_key,)
    failing = FakeEngine(behaviour=FakeBehaviour(fail_image_keys=victims))
    problems = [a.problem for a in generate_all(failing, requests)]
    assert [p.reason if p else None for p in problems] == [None, None, Reason.ENGINE_ERROR, None]
    with pytest.raises(EngineDied):
        generate_all(FakeEngine(behaviour=FakeBehaviour(die_image_keys=victims)), requests)
    with pytest.raises(EngineDied):
        generate_all(FakeEngine(batch_size=2, behaviour=FakeBehaviour(die_after_steps=1)), make_requests(4))


def test_equal_keys_are_refused(make_requests: MakeRequests) -> None:
    requests = make_requests(2)
    with pytest.raises(ValueError, match="same key"):
        generate_all(FakeEngine(), [requests[0], requests[0]])
