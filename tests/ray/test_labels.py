"""On a cluster of labelled pools each stage works in its own, as `cluster/` has it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray._private.state import actors
from ray.cluster_utils import Cluster

from tests.unit.recaption.pictures import make_job, write_shards
from vila2_ray.campaign.clusterfile import NodeGroup
from vila2_ray.campaign.ledger import Ledger, read_ledger
from vila2_ray.campaign.pricelist import Machine, PriceBook
from vila2_ray.config import EngineConfig
from vila2_ray.progress import NullProgress
from vila2_ray.recaption.pipeline import recaption
from vila2_ray.storage import Store

LABEL = "ray-subcluster"


@pytest.fixture(scope="module")
def pools() -> Iterator[dict[str, str]]:
    """Node id → its pool, on a cluster whose head works on nothing and whose GPUs are pretended."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    cluster.add_node(num_cpus=1, num_gpus=1, labels={LABEL: "recaption"})
    cluster.add_node(num_cpus=2, num_gpus=2, labels={LABEL: "train"})
    cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
    yield {node["NodeID"]: node["Labels"].get(LABEL, "") for node in ray.nodes()}
    ray.shutdown()
    cluster.shutdown()


@pytest.mark.slow
def test_the_ledger_tells_the_nodes_of_each_pool_apart(pools: dict[str, str], tmp_path: Path) -> None:
    """By their labels and resources, as the launcher's file has them; all that are up are paid for."""
    groups = (
        NodeGroup("head", "small", is_head=True),
        NodeGroup("cpu", "small", cpus=1),
        NodeGroup("recaption", "one", "spot", 1, 1, labels={LABEL: "recaption"}),
        NodeGroup("train", "two", cpus=2, gpus=2, labels={LABEL: "train"}),
    )
    machines = {"small": Machine(on_demand=0.1), "one": Machine(spot=1.0), "two": Machine(on_demand=9.0)}
    ledger = Ledger(Store(tmp_path), PriceBook(groups=groups, machines=machines))
    with ledger.record("recaption-1"):
        assert ledger.dollars_per_hour() == pytest.approx(0.1 + 0.1 + 1.0 + 9.0)
    [entry] = read_ledger(Store(tmp_path))
    assert {row["group"]: row["machine"] for row in entry.nodes} == {g.name: g.machine for g in groups}
    assert {row["group"] for row in entry.nodes if row["market"] == "spot"} == {"recaption"}
    assert entry.gpu_seconds == pytest.approx(3 * entry.seconds)


@pytest.mark.slow
def test_captions_are_made_in_their_pool(pools: dict[str, str], tmp_path: Path) -> None:
    write_shards(tmp_path / "corpus", [40, 40])
    engine = EngineConfig(name="fake", cpus_per_actor=0.5, gpus_per_actor=1, label_selector={LABEL: "recaption"})
    assert recaption(make_job(tmp_path, engine=engine), NullProgress()).num_captioned == 80
    makers = [actor for actor in actors().values() if "CaptionActor" in (actor["ActorClassName"] or "")]
    assert makers
    assert {pools[actor["Address"]["NodeID"]] for actor in makers} == {"recaption"}


@pytest.mark.slow
def test_a_selector_that_ray_train_gets_binds_its_workers(pools: dict[str, str], tmp_path: Path) -> None:
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    def work(settings: dict[str, Any]) -> None:
        rank = ray.train.get_context().get_world_rank()
        Path(settings["to"], f"rank-{rank}").write_text(ray.get_runtime_context().get_node_id())

    TorchTrainer(
        work,
        train_loop_config={"to": str(tmp_path)},
        torch_config=TorchConfig(backend="gloo"),
        scaling_config=ScalingConfig(
            num_workers=2, use_gpu=True, resources_per_worker={"CPU": 1, "GPU": 1}, label_selector={LABEL: "train"}
        ),
        run_config=RunConfig(storage_path=str(tmp_path / "runs")),
    ).fit()
    assert [pools[path.read_text()] for path in sorted(tmp_path.glob("rank-*"))] == ["train", "train"]
