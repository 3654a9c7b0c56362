"""A driver that recaptions `folder/corpus` into `folder/<name>`, to be killed: `python … folder name temporary`.

Its cluster has a head and two nodes with a pretended GPU each, on which the caption actors are; a lost node is
replaced, as an autoscaler would. Process ids that a test may kill stand in `folder/<name>.pids`.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import traceback
from dataclasses import asdict
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

from tests.unit.recaption.pictures import make_job
from vila2_ray.config import EngineConfig
from vila2_ray.progress import NullProgress
from vila2_ray.recaption.pipeline import recaption


def main(folder: Path, name: str, temporary: str) -> None:
    memory = {"object_store_memory": 80_000_000}
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "num_gpus": 0, "include_dashboard": False, "temp_dir": temporary, **memory},
    )
    nodes = [cluster.add_node(num_cpus=1, num_gpus=1, **memory) for _ in range(2)]

    def tell() -> None:
        pids = {
            "node": [node.all_processes["raylet"][0].process.pid for node in nodes],
            "head": [
                started.process.pid for several in cluster.head_node.all_processes.values() for started in several
            ],
        }
        written = folder / f"{name}.pids.new"
        written.write_text(json.dumps(pids))
        written.rename(folder / f"{name}.pids")

    def work() -> None:
        engine = EngineConfig(name="fake", batch_size=8, max_actors=2, cpus_per_actor=0.5, gpus_per_actor=1)
        try:
            summary = recaption(make_job(folder, name, num_variants=2, engine=engine), NullProgress())
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        (folder / f"{name}.summary").write_text(json.dumps(asdict(summary)))
        os._exit(0)  # the test ends what is left of the cluster

    tell()
    ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
    threading.Thread(target=work, daemon=True).start()
    while True:  # here, since nodes can be added by the main thread only
        time.sleep(0.5)
        for place, node in enumerate(nodes):
            if node.all_processes["raylet"][0].process.poll() is not None:
                nodes[place] = cluster.add_node(num_cpus=1, num_gpus=1, **memory)
                tell()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
