"""What is decided about the pipeline before there is a cluster."""

from __future__ import annotations

import pytest
from ray.data._internal.execution.interfaces import ExecutionResources

from vila2_ray.config import EngineConfig, RecaptionConfig
from vila2_ray.recaption.pipeline import _context, ranges_in_flight


@pytest.mark.parametrize("batch_size", [1, 8, 128, 200, 256, 1000, 9999])
@pytest.mark.parametrize(("cpus", "gpus"), [(1.0, 0.0), (0.5, 1.0), (4.0, 1.0), (1.0, 0.25), (16.0, 8.0)])
def test_ranges_of_an_actor_add_up_to_its_resources_as_ray_rounds_them(
    batch_size: int, cpus: float, gpus: float
) -> None:
    engine = EngineConfig(batch_size=batch_size, max_actors=9, cpus_per_actor=cpus, gpus_per_actor=gpus)
    number = ranges_in_flight(RecaptionConfig(engine=engine))
    assert number * 256 >= min(62 * 256, 2 * batch_size), "enough to keep the engine full"
    assert number <= 128
    actor = ExecutionResources(cpu=cpus, gpu=gpus)
    range_of_it = actor.scale(1 / number)
    assert range_of_it.cpu * number >= cpus
    assert range_of_it.gpu * number >= gpus


def test_a_pool_of_a_fixed_size_takes_no_more_than_fills_its_engines() -> None:
    assert ranges_in_flight(RecaptionConfig(engine=EngineConfig(batch_size=128, min_actors=2, max_actors=2))) == 3


def test_labels_bind_the_whole_pipeline_and_what_it_asks_the_autoscaler_for() -> None:
    labels = {"ray-subcluster": "recaption"}
    engine = EngineConfig(max_actors=4, gpus_per_actor=2, label_selector=labels)
    options = _context(0, engine).execution_options
    assert options.label_selector == labels
    assert options.resource_limits.gpu == 8
    free = _context(0, EngineConfig(max_actors=4, gpus_per_actor=2)).execution_options
    assert not free.label_selector
    assert free.resource_limits.gpu == float("inf")
