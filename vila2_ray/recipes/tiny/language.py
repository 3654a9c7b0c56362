"""Pretrains the tiny language model on text alone: grids of words, each with a caption, alt text, answer or box.

A grid stands where an image will stand: after `<s>`, one vector per image token in the connector's order (columns
first). A vector mixes the embeddings of the words for what lies in that cell, by coverage, so that text-only
pretraining teaches what a language model brings to a VLM: sentences, and how a word is bound to its place.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from vila2_ray.recipes.tiny.compose import SIDE, place_center
from vila2_ray.recipes.tiny.tower import CONFIG as TOWER
from vila2_ray.recipes.tiny.tower import fast_dtype
from vila2_ray.recipes.tiny.world import (
    DETAILED_PROMPTS,
    TINY_PROMPTS,
    Truth,
    alt_text,
    careful_caption,
    layout,
    questions,
)

CELLS = TOWER.image_size // TOWER.patch_size // 2
"""Image tokens along one side: the connector folds 2 × 2 patches."""
IGNORED = -100


def config(tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=6,
        max_position_embeddings=512,
        # sequences are some fifty tokens long, and the place of an image token is known from its distance to <s> alone
        rope_parameters={"rope_type": "default", "rope_theta": 200.0},
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )


def grid(truth: Truth, rng: random.Random, tokenizer: PreTrainedTokenizerFast, noise: float) -> torch.Tensor:
    """[CELLS², vocabulary] mixing weights of a scene's grid, columns first; `noise`: the share of cells left empty."""
    cell, weights = SIDE / CELLS, torch.zeros(CELLS * CELLS, len(tokenizer))
    empty = tokenizer.convert_tokens_to_ids("empty")
    weights[:, empty] = 1.0
    for thing in (*truth["objects"], *truth["words"]):
        width, height = _extent(thing, rng)
        center_x, center_y = (
            min(max(center + rng.uniform(-2, 2), side / 2), SIDE - side / 2)
            for center, side in zip(place_center(thing["place"]), (width, height), strict=True)
        )
        ids = tokenizer.convert_tokens_to_ids((thing.get("name") or f"sign {thing['text']}").split())
        for column in range(CELLS):
            for row in range(CELLS):
                across = min(center_x + width / 2, (column + 1) * cell) - max(center_x - width / 2, column * cell)
                down = min(center_y + height / 2, (row + 1) * cell) - max(center_y - height / 2, row * cell)
                covered = min(1.0, max(0, across) * max(0, down) / cell**2 / 0.6)
                if covered > 0.1 and rng.random() >= noise:
                    weights[column * CELLS + row] *= 1 - covered
                    weights[column * CELLS + row, ids] += covered
    return weights


def _extent(thing: dict, rng: random.Random) -> tuple[float, float]:
    if "text" in thing:
        return 46.0, 16.0
    longer = rng.uniform(39, 42) if thing["size"] == "large" else rng.uniform(28, 30)
    shorter = longer * rng.uniform(0.75, 1)
    return (longer, shorter) if rng.random() < 0.5 else (shorter, longer)


def turn(truth: Truth, rng: random.Random) -> tuple[str, str]:
    """What is asked about a scene and what is answered, both as text: captions, alt texts, questions, boxes."""
    draw = rng.random()
    if draw < 0.45:
        return f"{TINY_PROMPTS[rng.choice(DETAILED_PROMPTS)]} : ", careful_caption(truth)
    if draw < 0.60:
        return rng.choice(("", f"{TINY_PROMPTS['brief']} : ")), alt_text(truth, rng)
    if draw < 0.65:
        thing = rng.choice(truth["objects"])
        half = 20 if thing["size"] == "large" else 14
        center_x, center_y = place_center(thing["place"])
        edges = (center_x - half, center_y - half, center_x + half, center_y + half)
        box = [min(max(round(edge * 1000 / SIDE), 0), 999) for edge in edges]
        return f"give the box of the {thing['name']}. : ", f"[{', '.join(map(str, box))}]"
    asked = questions(truth, rng, 1)[0]
    return f"{asked['question']} : ", asked["answer"]


def batch(
    seed: str, num: int, tokenizer: PreTrainedTokenizerFast, *, captions_only: bool = False, noise: float = 0.1
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(mix [num, CELLS², V], ids [num, L], labels [num, L]) with labels only on the answers and their `</s>`."""
    rng, mixes, asked, answered = random.Random(seed), [], [], []
    for _ in range(num):
        truth = layout(rng)
        question, answer = turn(truth, rng)
        if captions_only:
            question, answer = f"{TINY_PROMPTS['detailed']} : ", careful_caption(truth)
        mixes.append(grid(truth, rng, tokenizer, noise))
        asked.append(question)
        answered.append(answer)
    prompts = tokenizer(asked, add_special_tokens=False)["input_ids"]
    answers = tokenizer(answered, add_special_tokens=False)["input_ids"]
    length = max(len(prompt) + len(answer) + 1 for prompt, answer in zip(prompts, answers, strict=True))
    ids = torch.full((num, length), tokenizer.pad_token_id)
    labels = torch.full((num, length), IGNORED)
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        answer = torch.tensor([*answer, tokenizer.eos_token_id])
        stop = len(prompt) + len(answer)
        ids[row, : len(prompt)] = torch.tensor(prompt, dtype=torch.long)
        ids[row, len(prompt) : stop] = labels[row, len(prompt) : stop] = answer
    return torch.stack(mixes), ids, labels


def _answers(
    model: LlamaForCausalLM, mix: torch.Tensor, ids: torch.Tensor, labels: torch.Tensor, bos: int, jitter: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits and targets [num supervised tokens] of a batch, and the row of each."""
    embed = model.model.embed_tokens
    cells = mix @ embed.weight
    if jitter:
        cells = cells + torch.randn_like(cells) * cells.detach().std() * jitter
    start = embed(torch.full((len(ids), 1), bos))
    hidden = model.model(inputs_embeds=torch.cat([start, cells, embed(ids)], 1), use_cache=False).last_hidden_state
    hidden = hidden[:, mix.shape[1] : -1]  # the state before token t predicts token t
    supervised = labels != IGNORED
    rows = torch.arange(len(ids))[:, None].expand_as(labels)[supervised]
    return model.lm_head(hidden[supervised]).float(), labels[supervised], rows


def pretrain(
    tokenizer: PreTrainedTokenizerFast,
    num_steps: int,
    seed: int = 0,
    batch_size: int = 64,
    peak_lr: float = 1.5e-3,
    num_scored: int = 500,
    log: Callable[[str], None] = print,
) -> tuple[LlamaForCausalLM, dict[str, float]]:
    """Train for `num_steps`. Returns the model and the shares of caption tokens and of whole captions right."""
    torch.manual_seed(seed)
    model = LlamaForCausalLM._from_config(config(tokenizer), attn_implementation="eager")
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak_lr, weight_decay=0.05, betas=(0.9, 0.98))
    start, dtype, bos = time.monotonic(), fast_dtype(), tokenizer.bos_token_id
    losses = []
    for step in range(num_steps):
        for group in optimizer.param_groups:
            group["lr"] = peak_lr * min(1, (step + 1) / 100, 0.51 + 0.5 * math.cos(math.pi * step / num_steps))
        inputs = batch(f"language/{seed}/{step}", batch_size, tokenizer)
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            logits, targets, _ = _answers(model, *inputs, bos, jitter=0.2)
        loss = functional.cross_entropy(logits, targets)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        if (step + 1) % 200 == 0:
            tokens, whole = score(model, tokenizer, 128)
            log(
                f"language {(step + 1) * batch_size} sequences, {time.monotonic() - start:.0f} s, "
                f"loss {sum(losses[-50:]) / 50:.3f}, caption tokens right {tokens:.3f}, captions {whole:.3f}"
            )
    tokens, whole = score(model.eval(), tokenizer, num_scored)
    return model, {"sequences": num_steps * batch_size, "caption_tokens": tokens, "captions": whole}


@torch.no_grad()
def score(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, num: int) -> tuple[float, float]:
    """Shares of caption tokens and of whole captions that greedy decoding gets right, on clean grids not trained on."""
    inputs = batch("language/score", num, tokenizer, captions_only=True, noise=0.0)
    logits, targets, rows = _answers(model, *inputs, tokenizer.bos_token_id, jitter=0.0)
    right = (logits.argmax(-1) == targets).float()
    wrong_rows = torch.zeros(num).index_add_(0, rows, 1 - right)
    return right.mean().item(), (wrong_rows == 0).float().mean().item()
