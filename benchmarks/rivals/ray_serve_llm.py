"""`ray.serve.llm` as its documentation has it: an OpenAI app of one model, here on CPUs.

    python benchmarks/rivals/ray_serve_llm.py --port 8000 --model DIR --arguments '{"dtype": …}' [--routers 1]

Serves until it is interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import threading

import ray
from ray import serve
from ray.serve.llm import LLMConfig, build_openai_app


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model", required=True, help="its folder")
    parser.add_argument("--name", required=True, help="by which it is asked for")
    parser.add_argument("--arguments", required=True, help="of the engine, as JSON")
    parser.add_argument("--routers", type=int, default=1, help="ingress replicas; its own default is 2")
    options = parser.parse_args()
    # Logical CPUs: replicas, ingresses and the placement group each ask for one.
    ray.init(address="local", num_cpus=8, include_dashboard=False, log_to_driver=False, logging_level="error")
    passed = ("OMP_NUM_THREADS", "HF_HUB_OFFLINE")
    config = LLMConfig(
        model_loading_config={"model_id": options.name, "model_source": options.model},
        engine_kwargs=json.loads(options.arguments),
        deployment_config={"autoscaling_config": {"min_replicas": 1, "max_replicas": 1}},
        placement_group_config={"bundle_per_worker": {"CPU": 1}},
        runtime_env={"env_vars": {n: v for n, v in os.environ.items() if n in passed or n.startswith("VLLM_")}},
        log_engine_metrics=False,
    )
    ingress = {"autoscaling_config": {"min_replicas": options.routers, "max_replicas": options.routers}}
    app = build_openai_app({"llm_configs": [config], "ingress_deployment_config": ingress})
    serve.start(http_options={"host": "127.0.0.1", "port": options.port})
    serve.run(app, name="llm", route_prefix="/")
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        serve.shutdown()
        ray.shutdown()


if __name__ == "__main__":
    main()
