"""Several ranks train as one process does, whatever the sharding; state goes from one number of ranks to another."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.tensor import DTensor

from tests.unit.train import ranks, small
from vila2_ray.storage import Store
from vila2_ray.train import features
from vila2_ray.train.checkpoint import StepStore
from vila2_ray.train.loop import StepReport, fit
from vila2_ray.train.parallelize import Place

EVERYTHING = ("vision", "connector", "language")
SETTINGS: dict[str, dict[str, Any]] = {
    "all parts": {"trained": EVERYTHING},
    "frozen tower": {"trained": ("connector", "language")},
    "connector": {"trained": ("connector",)},
    "uneven": {"trained": EVERYTHING, "batch_size": 5, "micro_batch_size": 2},
    "packed": {"trained": EVERYTHING, "max_samples_per_sequence": 3, "batch_size": 3},
}
CLOSE = 2e-5


def train(place: Place, name: str, **options: Any) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Losses and whole weights."""
    settings = small.stage(**{**SETTINGS[name], "num_epochs": 1})
    source, table = small.data()
    if options.pop("texts", False):  # every other shard holds no image: ranks then differ in what a batch holds
        for key, tokens in list(source._tokens.items()):
            if key.row % 2:
                source._tokens[key] = type(tokens)(
                    tokens.input_ids[[0, *range(5, len(tokens.input_ids))]], tokens.supervised[4:], ()
                )
    model = options.pop("model", None) or small.model()
    result = fit(model, small.plan(table, settings), source, settings, pad_token_id=small.PAD, place=place, **options)
    return result.losses, whole(model)


def whole(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    named = model.named_parameters()
    return {n: (p.full_tensor() if isinstance(p, DTensor) else p).detach().clone() for n, p in named}


def of_two(place: Place, folder: Path) -> dict[str, Any]:
    answers: dict[str, Any] = {name: train(place, name) for name in SETTINGS}
    answers["copies"] = train(dataclasses.replace(place, shard_size=1), "all parts")
    answers["full"] = train(place, "all parts", activation_checkpointing="full")
    answers["selective"] = train(place, "all parts", activation_checkpointing="selective")
    answers["half"] = train(dataclasses.replace(place, compute_dtype=torch.bfloat16), "all parts")
    features._SPLIT = ()
    answers["whole"] = train(place, "uneven", texts=True)
    features._SPLIT = ("vila", "llava")
    answers["texts"] = train(place, "uneven", texts=True)

    def stop(report: StepReport) -> None:
        if report.step == 4:
            raise KeyboardInterrupt

    store = StepStore(Store(folder / "state"), "w", 0.0)
    with pytest.raises(KeyboardInterrupt):
        train(place, "all parts", checkpoints=store, on_step=stop)
    store.settle(place)  # this process lives on, and so does its save
    answers["resumed"] = train(place, "all parts", checkpoints=StepStore(Store(folder / "state"), "w", 1e9))
    answers["from one"] = train(place, "all parts", checkpoints=StepStore(Store(folder / "of one"), "w", 1e9))
    answers["shards"] = [isinstance(p, DTensor) for p in sharded_model(place).parameters()]
    return answers


def sharded_model(place: Place) -> torch.nn.Module:
    model = small.model()
    train(place, "all parts", model=model)
    return model


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    folder = tmp_path_factory.mktemp("ranks")

    def stop(report: StepReport) -> None:
        if report.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(small.CPU, "all parts", checkpoints=StepStore(Store(folder / "of one"), "w", 0.0), on_step=stop)
    first, second = ranks.run(2, folder, of_two)
    for name, answer in first.items():
        if name != "shards":
            assert answer[0] == second[name][0], "ranks report the same losses"
    return first, folder


def same(found: tuple[list[float], dict[str, torch.Tensor]], name: str, **options: Any) -> None:
    losses, weights = train(small.CPU, name, **options)
    assert found[0] == pytest.approx(losses, abs=CLOSE)
    assert len(set(losses)) == len(losses)
    for key, tensor in weights.items():  # AdamW makes steps of full size of gradients that are all but zero
        torch.testing.assert_close(found[1][key], tensor, rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("name", SETTINGS)
def test_two_ranks_train_as_one(worlds: tuple[dict[str, Any], Path], name: str) -> None:
    same(worlds[0][name], name)


@pytest.mark.parametrize("name", ["copies", "full", "selective", "resumed", "from one"])
def test_how_the_model_is_spread_and_recomputed_changes_nothing(worlds: tuple[dict[str, Any], Path], name: str) -> None:
    same(worlds[0][name], "all parts")


def test_ranks_with_and_without_images_keep_step(worlds: tuple[dict[str, Any], Path]) -> None:
    same(worlds[0]["texts"], "uneven", texts=True)


def test_families_that_are_run_as_a_whole_keep_step_too(worlds: tuple[dict[str, Any], Path]) -> None:
    same(worlds[0]["whole"], "uneven", texts=True)


def test_two_ranks_in_half_precision_stay_near_one(worlds: tuple[dict[str, Any], Path]) -> None:
    losses, _ = train(dataclasses.replace(small.CPU, compute_dtype=torch.bfloat16), "all parts")
    assert worlds[0]["half"][0] == pytest.approx(losses, abs=3e-2)
    assert worlds[0]["half"][0] != worlds[0]["all parts"][0]


def two_copies_of_two(place: Place, folder: Path) -> dict[str, Any]:
    return {"hybrid": train(place, "uneven")}


@pytest.mark.slow
def test_copies_that_are_sharded_themselves(tmp_path: Path) -> None:
    """HSDP: four ranks, two of which share a copy."""
    answers = ranks.run(4, tmp_path, two_copies_of_two, shard_size=2)
    same(answers[0]["hybrid"], "uneven")


@pytest.mark.slow
def test_compiled_layers_learn_alike() -> None:
    found = train(small.CPU, "all parts", compiles=True)
    same(found, "all parts")


def test_every_parameter_is_sharded(worlds: tuple[dict[str, Any], Path]) -> None:
    assert all(worlds[0]["shards"])


def test_frozen_parts_stay_bit_identical_on_two_ranks(worlds: tuple[dict[str, Any], Path]) -> None:
    before = dict(small.model().named_parameters())
    for name, frozen in (("frozen tower", "vision"), ("connector", "language")):
        for key, tensor in worlds[0][name][1].items():
            if frozen in key:
                assert torch.equal(tensor, before[key])


def test_state_of_two_ranks_is_resumed_by_one(worlds: tuple[dict[str, Any], Path]) -> None:
    state = Store(worlds[1] / "state")
    assert state.exists("last.json")
    assert not any(name.endswith((".pkl", ".pt", ".distcp", ".metadata")) for name in state.list())
    same(train(small.CPU, "all parts", checkpoints=StepStore(state, "w", 1e9)), "all parts")
