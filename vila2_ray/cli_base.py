"""`vila2 base`: base weights out of a tower and a language model, or out of a published VILA-1.5."""

from __future__ import annotations

from pathlib import Path

from vila2_ray.errors import ConfigError
from vila2_ray.storage import Store

DTYPES = ("auto", "bfloat16", "float16", "float32")


def write_base_here(vision: str, language: str, vila: str, to: str, downsample: int, dtype: str, seed: int) -> None:
    """Write the folder and say what is in it. Raises ConfigError for options that do not go together."""
    if bool(vila) == bool(vision or language) or bool(vision) != bool(language):
        raise ConfigError("--vila", vila, "give either --vision and --language, or --vila alone")
    if dtype not in DTYPES:
        raise ConfigError("--dtype", dtype, f"one of {', '.join(DTYPES)}")
    from transformers.utils import logging

    from vila2_ray.model.base import convert_vila15, write_base

    logging.set_verbosity_error()  # it warns of a connector that no folder holds: there it is new
    if vila:
        if downsample != 2:
            raise ConfigError("--downsample", downsample, "VILA-1.5's connector was trained with 2")
        summary = convert_vila15(Path(vila), Store(to), dtype=dtype)
    else:
        summary = write_base(
            Path(vision), Path(language), Store(to), downsample_factor=downsample, dtype=dtype, seed=seed
        )
    for part, count in summary.num_parameters.items():
        print(f"{part:<10} {count:>15,} parameters")
    print(f"{summary.num_image_tokens} tokens per image, digest {summary.digest[:8]}")
    print(f"base.checkpoint={summary.uri}")
