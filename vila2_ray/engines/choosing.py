"""Chooses the next token of every row and keeps each row's account: tokens, log-probabilities, whether it is over.

Memory does not grow with the vocabulary times the steps: of each step's distribution only the chosen token's
log-probability is kept. It is the model's own: before minimum length, temperature and top-p.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from vila2_ray.config import SamplingConfig


@dataclass
class RowResult:
    """What became of one row of a batch."""

    token_ids: list[int]
    """Without the token that ends the turn."""
    finish_reason: str
    mean_logprob: float
    min_logprob: float


class TokenChooser:
    """For the R rows of one batch, all decoded with the same `sampling`.

    A row's random numbers come from its own seed, drawn before the first step, so they do not depend on the other rows.
    """

    def __init__(
        self, sampling: SamplingConfig, seeds: Sequence[int], end_ids: Sequence[int], device: torch.device
    ) -> None:
        self.sampling = sampling
        self.steps_done = 0
        num_rows, max_tokens = len(seeds), sampling.max_tokens
        self._end = torch.tensor(list(end_ids), device=device)
        self._tokens = torch.zeros(num_rows, max_tokens, dtype=torch.long, device=device)
        self._num_chosen = torch.zeros(num_rows, dtype=torch.long, device=device)  # the end token included
        self._ended = torch.zeros(num_rows, dtype=torch.bool, device=device)
        self._sum = torch.zeros(num_rows, dtype=torch.float32, device=device)
        self._min = torch.zeros(num_rows, dtype=torch.float32, device=device)
        self._uniform: torch.Tensor | None = None
        if sampling.temperature > 0:
            draws = [random_numbers(seed, max_tokens) for seed in seeds]
            self._uniform = torch.stack(draws).to(device)

    def choose(self, logits: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Next tokens [N] of `rows` [N], given their logits [N, V], of any float type. Rows may be over."""
        logits = logits.float()
        allowed = logits
        if self.steps_done < self.sampling.min_tokens:
            allowed = logits.clone()
            allowed[:, self._end] = float("-inf")
        if self._uniform is None:
            token = allowed.argmax(-1)
        else:
            uniform = self._uniform[rows, self.steps_done]
            token = draw(allowed, uniform, self.sampling.temperature, self.sampling.top_p)
        logprob = logits.gather(1, token[:, None])[:, 0] - logits.logsumexp(-1)
        going = ~self._ended[rows]
        self._tokens[rows, self.steps_done] = token
        self._num_chosen[rows] += going
        self._sum[rows] += torch.where(going, logprob, 0.0)
        self._min[rows] = torch.where(going, torch.minimum(self._min[rows], logprob), self._min[rows])
        self._ended[rows] |= torch.isin(token, self._end)
        self.steps_done += 1
        return token

    def going(self, rows: torch.Tensor) -> torch.Tensor:
        """Positions within `rows` of the rows that are not over."""
        if self.steps_done >= self.sampling.max_tokens:
            return rows.new_empty(0)
        return (~self._ended[rows]).nonzero()[:, 0]

    def results(self) -> list[RowResult]:
        tokens, counts, ended = self._tokens.tolist(), self._num_chosen.tolist(), self._ended.tolist()
        sums, minima = self._sum.tolist(), self._min.tolist()
        return [
            RowResult(row[: count - over], "stop" if over else "length", total / max(count, 1), least)
            for row, count, over, total, least in zip(tokens, counts, ended, sums, minima, strict=True)
        ]


def random_numbers(seed: int, max_tokens: int) -> torch.Tensor:
    """Those of one request, uniform in [0, 1), one for each token that it may get: [max_tokens]."""
    return torch.rand(max_tokens, generator=torch.Generator().manual_seed(seed))


def draw(
    logits: torch.Tensor, uniform: torch.Tensor, temperature: float | torch.Tensor, top_p: float | torch.Tensor
) -> torch.Tensor:
    """Inverse of the cumulative distribution of `logits` [N, V] at `uniform` [N], among the most likely tokens that
    make up `top_p`. `temperature` and `top_p`: one for all, or [N, 1]."""
    probs, order = (logits / temperature).softmax(-1).sort(dim=-1, descending=True, stable=True)
    cumulative = probs.cumsum(-1)
    kept = cumulative - probs < top_p
    total = (probs * kept).sum(-1)
    place = torch.searchsorted(cumulative, (uniform * total)[:, None], right=True)[:, 0]
    place = torch.minimum(place, kept.sum(-1) - 1)
    return order.gather(1, place[:, None])[:, 0]
