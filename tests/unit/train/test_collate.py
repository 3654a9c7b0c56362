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


def several(row: int, text: list[int], more: list[int]) -> Tokens:
    """An item with two images, the second in the middle of its text."""
    ids = np.array([1, *[small.IMAGE_TOKEN] * 4, *text, *[small.IMAGE_TOKEN] * 4, *more, 2], np.int32)
    supervised = (ids != small.IMAGE_TOKEN) & (np.arange(len(ids)) > 0)
    return Tokens(ids, supervised, (ImageKey("s", "0", row, 1), ImageKey("s", "0", row, 0)))


def test_images_of_packed_documents_stand_in_order_and_one_masks_its_item() -> None:
    document = several(7, [20, 21], [22])
    made = batch([[ITEMS[0], document, ITEMS[1]]], masked={ImageKey("s", "0", 7, 0)})
    assert made.images == [*ITEMS[0].images, *document.images, *ITEMS[1].images]
    assert len(made.image_positions) == 16
    assert made.targets.tolist() == [5, 6, 7, 2, 8, 9, 2]


def test_a_flat_batch_is_one_row_without_padding_or_mask() -> None:
    made = batch([[ITEMS[0], ITEMS[1]], [ITEMS[2]]], flat=True)
    assert made.input_ids.shape == (1, 9 + 8 + 10)
    assert made.attention_mask is None
    assert made.position_ids is not None
    assert made.position_ids[0].tolist() == [*range(9), *range(8), *range(10)]
    assert (made.num_items, made.num_tokens) == (3, 27)


TEXT = Tokens(np.array([1, 9, 8, 7, 2], np.int32), np.array([0, 1, 1, 1, 1], bool), ())


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("flat", [False, True])
def test_packed_and_padded_give_the_same_loss_and_gradients(attention: str, flat: bool) -> None:
    torch.manual_seed(1)
    items = [*ITEMS, several(3, [14, 15, 16], [17, 18]), TEXT]
    keys = list(dict.fromkeys(key for made in items for key in made.images))
    pixels = torch.randn(len(keys), 3, 32, 32)
    found = []
    for sequences in ([[i] for i in items], [items], [items[:2], items[2:]]):
        model = small.model()
        model.set_attn_implementation(attention)
        made = batch(sequences, flat=flat and len(sequences) < len(items))
        index = torch.tensor([keys.index(key) for key in made.images])
        loss = LossModule(model, True, torch.float32)(made, pixels, index)
        loss.backward()
        found.append((loss.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}))
    for loss, gradients in found[1:]:
        torch.testing.assert_close(loss, found[0][0], rtol=1e-5, atol=1e-5)
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, found[0][1][name], rtol=1e-5, atol=1e-5)


def test_the_split_forward_pass_is_transformers_own() -> None:
    """The loop runs tower, connector and language model apart; together they must be the model's own forward pass."""
    torch.manual_seed(1)
    pixels, model, made = torch.randn(3, 3, 32, 32), small.model(), batch([[i] for i in ITEMS])
    own = model(input_ids=made.input_ids, pixel_values=pixels).logits.flatten(0, 1)[made.predictors]
    expected = torch.nn.functional.cross_entropy(own, made.targets, reduction="sum")
    torch.testing.assert_close(LossModule(model, True, torch.float32)(made, pixels, torch.arange(3)), expected)
