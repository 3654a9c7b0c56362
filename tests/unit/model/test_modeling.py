"""The connector: VILA's token order by a hand-worked example, padding of odd grids, counts."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from vila2_ray.model.configuration import VilaConfig, num_image_tokens
from vila2_ray.model.modeling import space_to_channel


def grid(side: int) -> torch.Tensor:
    """[1, side², 1]: the patch in row r, column c holds 10·(r+1) + c+1."""
    return torch.tensor([[float(10 * row + column)] for row in range(1, side + 1) for column in range(1, side + 1)])[
        None
    ]


def test_tokens_go_down_the_columns_and_patches_row_by_row():
    assert space_to_channel(grid(4), 2)[0].tolist() == [
        [11, 12, 21, 22],
        [31, 32, 41, 42],
        [13, 14, 23, 24],
        [33, 34, 43, 44],
    ]


def test_an_odd_side_is_padded_with_zeros_at_its_end():
    assert space_to_channel(grid(3), 2)[0].tolist() == [
        [11, 12, 21, 22],
        [31, 32, 0, 0],
        [13, 0, 23, 0],
        [33, 0, 0, 0],
    ]


def test_channels_of_a_patch_stay_together():
    patches = torch.cat([grid(2), -grid(2)], dim=-1)
    assert space_to_channel(patches, 2)[0].tolist() == [[11, -11, 12, -12, 21, -21, 22, -22]]


def test_patches_that_form_no_square_are_refused():
    with pytest.raises(ValueError, match="12 patches"):
        space_to_channel(torch.zeros(1, 12, 3), 2)


@pytest.mark.parametrize(("side", "tokens"), [(27, 196), (8, 16), (24, 144), (1, 1)])
def test_number_of_image_tokens(side, tokens):
    assert num_image_tokens(side, 2) == tokens == space_to_channel(torch.zeros(1, side * side, 1), 2).shape[1]


def test_paper_sized_configuration():
    config = VilaConfig(
        vision_config={"image_size": 384, "patch_size": 14, "hidden_size": 32, "num_attention_heads": 2}
    )
    assert (config.image_seq_length, config.vision_feature_layer) == (196, -2)
    assert config.vision_config.model_type == "siglip_vision_model"
    with pytest.raises(ValueError, match="downsample_factor"):
        VilaConfig(downsample_factor=0)


def test_the_processor_writes_as_many_placeholders_as_the_connector_gives_tokens(vila):
    model, processor = vila
    inputs = processor(images=Image.new("RGB", (50, 40), (9, 90, 200)), text="<s><image>a cat", return_tensors="pt")
    tokens = model.model.get_image_features(inputs["pixel_values"]).pooler_output[0]
    placeholders = int((inputs["input_ids"] == model.config.image_token_index).sum())
    assert placeholders == len(tokens) == model.config.image_seq_length
    assert processor._get_num_multimodal_tokens([[40, 50]])["num_image_tokens"] == [placeholders]


def test_the_image_reaches_the_logits(vila):
    model, processor = vila
    logits = [
        model(**processor(images=Image.new("RGB", (9, 9), color), text="<s><image>a", return_tensors="pt")).logits
        for color in ("red", "blue")
    ]
    assert not torch.allclose(*logits)
