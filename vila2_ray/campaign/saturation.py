"""When the loop has given what it can, and which round was best. VILA² states no rule (arXiv 2407.17453); this is ours.

The last round saturates the campaign when its held-out score gains less than `rounds.min_gain` over the best round
before it, or when captions stop growing longer while the score does not rise (which a negative `min_gain` would let
pass). The best round is the one with the best score, the earliest where rounds tie: fewer rounds for the same model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vila2_ray.config import RoundsConfig
from vila2_ray.errors import ConfigError
from vila2_ray.evaluate.ranking import is_lower_better, richest_metric

LENGTH = "words_per_caption"


@dataclass(frozen=True)
class Decision:
    """What the score history calls for."""

    stop_after: int | None
    """The last round that is worth running; None: go on."""
    best: int
    """The round to promote; 0 is VLM_0."""
    metric: str
    """What was gone by; empty before the first score."""
    reason: str
    """A sentence for the log."""


def decide(history: Sequence[Mapping[str, float]], rounds: RoundsConfig) -> Decision:
    """What to do after the rounds scored so far: `history[k]` holds the scores of VLM_k.

    Raises ConfigError when `rounds.metric` names a score that was not computed.
    """
    if not history:
        return Decision(None, 0, "", "no model has been scored yet")
    metric = _metric(history, rounds.metric)
    values = [_value(scores, metric) for scores in history]
    last, best = len(values) - 1, max(range(len(values)), key=values.__getitem__)
    summary = f"{metric} {_shown(history[last], metric)} in round {last}, best so far in round {best}"
    stop = "" if last == 0 else _saturation(history, values, rounds.min_gain)
    if not stop and last >= rounds.max:
        stop = f"rounds.max is {rounds.max}"
    if stop:
        return Decision(last, best, metric, f"{summary}: the rounds end here, for {stop}")
    return Decision(None, best, metric, f"{summary}: on to round {last + 1}")


def is_kept(
    final: Mapping[str, float], history: Sequence[Mapping[str, float]], rounds: RoundsConfig, max_loss: float
) -> tuple[bool, str]:
    """Whether the model that learnt from the specialists takes the best round's place, and a sentence that says so.

    It may lose `max_loss` of the score that the rounds went by. Raises ConfigError as `decide` does.
    """
    decision = decide(history, rounds)
    metric, before = decision.metric, history[decision.best]
    if metric not in final:
        return False, f"vlm-final has no {metric}, by which the rounds went: vlm-{decision.best} stays"
    loss = _value(before, metric) - _value(final, metric)
    told = f"{metric} {_shown(final, metric)}, that of vlm-{decision.best} {_shown(before, metric)}"
    if loss <= max_loss:
        return True, f"vlm-final: {told}"
    limit = f"more than skills.max_general_loss = {max_loss:g}"
    return False, f"vlm-final loses {limit}: its {told}; vlm-{decision.best} stays"


def _saturation(history: Sequence[Mapping[str, float]], values: Sequence[float], min_gain: float) -> str:
    """Why the last of two or more rounds saturates the campaign; empty when it does not."""
    before = max(values[:-1])
    if values[-1] == -math.inf:
        return "the score of this round is not a number"
    if before == -math.inf:
        return ""
    gain = values[-1] - before
    if gain < min_gain:
        return f"it gains {gain:+.4f} where rounds.min_gain asks for {min_gain:+.4f}"
    length, length_before = history[-1].get(LENGTH), history[-2].get(LENGTH)
    if gain <= 0 and length is not None and length_before is not None and length <= length_before:
        return f"captions grow no longer ({length_before:.1f} → {length:.1f} words) and the score does not rise"
    return ""


def _metric(history: Sequence[Mapping[str, float]], wanted: str) -> str:
    common = set(history[0]).intersection(*history[1:])
    if wanted == "auto":
        return richest_metric({name: history[0][name] for name in sorted(common)})
    if wanted not in common:
        known = ", ".join(sorted(common)) or "none"
        raise ConfigError("rounds.metric", wanted, f"not a score of every round. Those that are: {known}, or auto")
    return wanted


def _value(scores: Mapping[str, float], metric: str) -> float:
    """The score, turned so that more is better; what is not a number is worse than everything."""
    value = -scores[metric] if is_lower_better(metric) else scores[metric]
    return -math.inf if math.isnan(value) else value


def _shown(scores: Mapping[str, float], metric: str) -> str:
    return f"{scores[metric]:.4f}"
