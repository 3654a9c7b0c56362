"""Dead letters and garbage of a campaign on a real S3 server."""

from __future__ import annotations

from tests.unit.campaign.folders import ROUND_0, finish
from tests.unit.campaign.layers import rows
from vila2_ray.campaign.api import Campaign
from vila2_ray.campaign.garbage import collect
from vila2_ray.campaign.retry import retry
from vila2_ray.corpus.layers import Layer, Parts
from vila2_ray.recipe import load_config, to_yaml
from vila2_ray.storage import Store


def test_dead_letters_are_put_back_and_garbage_is_collected(bucket: str) -> None:
    config = load_config("tiny", [f"campaign={bucket}/upkeep", "rounds.max=2", "specialists=[]"])
    store = Store(config.campaign)
    store.write_text("campaign.yaml", to_yaml(config))
    fp8 = finish(config, *ROUND_0, "recaption-1")["recaption-1"]
    store.delete("stages/recaption-1.json")  # as if the driver had died before
    layer, parts = Layer(store.sub("captions", "round-1", fp8)), Parts(store.sub("parts", "round-1", fp8))
    table = rows("00000", range(8), 1, lambda row, _: {"status": "failed", "error": "engine_died"} if row == 2 else {})
    layer.write("pretrain", "00000", table)
    parts.write("pretrain", "00000", 0, 8, table)
    store.write_bytes("checkpoints/vlm-7/sft/model.safetensors", b"12345")
    gone = {garbage.path: garbage.num_bytes for garbage in collect(Campaign(config.campaign))}
    assert set(gone) == {"checkpoints/vlm-7/sft", f"parts/round-1/{fp8}/pretrain/00000"}
    assert gone["checkpoints/vlm-7/sft"] == 5
    assert store.list("checkpoints") == []
    assert retry(config.campaign, ["engine_died"]).num_samples == 1
    assert layer.shards() == []
    assert parts.ranges() == {("pretrain", "00000"): [(0, 2), (3, 8)]}
