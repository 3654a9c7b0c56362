"""The endpoint as judge of open answers, as MM-Vet's: words alone, the picture is not shown."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from vila2_ray.config import JudgeConfig
from vila2_ray.errors import StageFailed
from vila2_ray.judge.endpoint import Endpoint, Judged, Refused, Unanswered
from vila2_ray.judge.verdict import of_answer

MAX_UNSCORED_SHARE = 0.05
"""Of answers that no score can be read for: those count as wrong, as in MM-Vet's own scorer. More are refused."""
_LOG = logging.getLogger(__name__)


@dataclass
class EndpointJudge:
    """Scores many answers at once; counts what that takes."""

    config: JudgeConfig
    model: str = ""
    """Known once it was asked for something."""
    input_tokens: int = field(default=0, init=False)
    output_tokens: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        Endpoint(self.config)  # raises ConfigError for what cannot work, before anything is asked

    def look(self) -> None:
        """See who judges, before there is an answer to lose. Raises ConfigError (key, model) and StageFailed."""

        async def name() -> str:
            async with Endpoint(self.config) as endpoint:
                return await endpoint.name()

        self.model = asyncio.run(name())

    @property
    def dollars(self) -> float:
        """Charged so far."""
        return self.config.dollars(self.input_tokens, self.output_tokens)

    def score(self, asked: Sequence[tuple[str, str, str]]) -> list[float]:
        """From 0 to 1 for each question, truth and answer.

        Raises ConfigError (endpoint, key, model), and StageFailed where the endpoint does not answer, or says too often
        what is no score.
        """
        found = asyncio.run(self._score(asked)) if asked else []
        lacking = [problem for score, problem in found if score is None]
        if len(lacking) > MAX_UNSCORED_SHARE * len(found):
            told = f"the judge gave {len(lacking):,} of {len(found):,} answers no score; for one, {lacking[0]}"
            raise StageFailed(f"{told}. Take a model that follows instructions as judge.model, or a command")
        if lacking:
            _LOG.warning("the judge gave %d of %d answers no score; they count as wrong", len(lacking), len(found))
        return [score or 0.0 for score, _ in found]

    def _charge(self, took: Judged[Any] | None) -> None:
        if took is not None:
            self.input_tokens += took.input_tokens
            self.output_tokens += took.output_tokens

    async def _score(self, asked: Sequence[tuple[str, str, str]]) -> list[tuple[float | None, str]]:
        free = asyncio.Semaphore(self.config.at_once)
        async with Endpoint(self.config) as endpoint:
            self.model = await endpoint.name()

            async def one(question: str, truth: str, answer: str) -> tuple[float | None, str]:
                async with free:
                    try:
                        judged = await endpoint.judge(of_answer(question, truth, answer))
                    except Refused as error:
                        self._charge(error.judged)
                        return None, f"refused: {error}"
                    except Unanswered as error:
                        self._charge(error.judged)
                        raise
                self._charge(judged)
                return judged.read, judged.problem

            first = await one(*asked[0])  # a wrong key or name is sent but once
            others = [asyncio.create_task(one(*each)) for each in asked[1:]]
            try:
                return [first, *await asyncio.gather(*others)]
            except Unanswered as error:
                raise StageFailed(f"{error}; run the same command again") from error
            finally:
                for task in others:
                    task.cancel()
                await asyncio.gather(*others, return_exceptions=True)
