"""A campaign in this process: on the cluster that RAY_ADDRESS names (as in a job), else on a Ray of its own."""

from __future__ import annotations

import os

from vila2_ray.campaign import runner
from vila2_ray.cli_head import use_token
from vila2_ray.cli_progress import shown_progress
from vila2_ray.cli_tables import print_scores
from vila2_ray.config import Config
from vila2_ray.logs import written


def run_here(config: Config, *, only: str | None, until: str | None, from_: str | None) -> None:
    """Carry the campaign on with progress on standard output; ends with the score table and the report's place."""
    if not os.environ.get("RAY_ADDRESS"):
        use_token()
    with written(), shown_progress() as progress:
        outcome = runner.run(config, only=only, until=until, from_=from_, progress=progress)
    if not outcome.ran and not outcome.waits_for:
        print("nothing to do: all of it is done already")
    print_scores(outcome.scores, briefly=True)
    if outcome.promoted:
        print(f"promoted  {outcome.promoted['model']}")
    if outcome.report_uri:
        print(f"report    {outcome.report_uri}")
    if outcome.waits_for:
        print(f"waiting   {outcome.waits_for}")
