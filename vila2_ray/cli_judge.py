"""`vila2 judge …`: which captions are better, by people and by models."""

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
StudyName = Annotated[str, typer.Option("--study", metavar="NAME", help="The study, as it was drawn.")]


@app.command()
def serve(
    campaign: CampaignUri,
    study: StudyName = "votes",
    host: Annotated[str, typer.Option(help="Address to listen on. Others than this machine's own need --keys.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8001,
    keys: Annotated[
        str, typer.Option(metavar="FILE", help="Keys made by vila2 serve-key; each key's name is a rater.")
    ] = "",
) -> None:
    """A page on which people judge the pairs of a study, blind, until Ctrl-C; goes on where each stopped."""
    from vila2_ray.cli_judge_serve import serve_study_here

    serve_study_here(campaign, study, host, port, keys)
