"""A `vila` model from its parts: a SigLIP tower and a Llama-family language model, with a new connector between them.

Parts are loaded in the number format wanted and handed over, never copied: what is held at most is the model itself,
and once more its embedding where `<image>` needs a row of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from vila2_ray.errors import CheckpointError
from vila2_ray.model.architecture import LANGUAGE_MODELS
from vila2_ray.model.loading import check_checkpoint

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

    from vila2_ray.model.modeling import VilaForConditionalGeneration

TOWERS = ("siglip_vision_model", "siglip")
"""Model types that hold a tower: alone, or beside SigLIP's text side."""
ROWS_TOGETHER = 64
"""A vocabulary that is a multiple of this stays one when `<image>` is added: matrix products on GPUs want it."""

_LOCAL = {"local_files_only": True, "trust_remote_code": False}


def build_vila(
    vision: str | Path | PreTrainedConfig,
    language: str | Path | PreTrainedConfig,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    downsample_factor: int = 2,
    vision_feature_layer: int = -2,
    seed: int = 0,
    dtype: torch.dtype | None = None,
    connector: dict[str, torch.Tensor] | None = None,
) -> tuple[VilaForConditionalGeneration, PreTrainedTokenizerBase]:
    """A `vila` model from a tower and a language model, each a local folder or a configuration, with a new connector.

    A folder gives weights, a configuration random ones. The tower's folder may be a whole SigLIP; its pooling head,
    which no LLaVA uses, is left out. `tokenizer` defaults to the language model's; `<image>` is added to it, and a row
    to the embedding, where it is missing. `connector` gives the connector's weights by their names in it.
    Returns the model (in `dtype`, float32 by default) and the tokenizer. The seed fixes everything that is random.
    Raises CheckpointError for folders that hold something else.
    """
    import torch

    from vila2_ray.model.configuration import VilaConfig
    from vila2_ray.model.modeling import VilaForConditionalGeneration
    from vila2_ray.model.processor import IMAGE_TOKEN

    dtype = dtype or torch.float32
    vision_config, language_config = read_tower_config(vision), read_language_config(language)
    if tokenizer is None:
        tokenizer = load_tokenizer(language)
    if IMAGE_TOKEN not in tokenizer.get_vocab():
        tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE_TOKEN]}, replace_extra_special_tokens=False)
    config = VilaConfig(
        vision_config=vision_config,
        text_config=language_config,
        downsample_factor=downsample_factor,
        vision_feature_layer=vision_feature_layer,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
    )
    weights = {f"model.multi_modal_projector.{name}": weight for name, weight in (connector or {}).items()}
    if not _is_config(vision):
        weights |= _tower_weights(Path(vision), vision_config, dtype)
    if not _is_config(language):
        weights |= _language_weights(Path(language), dtype)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = VilaForConditionalGeneration.from_pretrained(None, config=config, state_dict=weights, dtype=dtype)
        num_rows = int(config.text_config.vocab_size)
        if len(tokenizer) > num_rows:
            together = ROWS_TOGETHER if num_rows % ROWS_TOGETHER == 0 else 1
            model.resize_token_embeddings(len(tokenizer), pad_to_multiple_of=together)
    return model, tokenizer


def read_tower_config(source: str | Path | PreTrainedConfig) -> PreTrainedConfig:
    """A SigLIP tower's configuration, also out of a whole SigLIP's. Raises CheckpointError for another model's."""
    if _is_config(source):
        return source
    config: Any = _read_config(Path(source), "a SigLIP tower or a whole SigLIP")
    if config.model_type not in TOWERS:
        problem = f"holds a {config.model_type}, not a SigLIP"
        raise CheckpointError(str(source), problem, f"The vision folder must hold one of {', '.join(TOWERS)}")
    tower: Any = getattr(config, "vision_config", config)
    tower.vision_use_head = False
    return tower


def read_language_config(source: str | Path | PreTrainedConfig) -> PreTrainedConfig:
    """A language model's configuration. Raises CheckpointError for a model that is none, or not of Llama's family."""
    if _is_config(source):
        return source
    config: Any = _read_config(Path(source), "a language model")
    if config.model_type in LANGUAGE_MODELS:
        return config
    if getattr(config, "vision_config", None) is not None and getattr(config, "text_config", None) is not None:
        problem = f"is a whole vision-language model ({config.model_type})"
        raise CheckpointError(str(source), problem, "Name it as base.checkpoint itself; nothing needs to be built")
    problem = f"holds a {config.model_type}, not a language model of Llama's family"
    raise CheckpointError(str(source), problem, f"The language folder must hold one of {', '.join(LANGUAGE_MODELS)}")


def load_tokenizer(language: str | Path | PreTrainedConfig) -> PreTrainedTokenizerBase:
    """The tokenizer beside a language model. Raises CheckpointError where there is none that can be read."""
    if _is_config(language):
        raise CheckpointError("language", "is a configuration, so it brings no tokenizer", "Pass tokenizer=")
    from transformers import AutoTokenizer

    remedy = "Put tokenizer.json and tokenizer_config.json beside the weights"
    if not any(Path(language).glob("tokenizer*")):
        raise CheckpointError(str(language), "has no tokenizer", remedy)
    try:
        return AutoTokenizer.from_pretrained(language, **_LOCAL)
    except (ValueError, KeyError, OSError, ImportError) as error:
        raise CheckpointError(str(language), f"holds no usable tokenizer: {error}", remedy) from error


def _is_config(source: object) -> bool:
    return not isinstance(source, (str, Path))


def _read_config(folder: Path, wanted: str) -> PreTrainedConfig:
    from transformers import AutoConfig

    from vila2_ray.model.registration import register

    register()
    try:
        return AutoConfig.from_pretrained(check_checkpoint(folder), **_LOCAL)
    except (ValueError, KeyError, OSError) as error:
        raise CheckpointError(str(folder), f"does not hold {wanted}: {error}") from error


def _tower_weights(folder: Path, config: PreTrainedConfig, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    from transformers import SiglipVisionModel

    return {f"model.vision_tower.{name}": weight for name, weight in _load(SiglipVisionModel, folder, dtype, config)}


def _language_weights(folder: Path, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    from transformers import AutoModelForCausalLM

    weights = {}
    for name, weight in _load(AutoModelForCausalLM, folder, dtype):
        weights[f"model.language_model.{name[6:]}" if name.startswith("model.") else name] = weight
    return weights


def _load(kind: Any, folder: Path, dtype: torch.dtype, config: PreTrainedConfig | None = None) -> Any:
    """(name, weight) of a part. Raises CheckpointError when the folder does not fill it."""
    from safetensors import SafetensorError

    settings = {"config": config} if config is not None else {}
    try:
        model, report = kind.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, output_loading_info=True, **settings, **_LOCAL
        )
    except (ValueError, KeyError, OSError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(str(folder), f"cannot be loaded: {error}") from error
    if report["missing_keys"]:
        missing = ", ".join(sorted(report["missing_keys"])[:3])
        raise CheckpointError(str(folder), f"lacks weights of its own architecture ({missing} …)")
    return model.state_dict().items()
