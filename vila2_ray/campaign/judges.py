"""A model votes on a campaign's study; what its endpoint charges stands in the campaign's ledger."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial

from vila2_ray.campaign.api import Campaign
from vila2_ray.campaign.budget import Budget
from vila2_ray.campaign.ledger import CHARGED, JUDGING, Ledger
from vila2_ray.campaign.studies import left_out, open_study
from vila2_ray.config import Config
from vila2_ray.errors import ConfigError
from vila2_ray.judge.asking import Course, ask_study
from vila2_ray.judge.endpoint import Endpoint
from vila2_ray.judge.pictures import encoded
from vila2_ray.judge.study import Pair
from vila2_ray.progress import NullProgress, Progress, Several
from vila2_ray.recipe import override

_TAKEN = ("judge.", "budget=")


def judge_config(campaign: Campaign, overrides: Sequence[str] = ()) -> Config:
    """The campaign's configuration with `key=value` on top. Raises ConfigError for fields that no judge reads."""
    for item in overrides:
        if not item.startswith(_TAKEN):
            raise ConfigError("override", item, "a judge reads judge.* and budget only")
    config = override(campaign.config, list(overrides)) if overrides else campaign.config
    if any(item.startswith("budget=") for item in overrides) and config.budget and not config.judge.is_priced:
        remedy = "cannot be kept without prices: judge.dollars_per_million_input_tokens=… …output_tokens=…"
        raise ConfigError("budget", config.budget, remedy)
    return config


def ask_judge(
    campaign: Campaign,
    study: str,
    config: Config | None = None,
    progress: Progress | None = None,
    again: bool = False,
    max_pairs: int = 0,
) -> Course:
    """Have `config.judge` (default: the campaign's) vote on a study, from wherever it stands.

    Votes that are charged for count to the campaign's budget. Raises ConfigError, StageFailed, BudgetSpent; see
    `ask_study`.
    """
    config, asked = config or campaign.config, open_study(campaign, study)
    # who asks is no node of the campaign; what is charged is written at every look, so that a kill hides little
    ledger = Ledger(campaign.store, config.prices, look=list, write_seconds=0.0)
    budget = Budget(config.budget if config.judge.is_priced else 0.0, config.budget_reserve_seconds, ledger)
    corpus = cache(campaign.corpus)

    def picture(pair: Pair) -> tuple[bytes, str]:
        return encoded(corpus(pair.source), pair, config.judge.max_side)

    endpoint = partial(Endpoint, config.judge)
    endpoint()  # an endpoint that cannot work is no stage
    gone = left_out(campaign, asked)
    stage = f"{JUDGING}{study}"
    budget.check(stage)
    with ledger.record(stage) as figures:

        def note(course: Course) -> None:
            figures.update(
                rater=course.rater,
                num_votes=course.num_asked,
                num_problems=course.num_problems,
                input_tokens=course.input_tokens,
                output_tokens=course.output_tokens,
                **{CHARGED: course.dollars},
            )

        told = Several(progress or NullProgress(), budget)
        return ask_study(
            asked, endpoint, picture, told, on_course=note, again=again, max_pairs=max_pairs, left_out=gone
        )
