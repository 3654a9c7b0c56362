"""A team's own trainer, as `train.command` starts it: reads shards and caption layers side by side, with no Ray.

    python own_trainer.py manifest.json

It trains the connector alone, by plain gradient descent, one sample a step.
"""

from __future__ import annotations

import io
import json
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from PIL import Image
from torch.utils.data import IterableDataset
from transformers import AutoModelForImageTextToText, AutoProcessor

from vila2_ray.model import register


class Samples(IterableDataset):
    """(picture, text) of the samples that the plan names: the alt text and the captions that no verdict flags."""

    def __init__(self, manifest: dict[str, Any]) -> None:
        self.manifest = manifest
        plan = pq.read_table(manifest["plan"], columns=["shard", "row"]).to_pydict()
        self.planned = set(zip(plan["shard"], plan["row"], strict=True))

    def __iter__(self) -> Iterator[tuple[Image.Image, str]]:
        for shard in self.manifest["sources"][0]["shards"]:
            captions: dict[int, list[str]] = {}
            for layer in shard["layers"]:
                for row in pq.read_table(layer["captions"]).to_pylist():
                    if row["status"] == "captioned":
                        captions.setdefault(row["row"], []).append(row["text"])
            for number, (png, alt_text) in enumerate(self.members(shard["uri"])):
                if (shard["shard"], number) in self.planned:
                    yield Image.open(io.BytesIO(png)).convert("RGB"), " ".join([alt_text, *captions.get(number, [])])

    @staticmethod
    def members(uri: str) -> Iterator[tuple[bytes, str]]:
        with tarfile.open(uri) as archive:
            files = {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]
        for name in sorted(n for n in files if n.endswith(".png")):
            yield files[name], files[name[:-3] + "txt"].decode()


def main(file: str) -> None:
    manifest = json.loads(Path(file).read_text())
    register()
    model = AutoModelForImageTextToText.from_pretrained(manifest["init"], dtype=torch.float32)
    processor = AutoProcessor.from_pretrained(manifest["init"], backend="pil")
    model.requires_grad_(False)
    connector = model.model.multi_modal_projector.requires_grad_(True)
    optimizer = torch.optim.SGD(connector.parameters(), lr=manifest["settings"]["peak_lr"])
    for step, (image, text) in enumerate(Samples(manifest)):
        inputs = processor(images=[image], text=[f"{processor.image_token} {text}"], return_tensors="pt")
        loss = model(**inputs, labels=inputs["input_ids"]).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        print(json.dumps({"step": step + 1, "loss": loss.item(), "text": text}), flush=True)
    model.to(torch.bfloat16).save_pretrained(manifest["out"])


if __name__ == "__main__":
    main(sys.argv[1])
