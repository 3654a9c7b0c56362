"""The recipes that need GPUs: they resolve, build on the meta device, shard and count as the plan says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import yaml
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from vila2_ray import cli
from vila2_ray.campaign.estimate import estimate, read_architecture, training_costs
from vila2_ray.config import Config
from vila2_ray.model.configuration import VilaConfig
from vila2_ray.model.families import part_of
from vila2_ray.model.modeling import VilaForConditionalGeneration
from vila2_ray.recipe import load_config
from vila2_ray.train import figures, memory, shard
from vila2_ray.train.features import LossModule
from vila2_ray.train.optimize import freeze, lr_factor
from vila2_ray.train.parallelize import Place

LARGE = {"smolvlm": (0.45, 144), "vila2-8b": (8.48, 196), "vila2-40b": (34.9, 196)}
"""Recipe → billions of parameters, tokens of an image."""


@pytest.fixture
def recipe(request: pytest.FixtureRequest, tmp_path: Path) -> Config:
    """The recipe of that name; the 40B one is the comment at the end of the 8B one, as its reader would take it."""
    name, nowhere = request.param, f"campaign={tmp_path / 'none'}"
    if name != "vila2-40b":
        return load_config(name, [nowhere])
    text = resources.files("vila2_ray.recipes").joinpath("vila2-8b.yaml").read_text("utf-8")
    lines = text[text.index("# campaign: runs/vila2-40b") :].splitlines()
    changes = yaml.safe_load("\n".join(line.removeprefix("# ") for line in lines))
    file = tmp_path / "vila2-40b.yaml"
    file.write_text(yaml.safe_dump(_merged(yaml.safe_load(text), changes)))
    return load_config(str(file), [nowhere])


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    both = {**below, **above}
    for name in below.keys() & above.keys():
        if isinstance(below[name], dict):
            both[name] = _merged(below[name], above[name])
    return both


def on_meta(config: Config) -> VilaForConditionalGeneration:
    with torch.device("meta"):
        return VilaForConditionalGeneration(VilaConfig(**config.base.architecture))


@pytest.mark.parametrize("recipe", LARGE, indirect=True)
def test_a_recipe_builds_and_counts_as_planned(recipe: Config, request: pytest.FixtureRequest) -> None:
    billions, image_tokens = LARGE[request.node.callspec.params["recipe"]]
    model, architecture = on_meta(recipe), read_architecture(recipe)
    assert architecture is not None
    counted: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        counted[part_of(name, "vila")] += parameter.numel()
    assert architecture.parameters() == dict(counted)
    assert sum(counted.values()) / 1e9 == pytest.approx(billions, rel=0.01)
    assert memory.model_shape(architecture) == figures.model_shape(model)
    assert architecture.image_tokens == model.config.image_seq_length == image_tokens
    assert model.config.text_config.vocab_size % 64 == 0
    assert model.config.image_token_index < model.config.text_config.vocab_size


@pytest.mark.parametrize("recipe", LARGE, indirect=True)
def test_every_stage_of_a_recipe_fits_its_gpus(recipe: Config) -> None:
    costs = training_costs(recipe)
    assert list(costs) == ["align", "pretrain", "sft"]
    for stage, cost in costs.items():
        assert cost.fits, f"{stage} needs {cost.memory.total / 1e9:.0f} GB; {cost.remedy}"
        assert cost.seconds
        assert cost.num_steps > 100
    hours = {row.stage: row.seconds for row in estimate(recipe)}
    assert hours["pretrain-0"] == pytest.approx(costs["pretrain"].seconds)


@pytest.fixture
def eight_ranks() -> Iterator[None]:
    """This process as the first of eight, none of which is there."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=8)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("eight_ranks")
@pytest.mark.parametrize("stage", ["align", "sft"])
@pytest.mark.parametrize("recipe", ["vila2-8b"], indirect=True)
def test_eight_ranks_hold_an_eighth_each(recipe: Config, stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tower that is not trained stays whole on each."""
    model, settings = on_meta(recipe), recipe.train.stage(stage)
    freeze(model, settings, "vila")
    module = LossModule(model, "vision" in settings.trained, torch.bfloat16)
    monkeypatch.setattr(module, "to", lambda device: module)  # nothing is put anywhere
    shard.ready(module, Place(torch.device("cpu"), torch.bfloat16, 0, 8, 8), activation_checkpointing="full")
    held, whole = 0, 0
    for name, parameter in model.named_parameters():
        assert isinstance(parameter, DTensor) == (stage == "sft" or part_of(name, "vila") != "vision"), name
        held += (parameter.to_local() if isinstance(parameter, DTensor) else parameter).numel()
        whole += parameter.numel()
    planned = training_costs(recipe)[stage].memory.weights / 4
    assert held == pytest.approx(planned, rel=1e-3)  # rows that eight does not divide are padded
    assert whole == sum(read_architecture(recipe).parameters().values())


def test_the_plan_says_what_does_not_fit_and_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = ["--recipe", "smolvlm", f"campaign={tmp_path / 'none'}", "planning.gpu_memory_gb=11"]
    assert cli.main(["plan", *settings]) == 0
    shown = capsys.readouterr().out
    assert "GB on each of 11 GB RTX 4090" in shown
    assert "does not fit" in shown
    assert "pretrain does not fit: set its micro_batch_size=" in shown
    nothing = ["corpus.pretrain=", "corpus.sft=", "corpus.heldout=", "specialists=[]"]
    assert cli.main(["plan", f"campaign={tmp_path / 'none'}", *nothing]) == 0
    assert "GB on each worker" in capsys.readouterr().out


def test_the_papers_stages_are_those_of_vila2_8b() -> None:
    """arXiv 2407.17453 and 2312.07533: what is trained, peak learning rates, one epoch, cosine after 3 % of warm-up."""
    train = load_config("vila2-8b").train
    found = {name: (train.stage(name).trained, train.stage(name).peak_lr) for name in ("align", "pretrain", "sft")}
    assert found == {
        "align": (("connector",), 1e-3),
        "pretrain": (("language", "connector"), 5e-5),
        "sft": (("vision", "connector", "language"), 2e-5),
    }
    for name in found:
        stage = train.stage(name)
        assert (stage.num_epochs, stage.weight_decay, stage.max_length) == (1, 0, 4096)
        factors = [lr_factor(step, 1000, stage) for step in range(1000)]
        assert max(factors) == factors[29] == factors[30] == 1.0
        assert factors[30:] == sorted(factors[30:], reverse=True)
        assert factors[-1] < 1e-5
