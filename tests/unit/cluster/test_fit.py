"""What the recipes ask for can be had from the nodes that each file offers, in the pool where it belongs."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable

import pytest

from tests.unit.cluster.files import LAUNCHERS, MACHINES, documents, manifest, pools, text
from vila2_ray.config import Config
from vila2_ray.recipe import load_config

FILES = (*LAUNCHERS, "raycluster.yaml", "rayjob.yaml")
LABELLED = (
    "recaption.engine.label_selector={ray-subcluster: recaption}",
    "train.label_selector={ray-subcluster: train}",
)
BYTES_PER_WEIGHT = 2
PARAMETERS_BILLION = {"tiny": 0.005, "smolvlm": 0.5, "vila2-8b": 8.5}


def configured(recipe: str) -> Config:
    """A recipe as cluster/README.md runs it: on GPUs with labels, on CPUs without."""
    plain = load_config(recipe)
    return load_config(recipe, LABELLED) if plain.recaption.engine.gpus_per_actor else plain


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("recipe", ["tiny", "smolvlm", "vila2-8b"])
def test_one_caption_actor_fits_on_a_node_of_its_pool_and_all_of_them_in_it(file: str, recipe: str) -> None:
    engine = configured(recipe).recaption.engine
    pool = pools(file)["recaption" if engine.gpus_per_actor else "cpu"]
    assert engine.label_selector == (pool.labels if engine.gpus_per_actor else {})
    per_node = pool.holds(engine.cpus_per_actor, engine.gpus_per_actor)
    assert per_node >= 1
    assert per_node * pool.most >= engine.max_actors
    if pool.gpu_memory_gb:  # weights, and as much again for keys, values and activations
        weights_gb = PARAMETERS_BILLION[recipe] * BYTES_PER_WEIGHT / engine.tensor_parallel
        assert 2 * weights_gb <= engine.gpu_memory_share * pool.gpu_memory_gb


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("recipe", ["tiny", "smolvlm", "vila2-8b"])
def test_the_training_gang_fits_in_its_pool(file: str, recipe: str) -> None:
    config = configured(recipe)
    train = config.train
    pool = pools(file)["train" if train.gpus_per_worker else "cpu"]
    assert train.label_selector == (pool.labels if train.gpus_per_worker else {})
    per_node = pool.holds(train.cpus_per_worker, train.gpus_per_worker)
    assert per_node >= 1
    assert per_node * pool.most >= train.num_workers
    if train.gpus_per_worker and pool.gpu_memory_gb:
        assert pool.gpu_memory_gb >= config.planning.gpu_memory_gb, "what `vila2 plan` reckons with"


@pytest.mark.parametrize("file", FILES)
def test_the_8b_gang_fills_its_nodes(file: str) -> None:
    """Eight workers on one node of eight GPUs: fewer GPUs would not do, more would be paid for and idle."""
    train = configured("vila2-8b").train
    pool = pools(file)["train"]
    assert pool.gpus * pool.most == train.num_workers * train.gpus_per_worker


@pytest.mark.parametrize("file", FILES)
def test_work_without_labels_finds_nodes_that_cost_no_gpu(file: str) -> None:
    pool = pools(file)["cpu"]
    assert (pool.gpus, pool.labels) == (0, {})
    assert pool.cpus >= 1


@pytest.mark.parametrize("file", LAUNCHERS)
def test_nodes_say_of_themselves_what_their_machines_have(file: str) -> None:
    for kind, settings in documents(file)[0]["available_node_types"].items():
        node = settings["node_config"]
        cpus, gpus, _ = MACHINES[node.get("InstanceType") or node["machineType"]]
        assert settings["resources"] == (
            {"CPU": 0} if kind == "head" else {"CPU": cpus} | ({"GPU": gpus} if gpus else {})
        )


def started_by_the_manifest() -> str:
    return manifest("rayjob.yaml")["spec"]["entrypoint"]


def told_by_the_page() -> str:
    [command] = re.findall(r"^vila2 submit (?:.*\\\n)*.*$", text("README.md"), re.MULTILINE)
    return command.replace("\\\n", " ")


@pytest.mark.parametrize("written", [started_by_the_manifest, told_by_the_page])
@pytest.mark.parametrize("file", FILES)
def test_the_campaign_that_is_started_is_valid_and_bound_to_pools_that_there_are(
    file: str, written: Callable[[], str]
) -> None:
    words = shlex.split(written())
    assert words[:2] in (["vila2", "run"], ["vila2", "submit"])
    at = words.index("--recipe")
    config = load_config(words[at + 1], words[at + 2 :])
    engine, train, offered = config.recaption.engine, config.train, pools(file)
    assert (engine.label_selector, train.label_selector) == (offered["recaption"].labels, offered["train"].labels)
    assert engine.min_actors == engine.max_actors <= offered["recaption"].most
