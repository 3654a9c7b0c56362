"""Which parameters of a vision-language model are vision, connector and language: one row per family.

Names are those of transformers 5's `AutoModelForImageTextToText` classes in memory. The longest matching prefix wins.
"""

from __future__ import annotations

from typing import Literal

from vila2_ray.errors import ConfigError

Part = Literal["vision", "connector", "language"]

_LLAVA: dict[str, Part] = {
    "model.vision_tower.": "vision",
    "model.multi_modal_projector.": "connector",
    "model.language_model.": "language",
    "lm_head.": "language",
}
_IDEFICS3: dict[str, Part] = {
    "model.vision_model.": "vision",
    "model.connector.": "connector",
    "model.text_model.": "language",
    "lm_head.": "language",
}
_QWEN2_VL: dict[str, Part] = {
    "model.visual.": "vision",
    "model.visual.merger.": "connector",
    "model.language_model.": "language",
    "lm_head.": "language",
}
_QWEN3_VL: dict[str, Part] = {**_QWEN2_VL, "model.visual.deepstack_merger_list.": "connector"}
FAMILIES: dict[str, dict[str, Part]] = {
    "vila": _LLAVA,
    "llava": _LLAVA,
    "internvl": _LLAVA,
    "smolvlm": _IDEFICS3,
    "idefics3": _IDEFICS3,
    "qwen2_vl": _QWEN2_VL,
    "qwen2_5_vl": _QWEN2_VL,
    "qwen3_vl": _QWEN3_VL,
}


def part_of(name: str, model_type: str) -> Part:
    """The part that parameter `name` of a `model_type` model belongs to.

    Raises ConfigError for a family that is not in the table, or a parameter that the family's row does not cover.
    """
    if model_type not in FAMILIES:
        known = ", ".join(sorted(FAMILIES))
        remedy = f"training knows the parts of {known}; add a row to model/families.py"
        raise ConfigError("model_type", model_type, remedy)
    prefixes = [prefix for prefix in FAMILIES[model_type] if name.startswith(prefix)]
    if not prefixes:
        raise ConfigError("parameter", name, f"no prefix of the {model_type} row in model/families.py covers it")
    return FAMILIES[model_type][max(prefixes, key=len)]
