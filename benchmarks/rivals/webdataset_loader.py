"""The data path alone, as webdataset's users write it: tar shards → decoded, processed pictures and tokens, in batches.

    python benchmarks/rivals/webdataset_loader.py FOLDER processor|handmade

`processor` runs the checkpoint's image processor; `handmade` does its arithmetic by hand in torch, which is quicker
and not quite the same bits. All is pinned to one core, where a worker process of the DataLoader's would only cost.
Prints a JSON object.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import webdataset as wds
from torch.utils.data import DataLoader

from vila2_ray.model.loading import load_processor

BATCH = 32


def main() -> None:
    folder, way = Path(sys.argv[1]), sys.argv[2]
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    processor: Any = load_processor(folder / "model")
    size = processor.image_processor.size
    resample = processor.image_processor.resample

    def processed(image: Any) -> torch.Tensor:
        return processor.image_processor(images=[image], return_tensors="pt")["pixel_values"][0]

    def handmade(image: Any) -> torch.Tensor:
        pixels = torch.from_numpy(np.array(image.resize((size.width, size.height), resample)))
        return pixels.permute(2, 0, 1).float().div_(127.5).sub_(1.0)

    def batched(samples: list[tuple[torch.Tensor, str]]) -> tuple[torch.Tensor, torch.Tensor]:
        texts = [f"{processor.tokenizer.bos_token}{text}{processor.tokenizer.eos_token}" for _, text in samples]
        tokens = processor.tokenizer(texts, add_special_tokens=False, padding=True, return_tensors="pt")
        return torch.stack([pixels for pixels, _ in samples]), tokens["input_ids"]

    urls = [str(path) for path in sorted((folder / "corpus" / "pretrain").glob("*.tar"))]
    make = processed if way == "processor" else handmade
    dataset = wds.WebDataset(urls, shardshuffle=False).decode("pilrgb").to_tuple("jpg", "txt").map_tuple(make, str)
    dataset = dataset.batched(BATCH, collation_fn=batched, partial=True)
    began, num = time.monotonic(), 0
    for pixels, ids in DataLoader(dataset, batch_size=None, num_workers=0):
        assert len(pixels) == len(ids)
        num += len(pixels)
    print(json.dumps({"samples": num, "seconds": time.monotonic() - began}))


if __name__ == "__main__":
    main()
