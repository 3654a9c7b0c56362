"""Checkpoint folders in and out: local files, safetensors and no remote code, whatever the family.

torch and transformers are imported inside the functions, so that digests can be taken without them.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vila2_ray.errors import CheckpointError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, ProcessorMixin

_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_DIGESTED = (".safetensors", ".json", ".jinja", ".model", ".txt")


def check_checkpoint(folder: str | Path) -> Path:
    """The folder as a path. Raises CheckpointError when it is missing, or holds no config.json or no safetensors."""
    path = Path(folder)
    if not path.is_dir():
        raise CheckpointError(str(folder), "is not a folder", "Give a local Hugging Face checkpoint folder")
    if not (path / "config.json").is_file():
        raise CheckpointError(str(folder), "has no config.json", "Give a local Hugging Face checkpoint folder")
    if not any(path.glob("*.safetensors")):
        pickled = sorted(file.name for file in path.iterdir() if file.suffix in _PICKLED)
        problem = f"holds pickled weights ({', '.join(pickled)})" if pickled else "holds no *.safetensors"
        raise CheckpointError(str(folder), problem, "Only safetensors are loaded; save the model again as safetensors")
    return path


def load_model(folder: str | Path, dtype: torch.dtype | str = "auto") -> PreTrainedModel:
    """The image-text-to-text model of a local folder, in eval mode. `dtype` "auto" keeps the folder's own.

    Raises CheckpointError for what `check_checkpoint` refuses, for families that transformers does not know without
    remote code, and for weights that do not fill the model.
    """
    from transformers import AutoModelForImageTextToText

    from vila2_ray.model.registration import register

    path = check_checkpoint(folder)
    register()
    try:
        model, report = AutoModelForImageTextToText.from_pretrained(
            path,
            dtype=dtype,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except (ValueError, KeyError) as error:
        raise CheckpointError(str(folder), f"is not an image-text-to-text model: {error}") from error
    if report["missing_keys"]:
        missing = ", ".join(sorted(report["missing_keys"])[:3])
        raise CheckpointError(str(folder), f"lacks weights of its own architecture ({missing} …)")
    return model.eval()


def load_processor(folder: str | Path, settings: dict[str, Any] | None = None) -> ProcessorMixin:
    """The processor of a local folder, with the PIL image backend: another backend changes pixels, so tokens.

    `settings` override those of the folder, as `max_pixels` does for families that have it. Raises CheckpointError.
    """
    from transformers import AutoProcessor

    from vila2_ray.model.registration import register

    path = Path(folder)
    if not path.is_dir():
        raise CheckpointError(str(folder), "is not a folder", "Give a local Hugging Face checkpoint folder")
    register()
    try:
        return AutoProcessor.from_pretrained(
            path, local_files_only=True, trust_remote_code=False, backend="pil", **(settings or {})
        )
    except (ValueError, KeyError, OSError) as error:
        raise CheckpointError(str(folder), f"holds no usable processor: {error}") from error


def checkpoint_digest(folder: str | Path) -> str:
    """sha256 (hex) over names and contents of the weights, configuration and tokenizer files, in name order."""
    path = check_checkpoint(folder)
    digest = hashlib.sha256()
    for file in sorted(path.iterdir()):
        if file.is_file() and file.suffix in _DIGESTED and not file.name.startswith("."):
            digest.update(f"{file.name}\0{file.stat().st_size}\0".encode())
            with file.open("rb") as stream:
                while block := stream.read(1 << 22):
                    digest.update(block)
    return digest.hexdigest()
