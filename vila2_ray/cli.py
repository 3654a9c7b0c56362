"""`vila2 …`: parses, calls the room that does the work, prints what came out. Rooms are imported when a command runs.

Exit codes: 0 done · 1 something failed · 2 a mistake in the command, the configuration or the corpus · 3 another driver
runs this campaign · 4 the budget is spent · 130 interrupted. VILA2_DEBUG=1 shows tracebacks.
"""

from __future__ import annotations

import os
import sys
from enum import Enum
from typing import Annotated, Any

import typer

from vila2_ray.cli_judge import app as judge_app
from vila2_ray.errors import BudgetSpent, CampaignBusy, ConfigError, CorpusError, Vila2Error

app = typer.Typer(
    name="vila2",
    help="A vision-language model recaptions its own pretraining corpus and is trained again, round after round.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(judge_app)

DEFAULT_CAMPAIGN = "runs/tiny"
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...", help="Fields of the configuration, for example rounds.max=2.", show_default=False
    ),
]
Recipe = Annotated[str, typer.Option("--recipe", "-r", help="A recipe that ships with the package, or a YAML file.")]
CampaignUri = Annotated[str, typer.Argument(metavar="CAMPAIGN", help="The campaign's folder.")]
Only = Annotated[str | None, typer.Option("--only", metavar="STAGE", help="Run this one stage.")]
Until = Annotated[str | None, typer.Option("--until", metavar="STAGE", help="Stop after this stage.")]
From = Annotated[str | None, typer.Option("--from", metavar="STAGE", help="Redo this stage and all later.")]
Address = Annotated[
    str | None,
    typer.Option(help="A Ray dashboard, http://host:8265. Default: RAY_ADDRESS, else a head on this machine."),
]


class Format(str, Enum):
    """What `vila2 export` writes."""

    webdataset = "webdataset"
    parquet = "parquet"
    captions = "captions"


class Skill(str, Enum):
    """What a specialist can be."""

    spatial = "spatial"
    grounding = "grounding"
    ocr = "ocr"


@app.command()
def plan(overrides: Overrides = None, recipe: Recipe = "tiny") -> None:
    """The stages of a campaign with samples, tokens, time and cost, and the memory of training. Nothing runs.

    With cluster=FILE (cluster launcher, KubeRay): on that cluster, with its nodes, and what binds each stage.
    """
    from vila2_ray.campaign.estimate import estimate, training_costs
    from vila2_ray.cli_tables import print_plan, print_training
    from vila2_ray.recipe import load_config

    config = load_config(recipe, overrides)
    if config.cluster:
        from vila2_ray.campaign.outlook import cluster_plan, on_its_machines
        from vila2_ray.cli_plan import print_cluster_plan

        print_cluster_plan(cluster_plan(config), config)
        config = on_its_machines(config)
    else:
        print_plan(estimate(config))
    print_training(training_costs(config), config.planning)


@app.command()
def run(
    overrides: Overrides = None,
    recipe: Recipe = "tiny",
    only: Only = None,
    until: Until = None,
    from_: From = None,
    retries: Annotated[
        int, typer.Option(min=0, help="Start the driver again when it dies, so often without getting further.")
    ] = 0,
) -> None:
    """Carry a campaign on, from wherever it stands to its end, in this process (or in a child, with --retries)."""
    if retries:
        from vila2_ray.submission.supervise import supervise

        given = _words({"--recipe": recipe, "--only": only, "--until": until, "--from": from_})
        raise typer.Exit(supervise([sys.executable, "-m", "vila2_ray.cli", "run", *given, *(overrides or [])], retries))
    from vila2_ray.cli_run import run_here
    from vila2_ray.recipe import load_config

    run_here(load_config(recipe, overrides), only=only, until=until, from_=from_)


@app.command()
def submit(
    overrides: Overrides = None,
    recipe: Recipe = "tiny",
    only: Only = None,
    until: Until = None,
    from_: From = None,
    address: Address = None,
    secret: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=REFERENCE", help="A variable, and where nodes find its value. Repeat."),
    ] = None,
    retries: Annotated[int, typer.Option(min=0, help="So often a driver that died without progress starts again.")] = 3,
    detach: Annotated[bool, typer.Option("--detach", help="Submit and leave.")] = False,
    show: Annotated[bool, typer.Option("--show", help="Only print the `ray job submit` line this stands for.")] = False,
) -> None:
    """Run a campaign as a Ray job and follow its log; joins the job that runs it already. Ctrl-C leaves it running."""
    from vila2_ray.cli_jobs import Submission, show_here, submit_here
    from vila2_ray.recipe import load_config

    config = load_config(recipe, overrides)  # mistakes are told before anything travels
    options = _words({"--only": only, "--until": until, "--from": from_, "--retries": str(retries)})
    wish = Submission(config.campaign, recipe, options, tuple(overrides or ()), tuple(secret or ()), address)
    if show:
        show_here(wish)
    else:
        raise typer.Exit(submit_here(wish, detach))


@app.command()
def stop(campaign: CampaignUri = DEFAULT_CAMPAIGN, address: Address = None) -> None:
    """Stop the Ray job that runs a campaign; `vila2 submit` carries it on later."""
    from vila2_ray.cli_jobs import stop_job

    print("stopped" if stop_job(campaign, address) else "no job runs this campaign")


@app.command()
def status(
    campaign: CampaignUri = DEFAULT_CAMPAIGN,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Go on showing it until its driver ends.")] = False,
) -> None:
    """Each stage of a campaign: done, running, begun or missing, with counts and cost; then the scores so far."""
    if watch:
        from vila2_ray.cli_watch import watch as watch_it

        raise typer.Exit(watch_it(campaign))
    from vila2_ray.campaign.api import Campaign
    from vila2_ray.cli_tables import print_costs, print_scores, print_status

    found = Campaign(campaign)
    print_status(found.uri, found.status(), found.promoted()["current"])
    print_costs(found.caption_costs())
    print_scores(found.scores())


@app.command()
def show(
    campaign: CampaignUri = DEFAULT_CAMPAIGN,
    sample_id: Annotated[str | None, typer.Argument(help="<shard>/<key>", show_default=False)] = None,
    number: Annotated[int, typer.Option("--random", "-n", min=1, help="How many to draw.")] = 3,
    flag: Annotated[str | None, typer.Option(help="Captions with this verdict; or edited.")] = None,
    status: Annotated[str | None, typer.Option(help="captioned, not_selected or failed.")] = None,
    lowest: Annotated[str | None, typer.Option(help="Lowest mean_logprob, min_logprob or num_output_tokens.")] = None,
    layer: Annotated[str | None, typer.Option(help="Layer to pick captions in. Default: the newest.")] = None,
    seed: Annotated[int, typer.Option(help="Another seed draws others.")] = 0,
) -> None:
    """Samples with their alt text and every layer's caption, where it comes from and what the filters think of it."""
    from vila2_ray.campaign.api import Campaign
    from vila2_ray.cli_show import Wanted
    from vila2_ray.cli_show import show as show_samples
    from vila2_ray.cli_tables import console

    show_samples(Campaign(campaign), Wanted(sample_id, number, flag, status, lowest, layer, seed), console())


@app.command()
def report(campaign: CampaignUri = DEFAULT_CAMPAIGN) -> None:
    """Write the HTML report of what there is so far, and print where it is."""
    from vila2_ray.campaign.api import Campaign
    from vila2_ray.report import build

    print(build(Campaign(campaign)))


@app.command()
def export(
    campaign: CampaignUri = DEFAULT_CAMPAIGN,
    overrides: Overrides = None,
    to: Annotated[str, typer.Option(help="Folder. Default: export.to, else <campaign>/export/<format>.")] = "",
    format: Annotated[Format | None, typer.Option(help="What to write. Default: export.format.")] = None,
) -> None:
    """Write the fused data set (with pixels), or the captions alone, with a data card and Croissant metadata.

    export.policy says what is left out, warned of or refused; fields below export. and screen.takedown may be given.
    """
    from vila2_ray.campaign.api import Campaign
    from vila2_ray.campaign.exporting import export_campaign, export_config
    from vila2_ray.cli_progress import shown_progress
    from vila2_ray.storage import Store

    found = Campaign(campaign)
    config = export_config(found, overrides or [])
    kind = format.value if format else config.export.format
    folder = Store(to or config.export.to) if to or config.export.to else found.store.sub("export", kind)
    with shown_progress() as progress:
        export_campaign(found, folder.uri, kind, progress, config=config)
    print(folder.uri)


@app.command()
def recaption(
    checkpoint: Annotated[str, typer.Option(help="A Hugging Face folder of any vision-language model.")],
    corpus: Annotated[str, typer.Option(help="Shards or a folder of pictures: a folder, glob or file.")],
    to: Annotated[str, typer.Option(help="Folder to write to.")],
    overrides: Overrides = None,
    recipe: Annotated[str, typer.Option("--recipe", "-r", help="Take prompts and sampling from a recipe.")] = "",
    sample: Annotated[int, typer.Option(min=0, help="First caption so many, show some, and say what all take.")] = 0,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Go on after --sample without asking.")] = False,
) -> None:
    """Caption a corpus with any model: no training, no campaign. Goes on where it was interrupted."""
    from vila2_ray.cli_recaption import recaption_here
    from vila2_ray.recaption.alone import AloneJob
    from vila2_ray.recipe import load_config

    config = load_config(recipe, overrides)
    given = config.corpus.columns, config.corpus.max_pixels, config.seed
    recaption_here(AloneJob(checkpoint, corpus, to, config.recaption, *given), config, sample, yes)


@app.command()
def evaluate(
    checkpoint: Annotated[str, typer.Argument(help="A Hugging Face folder of any vision-language model.")],
    overrides: Overrides = None,
    recipe: Annotated[
        str,
        typer.Option("--recipe", "-r", help="Take benchmarks from a YAML file. Default: the checkpoint's campaign."),
    ] = "",
    to: Annotated[str, typer.Option(help="Folder for results. Default: the checkpoint's campaign.")] = "",
    only: Annotated[list[str] | None, typer.Option("--only", help="This benchmark; may be repeated.")] = None,
) -> None:
    """Score a checkpoint on published benchmarks (evaluate.benchmarks). Goes on where it was interrupted."""
    from vila2_ray.cli_evaluate import evaluate_here

    evaluate_here(checkpoint, overrides or [], recipe, to, only or [])


@app.command()
def promote(
    campaign: CampaignUri = DEFAULT_CAMPAIGN,
    model: Annotated[str, typer.Argument(help="vlm-1, or vlm-1@DIGEST. Default: the best one.")] = "",
) -> None:
    """Say which model is to be served: what a campaign with promote=ask waits for."""
    from vila2_ray.cli_evaluate import promote_here

    promote_here(campaign, model)


@app.command(name="build-sft")
def build_sft(
    skill: Annotated[Skill, typer.Argument(help="What is to be learned.")],
    images: Annotated[str, typer.Option(help="Shards or a folder of pictures: a folder, glob or file.")],
    to: Annotated[str, typer.Option(help="Folder to write Parquet shards of conversations to.")],
    overrides: Overrides = None,
    annotations: Annotated[str, typer.Option(help="File, folder or glob of boxes: GRIT, Visual Genome, own.")] = "",
    detector: Annotated[str, typer.Option(help="Or the folder of a transformers object detector.")] = "",
    label: Annotated[list[str] | None, typer.Option(help="What an open-vocabulary detector looks for. Repeat.")] = None,
    max_samples: Annotated[int | None, typer.Option(min=0, help="So many images, drawn by a hash. 0: all.")] = None,
    min_score: Annotated[float | None, typer.Option(help="Leave out what the expert is less sure of.")] = None,
    recipe: Annotated[str, typer.Option("--recipe", "-r", help="Take prompts and questions from a recipe.")] = "",
) -> None:
    """Make finetuning conversations for a skill: printed text is read by OCR, boxes are given or detected."""
    from vila2_ray.cli_build import build_here
    from vila2_ray.recipe import load_config

    given: dict[str, Any] = {"max_samples": max_samples, "min_score": min_score, "labels": label and tuple(label)}
    given |= {"annotations": annotations, "detector": detector} if annotations or detector else {}
    told = {name: value for name, value in given.items() if value is not None}
    build_here(skill.value, images, to, told, load_config(recipe, overrides))


@app.command()
def base(
    to: Annotated[str, typer.Option(help="Folder to write: what base.checkpoint then names.")],
    vision: Annotated[str, typer.Option(help="Folder of a SigLIP, whole or its tower.")] = "",
    language: Annotated[str, typer.Option(help="Folder of a language model: Llama, Mistral, Qwen2, Qwen3 …")] = "",
    vila: Annotated[str, typer.Option(help="Or the folder of a published VILA-1.5 (llm/, vision_tower/ …).")] = "",
    downsample: Annotated[int, typer.Option(min=1, help="Patches along a side that become one image token.")] = 2,
    dtype: Annotated[str, typer.Option(help="bfloat16, float16, float32. auto: the language model's own.")] = "auto",
    seed: Annotated[int, typer.Option(help="Of the new connector's weights.")] = 0,
) -> None:
    """Make base weights: a tower and a language model with a new connector between them, as one `vila` folder."""
    from vila2_ray.cli_base import write_base_here

    write_base_here(vision, language, vila, to, downsample, dtype, seed)


@app.command(name="hash")
def hash_corpus(
    corpus: Annotated[str, typer.Argument(help="Shards or a folder of pictures: a folder, glob or file.")],
    to: Annotated[str, typer.Option(help="File to write: a SHA-256 and a perceptual hash of each picture.")],
    overrides: Overrides = None,
) -> None:
    """List the hashes of pictures, for screen.heldout_hashes: what must never enter training."""
    from vila2_ray.cli_progress import shown_progress
    from vila2_ray.corpus.hashing import write_hashes
    from vila2_ray.recipe import load_config

    with shown_progress() as progress:
        print(write_hashes(corpus, to, load_config("", overrides).corpus, progress).sentence)


@app.command()
def dead(
    campaign: Annotated[str, typer.Argument(help="A campaign, or what `vila2 recaption` wrote to.")] = DEFAULT_CAMPAIGN,
    layer: Annotated[str | None, typer.Option(help="Only this layer. Default: all.")] = None,
    reason: Annotated[str | None, typer.Option(help="Only this reason, for example engine_died.")] = None,
    json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Dead letters: rows that could not be captioned, counted by layer and reason, with examples."""
    from vila2_ray.cli_dead import print_dead

    print_dead(campaign, layer, reason, json)


@app.command()
def retry(
    reason: Annotated[list[str], typer.Option(help="Why they failed, for example engine_died; may be repeated.")],
    campaign: Annotated[str, typer.Argument(help="A campaign, or what `vila2 recaption` wrote to.")] = DEFAULT_CAMPAIGN,
    layer: Annotated[str | None, typer.Option(help="Default: the newest.")] = None,
) -> None:
    """Caption dead letters again: in place, or in a new layer where the stage is done."""
    from vila2_ray.cli_dead import retry_here

    retry_here(campaign, reason, layer)


@app.command()
def gc(
    campaign: CampaignUri = DEFAULT_CAMPAIGN,
    delete: Annotated[bool, typer.Option("--delete", help="Delete what is listed. Default: only list it.")] = False,
) -> None:
    """What of a campaign nothing needs any more, with sizes: parts, orphaned work, training state, old checkpoints."""
    from vila2_ray.cli_gc import collect_here

    collect_here(campaign, delete)


@app.command()
def serve(
    campaign: CampaignUri = DEFAULT_CAMPAIGN,
    overrides: Overrides = None,
    address: Annotated[
        str | None, typer.Option(help="A Ray cluster, host:port or auto. Default: RAY_ADDRESS, else this machine.")
    ] = None,
) -> None:
    """Serve what a campaign promotes, at serve.host and serve.port, until Ctrl-C; follows its promotions."""
    from vila2_ray.cli_serve import serve_here

    serve_here(campaign, overrides or [], address)


@app.command(name="serve-pin")
def serve_pin(
    campaign: CampaignUri,
    name: Annotated[str, typer.Argument(help="What is served: promoted, a model or a skill.")],
    model: Annotated[
        str | None, typer.Argument(help="vlm-1, or vlm-1@DIGEST. Default: what it serves now.", show_default=False)
    ] = None,
    rollback: Annotated[bool, typer.Option("--rollback", help="To what was promoted before.")] = False,
    unpin: Annotated[bool, typer.Option("--unpin", help="Follow the campaign again.")] = False,
    why: Annotated[str, typer.Option(help="For those who read it later.")] = "",
) -> None:
    """Have an endpoint serve one checkpoint under a name, whatever the campaign promotes."""
    from vila2_ray.cli_serve import pin_here

    pin_here(campaign, name, model, rollback, unpin, why)


@app.command(name="serve-key")
def serve_key(
    file: Annotated[str, typer.Argument(help="File of hashed keys: what serve.keys names.")],
    name: Annotated[str, typer.Argument(help="Whose key it is.")],
    revoke: Annotated[bool, typer.Option("--revoke", help="Take it back.")] = False,
) -> None:
    """Make an API key for an endpoint; it is shown once."""
    from vila2_ray.cli_serve import key_here

    key_here(file, name, revoke)


@app.command()
def recipes() -> None:
    """The recipes that ship with the package."""
    from vila2_ray.recipe import load_config, recipe_names

    for name in recipe_names():
        config = load_config(name)
        base = config.base.checkpoint or "to be named"
        print(f"{name:<12} base.checkpoint {base}, up to {config.rounds.max} rounds, fuse.rule {config.fuse.rule}")


def _words(options: dict[str, str | None]) -> tuple[str, ...]:
    """Those options that were given, as a command line has them."""
    return tuple(word for option, value in options.items() if value for word in (option, value))


def main(arguments: list[str] | None = None) -> int:
    """Run a command; its exit code. Errors of ours are one sentence on standard error."""
    try:
        app(arguments)
    except SystemExit as end:
        if isinstance(getattr(end.__context__, "__cause__", None), KeyboardInterrupt):  # typer has made an exit of it
            print("interrupted; run the same command again to go on", file=sys.stderr)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BrokenPipeError:  # the reader of our output left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Vila2Error as error:
        if os.environ.get("VILA2_DEBUG"):
            raise
        print(f"vila2: {error}", file=sys.stderr)
        codes = ((ConfigError, 2), (CorpusError, 2), (CampaignBusy, 3), (BudgetSpent, 4))
        return next((code for kind, code in codes if isinstance(error, kind)), 1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
