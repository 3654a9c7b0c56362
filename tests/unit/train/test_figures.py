from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.unit.train import small
from vila2_ray.train import figures
from vila2_ray.train.figures import StepFigures, model_shape, peak_memory_bytes
from vila2_ray.train.optimize import freeze
from vila2_ray.train.parallelize import Place


def report(**values):
    defaults = {"step": 3, "loss": 2.0, "lr": 1e-3, "grad_norm": 0.5, "num_items": 4, "num_tokens": 100}
    times = {"num_images": 4, "step_seconds": 0.5, "data_seconds": 0.1}
    return SimpleNamespace(**{**defaults, **times, **values})


@pytest.mark.parametrize("trained", [("vision", "connector", "language"), ("connector", "language")])
def test_the_counted_operations_are_those_that_torch_counts(trained) -> None:
    model = small.model()
    model.set_attn_implementation("eager")
    model.config.vision_feature_layer = -1  # no layer above the one that is read
    freeze(model, small.stage(trained=trained), "vila")
    length, images = 24, 1
    ids = torch.full((1, length), 7)
    ids[0, 1:5] = small.IMAGE_TOKEN
    pixels = torch.randn(images, 3, 32, 32)
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids, pixel_values=pixels, labels=ids).loss.backward()
    shape = model_shape(model)
    assert shape is not None
    counted = shape.step_flops(trained, length, 1, images)
    # that pixels need no gradient saves much of so small a tower
    assert counted == pytest.approx(counter.get_total_flops(), rel=0.1)


def test_a_model_is_counted_on_the_meta_device_as_well() -> None:
    whole = small.model()
    assert model_shape(whole) == model_shape(whole.to("meta"))


def test_an_unknown_kind_of_images_gives_no_shape() -> None:
    model = small.model()
    model.config.vision_config = model.config.text_config
    assert model_shape(model) is None


def test_rates_are_of_all_ranks_and_shares_of_this_step() -> None:
    told = StepFigures(None, ("language",), Place(torch.device("cpu"), torch.float32, 0, 2))(report())
    assert told["speed/tokens_per_second"] == 400
    assert told["speed/samples_per_second"] == 16
    assert told["speed/data_wait_share"] == pytest.approx(0.2)
    assert told["train/loss"] == 2.0
    assert told["memory/peak_gb"] > 0.05
    assert "speed/mfu" not in told


def test_utilisation_is_told_where_the_peak_is_known(monkeypatch) -> None:
    model = small.model()
    shape = model_shape(model)
    monkeypatch.setattr(figures, "peak_flops", lambda name: 1e9)
    told = StepFigures(shape, ("language",), small.CPU)(report())
    assert told["speed/mfu"] == pytest.approx(shape.step_flops(("language",), 100, 4, 4) / 0.5 / 1e9)


def test_peak_memory_is_that_of_the_process() -> None:
    before = peak_memory_bytes(torch.device("cpu"))
    kept = torch.ones(60_000_000, dtype=torch.uint8)
    kept = kept.repeat(4)
    assert peak_memory_bytes(torch.device("cpu")) - before > 50_000_000
    del kept
