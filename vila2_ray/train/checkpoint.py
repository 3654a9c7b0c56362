"""Resumable training state, and the finished checkpoint folder.

State is one safetensors file (trained parameters, AdamW moments) and a JSON marker that names it, written last; both
whole or not at all. Nothing pickled is written or read. The marker carries the key of the work that it belongs to, so
state of other work in the same folder is never continued.
"""

from __future__ import annotations

import json
import shutil
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import nn

from vila2_ray.errors import CheckpointError
from vila2_ray.model.loading import checkpoint_digest, load_model, load_processor
from vila2_ray.storage import Store
from vila2_ray.train.loop import FitResult
from vila2_ray.train.parallelize import Place

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin

_MARKER = "last.json"


class StepStore:
    """Keeps the state of one piece of work in a folder."""

    def __init__(self, store: Store, work: str, every_seconds: float) -> None:
        """`work` names what is trained on what: state under another name is ignored."""
        self._store, self._work, self._every = store, work, every_seconds
        self._saved_at = time.monotonic()
        self._last = ""

    def load(self, trained: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> FitResult | None:
        """Put saved state into parameters and optimizer; the course so far, None when there is nothing to resume.

        Raises CheckpointError when the saved tensors are not those of this model.
        """
        self._saved_at = time.monotonic()
        if not self._store.exists(_MARKER):
            return None
        marker = json.loads(self._store.read_text(_MARKER))
        if marker["work"] != self._work:
            return None
        tensors = load_tensors(self._store.read_bytes(marker["file"]))
        self._last = marker["file"]
        shapes = {name: p.shape for name, p in trained.items()}
        if {n[6:]: t.shape for n, t in tensors.items() if n.startswith("param/")} != shapes:
            raise CheckpointError(
                self._store.path(marker["file"]), "holds other parameters than this model trains", "Delete it"
            )
        with torch.no_grad():
            for name, parameter in trained.items():
                parameter.copy_(tensors[f"param/{name}"])
                optimizer.state[parameter] = {
                    "step": tensors["step"].clone(),
                    "exp_avg": tensors[f"exp_avg/{name}"].to(parameter.device),
                    "exp_avg_sq": tensors[f"exp_avg_sq/{name}"].to(parameter.device),
                }
        return FitResult(losses=marker["losses"], seconds=marker["seconds"])

    def save_if_due(
        self, trained: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer, result: FitResult, place: Place
    ) -> None:
        """Save when the last time is `every_seconds` ago; rank 0 decides and writes, for all ranks hold the same."""
        if place.rank == 0 and time.monotonic() - self._saved_at >= self._every:
            self.save(trained, optimizer, result)

    def save(self, trained: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer, result: FitResult) -> None:
        """Write state and marker, then delete the state that the marker named before."""
        tensors = {}
        for name, parameter in trained.items():
            state = optimizer.state.get(parameter) or {}
            tensors[f"param/{name}"] = parameter.detach().contiguous()
            for moment in ("exp_avg", "exp_avg_sq"):
                tensors[f"{moment}/{name}"] = state.get(moment, torch.zeros_like(parameter)).contiguous()
            tensors["step"] = state.get("step", torch.tensor(0.0)).cpu()
        file = f"step-{len(result.losses):08d}.safetensors"
        self._store.write_bytes(file, save_tensors(tensors))
        marker = {"work": self._work, "file": file, "losses": result.losses, "seconds": result.seconds}
        self._store.write_text(_MARKER, json.dumps(marker))
        for name in self._store.list(suffix=".safetensors"):
            if name != file:
                self._store.delete(name)
        self._last, self._saved_at = file, time.monotonic()

    def clear(self) -> None:
        """Delete all state: the work is done, or was other work."""
        self._store.delete(_MARKER)
        for name in self._store.list(suffix=".safetensors"):
            self._store.delete(name)


def export_folder(
    model: PreTrainedModel, processor: ProcessorMixin, dtype: torch.dtype, scratch: Path, out: Store
) -> str:
    """Write the finished Hugging Face folder to `out`; its digest. `model` is left with its rounded weights in float32.

    Weights are saved in `dtype`. The folder is first written under `scratch` (a local folder), loaded again, and
    compared with the rounded model on one input before it goes to `out`.
    Raises CheckpointError when what was loaded answers differently.
    """
    local = scratch / f"export-{uuid.uuid4().hex}"
    model.to("cpu").eval()
    _cast(model, dtype)
    try:
        model.save_pretrained(local)
        processor.save_pretrained(local)
        _compare(model, processor, local)
        digest = checkpoint_digest(local)
        out.delete_tree()
        if out.is_local:
            Path(out.uri).parent.mkdir(parents=True, exist_ok=True)
            staging = Path(out.uri).with_name(f".tmp-{uuid.uuid4().hex}")
            shutil.copytree(local, staging)
            staging.rename(out.uri)
        else:
            out.upload_folder(local)
    finally:
        shutil.rmtree(local, ignore_errors=True)
    return digest


def _cast(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Round the parameters. Buffers (rotary frequencies) stay: they are not saved, and loading computes them in
    float32.
    """
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)


@torch.no_grad()
def _compare(model: PreTrainedModel, processor: Any, folder: Path) -> None:
    """Raise CheckpointError unless what the folder gives answers one image and text as the model does, in float32.

    Same weights and same code: nothing but rounding may differ.
    """
    loaded = load_model(folder, torch.float32)
    _cast(model, torch.float32)
    grey, text = Image.new("RGB", (96, 96), (127, 127, 127)), f"{processor.image_token} a b c"
    inputs = processor(images=[grey], text=[text], return_tensors="pt")
    again = load_processor(folder)(images=[grey], text=[text], return_tensors="pt")
    here, there = model(**inputs).logits, loaded(**again).logits
    if here.shape != there.shape or not torch.allclose(here, there, rtol=1e-4, atol=1e-4):
        raise CheckpointError(str(folder), "answers differently from the model that was saved")
