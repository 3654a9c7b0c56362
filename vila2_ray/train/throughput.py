"""What a step's work comes to: floating-point operations per step, and the peak of the device it ran on. Pure.

Operations are those that the model needs, as PaLM counts them for its model FLOPs utilisation (MFU, arXiv 2204.02311,
appendix B): two per parameter and token forward, two for the gradients of what goes in, two for those of the weights,
and the attention's products, without discount for the causal mask. What is recomputed under activation checkpointing,
padding and the look-up of embeddings do not count. A frozen part saves the gradients that nobody needs.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from vila2_ray.config import Part

PEAK_FLOPS: tuple[tuple[str, float], ...] = (
    ("GB200", 2.5e15),
    ("B200", 2.25e15),
    ("B100", 1.75e15),
    ("GH200", 989e12),
    ("H200 NVL", 836e12),
    ("H200", 989e12),
    ("H100 NVL", 835e12),
    ("H100 PCIe", 756e12),
    ("H100", 989e12),
    ("H800", 989e12),
    ("H20", 148e12),
    ("A100", 312e12),
    ("A800", 312e12),
    ("A40", 149.7e12),
    ("A30", 165e12),
    ("A10G", 70e12),
    ("A10", 125e12),
    ("L40S", 362e12),
    ("L40", 181e12),
    ("L4", 121e12),
    ("RTX 6000 Ada", 364e12),
    ("RTX 5090", 209.5e12),
    ("RTX 4090", 165.2e12),
    ("RTX 3090", 71e12),
    ("MI325X", 1307e12),
    ("MI300X", 1307e12),
    ("MI250X", 191.5e12),
)
"""Words of a device's name → dense bfloat16 operations per second with float32 accumulation, from the makers' data
sheets. The first that fits counts; of an MI250X one of its two halves is a device."""


def peak_flops(device_name: str) -> float | None:
    """Peak of a GPU by `torch.cuda.get_device_name()`; None for a device that is not in the table."""
    words = set(device_name.replace("-", " ").split())
    if "Laptop" in words:  # clocked lower than its namesake, each maker its own way
        return None
    return next((peak for name, peak in PEAK_FLOPS if words.issuperset(name.split())), None)


@dataclass(frozen=True)
class PartShape:
    """A stack of layers, as far as its work goes."""

    num_parameters: int
    """Weights that every token passes through; a language model's with its head and without its embedding table."""
    num_layers: int = 0
    """Layers with attention."""
    width: int = 0
    """Heads × head size."""

    def per_token(self, length: float, forward_only: bool, weights: bool) -> float:
        """Operations for one token that attends to `length` tokens."""
        passes_of_weights = 1 if forward_only else 2 + weights
        attention = 4 * self.num_layers * self.width * length
        return 2 * self.num_parameters * passes_of_weights + attention * (1 if forward_only else 3)


@dataclass(frozen=True)
class ModelShape:
    """A vision-language model, as far as its work goes."""

    vision: PartShape
    connector: PartShape
    language: PartShape
    patches_per_image: int
    """Tokens of the vision tower."""
    tokens_per_image: int
    """Tokens that the connector leaves of them."""

    def step_flops(
        self,
        trained: Collection[Part],
        num_tokens: int,
        num_items: int,
        num_images: int,
        num_encoded: int | None = None,
    ) -> float:
        """Operations of a training step.

        num_tokens: without padding, image tokens included. num_items: among which the tokens are divided, each
        attending within its own. num_encoded: images that went through the tower, fewer than num_images where a frozen
        tower's outputs are kept (None: all).
        """
        encoded = num_images if num_encoded is None else num_encoded
        tower_learns = "vision" in trained
        connector_learns = "connector" in trained
        below = tower_learns or connector_learns  # gradients must pass through the language model to reach them
        item_length = num_tokens / max(1, num_items)
        vision = self.vision.per_token(self.patches_per_image, not tower_learns, tower_learns)
        connector = self.connector.per_token(0, not below, connector_learns)
        language = self.language.per_token(item_length, False, "language" in trained)
        return (
            encoded * self.patches_per_image * vision
            + num_images * self.tokens_per_image * connector
            + num_tokens * language
        )
