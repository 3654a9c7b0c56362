"""Plans for a cluster's file: what binds, and that everything printed adds up again."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from vila2_ray.campaign.clusterfile import NodeGroup, read_cluster
from vila2_ray.campaign.clusterplan import ClusterPlan, Offer, StagePlan, caption_use, stage_plan
from vila2_ray.campaign.outlook import cluster_plan, on_its_machines
from vila2_ray.campaign.pricelist import Machine, PriceBook, read_prices
from vila2_ray.cli_plan import costs, how, sizes
from vila2_ray.config import Config, PlanningConfig
from vila2_ray.errors import ConfigError
from vila2_ray.recipe import load_config

TREE = Path(__file__).parents[3]
LABELS = (
    "recaption.engine.label_selector={ray-subcluster: recaption}",
    "train.label_selector={ray-subcluster: train}",
)


def configured(tmp_path: Path, *settings: str, file: str = "cluster/aws.yaml") -> Config:
    given = [f"campaign={tmp_path / 'campaign'}", f"cluster={TREE / file}", *LABELS, *settings]
    return load_config("vila2-8b", given)


def stage(plan: ClusterPlan, name: str) -> StagePlan:
    return next(found for found in plan.stages if found.stage == name)


def numbers(text: str) -> list[float]:
    return [float(word.replace(",", "")) for word in re.findall(r"\d[\d,]*\.?\d*(?:e[+-]?\d+)?", text)]


def test_a_reader_can_add_every_stage_up_again(tmp_path: Path) -> None:
    """From the printed line alone, within what its rounding leaves."""
    plan = cluster_plan(configured(tmp_path, "planning.samples.pretrain=25000000"))
    for found in plan.stages:
        left, right = found.formula.split("; ")
        samples, rate, *rest = numbers(left)
        spot = rest[0] if "spot" in left else 1.0
        start, hours = rest[-2:]
        assert hours == pytest.approx((samples / rate * spot + start) / 3600, rel=2e-3, abs=0.01)
        busy, idle, nodes, dollars, again, standing, total = numbers(right)
        assert busy == again == hours
        assert total == pytest.approx((busy + idle) * nodes * dollars + hours * standing, rel=1e-2)
        assert found.dollars == pytest.approx(total, abs=0.01)
    assert plan.dollars == pytest.approx(sum(found.dollars or 0 for found in plan.stages))


def test_the_work_of_a_sample_is_the_sum_of_its_terms(tmp_path: Path) -> None:
    plan = cluster_plan(configured(tmp_path, "planning.samples.pretrain=25000000"))
    found = stage(plan, "pretrain-0")
    parts = [float(value) for value in re.findall(r"= ([\d.e+]+)", found.operations)]
    rest, together = (float(v) for v in re.findall(r"(?:connector|together) ([\d.e+]+)", found.operations))
    assert parts[0] == pytest.approx(360 * 2 * 7.505e9 * 3, rel=1e-3)
    assert sum(parts) + rest == pytest.approx(together, rel=2e-3)
    assert found.use is not None
    operations = numbers(found.use.resources[0].basis)[0]
    assert operations == pytest.approx(together * 25e6, rel=1e-3)
    assert found.work_seconds == pytest.approx(operations / (8 * 989e12 * 0.4), rel=1e-3)


def test_captions_go_at_the_stated_pace_of_the_gpu_that_the_pool_has(tmp_path: Path) -> None:
    use = stage(cluster_plan(configured(tmp_path)), "recaption-1").use
    assert use is not None
    assert (use.machine, use.market, use.num_nodes, use.limit) == ("g6e.2xlarge", "spot", 8, "max_actors=8")
    assert use.resources[0].name == "GPUs"
    assert use.resources[0].per_second == pytest.approx(8 * 10.6 * 864 / 3350), (
        "memory bandwidth is what decoding waits for"
    )
    assert {resource.name for resource in use.resources} == {"GPUs", "decoding", "network"}
    own = stage(cluster_plan(configured(tmp_path, "rates.captions=4", "rates.gpu=L40S")), "recaption-1").use
    assert own is not None
    assert own.resources[0].per_second == 32


@pytest.mark.parametrize(
    ("settings", "name", "binds"),
    [
        (["rates.decoded_images=0.5"], "recaption-1", "decoding"),
        (["planning.bytes_per_image=500000000"], "recaption-1", "network"),
        (["planning.nodes={train: 16}", "train.num_workers=128"], "sft-0", "gradients"),
        (["rates.decoded_images=0.5"], "pretrain-0", "decoding"),
    ],
)
def test_what_binds_is_what_is_scarce(tmp_path: Path, settings: list[str], name: str, binds: str) -> None:
    use = stage(cluster_plan(configured(tmp_path, *settings)), name).use
    assert use is not None
    assert use.resources[0].name == binds


def test_what_cannot_run_says_why(tmp_path: Path) -> None:
    gang = stage(cluster_plan(configured(tmp_path, "train.num_workers=16")), "pretrain-0")
    assert gang.use is not None
    assert gang.use.problem == "train.num_workers=16 want 2 nodes of train, which has 1"
    assert (gang.seconds, gang.dollars) == (None, None)
    large = configured(tmp_path, "train.pretrain.micro_batch_size=64", "train.activation_checkpointing=none")
    memory = stage(cluster_plan(large), "pretrain-0").use
    assert memory is not None
    assert memory.problem.startswith("memory: does not fit (set its micro_batch_size=")
    heavy = stage(cluster_plan(configured(tmp_path, "recaption.engine.gpu_memory_share=0.2")), "recaption-1").use
    assert heavy is not None
    assert heavy.problem.startswith("memory: weights of 17.0 GB")
    nowhere = cluster_plan(configured(tmp_path, "recaption.engine.label_selector={ray-subcluster: moon}"))
    assert stage(nowhere, "recaption-1").use is None
    assert any("no pool of" in note for note in nowhere.notes)
    with pytest.raises(ConfigError, match="has the groups head, cpu, recaption, train"):
        cluster_plan(configured(tmp_path, "planning.nodes={captions: 3}"))


def test_a_pool_may_be_reckoned_larger_and_then_binds_itself(tmp_path: Path) -> None:
    many = configured(tmp_path, "planning.nodes={recaption: 256}", "recaption.engine.max_actors=999")
    use = stage(cluster_plan(many), "recaption-1").use
    assert use is not None
    assert (use.num_nodes, use.limit) == (256, "max_workers of recaption=256")


def test_nodes_of_other_pools_are_paid_for_while_a_stage_runs() -> None:
    groups = (
        NodeGroup("head", "m", is_head=True, at_least=1, at_most=1),
        NodeGroup("cpu", "m", cpus=4, at_least=2, at_most=4),
        NodeGroup("gpu", "g", cpus=4, gpus=1, at_most=4),
    )
    machines = {"m": Machine(on_demand=0.5), "g": Machine(on_demand=2.0)}
    offer = Offer(PriceBook(groups=groups, machines=machines), PlanningConfig(start_minutes=6, idle_minutes=12))
    assert offer.standing().dollars_per_hour == 1.5
    assert offer.standing(busy="cpu").dollars_per_hour == 0.5
    config = load_config("", ["rates.captions=1", "recaption.engine.gpus_per_actor=1", "recaption.engine.max_actors=2"])
    plan = stage_plan("recaption-1", 7200, caption_use(offer, config.recaption.engine, config), offer)
    assert plan.seconds == pytest.approx(360 + 3600)
    assert plan.dollars == pytest.approx((1.1 + 0.2) * 2 * 2.0 + 1.1 * 1.5)


def test_training_is_reckoned_on_the_pools_own_gpus(tmp_path: Path) -> None:
    planning = on_its_machines(configured(tmp_path, "planning.gpu=L4", file="cluster/gcp.yaml")).planning
    assert (planning.gpu, planning.gpu_memory_gb, planning.gpus_per_node) == ("H100", 80, 8)


@pytest.mark.parametrize("file", ["aws.yaml", "gcp.yaml", "kuberay/raycluster.yaml", "kuberay/rayjob.yaml"])
def test_every_cluster_file_is_read_and_its_machines_are_listed(file: str) -> None:
    groups = {group.name: group for group in read_cluster(str(TREE / "cluster" / file))}
    assert {"cpu", "recaption", "train"} < set(groups)
    assert [name for name, group in groups.items() if group.is_head] == list(groups)[:1]
    assert groups["train"].gpus * groups["train"].at_most == 8
    assert groups["recaption"].labels == {"ray-subcluster": "recaption"}
    if "kuberay" not in file:
        machines, told = read_prices(str(TREE / "cluster/prices.yaml"))
        assert {group.machine for group in groups.values()} <= set(machines)
        assert (groups["recaption"].market, groups["train"].market) == ("spot", "on_demand")
        assert all(0 < line.spot < line.on_demand for line in machines.values())
        assert told["as_of"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [", "cannot be read"),
        ("machines: 3", "must be YAML with machines"),
        ("machines: {m: {on_demnd: 3}}", r"m has \['on_demnd'\] among"),
        ("machines: {m: {on_demand: -3}}", "m: on_demand must be a number from 0"),
        ("machines: {m: {spot: cheap}}", "m: spot must be a number from 0"),
    ],
)
def test_a_slip_in_the_price_list_is_named(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "prices.yaml").write_text(text)
    with pytest.raises(ConfigError, match=said):
        read_prices(str(tmp_path / "prices.yaml"))


def test_a_file_that_is_no_clusters_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("a: 1\n")
    with pytest.raises(ConfigError, match="neither available_node_types"):
        read_cluster(str(tmp_path / "mine.yaml"))
    with pytest.raises(ConfigError, match="cannot be read"):
        read_cluster(str(tmp_path / "none.yaml"))


def test_a_list_beside_the_clusters_file_goes_before_ours(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text((TREE / "cluster/aws.yaml").read_text("utf-8"))
    plain = load_config("", [f"cluster={tmp_path / 'mine.yaml'}"])
    assert PriceBook.of(plain).price("recaption", "spot").dollars_per_hour == 0.9
    (tmp_path / "prices.yaml").write_text("machines: {g6e.2xlarge: {spot: 0.5}}")
    assert PriceBook.of(plain).price("recaption", "spot").dollars_per_hour == 0.5
    assert not PriceBook.of(plain).price("train", "on_demand").is_listed


PLANS = {"25 million": (25_000_000, 8, 8), "one billion": (1_000_000_000, 256, 128)}


@pytest.mark.parametrize("size", PLANS)
def test_the_pages_plans_are_what_the_command_says(size: str) -> None:
    page = (TREE / "cluster/README.md").read_text("utf-8")
    samples, actors, workers = PLANS[size]
    [command] = [
        text for text in re.findall(r"^vila2 plan (?:.*\\\n)*.*$", page, re.MULTILINE) if f"={samples}" in text
    ]
    words = shlex.split(command.replace("\\\n", " "), comments=True)
    config = load_config(words[words.index("--recipe") + 1], words[words.index("--recipe") + 2 :])
    config = replace(config, cluster=str(TREE / config.cluster))
    assert (config.recaption.engine.max_actors, config.train.num_workers) == (actors, workers)
    plan = cluster_plan(config)
    told = page[page.index(command) :].split("```")[2]
    shown = [found for found in plan.stages if found.stage in ("recaption-1", "pretrain-1", "sft-1")]
    lines = [line for found in shown for line in how(found) if " h; " in line] + costs(plan, config) + sizes(plan)
    lines.append(f"sum of the known: {plan.seconds / 86400:.1f} days, ${plan.dollars:,.0f}")
    for line in lines:
        assert line in told, f"cluster/README.md, {size}: put in\n" + "\n".join(lines)
