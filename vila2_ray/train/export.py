"""The finished checkpoint folder: gathered from the ranks, written, loaded again and compared before it counts."""

from __future__ import annotations

import copy
import json
import shutil
import tempfile
import uuid
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.tensor import DTensor
from transformers import AutoModelForImageTextToText, PreTrainedConfig, PreTrainedModel, ProcessorMixin

from vila2_ray.config import EngineConfig
from vila2_ray.errors import CheckpointError
from vila2_ray.model.loading import check_checkpoint, checkpoint_digest, load_model
from vila2_ray.storage import Store
from vila2_ray.train.collate import Batch
from vila2_ray.train.features import LossModule
from vila2_ray.train.parallelize import Place
from vila2_ray.train.proof import answers, check_served
from vila2_ray.train.source import ImageKey

_CLOSE = {torch.float32: 1e-4, torch.bfloat16: 5e-2}
"""How far logits may lie apart, as a share of the largest, by the number format that the trained model computes in."""


def export_folder(
    module: LossModule,
    processor: ProcessorMixin,
    dtype: torch.dtype,
    out: Store,
    place: Place,
    server: EngineConfig | None = None,
) -> str | None:
    """Write the trained model as a Hugging Face folder to `out`; its digest on rank 0, None on the others.

    Called by all ranks. Weights are rounded to `dtype`, in the model too. The folder is first written locally and
    loaded again: its weights must be the model's, bit for bit, and its answer to one image and text the model's own,
    through transformers' forward pass, before anything goes to `out`. Where a `server` is given, vLLM must serve it as
    transformers does, too.
    Raises CheckpointError when they are not.
    """
    _round(module, dtype)
    inputs, expected = _answer(module, processor, place)
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    state = get_model_state_dict(module.model, options=options)  # on rank 0; nothing on the others
    if place.rank:
        return None
    scratch = Path(tempfile.mkdtemp(prefix="vila2-export-"))
    try:
        state = {name: tensor.to(dtype) for name, tensor in state.items()}
        _holding(state, module.model.config, dtype).save_pretrained(scratch)
        processor.save_pretrained(scratch)
        _compare(scratch, state, inputs, expected, _CLOSE[place.compute_dtype])
        if server is not None:
            check_served(scratch, answers(load_model(scratch, torch.float32), processor), server)
        digest = checkpoint_digest(scratch)
        _place(scratch, out)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return digest


def weights_dtype(folder: str | Path) -> torch.dtype:
    """The number format of a folder's weights, as its configuration names it; float32 where it does not."""
    config = json.loads((check_checkpoint(folder) / "config.json").read_text("utf-8"))
    name = config.get("dtype") or config.get("torch_dtype") or "float32"
    return cast(torch.dtype, getattr(torch, name))


def _holding(state: dict[str, torch.Tensor], config: PreTrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    """A model of its own on these tensors: the trained one may be sharded, and is of another number format."""
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(copy.deepcopy(config), dtype=dtype)
    model.load_state_dict(state, assign=True)
    model.tie_weights()
    return model


def _place(scratch: Path, out: Store) -> None:
    out.delete_tree()
    if not out.is_local:
        out.upload_folder(scratch)
        return
    Path(out.uri).parent.mkdir(parents=True, exist_ok=True)
    staging = Path(out.uri).with_name(f".tmp-{uuid.uuid4().hex}")
    shutil.copytree(scratch, staging)
    staging.rename(out.uri)


@torch.no_grad()
def _round(module: LossModule, dtype: torch.dtype) -> None:
    """Round the parameters in place. Buffers (rotary frequencies) are not saved: loading computes them in float32."""
    for parameter in module.model.parameters():
        held = parameter.to_local() if isinstance(parameter, DTensor) else parameter
        held.copy_(held.to(dtype))


@torch.no_grad()
def _answer(module: LossModule, processor: Any, place: Place) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """One image and text, and the trained model's logits [tokens − 1, V] for them, computed as in training."""
    grey, text = Image.new("RGB", (96, 96), (127, 127, 127)), f"{processor.image_token} a b c"
    inputs = dict(processor(images=[grey], text=[text], return_tensors="pt"))
    ids = inputs["input_ids"]
    image_token = int(module.model.config.image_token_id)
    batch = Batch(
        input_ids=ids,
        position_ids=None,
        attention_mask=None,
        predictors=torch.arange(ids.shape[1] - 1),
        targets=ids[0, 1:],
        image_positions=torch.from_numpy(np.flatnonzero(ids.reshape(-1).numpy() == image_token)),
        images=[ImageKey("", "", 0)],
        num_items=1,
        num_tokens=ids.shape[1],
    ).to(place.device)
    module.eval()
    pixels = inputs["pixel_values"].to(place.device)
    with place.autocast():
        if module.frozen_tower is not None:
            pixels = module.encode(pixels)
        index = torch.zeros(1, dtype=torch.int64, device=place.device)
        return inputs, module(batch, pixels, index, logits_only=True).float().cpu()


@torch.no_grad()
def _compare(
    folder: Path, state: dict[str, torch.Tensor], inputs: dict[str, torch.Tensor], expected: torch.Tensor, close: float
) -> None:
    """Raise CheckpointError unless the folder gives the weights of `state` and, but for rounding, their answer."""
    loaded = load_model(folder)
    found = loaded.state_dict()
    for name, tensor in state.items():
        if name not in found or not torch.equal(found[name], tensor):
            raise CheckpointError(str(folder), f"gives another {name} than the model that was saved")
    logits = loaded.float()(**inputs).logits[0, :-1].float()
    if logits.shape != expected.shape or (logits - expected).abs().max() > close * expected.abs().max().clamp(min=1):
        raise CheckpointError(str(folder), "answers differently from the model that was saved")
