"""The same batches through transformers' `Trainer`, in one process.

    python benchmarks/rivals/hf_trainer.py FOLDER

FOLDER as for `torchrun_fsdp.py`; writes the same `course.json`.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch
from sequences import Sequences, attention_bias, by_processor, collate
from transformers import Trainer, TrainerCallback, TrainingArguments

from vila2_ray.model.loading import load_model, load_processor


class Clock(TrainerCallback):
    """When each step ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.ends.append(time.time())


def main() -> None:
    began = time.time()
    folder = Path(sys.argv[1])
    settings = json.loads((folder / "settings.json").read_text("utf-8"))
    torch.set_num_threads(1)
    model = load_model(folder / "model", torch.float32)
    model.set_attn_implementation(settings["attention"])
    model.config.use_cache = False
    half = settings["dtype"] == "bfloat16"

    def batch(sequences: list[dict[str, Any]]) -> dict[str, Any]:
        made = collate(sequences)
        return {
            "input_ids": made["ids"],
            "attention_mask": attention_bias(made["mask"], settings["attention"], torch.float32),
            "position_ids": made["positions"],
            "pixel_values": made["pixels"],
            "labels": made["ids"].masked_fill(~made["learned"], -100),
        }

    arguments = TrainingArguments(
        output_dir=str(folder / "hf"),
        use_cpu=True,
        bf16=half,
        per_device_train_batch_size=settings["micro_batch_size"],
        gradient_accumulation_steps=settings["batch_size"] // settings["micro_batch_size"],
        max_steps=settings["num_steps"],
        learning_rate=settings["peak_lr"],
        warmup_steps=settings["warmup_share"],
        lr_scheduler_type="cosine",
        weight_decay=settings["weight_decay"],
        adam_beta2=settings["adam_beta2"],
        max_grad_norm=settings["max_grad_norm"],
        optim="adamw_torch_fused",
        train_sampling_strategy="sequential",  # they are packed and shuffled already
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_num_workers=1,
        dataloader_prefetch_factor=4,
        dataloader_pin_memory=False,
    )
    clock = Clock()
    dataset = Sequences(folder, by_processor(load_processor(folder / "model").image_processor))
    trainer = Trainer(model=model, args=arguments, train_dataset=dataset, data_collator=batch, callbacks=[clock])
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    course = {"began": began, "ends": clock.ends, "losses": losses}
    course["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    (folder / "course.json").write_text(json.dumps(course))


if __name__ == "__main__":
    main()
