"""The transformers engine on tiny random weights: answers do not depend on the company, and bad requests fail alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.unit.engines.conftest import MakeRequests
from vila2_ray.engines.base import Generation, GenerationRequest, generate_all
from vila2_ray.engines.transformers import TransformersEngine
from vila2_ray.errors import Reason


@pytest.fixture(scope="module")
def engine(vila_folder: Path) -> TransformersEngine:
    torch.set_num_threads(1)
    return TransformersEngine.load(vila_folder, torch.float32, batch_size=16)


def texts(answers: list[Generation]) -> list[tuple[str, int, str]]:
    return [(a.text, a.num_output_tokens, a.finish_reason) for a in answers]


def test_every_request_gets_its_own_answer_whatever_the_batch(
    engine: TransformersEngine, make_requests: MakeRequests
) -> None:
    requests = make_requests(11, prompts=("describe", "what is there in the image on the left"))
    together = generate_all(engine, requests)
    alone = [generate_all(engine, [request])[0] for request in requests]
    backwards = generate_all(engine, requests[::-1])[::-1]
    assert texts(together) == texts(alone) == texts(backwards)
    assert [a.key for a in together] == [r.key for r in requests]
    assert len({a.text for a in together}) > len(requests) // 2, (
        "random weights must tell the images apart, or this proves nothing"
    )
    for one, other in zip(together, alone, strict=True):
        assert one.mean_logprob == pytest.approx(other.mean_logprob, abs=1e-4)
        assert one.min_logprob == pytest.approx(other.min_logprob, abs=1e-4)


def test_sampling_goes_by_the_requests_own_seed(engine: TransformersEngine, make_requests: MakeRequests) -> None:
    requests = make_requests(6, temperature=1.0, top_p=0.9)
    together = texts(generate_all(engine, requests))
    assert together == [texts(generate_all(engine, [request]))[0] for request in requests]
    assert together != texts(generate_all(engine, make_requests(6)))


def test_the_lean_loop_says_what_transformers_generate_says(
    engine: TransformersEngine, make_requests: MakeRequests
) -> None:
    requests = make_requests(5, prompts=("describe", "where is the cat in the picture"), min_tokens=3)
    lean = generate_all(engine, requests)
    usual = generate_all(TransformersEngine(engine.model, engine.processor, 16, lean=False), requests)
    assert texts(lean) == texts(usual)
    for one, other in zip(lean, usual, strict=True):
        assert one.mean_logprob == pytest.approx(other.mean_logprob, abs=1e-4)
        assert one.min_logprob == pytest.approx(other.min_logprob, abs=1e-4)


def test_it_is_transformers_own_greedy_search(
    vila_folder: Path, engine: TransformersEngine, make_requests: MakeRequests
) -> None:
    """Against a model loaded afresh, with all its layers, driven by the processor and `generate` alone."""
    from vila2_ray.model.loading import load_model, load_processor

    model, processor = load_model(vila_folder, torch.float32), load_processor(vila_folder)
    request = make_requests(1, max_tokens=8, min_tokens=8)[0]
    turn = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": request.prompt}]}]
    text = processor.apply_chat_template(turn, add_generation_prompt=True)
    inputs = processor(text=text, images=request.image, return_tensors="pt")
    out = model.generate(
        **inputs, do_sample=False, max_new_tokens=8, min_new_tokens=8, output_logits=True, return_dict_in_generate=True
    )
    chosen = out.sequences[0, inputs["input_ids"].shape[1] :]
    logprobs = [step.float().log_softmax(-1)[0, token].item() for step, token in zip(out.logits, chosen, strict=True)]
    answer = generate_all(engine, [request])[0]
    assert answer.text == processor.tokenizer.decode(chosen, skip_special_tokens=True).strip()
    assert answer.mean_logprob == pytest.approx(sum(logprobs) / 8, abs=1e-4)
    assert answer.min_logprob == pytest.approx(min(logprobs), abs=1e-4)


def test_length_is_a_reason_to_finish(engine: TransformersEngine, make_requests: MakeRequests) -> None:
    answer = generate_all(engine, make_requests(1, max_tokens=2, min_tokens=2))[0]
    assert (answer.finish_reason, answer.num_output_tokens) == ("length", 2)


def test_one_image_is_encoded_once_for_all_its_prompts(
    engine: TransformersEngine, make_requests: MakeRequests, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = []
    original = type(engine.model).get_image_features

    def counting(self: object, pixel_values: torch.Tensor, **kwargs: object) -> object:
        encoded.append(len(pixel_values))
        return original(self, pixel_values=pixel_values, **kwargs)

    monkeypatch.setattr(type(engine.model), "get_image_features", counting)
    generate_all(engine, make_requests(4, prompts=("a", "b", "c")))
    assert sum(encoded) == 4


def test_a_request_that_cannot_be_answered_fails_alone(engine: TransformersEngine, make_requests: MakeRequests) -> None:
    requests = make_requests(7)
    before = texts(generate_all(engine, requests))
    bad = requests[3]
    closed = Image.new("RGB", (8, 8))
    closed.close()
    requests[3] = GenerationRequest(bad.key, bad.image_key, closed, bad.prompt, bad.seed, bad.sampling)
    answers = generate_all(engine, requests)
    assert answers[3].problem is not None
    assert answers[3].problem.reason is Reason.ENGINE_ERROR
    assert "/" not in answers[3].problem.detail
    assert texts(answers[:3] + answers[4:]) == before[:3] + before[4:]


def test_running_out_of_memory_halves_the_batch(
    vila_folder: Path, make_requests: MakeRequests, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = TransformersEngine.load(vila_folder, torch.float32, batch_size=8)
    original, sizes = TransformersEngine._generate, []

    def hungry(self: TransformersEngine, batch: list[GenerationRequest]) -> list[Generation]:
        sizes.append(len(batch))
        if len(batch) > 3:
            raise torch.OutOfMemoryError("no")
        return original(self, batch)

    monkeypatch.setattr(TransformersEngine, "_generate", hungry)
    answers = generate_all(engine, make_requests(16))
    assert all(a.problem is None for a in answers)
    assert engine.batch_size == 2
    assert max(sizes[3:]) <= 4, "what did not fit is not tried again"


def test_a_key_is_held_once(engine: TransformersEngine, make_requests: MakeRequests) -> None:
    request = make_requests(1)[0]
    engine.add(request)
    with pytest.raises(ValueError, match="already pending"):
        engine.add(request)
    engine.step()
