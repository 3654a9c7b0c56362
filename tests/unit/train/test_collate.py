from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.unit.train import small
from vila2_ray.train.collate import collate
from vila2_ray.train.features import LossModule
from vila2_ray.train.source import ImageKey, Tokens


def item(row: int, text: list[int]) -> Tokens:
    ids = np.array([1, *[small.IMAGE_TOKEN] * 4, *text, 2], np.int32)
    return Tokens(ids, np.arange(len(ids)) > 4, (ImageKey("s", "0", row),))


ITEMS = [item(0, [5, 6, 7]), item(1, [8, 9]), item(2, [10, 11, 12, 13])]


def batch(sequences: list[list[Tokens]], **options: object):
    return collate(sequences, pad_token_id=small.PAD, image_token_id=small.IMAGE_TOKEN, **options)  # type: ignore[arg-type]


def test_targets_are_the_supervised_tokens_and_predictors_stand_before_them() -> None:
    made = batch([[ITEMS[0]], [ITEMS[1]]])
    assert made.targets.tolist() == [5, 6, 7, 2, 8, 9, 2]
    flat = made.input_ids.flatten()
    assert flat[made.predictors + 1].tolist() == made.targets.tolist()
    assert made.attention_mask is None
    assert made.input_ids[1].tolist() == [1, 4, 4, 4, 4, 8, 9, 2, small.PAD]
    assert (made.num_items, made.num_tokens, made.num_supervised) == (2, 17, 7)


def test_a_masked_image_keeps_its_place_and_loses_its_targets() -> None:
    made = batch([[ITEMS[0]], [ITEMS[1]]], masked={ImageKey("s", "0", 0)})
    assert made.targets.tolist() == [8, 9, 2]
    assert made.images == [ImageKey("s", "0", 0), ImageKey("s", "0", 1)]
    assert len(made.image_positions) == 8


def test_packed_positions_restart_and_items_do_not_see_each_other() -> None:
    made = batch([[ITEMS[0], ITEMS[1]], [ITEMS[2]]])
    assert made.position_ids is not None
    assert made.position_ids[0].tolist() == [*range(9), *range(8)]
    assert made.attention_mask is not None
    mask = made.attention_mask[0, 0]
    assert not mask[9:, :9].any()
    assert mask[:9, :9].equal(torch.ones(9, 9).tril().bool())
    assert made.attention_mask[1, 0].any(-1).all()  # padding looks at itself: no row is empty


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packed_and_padded_give_the_same_loss_and_gradients(attention: str) -> None:
    torch.manual_seed(1)
    pixels = torch.randn(3, 3, 32, 32)
    found = []
    for sequences in ([[i] for i in ITEMS], [ITEMS], [ITEMS[:2], ITEMS[2:]]):
        model = small.model()
        model.set_attn_implementation(attention)
        loss = LossModule(model, True, torch.float32)(batch(sequences), pixels, torch.arange(3))
        loss.backward()
        found.append((loss.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}))
    for loss, gradients in found[1:]:
        torch.testing.assert_close(loss, found[0][0], rtol=1e-4, atol=1e-4)
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, found[0][1][name], rtol=1e-3, atol=1e-4)


def test_the_split_forward_pass_is_transformers_own() -> None:
    """The loop runs tower, connector and language model apart; together they must be the model's own forward pass."""
    torch.manual_seed(1)
    pixels, model, made = torch.randn(3, 3, 32, 32), small.model(), batch([[i] for i in ITEMS])
    own = model(input_ids=made.input_ids, pixel_values=pixels).logits.flatten(0, 1)[made.predictors]
    expected = torch.nn.functional.cross_entropy(own, made.targets, reduction="sum")
    torch.testing.assert_close(LossModule(model, True, torch.float32)(made, pixels, torch.arange(3)), expected)
