from __future__ import annotations

import pytest

from vila2_ray.train.throughput import ModelShape, PartShape, peak_flops


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA GH200 480GB", 989e12),
        ("NVIDIA A10G", 70e12),
        ("NVIDIA GeForce RTX 4090", 165.2e12),
        ("AMD Instinct MI300X", 1307e12),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA A1000", None),
        ("Some GPU of next year", None),
    ],
)
def test_a_devices_peak_goes_by_the_words_of_its_name(name: str, peak: float | None) -> None:
    assert peak_flops(name) == peak


SHAPE = ModelShape(
    vision=PartShape(1000, num_layers=2, width=10),
    connector=PartShape(100),
    language=PartShape(5000, num_layers=3, width=20),
    patches_per_image=16,
    tokens_per_image=4,
)


def test_all_parts_trained_cost_three_passes() -> None:
    tower = 2 * 16 * (6 * 1000 + 3 * 4 * 2 * 10 * 16)
    language = 60 * (6 * 5000 + 3 * 4 * 3 * 20 * 30)
    flops = SHAPE.step_flops(("vision", "connector", "language"), num_tokens=60, num_items=2, num_images=2)
    assert flops == tower + 2 * 4 * 6 * 100 + language


def test_a_frozen_tower_is_only_run_forward_and_not_at_all_where_its_outputs_are_kept() -> None:
    both = {"trained": ("connector", "language"), "num_tokens": 60, "num_items": 2, "num_images": 2}
    tower = 2 * 16 * (2 * 1000 + 4 * 2 * 10 * 16)
    assert SHAPE.step_flops(**both) - SHAPE.step_flops(**both, num_encoded=0) == tower


def test_a_frozen_language_model_still_passes_gradients_down() -> None:
    whole = SHAPE.step_flops(("connector", "language"), 60, 2, 2)
    assert whole - SHAPE.step_flops(("connector",), 60, 2, 2) == 60 * 2 * 5000


def test_six_operations_per_parameter_and_token_for_text_alone() -> None:
    flat = ModelShape(PartShape(0), PartShape(0), PartShape(7_000_000_000), 0, 0)
    assert flat.step_flops(("language",), 1000, 10, 0) == 6 * 7e9 * 1000
