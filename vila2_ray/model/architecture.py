"""How many parameters a `vila` model has, part by part, from its configuration alone: nothing is built or loaded.

The numbers are those of transformers' SigLIP and Llama-family classes and of our connector; a test compares them with
the real modules on the meta device.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vila2_ray.config import Part
from vila2_ray.errors import ConfigError

LANGUAGE_MODELS = ("llama", "mistral", "qwen2", "qwen3")
"""Dense decoders named and built as Llama is, which vLLM has its own code for and serves inside a LLaVA. Not SmolLM3,
which it runs through transformers: there it fails."""

_QKV_BIAS = {"qwen2": True}
"""Families whose queries, keys and values have biases whatever the configuration says; the output never has."""
_QK_NORM = ("qwen3",)
"""Families that normalise queries and keys, head by head."""


@dataclass(frozen=True)
class Tower:
    """A SigLIP vision tower."""

    hidden: int
    intermediate: int
    layers: int
    image_size: int
    patch_size: int
    channels: int = 3
    has_head: bool = True

    @property
    def patches(self) -> int:
        return (self.image_size // self.patch_size) ** 2

    @property
    def block(self) -> int:
        """Parameters of one block: attention and MLP with biases, two LayerNorms."""
        attention = 4 * (self.hidden**2 + self.hidden)
        mlp = 2 * self.hidden * self.intermediate + self.intermediate + self.hidden
        return attention + mlp + 4 * self.hidden

    @property
    def parameters(self) -> int:
        embeddings = self.hidden * (self.channels * self.patch_size**2 + 1 + self.patches)
        return embeddings + self.layers * self.block + 2 * self.hidden + (self._head if self.has_head else 0)

    @property
    def _head(self) -> int:
        """The pooling head: a probe, attention, LayerNorm and MLP."""
        attention = 4 * (self.hidden**2 + self.hidden)
        mlp = 2 * self.hidden * self.intermediate + self.intermediate + self.hidden
        return self.hidden + attention + 2 * self.hidden + mlp


@dataclass(frozen=True)
class Decoder:
    """A Llama-family language model."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    is_tied: bool = False
    has_qkv_bias: bool = False
    has_output_bias: bool = False
    has_mlp_bias: bool = False
    has_qk_norm: bool = False

    @property
    def query_width(self) -> int:
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Of keys; values are as wide."""
        return self.kv_heads * self.head_dim

    @property
    def matrices(self) -> int:
        """Weights of one layer that tokens are multiplied with."""
        return 2 * self.hidden * (self.query_width + self.kv_width) + 3 * self.hidden * self.intermediate

    @property
    def block(self) -> int:
        """Parameters of one layer."""
        biases = (self.query_width + 2 * self.kv_width) * self.has_qkv_bias + self.hidden * self.has_output_bias
        biases += (2 * self.intermediate + self.hidden) * self.has_mlp_bias
        return self.matrices + biases + 2 * self.hidden + 2 * self.head_dim * self.has_qk_norm

    @property
    def embeddings(self) -> int:
        """Parameters of the embedding, and of the head where that is not the same."""
        return self.vocabulary * self.hidden * (1 if self.is_tied else 2)

    @property
    def parameters(self) -> int:
        return self.layers * self.block + self.embeddings + self.hidden


@dataclass(frozen=True)
class Architecture:
    """A whole `vila` model."""

    tower: Tower
    decoder: Decoder
    downsample_factor: int = 2

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Architecture:
        """From the content of a `vila` folder's config.json. Raises ConfigError for other families, missing fields."""
        if config.get("model_type", "vila") != "vila":
            raise ConfigError("model_type", config["model_type"], "memory and time are known for vila models")
        vision, text = _Fields("vision_config", config), _Fields("text_config", config)
        kind = text.get("model_type", "llama")
        if kind not in LANGUAGE_MODELS:
            raise ConfigError(
                "text_config.model_type", kind, f"memory and time are known for {', '.join(LANGUAGE_MODELS)}"
            )
        tower = Tower(
            hidden=vision.number("hidden_size"),
            intermediate=vision.number("intermediate_size"),
            layers=vision.number("num_hidden_layers"),
            image_size=vision.number("image_size"),
            patch_size=vision.number("patch_size"),
            channels=vision.get("num_channels", 3),
            has_head=vision.get("vision_use_head", True),
        )
        hidden, heads = text.number("hidden_size"), text.number("num_attention_heads")
        attention_bias = bool(text.get("attention_bias", False)) and kind != "mistral"
        decoder = Decoder(
            hidden=hidden,
            intermediate=text.number("intermediate_size"),
            layers=text.number("num_hidden_layers"),
            heads=heads,
            kv_heads=text.number("num_key_value_heads"),
            head_dim=text.get("head_dim", None) or (128 if kind == "qwen3" else hidden // heads),
            vocabulary=text.number("vocab_size"),
            is_tied=bool(text.get("tie_word_embeddings", False) or config.get("tie_word_embeddings", False)),
            has_qkv_bias=_QKV_BIAS.get(kind, attention_bias),
            has_output_bias=attention_bias and kind not in _QKV_BIAS,
            has_mlp_bias=bool(text.get("mlp_bias", False)),
            has_qk_norm=kind in _QK_NORM,
        )
        return cls(tower, decoder, int(config.get("downsample_factor", 2)))

    @property
    def image_tokens(self) -> int:
        """Tokens of one image in the language model."""
        side = self.tower.image_size // self.tower.patch_size
        return (-(-side // self.downsample_factor)) ** 2

    @property
    def connector(self) -> int:
        """Parameters of the connector: LayerNorm, two Linear layers."""
        width = self.downsample_factor**2 * self.tower.hidden
        return 2 * width + self.decoder.hidden * (width + 1) + self.decoder.hidden * (self.decoder.hidden + 1)

    def parameters(self) -> dict[Part, int]:
        """By part."""
        return {
            "vision": self.tower.parameters,
            "connector": self.connector,
            "language": self.decoder.parameters,
        }


class _Fields:
    """One part of the configuration, whose missing fields are told by their full names."""

    def __init__(self, part: str, config: Mapping[str, Any]) -> None:
        self._part, self._values = part, config.get(part) or {}

    def get(self, name: str, default: Any) -> Any:
        value = self._values.get(name)
        return default if value is None else value

    def number(self, name: str) -> int:
        value = self._values.get(name)
        if not isinstance(value, int):
            raise ConfigError(f"base.architecture.{self._part}.{name}", value, "must be a whole number")
        return value
