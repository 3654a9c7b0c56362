"""Pretrains the tiny vision tower: which thing, or which printed word, covers each patch of a composed scene.

It stands in for web-scale pretraining: scenes of its own seeds, with the composer's truth. Recognition without a label
per patch was tried and leaves places at chance, for nothing ties the evidence to a place.
"""

from __future__ import annotations

import contextlib
import math
import random
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from transformers import SiglipVisionConfig, SiglipVisionModel

from vila2_ray.recipes.tiny import artwork
from vila2_ray.recipes.tiny.compose import SIDE, compose
from vila2_ray.recipes.tiny.world import LEXICON, NAMES, Truth, layout

CONFIG = SiglipVisionConfig(
    hidden_size=192,
    intermediate_size=768,
    num_hidden_layers=6,
    num_attention_heads=6,
    hidden_act="gelu",
    image_size=SIDE,
    patch_size=12,
    vision_use_head=False,
)
GRID = SIDE // CONFIG.patch_size
LABELS = {name: index + 1 for index, name in enumerate((*NAMES, *LEXICON))}
"""Class of a patch; 0 is the background."""


def fast_dtype() -> torch.dtype:
    """bfloat16 where the processor multiplies it natively (four times as fast), float32 elsewhere."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as info:
        if "avx512_bf16" in info.read():
            return torch.bfloat16
    return torch.float32


def patch_labels(truth: Truth) -> np.ndarray:
    """[GRID²] int64: the class of the thing or word whose box holds the middle of each patch, row by row."""
    middle = (np.arange(GRID) + 0.5) * 1000 / GRID
    labels = np.zeros((GRID, GRID), np.int64)
    for thing in (*truth["objects"], *truth["words"]):
        left, top, right, bottom = thing["box"]
        across, down = (middle >= left) & (middle <= right), (middle >= top) & (middle <= bottom)
        labels[down[:, None] & across[None, :]] = LABELS[thing.get("name") or thing["text"]]
    return labels.reshape(-1)


def scenes(seed: str, num: int, *, heldout: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """`num` fresh scenes: pixels [num, 3, SIDE, SIDE] in −1…1 and patch labels [num, GRID²]."""
    rng, pictures = random.Random(seed), _artwork()
    pixels = np.empty((num, SIDE, SIDE, 3), np.uint8)
    labels = np.empty((num, GRID * GRID), np.int64)
    for index in range(num):
        image, truth = compose(layout(rng, heldout=heldout), rng, pictures, heldout=heldout)
        pixels[index], labels[index] = np.asarray(image), patch_labels(truth)
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1, torch.from_numpy(labels)


def pretrain(
    num_steps: int,
    seed: int = 0,
    batch_size: int = 64,
    peak_lr: float = 1e-3,
    num_scored: int = 1000,
    log: Callable[[str], None] = print,
) -> tuple[SiglipVisionModel, dict[str, float]]:
    """Train for `num_steps`. Returns the tower and the shares of patches right, on training and held-out styles."""
    torch.manual_seed(seed)
    # scaled_dot_product_attention's backward pass is twice as slow on CPU as plain matrix products at this size
    tower = SiglipVisionModel._from_config(CONFIG, attn_implementation="eager")
    head = nn.Sequential(nn.LayerNorm(CONFIG.hidden_size), nn.Linear(CONFIG.hidden_size, len(LABELS) + 1))
    parameters = [*tower.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=peak_lr, weight_decay=0.05, betas=(0.9, 0.98))
    weight = torch.ones(len(LABELS) + 1)
    weight[0] = 0.3  # most patches are background
    start, dtype = time.monotonic(), fast_dtype()
    for step in range(num_steps):
        for group in optimizer.param_groups:
            group["lr"] = peak_lr * min(1, (step + 1) / 200, 0.51 + 0.5 * math.cos(math.pi * step / num_steps))
        pixels, labels = scenes(f"tower/{seed}/{step}", batch_size)
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            logits = head(_features(tower, pixels)).float()
        loss = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), weight=weight)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if (step + 1) % 100 == 0:
            right = (logits.argmax(-1) == labels)[labels > 0].float().mean()
            seen, seconds = (step + 1) * batch_size, time.monotonic() - start
            log(f"tower {seen} scenes, {seconds:.0f} s, loss {loss:.3f}, right {right:.3f}")
    scores: dict[str, float] = {"scenes": num_steps * batch_size}
    tower.eval()
    with torch.no_grad():
        for split in ("train", "heldout"):
            pixels, labels = scenes(f"tower/{split}/{seed}/score", num_scored, heldout=split == "heldout")
            right = head(_features(tower, pixels)).argmax(-1) == labels
            things, words = (labels > 0) & (labels <= len(NAMES)), labels > len(NAMES)
            scores |= {f"{split}_things": right[things].float().mean().item()}
            scores |= {f"{split}_words": right[words].float().mean().item()}
            scores |= {f"{split}_background": right[labels == 0].float().mean().item()}
    return tower, scores


def _features(tower: SiglipVisionModel, pixels: torch.Tensor) -> torch.Tensor:
    """What `vila` reads with vision_feature_layer = −1: [B, GRID², hidden] before the tower's last norm."""
    return tower(pixels, output_hidden_states=True).hidden_states[-1]


_pictures: dict = {}


def _artwork() -> dict:
    if not _pictures:
        _pictures.update(artwork.load())
    return _pictures
