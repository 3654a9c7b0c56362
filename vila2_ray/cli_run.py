"""A campaign in this process: on the cluster that RAY_ADDRESS names (as in a job), else on a Ray of its own."""

from __future__ import annotations

import os

from vila2_ray.campaign import runner
from vila2_ray.cli_head import use_token
from vila2_ray.cli_progress import shown_progress
from vila2_ray.cli_tables import print_scores
from vila2_ray.config import Config
from vila2_ray.engines.orphans import end_with_parent
from vila2_ray.logs import written
from vila2_ray.progress import Several
from vila2_ray.references import resolve_here
from vila2_ray.submission.supervise import Reached


def run_here(config: Config, *, only: str | None, until: str | None, from_: str | None) -> None:
    """Carry the campaign on with progress on standard output; ends with the score table and the report's place."""
    end_with_parent()  # of a driver that is supervised
    resolve_here()
    if not os.environ.get("RAY_ADDRESS"):
        use_token()
    with written(), shown_progress() as progress:
        outcome = runner.run(config, only=only, until=until, from_=from_, progress=Several(progress, Reached()))
    if not outcome.ran and not outcome.waits_for:
        print("nothing to do: all of it is done already")
    print_scores(outcome.scores, briefly=True)
    if outcome.promoted:
        print(f"promoted  {outcome.promoted['model']}")
    if outcome.report_uri:
        print(f"report    {outcome.report_uri}")
    if outcome.waits_for:
        print(f"waiting   {outcome.waits_for}")
