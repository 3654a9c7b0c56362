"""`vila2 judge …`: which captions are better, by people and by models. Rooms are imported when a command runs."""

from __future__ import annotations

from enum import Enum
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


class Variant(str, Enum):
    """Which of a sample's several captions."""

    first = "first"
    drawn = "drawn"


@app.command()
def draw(
    campaign: CampaignUri,
    more: Annotated[list[str] | None, typer.Argument(metavar="LAYER", hidden=True)] = None,
    study: StudyName = "votes",
    layers: Annotated[
        list[str] | None,
        typer.Option("--layers", help="Every two of them: alt_text round-1 round-2. Default: these, all rounds."),
    ] = None,
    pairs: Annotated[list[str] | None, typer.Option("--pairs", help="Or just two: round-1:round-2. Repeat.")] = None,
    samples: Annotated[int, typer.Option(min=1, help="Images for each two layers.")] = 200,
    criteria: Annotated[list[str] | None, typer.Option(help="What is asked. Default: all. Repeat.")] = None,
    variant: Annotated[Variant, typer.Option(help="Of several captions the first, or one by a hash.")] = Variant.first,
    flagged: Annotated[bool, typer.Option("--flagged", help="Also captions that the filters left out.")] = False,
    seed: Annotated[int, typer.Option(help="Another seed draws other images.")] = 0,
) -> None:
    """Draw pairs of captions of the same images, once; then people and models vote on them.

    Criteria are hallucination, detail, fluency and overall.
    """
    from vila2_ray.campaign.api import Campaign
    from vila2_ray.campaign.studies import default_layers, draw_study, parse_couples, summary_of
    from vila2_ray.errors import ConfigError
    from vila2_ray.judge.rubric import CRITERIA

    found = Campaign(campaign)
    named, couples = _words([*(layers or []), *(more or [])]), parse_couples(_words(pairs))
    if named and couples:
        raise ConfigError("--pairs", " ".join(_words(pairs)), "name either layers or pairs of them")
    made = draw_study(
        found,
        study,
        named or default_layers(found),
        samples,
        _words(criteria) or list(CRITERIA),
        seed,
        couples=couples,
        variant=variant.value,
        only_kept=not flagged,
    )
    drawn = summary_of(made, {})
    equal = f"; on {drawn.num_equal:,} images more both say the same: ties" if drawn.num_equal else ""
    print(f"{drawn.num_pairs:,} pairs of {', '.join(drawn.layers)}{equal}")
    print(f"study     {made.store.uri}")


@app.command(name="list")
def list_here(campaign: CampaignUri) -> None:
    """Studies of a campaign, with pairs, votes and raters."""
    from vila2_ray.campaign.api import Campaign
    from vila2_ray.campaign.studies import list_studies
    from vila2_ray.cli_judge_tables import print_studies

    found = Campaign(campaign)
    if studies := list_studies(found):
        print_studies(found.uri, studies)
    else:
        print(f"no studies yet; draw one with vila2 judge draw {campaign}")


@app.command()
def report(
    campaign: CampaignUri,
    study: StudyName = "votes",
    json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Win rates with intervals, and how far raters agree, from the votes so far."""
    from vila2_ray.campaign.api import Campaign
    from vila2_ray.campaign.studies import open_study
    from vila2_ray.cli_judge_tables import print_figures, print_json
    from vila2_ray.judge.winning import figures_of

    figures = figures_of(open_study(Campaign(campaign), study))
    if json:
        print_json(figures)
    else:
        print_figures(study, figures)


@app.command()
def export(
    campaign: CampaignUri,
    to: Annotated[str, typer.Option(help="File to write, .csv or .parquet.")],
    study: Annotated[
        list[str] | None, typer.Option("--study", metavar="NAME", help="Only this one. Repeat. Default: all.")
    ] = None,
) -> None:
    """Write all votes to a file: a row for each criterion of a vote, and for each correction of a caption."""
    from vila2_ray.campaign.api import Campaign
    from vila2_ray.campaign.studies import list_studies, open_study
    from vila2_ray.judge.export import write_judgements

    found = Campaign(campaign)
    names = study or [summary.name for summary in list_studies(found)] or ["votes"]
    count = write_judgements([open_study(found, name) for name in names], to)
    print(f"{count:,} row{'' if count == 1 else 's'}: {to}")


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


def _words(given: list[str] | None) -> list[str]:
    """What an option that may be repeated holds; several may stand in one, with commas between them."""
    return [word.strip() for some in given or [] for word in some.split(",") if word.strip()]


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
    """A page on which people judge the pairs of a study, blind, until Ctrl-C; each goes on where they stopped."""
    from vila2_ray.cli_judge_serve import serve_study_here

    serve_study_here(campaign, study, host, port, keys)
