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
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

    from vila2_ray.model.modeling import VilaForConditionalGeneration

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


def build_vila(
    vision: str | Path | PreTrainedConfig,
    language: str | Path | PreTrainedConfig,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    downsample_factor: int = 2,
    vision_feature_layer: int = -2,
    seed: int = 0,
    dtype: torch.dtype | None = None,
) -> tuple[VilaForConditionalGeneration, PreTrainedTokenizerBase]:
    """A `vila` model from a tower and a language model, each a local folder or a configuration, with a new connector.

    A folder gives weights, a configuration random ones. The tower's folder may be a whole SigLIP. `tokenizer` defaults
    to the language model's; `<image>` is added to it, and a row to the embedding, where it is missing.
    Returns the model (in `dtype`, float32 by default) and the tokenizer. The seed fixes everything that is random.
    """
    import torch

    from vila2_ray.model.configuration import VilaConfig
    from vila2_ray.model.modeling import VilaForConditionalGeneration
    from vila2_ray.model.processor import IMAGE_TOKEN

    vision_config, language_config = _read_config(vision, "vision_config"), _read_config(language, "text_config")
    if tokenizer is None:
        tokenizer = _load_tokenizer(language)
    if IMAGE_TOKEN not in tokenizer.get_vocab():
        tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE_TOKEN]}, replace_extra_special_tokens=False)
    config = VilaConfig(
        vision_config=vision_config,
        text_config=language_config,
        downsample_factor=downsample_factor,
        vision_feature_layer=vision_feature_layer,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = VilaForConditionalGeneration(config)
        if not _is_config(vision):
            tower = type(model.model.vision_tower)
            weights = tower.from_pretrained(vision, config=vision_config, **_LOCAL).state_dict()
            model.model.vision_tower.load_state_dict(weights)
        if not _is_config(language):
            from transformers import AutoModelForCausalLM

            causal = AutoModelForCausalLM.from_pretrained(language, **_LOCAL)
            model.model.language_model.load_state_dict(causal.model.state_dict())
            model.lm_head.load_state_dict(causal.lm_head.state_dict())
        if len(tokenizer) > config.text_config.vocab_size:
            model.resize_token_embeddings(len(tokenizer))
    return model.to(dtype or torch.float32), tokenizer


_LOCAL = {"local_files_only": True, "use_safetensors": True, "trust_remote_code": False, "dtype": "float32"}


def _is_config(source: object) -> bool:
    return not isinstance(source, (str, Path))


def _read_config(source: str | Path | PreTrainedConfig, part: str) -> PreTrainedConfig:
    """The configuration itself, or that of a folder; of a whole multimodal folder, its `part`."""
    if _is_config(source):
        return source
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(check_checkpoint(source), local_files_only=True, trust_remote_code=False)
    return getattr(config, part, config)


def _load_tokenizer(language: str | Path | PreTrainedConfig) -> PreTrainedTokenizerBase:
    if _is_config(language):
        raise CheckpointError("language", "is a configuration, so it brings no tokenizer", "Pass tokenizer=")
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(language, local_files_only=True, trust_remote_code=False)
