"""The bare engine: vLLM's `AsyncLLM` in a process that asks it directly, as somebody would who needs no endpoint.

    python -m rivals.bare_vllm --arguments '{"model": …}' --pictures DIR …

Its pictures are decoded and its prompt is tokenized beforehand. Prints `first` after its first caption, then obeys
`trials.orders`.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json

from PIL import Image
from trials.clients import add_options
from trials.load import REMEMBERED, Ask, Pictures, WrongAnswer, run
from trials.orders import keep_stdout, obey, print_line
from vllm import SamplingParams
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.async_llm import AsyncLLM


async def measure(options: argparse.Namespace) -> None:
    engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**json.loads(options.arguments)))
    sampling = SamplingParams(
        temperature=0.0,
        max_tokens=options.tokens,
        min_tokens=options.tokens,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )
    said: dict[int, str] = {}
    numbers = itertools.count()
    pictures: list[Image.Image] = []

    async def ask(number: int) -> None:
        image = pictures[number % len(pictures)]
        prompt = {"prompt_token_ids": options.prompt_ids, "multi_modal_data": {"image": image}}
        async for output in engine.generate(prompt, sampling, f"{next(numbers)}"):
            answer = output.outputs[0]
        if len(answer.token_ids) != options.tokens:
            raise WrongAnswer(f"{len(answer.token_ids)} tokens where {options.tokens} were asked for")
        if number < REMEMBERED:
            said[number] = answer.text

    def make(num: int, route: str) -> list[Ask]:
        return [ask] * num

    try:
        encoded = Pictures(options.pictures)
        pictures.append(decoded(encoded[0]))
        await ask(0)
        print_line(event="first")
        pictures[:] = map(decoded, encoded.all)
        await obey(make, said)
    finally:
        engine.shutdown()


def decoded(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add_options(parser)
    parser.add_argument("--arguments", required=True, help="of AsyncEngineArgs, as JSON")
    parser.add_argument("--prompt-ids", type=int, nargs="+", required=True)
    keep_stdout()
    run(measure(parser.parse_args()))


if __name__ == "__main__":
    main()
