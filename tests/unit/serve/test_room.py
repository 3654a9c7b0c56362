"""Whether one more replica fits: on one node whole, and where its labels allow it."""

from __future__ import annotations

import pytest

from vila2_ray.serve.room import FreeNode, is_selected, num_that_fit


def node(cpus: float, gpus: float = 0.0, **labels: str) -> FreeNode:
    return FreeNode({"CPU": cpus, "GPU": gpus}, labels)


def test_halves_on_two_nodes_are_no_whole() -> None:
    assert num_that_fit([node(1.5), node(1.5)], {"CPU": 2.0, "GPU": 0.0}, {}) == 0
    assert num_that_fit([node(1.5), node(4.5)], {"CPU": 2.0}, {}) == 2


def test_processor_and_gpu_must_be_free_on_the_same_node() -> None:
    assert num_that_fit([node(8.0), node(0.5, gpus=2.0)], {"CPU": 1.0, "GPU": 1.0}, {}) == 0
    assert num_that_fit([node(8.0, gpus=0.75)], {"CPU": 1.0, "GPU": 0.25}, {}) == 3


def test_sums_of_tenths_count() -> None:
    assert num_that_fit([node(sum([0.1] * 10))], {"CPU": 1.0}, {}) == 1


def test_only_nodes_of_the_label_count() -> None:
    nodes = [node(4.0, pool="train"), node(1.0, pool="recaption")]
    assert num_that_fit(nodes, {"CPU": 1.0}, {"pool": "recaption"}) == 1
    assert num_that_fit(nodes, {"CPU": 1.0}, {"pool": "other"}) == 0


def test_what_needs_nothing_always_fits() -> None:
    assert num_that_fit([node(0.0)], {"CPU": 0.0, "GPU": 0.0}, {}) > 0
    assert num_that_fit([], {"CPU": 0.0}, {}) == 0


@pytest.mark.parametrize(
    ("label", "value", "fits"),
    [
        ("a", "a", True), ("b", "a", False), (None, "a", False),
        ("a", "!a", False), ("b", "!a", True), (None, "!a", True),
        ("b", "in(a, b)", True), ("c", "in(a,b)", False), (None, "in(a,b)", False),
        ("a", "!in(a,b)", False), ("c", "!in(a,b)", True),
    ],
)  # fmt: skip
def test_selectors_as_ray_writes_them(label: str | None, value: str, fits: bool) -> None:
    assert is_selected(label, value) is fits
