"""Rows that are decoded together although each began at another time and is sampled in its own way."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from vila2_ray.config import SamplingConfig
from vila2_ray.engines.choosing import draw, random_numbers

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(eq=False)
class Row:
    """One answer in the making."""

    written: str
    """The conversation, as the chat template writes it."""
    image_key: str
    image: Image
    sampling: SamplingConfig
    seed: int
    pixels: torch.Tensor | None = None
    """[1, 3, H, W], where the family's images are prepared one by one."""
    num_prompt_tokens: int = 0
    """Image tokens included; known once the prompt is read."""
    max_tokens: int = 0
    """What the model's context leaves of those that are asked for."""
    token_ids: list[int] = field(default_factory=list)
    """Without the one that ends the turn."""
    finish_reason: str = ""
    is_given_up: bool = False
    """Nobody waits for it any more. May be set from any thread; seen at the next step."""
    is_broken: bool = False
    """The model said something that is no number."""
    sum_logprobs: float = 0.0
    min_logprob: float = 0.0

    def __post_init__(self) -> None:
        self.max_tokens = self.max_tokens or self.sampling.max_tokens
        is_drawn = self.sampling.temperature > 0
        self.uniform = random_numbers(self.seed, self.sampling.max_tokens).tolist() if is_drawn else []

    @property
    def is_over(self) -> bool:
        return bool(self.finish_reason) or self.is_given_up or self.is_broken

    @property
    def mean_logprob(self) -> float:
        """Over the output tokens, the end token included."""
        return self.sum_logprobs / max(1, len(self.token_ids) + (self.finish_reason == "stop"))

    def take(self, token: int, logprob: float, ends: bool) -> None:
        """The next token, with its log-probability in the model's own distribution."""
        if self.is_over:
            return
        self.is_broken = not math.isfinite(logprob)
        self.sum_logprobs += logprob
        self.min_logprob = min(self.min_logprob, logprob)
        if ends:
            self.finish_reason = "stop"
            return
        self.token_ids.append(token)
        if len(self.token_ids) >= self.max_tokens:
            self.finish_reason = "length"


def choose(rows: Sequence[Row], logits: torch.Tensor, end_ids: Sequence[int]) -> torch.Tensor:
    """Next tokens [R] of `rows`, given their logits [R, V], of any float type; each row takes its own.

    What `TokenChooser` chooses, for rows that have nothing in common.
    """
    logits, device = logits.float(), logits.device
    allowed, ends = logits, torch.tensor(list(end_ids), dtype=torch.long, device=device)
    early = [n for n, row in enumerate(rows) if len(row.token_ids) < row.sampling.min_tokens and not row.is_over]
    if early and end_ids:
        allowed = logits.clone()
        allowed[torch.tensor(early, device=device)[:, None], ends] = float("-inf")
    tokens = allowed.argmax(-1)
    drawn = [n for n, row in enumerate(rows) if row.sampling.temperature > 0 and not row.is_over]
    if drawn:
        place = torch.tensor(drawn, device=device)
        uniform = torch.tensor([rows[n].uniform[len(rows[n].token_ids)] for n in drawn], device=device)
        temperature = torch.tensor([[rows[n].sampling.temperature] for n in drawn], device=device)
        top_p = torch.tensor([[rows[n].sampling.top_p] for n in drawn], device=device)
        tokens[place] = draw(allowed[place], uniform, temperature, top_p)
    logprobs = logits.gather(1, tokens[:, None])[:, 0] - logits.logsumexp(-1)
    told = zip(rows, tokens.tolist(), logprobs.tolist(), strict=True)
    ending = frozenset(end_ids)
    for row, token, logprob in told:
        row.take(token, logprob, token in ending)
    return tokens
