"""Campaign folders with markers written by hand: as if stages had run."""

from __future__ import annotations

from pathlib import Path

from vila2_ray.campaign import plan as plans
from vila2_ray.campaign.state import Marker, read_markers, write_marker
from vila2_ray.config import Config
from vila2_ray.recipe import load_config, to_yaml
from vila2_ray.storage import Store


def begin(folder: Path, *overrides: str) -> Config:
    """Write the configuration of a campaign; overriding an earlier one's."""
    config = load_config("tiny", [f"campaign={folder}", "specialists=[]", *overrides])
    Store(folder).write_text("campaign.yaml", to_yaml(config))
    return config


def finish(config: Config, *names: str, summary: dict | None = None) -> dict[str, str]:
    """Write markers for these stages in order; name → first eight characters of the fingerprint."""
    store, found = Store(config.campaign), {}
    for stage in plans.stages(config):
        if stage.name not in names:
            continue
        markers = read_markers(store)
        inputs = {name: markers[name].digest for name in stage.inputs if name in markers and name != "index"}
        fingerprint = plans.fingerprint(stage, config, inputs)
        made = dict(summary or {})
        if stage.kind == "evaluate":
            made["scores"] = {"object_f1": 0.1 * (stage.round or 0)}
        fields = plans.fields_of(stage, config)
        write_marker(store, Marker(stage.name, fingerprint, fields, inputs, f"digest of {stage.name}", 1, summary=made))
        found[stage.name] = fingerprint[:8]
    return found


ROUND_0 = ("index", "align", "pretrain-0", "sft-0", "evaluate-0")


def whole_round(k: int) -> tuple[str, ...]:
    return tuple(f"{kind}-{k}" for kind in ("recaption", "filter", "pretrain", "sft", "evaluate"))
