"""A training loop as a team writes it by hand for one model: torchrun, FSDP2, a DataLoader, AdamW, and no more.

    torchrun --standalone --nproc-per-node 2 benchmarks/rivals/torchrun_fsdp.py FOLDER

FOLDER holds `model/`, `corpus/`, `sequences.npz` and `settings.json`. Writes `course.json`: when each step ended, the
losses, peak memory. Same loss as the measured trainer's, and what is quick is done: pixels are made by hand, the head
runs on learned positions only, the loss is read once a step, supervised tokens are counted beforehand.
"""

from __future__ import annotations

import json
import math
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from sequences import Sequences, attention_bias, by_hand, loader, micro_batches
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.nn import functional

from vila2_ray.model.loading import load_model, load_processor


class Loss(nn.Module):
    """The model with its loss: summed cross-entropy over what is learned."""

    def __init__(self, model: Any, attention: str, dtype: torch.dtype) -> None:
        super().__init__()
        self.model, self.attention, self.dtype = model, attention, dtype

    def forward(self, batch: dict[str, Any]) -> torch.Tensor:
        inner, config = self.model.model, self.model.config
        embeds = inner.language_model.embed_tokens(batch["ids"])
        if batch["pixels"] is not None:
            states = inner.vision_tower(batch["pixels"].to(embeds.dtype), output_hidden_states=True).hidden_states
            seen = inner.multi_modal_projector(states[config.vision_feature_layer]).flatten(0, 1)
            places = (batch["ids"] == config.image_token_id).flatten().nonzero()[:, 0]
            embeds = embeds.flatten(0, 1).index_copy(0, places, seen.to(embeds.dtype)).view_as(embeds)
        mask = attention_bias(batch["mask"], self.attention, embeds.dtype)
        hidden = inner.language_model(
            inputs_embeds=embeds, attention_mask=mask, position_ids=batch["positions"], use_cache=False
        ).last_hidden_state
        learned = batch["learned"].flatten().nonzero()[:, 0]
        logits = self.model.lm_head(hidden.flatten(0, 1)[learned - 1])
        return functional.cross_entropy(logits.float(), batch["ids"].flatten()[learned], reduction="sum")


def shard(module: Loss, dtype: torch.dtype) -> None:
    """Every layer of language model and tower is a unit, so is the connector; the root holds the rest."""
    half = dtype != torch.float32
    mixed = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32) if half else MixedPrecisionPolicy()
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    inner = module.model.model
    for layer in (*inner.language_model.layers, *inner.vision_tower.encoder.layers, inner.multi_modal_projector):
        fully_shard(layer, mesh=mesh, mp_policy=mixed)
    fully_shard(module, mesh=mesh, mp_policy=mixed)


def main() -> None:
    began = time.time()
    folder = Path(sys.argv[1])
    settings = json.loads((folder / "settings.json").read_text("utf-8"))
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    dtype = getattr(torch, settings["dtype"])
    model = load_model(folder / "model", torch.float32)
    model.set_attn_implementation(settings["attention"])
    module = Loss(model.train(), settings["attention"], dtype)
    shard(module, dtype)
    parameters = list(module.parameters())
    decayed = {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": settings["weight_decay"]}
    others = {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0}
    betas = (0.9, settings["adam_beta2"])
    optimizer = torch.optim.AdamW([decayed, others], lr=settings["peak_lr"], betas=betas, fused=True)
    dataset = Sequences(folder, by_hand(load_processor(folder / "model").image_processor))
    num_steps, size, micro = (settings[name] for name in ("num_steps", "batch_size", "micro_batch_size"))
    num_learned = np.add.reduceat(dataset.arrays["learned"].astype(np.int64), dataset.arrays["starts"][:-1])
    learned_by_step = num_learned[: num_steps * size].reshape(num_steps, size).sum(1)
    batches = iter(loader(dataset, list(micro_batches(num_steps, size, micro, rank, world))))
    per_step = math.ceil(size / world / micro)
    losses, ends, waits = [], [], []
    warmup = math.ceil(num_steps * settings["warmup_share"])
    for step in range(num_steps):
        progress = max(0, step - warmup) / max(1, num_steps - warmup)
        factor = (step + 1) / warmup if step < warmup else 0.5 * (1 + math.cos(math.pi * progress))
        for group in optimizer.param_groups:
            group["lr"] = settings["peak_lr"] * factor
        total = torch.zeros(())
        waits.append(0.0)
        for number in range(per_step):
            asked = time.monotonic()
            batch = next(batches)
            waits[-1] += time.monotonic() - asked
            module.set_is_last_backward(number == per_step - 1)
            loss = module(batch)
            (loss * (world / learned_by_step[step])).backward()
            total += loss.detach()
        nn.utils.clip_grad_norm_(parameters, settings["max_grad_norm"])
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        dist.all_reduce(total)
        losses.append(total.item() / float(learned_by_step[step]))
        ends.append(time.time())
    if rank == 0:
        course = {"began": began, "ends": ends, "losses": losses, "waits": waits}
        course["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        (folder / "course.json").write_text(json.dumps(course))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
