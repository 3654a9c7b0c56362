"""Proof that a finished folder is served as it was trained: vLLM must answer a probe as transformers does.

vLLM runs in a program of its own, which leaves no memory behind. Both decode greedily in float32. A step's most likely
tokens are compared by log-probability; where the two take different tokens, that is allowed only between tokens that
are as likely, and what follows is not compared.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vila2_ray.config import EngineConfig
from vila2_ray.errors import CheckpointError
from vila2_ray.train.children import run_child

if TYPE_CHECKING:
    from PIL.Image import Image

PROMPT = "describe the image in detail."
NUM_STEPS = 6
NUM_LIKELY = 8
TOLERANCE = 0.02
"""Of log-probabilities: far above what float32 kernels differ by, far below what a wrong weight does."""


_OF_A_RANK = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What the environment of a training worker says and vLLM must not take for its own."""


@dataclass(frozen=True)
class Answer:
    """A greedy answer to one probe."""

    tokens: list[int]
    likely: list[dict[int, float]]
    """Of each step the log-probabilities of the most likely tokens, among them the one taken."""


def probes() -> list[Image]:
    """A grey picture, and one with something in every corner."""
    from PIL import Image

    corners = Image.new("RGB", (96, 96), (20, 20, 20))
    for place, color in (((0, 0), "red"), ((48, 0), "lime"), ((0, 48), "blue"), ((48, 48), "white")):
        corners.paste(Image.new("RGB", (40, 40), color), place)
    return [Image.new("RGB", (96, 96), (127, 127, 127)), corners]


def answers(model: Any, processor: Any) -> list[Answer]:
    """What a transformers model answers the probes, in the number format and place that it has."""
    import torch

    found = []
    for image in probes():
        inputs = _inputs(processor, image).to(model.device)
        with torch.inference_mode():
            made = model.generate(
                **inputs, do_sample=False, max_new_tokens=NUM_STEPS, output_logits=True, return_dict_in_generate=True
            )
        steps = [scores[0].float().log_softmax(-1).topk(NUM_LIKELY) for scores in made.logits]
        likely = [dict(zip(s.indices.tolist(), s.values.tolist(), strict=True)) for s in steps]
        found.append(Answer(made.sequences[0, -len(steps) :].tolist(), likely))
    return found


def _inputs(processor: Any, image: Image) -> Any:
    from vila2_ray.engines.turns import adds_special_tokens, user_turn

    turn = user_turn(processor, PROMPT)
    special = adds_special_tokens(processor, turn)
    return processor(images=[image], text=[turn], add_special_tokens=special, return_tensors="pt")


def check_served(
    folder: Path, expected: Sequence[Answer], engine: EngineConfig | None = None, timeout_seconds: float = 1800.0
) -> None:
    """Serve `folder` with vLLM and compare with what `answers` found. `engine` says how; of the GPUs that this process
    sees, what is free is used.

    Raises CheckpointError naming the first answer that differs, or why vLLM cannot serve the folder.
    """
    settings = replace(engine or EngineConfig(), name="vllm", dtype="float32", batch_size=8)
    with tempfile.TemporaryDirectory(prefix="vila2-proof-") as scratch:
        asked, answered = Path(scratch, "asked.json"), Path(scratch, "answered.json")
        asked.write_text(json.dumps({"folder": str(folder), "engine": asdict(settings), "answered": str(answered)}))
        ended = run_child(
            [sys.executable, "-m", "vila2_ray.train.proof", str(asked)],
            Path(scratch, "log"),
            environment={"PYTHONPATH": os.pathsep.join(sys.path), **dict.fromkeys(_OF_A_RANK)},
            timeout_seconds=timeout_seconds,
        )
        if not answered.is_file():
            why = f"no answer in {timeout_seconds:.0f} s" if ended.timed_out else "; ".join(ended.tail[-3:])
            raise CheckpointError(str(folder), f"cannot be served by vLLM: {why}")
        said = json.loads(answered.read_text("utf-8"))
    if "problem" in said:
        raise CheckpointError(str(folder), f"cannot be served by vLLM: {said['problem']}")
    served = [Answer(a["tokens"], [{int(t): p for t, p in s.items()} for s in a["likely"]]) for a in said["answers"]]
    for number, (one, other) in enumerate(zip(expected, served, strict=True)):
        if found := difference(one, other):
            problem = f"is served by vLLM with other answers than it was trained to give: probe {number + 1}, {found}"
            raise CheckpointError(str(folder), problem)


def difference(expected: Answer, served: Answer) -> str:
    """The first thing that differs by more than TOLERANCE, as a phrase; empty when nothing does."""
    for step, (ours, theirs) in enumerate(zip(expected.likely, served.likely, strict=False)):
        for token in sorted(ours.keys() & theirs.keys()):
            if abs(ours[token] - theirs[token]) > TOLERANCE:
                return f"token {step + 1}: {_said(token, ours)} by transformers, {_said(token, theirs)} by vLLM"
        one, other = expected.tokens[step], served.tokens[step]
        if one != other:
            if _gap(ours, one, other) > TOLERANCE or _gap(theirs, one, other) > TOLERANCE:
                return f"token {step + 1}: {_said(one, ours)} by transformers, {_said(other, theirs)} by vLLM"
            return ""
    if len(expected.tokens) != len(served.tokens):
        return f"{len(expected.tokens)} tokens by transformers, {len(served.tokens)} by vLLM"
    return ""


def _gap(likely: Mapping[int, float], one: int, other: int) -> float:
    return abs(likely[one] - likely[other]) if one in likely and other in likely else float("inf")


def _said(token: int, likely: Mapping[int, float]) -> str:
    return f"id {token} with log-probability {likely.get(token, float('nan')):.3f}"


def _serve(folder: Path, config: EngineConfig) -> list[Answer]:
    from vila2_ray.engines.vllm import VllmEngine
    from vila2_ray.engines.vllm_arguments import set_environment

    set_environment()
    from vllm import SamplingParams

    from vila2_ray.engines.turns import turn_token_ids
    from vila2_ray.model.loading import load_processor

    if not config.max_model_length:  # of the checkpoint's whole context only the probe is needed
        longest = max(_inputs(load_processor(folder), image)["input_ids"].shape[1] for image in probes())
        config = replace(config, max_model_length=-(-(longest + NUM_STEPS) // 64) * 64)
    engine = VllmEngine.load(folder, _within_what_is_free(config))
    sampling = SamplingParams(temperature=0.0, max_tokens=NUM_STEPS, logprobs=NUM_LIKELY, detokenize=False)
    ids = list(turn_token_ids(engine.processor, PROMPT))
    finished: dict[str, Any] = {}
    for number, image in enumerate(probes()):
        prompt = {"prompt_token_ids": ids, "multi_modal_data": {"image": image}}
        (prepared,) = engine.llm.renderer.render_cmpl([prompt])
        engine.llm.add_request(str(number), prepared, sampling)
    while len(finished) < len(probes()):
        finished |= {output.request_id: output.outputs[0] for output in engine.llm.step() if output.finished}
    made = [finished[str(number)] for number in range(len(probes()))]
    engine.close()
    return [
        Answer(list(one.token_ids), [{t: entry.logprob for t, entry in step.items()} for step in one.logprobs])
        for one in made
    ]


def _within_what_is_free(config: EngineConfig) -> EngineConfig:
    """No more GPUs, and no more of their memory, than the training beside it leaves."""
    import torch

    if not torch.cuda.is_available():
        return replace(config, tensor_parallel=1)
    free, total = torch.cuda.mem_get_info()
    return replace(
        config,
        tensor_parallel=min(config.tensor_parallel, torch.cuda.device_count()),
        gpu_memory_share=min(config.gpu_memory_share, 0.95 * free / total),
    )


def _main(file: str) -> None:
    from vila2_ray.errors import Vila2Error

    asked = json.loads(Path(file).read_text("utf-8"))
    try:
        found = _serve(Path(asked["folder"]), EngineConfig(**asked["engine"]))
        said: dict[str, Any] = {"answers": [asdict(answer) for answer in found]}
    except Vila2Error as error:
        said = {"problem": str(error)}
    Path(asked["answered"]).write_text(json.dumps(said), encoding="utf-8")


if __name__ == "__main__":
    _main(sys.argv[1])
