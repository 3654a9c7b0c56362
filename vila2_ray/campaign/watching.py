"""Watches drift: keeps a layer's figures, and stops the campaign where they have collapsed."""

from __future__ import annotations

import json
from collections.abc import Mapping

from vila2_ray.campaign.layout import Layout
from vila2_ray.campaign.plan import Stage
from vila2_ray.captions.drift import Sketch, collapses, figures
from vila2_ray.config import DriftConfig
from vila2_ray.errors import StageFailed
from vila2_ray.progress import Progress

_SHOWN = ("words_per_caption", "vocabulary", "share_starting_alike", "refusal_share", "repeated_4gram_share")


def watch(
    layout: Layout,
    stage: Stage,
    sketch: Sketch,
    before: Mapping[str, float],
    layer_digest: str,
    config: DriftConfig,
    progress: Progress,
) -> dict[str, float]:
    """The figures of the layer that a filter stage judges, written to `Layout.drift` first.

    `before`: the previous round's. Raises StageFailed for a collapse unless `drift.stop` is off.
    """
    found = figures(sketch)
    crossed = collapses(found, before, config)
    commonest = max(sketch.starts, key=lambda start: sketch.starts[start], default="")
    told = {"figures": found, "collapses": crossed, "commonest_start": commonest, "layer_digest": layer_digest}
    layout.store.write_text(layout.drift(stage.layer), json.dumps(told, indent=1, ensure_ascii=False))
    shown = ", ".join(f"{name} {found[name]:.3g}" for name in _SHOWN if name in found)
    if shown:
        progress.note(f"{stage.layer}: {shown}")
    if not crossed:
        return found
    sentence = f"{stage.layer} has collapsed: {'; '.join(crossed)}"
    if not config.stop:
        progress.note(f"{sentence} (drift.stop is off)")
        return found
    redo = f"recaption-{stage.layer.removeprefix('round-')}"
    raise StageFailed(
        f"{stage.name}: {sentence}. Its captions begin {commonest!r} most often; look at them with vila2 show --layer "
        f"{stage.layer}. Then write the layer again with other recaption.prompts or recaption.sampling "
        f"(vila2 run --from {redo}), train its captioner again, or go on as it is with the border changed "
        "(drift.<name>=…) or drift.stop=false"
    )


def read_drift(layout: Layout, layer: str, layer_digest: str) -> tuple[dict[str, float], list[str]]:
    """Figures of a layer and the sentences of its collapse; empty where they are not known or of an older layer."""
    name = layout.drift(layer)
    if not layout.store.exists(name):
        return {}, []
    told = json.loads(layout.store.read_text(name))
    return (told["figures"], told["collapses"]) if told["layer_digest"] == layer_digest else ({}, [])
