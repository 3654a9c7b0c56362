"""The exported folder holds the trained weights and answers as the trained model did, or it is not exported."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.unit.train import small
from vila2_ray.errors import CheckpointError
from vila2_ray.model.loading import checkpoint_digest, load_model, load_processor
from vila2_ray.recipes.tiny import BASE_FOLDER
from vila2_ray.storage import Store
from vila2_ray.train import export
from vila2_ray.train.export import export_folder
from vila2_ray.train.features import LossModule


def trained() -> LossModule:
    model = load_model(BASE_FOLDER, torch.float32)
    with torch.no_grad():
        model.model.multi_modal_projector.linear_2.bias += 0.123456789
    return LossModule(model, False, torch.float32)


def test_weights_are_rounded_and_loaded_by_transformers(tmp_path: Path) -> None:
    module, out = trained(), Store(tmp_path / "out")
    digest = export_folder(module, load_processor(BASE_FOLDER), torch.bfloat16, out, small.CPU)
    assert digest == checkpoint_digest(tmp_path / "out")
    loaded = load_model(tmp_path / "out")
    assert loaded.dtype == torch.bfloat16
    for (name, mine), theirs in zip(module.model.named_parameters(), loaded.parameters(), strict=True):
        assert torch.equal(mine.bfloat16(), theirs), name


@pytest.mark.parametrize("part", ["weights", "forward pass"])
def test_a_folder_that_answers_differently_is_not_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    def damaged(folder: Path) -> torch.nn.Module:
        loaded = load_model(folder)
        with torch.no_grad():
            if part == "weights":
                loaded.model.multi_modal_projector.linear_2.bias += 1
            else:
                loaded.model.language_model.config.rms_norm_eps = 0.0
                loaded.model.language_model.rotary_emb.inv_freq *= 0.5
        return loaded

    monkeypatch.setattr(export, "load_model", damaged)
    with pytest.raises(CheckpointError, match="answers differently" if part == "forward pass" else "gives another"):
        export_folder(trained(), load_processor(BASE_FOLDER), torch.float32, Store(tmp_path / "out"), small.CPU)
    assert not (tmp_path / "out").exists()
