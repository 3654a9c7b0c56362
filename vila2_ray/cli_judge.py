"""`vila2 judge …`: which captions are better, by people and by models. Rooms are imported when a command runs."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(
    name="judge",
    help="Which captions are better, by people and by models.",
    no_args_is_help=True,
    add_completion=False,
)

CampaignUri = Annotated[str, typer.Argument(metavar="CAMPAIGN", help="The campaign's folder.")]
StudyName = Annotated[str, typer.Option("--study", metavar="NAME", help="Which study.")]
JudgeOverrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...",
        help="Fields below judge., for example judge.endpoint=http://127.0.0.1:8000/v1; or budget.",
        show_default=False,
    ),
]


@app.command()
def ask(
    campaign: CampaignUri,
    overrides: JudgeOverrides = None,
    study: StudyName = "votes",
    again: Annotated[bool, typer.Option("--again", help="Ask once more what could not be judged.")] = False,
    max_pairs: Annotated[int, typer.Option(min=0, help="Only the first so many pairs. 0: all.")] = 0,
) -> None:
    """Have a model vote, each pair in both orders: one behind any endpoint that speaks OpenAI's chat completions.

    What it has voted on already is not asked again.
    """
    from vila2_ray.campaign.api import Campaign
    from vila2_ray.campaign.judges import ask_judge, judge_config
    from vila2_ray.cli_progress import shown_progress
    from vila2_ray.references import resolve_here

    resolve_here()
    found = Campaign(campaign)
    config = judge_config(found, overrides or [])
    with shown_progress() as progress:
        course = ask_judge(found, study, config, progress, again, max_pairs)
    print(course.sentence)
    if not config.judge.is_priced and course.num_asked:
        print("no price is known: judge.dollars_per_million_input_tokens=… judge.dollars_per_million_output_tokens=…")
