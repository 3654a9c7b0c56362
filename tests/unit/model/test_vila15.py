"""The published layout of VILA-1.5: read into our architecture, it sees what the published connector saw."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedTokenizerFast

from tests.unit.model.parts import write_language, write_tower
from vila2_ray import cli
from vila2_ray.errors import CheckpointError
from vila2_ray.model import load_model, load_processor
from vila2_ray.model.base import convert_vila15
from vila2_ray.storage import Store


def write_vila15(folder: Path, tokenizer: PreTrainedTokenizerFast, side: int) -> Path:
    """A folder of that layout with random weights, half precision as published."""
    write_tower(folder / "vision_tower", side=side, dtype=torch.float16)
    write_language(folder / "llm", tokenizer, dtype=torch.float16, vocab_size=8)
    (folder / "mm_projector").mkdir()
    torch.manual_seed(3)
    layers = nn.Sequential(nn.Identity(), nn.LayerNorm(64), nn.Linear(64, 16), nn.GELU(), nn.Linear(16, 16)).half()
    nn.init.normal_(layers[1].weight)
    nn.init.normal_(layers[1].bias)
    save_file({f"layers.{n}": w for n, w in layers.state_dict().items()}, folder / "mm_projector/model.safetensors")
    projector = {"model_type": "v2l_projector", "mm_projector_type": "mlp_downsample"}
    (folder / "mm_projector/config.json").write_text(json.dumps(projector))
    config = {
        "model_type": "llava_llama", "architectures": ["LlavaLlamaModel"],
        "llm_cfg": {"model_type": "llama"}, "vision_tower_cfg": {}, "mm_projector_cfg": projector,
        "mm_vision_select_layer": -2, "mm_vision_select_feature": "cls_patch", "hidden_size": 16, "mm_hidden_size": 16,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def published_connector(patches: torch.Tensor, weights: dict[str, torch.Tensor]) -> torch.Tensor:
    """[side², C] → [tokens, 16], patch by patch as VILA's `mlp_downsample` is described: 2 × 2 neighbours become one
    token, zeros beyond an odd edge, tokens column after column."""
    side = int(len(patches) ** 0.5)

    def patch(row: int, column: int) -> torch.Tensor:
        inside = row < side and column < side
        return patches[row * side + column] if inside else torch.zeros_like(patches[0])

    tokens = []
    for column in range(0, side, 2):
        for row in range(0, side, 2):
            four = [patch(row + r, column + c) for r in (0, 1) for c in (0, 1)]
            tokens.append(torch.cat(four))
    hidden = torch.stack(tokens)
    hidden = nn.functional.layer_norm(hidden, (64,), weights["layers.1.weight"], weights["layers.1.bias"])
    hidden = nn.functional.gelu(hidden @ weights["layers.2.weight"].T + weights["layers.2.bias"])
    return hidden @ weights["layers.4.weight"].T + weights["layers.4.bias"]


@pytest.mark.parametrize("side", [4, 5])
@torch.no_grad()
def test_image_tokens_are_those_of_the_published_connector(
    side: int, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    folder = write_vila15(tmp_path / "vila15", tokenizer, side)
    convert_vila15(folder, Store(tmp_path / "vila"))
    stored = load_model(tmp_path / "vila")
    assert {p.dtype for p in stored.parameters()} == {torch.float16}
    published = load_file(folder / "mm_projector/model.safetensors")
    ours = stored.model.multi_modal_projector
    for old, new in (("layers.1", ours.norm), ("layers.2", ours.linear_1), ("layers.4", ours.linear_2)):
        assert torch.equal(published[f"{old}.weight"], new.weight)
        assert torch.equal(published[f"{old}.bias"], new.bias)
    language = load_file(folder / "llm/model.safetensors")
    for name, weight in stored.model.language_model.state_dict().items():
        assert torch.equal(weight, language[f"model.{name}"]), name
    assert torch.equal(stored.lm_head.weight, language["lm_head.weight"])

    model, processor = load_model(tmp_path / "vila", torch.float32), load_processor(tmp_path / "vila")
    pixels = processor.image_processor(images=[Image.effect_noise((30, 20), 90).convert("RGB")], return_tensors="pt")
    patches = model.model.vision_tower(**pixels, output_hidden_states=True).hidden_states[-2][0]
    expected = published_connector(patches, {name: weight.float() for name, weight in published.items()})
    (seen,) = model.model.get_image_features(pixels["pixel_values"]).pooler_output
    torch.testing.assert_close(seen, expected)
    assert len(seen) == model.config.image_seq_length == (4 if side == 4 else 9)


def test_other_layouts_and_settings_are_refused(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_vila15(tmp_path / "vila15", tokenizer, 4)

    def refused(said: str) -> None:
        with pytest.raises(CheckpointError, match=said):
            convert_vila15(folder, Store(tmp_path / "vila"))

    config = json.loads((folder / "config.json").read_text())
    for name, value in (("mm_vision_select_feature", "patch"), ("s2", True)):
        (folder / "config.json").write_text(json.dumps({**config, name: value}))
        refused(f"{name} = {value!r}")
    (folder / "config.json").write_text(json.dumps(config))
    projector = folder / "mm_projector"
    (projector / "config.json").write_text('{"mm_projector_type": "mlp_downsample_3x3_fix"}')
    refused("mlp_downsample_3x3_fix")
    (projector / "config.json").write_text('{"mm_projector_type": "mlp_downsample"}')
    save_file({"layers.0.weight": torch.zeros(2)}, projector / "model.safetensors")
    refused(r"holds layers\.0\.weight")
    (projector / "model.safetensors").rename(projector / "pytorch_model.bin")
    refused("pickled weights")
    (folder / "llm").rename(folder / "elsewhere")
    refused("lacks llm")
    assert cli.main(["base", "--vila", str(tmp_path), "--to", str(tmp_path / "vila")]) == 2
    assert "has no config.json" in capsys.readouterr().err
    assert cli.main(["base", "--vila", str(folder), "--downsample", "3", "--to", str(tmp_path / "vila")]) == 2
