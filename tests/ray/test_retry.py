"""Retrying dead letters of a sealed layer: a new layer with everything as it was, but for the rows that failed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.campaign.folders import ROUND_0, begin, finish
from tests.unit.recaption.pictures import write_shards
from vila2_ray.campaign.api import Campaign
from vila2_ray.campaign.inputs import observe
from vila2_ray.campaign.lease import Lease
from vila2_ray.campaign.retry import find_layers, retry
from vila2_ray.campaign.state import Marker, write_marker
from vila2_ray.config import Config
from vila2_ray.corpus.deadletters import count_dead
from vila2_ray.errors import CampaignBusy, ConfigError, CorpusError, StageFailed
from vila2_ray.storage import Store

pytestmark = pytest.mark.usefixtures("ray_cluster")
DIED, UNREADABLE = [("00000", 1), ("00000", 4), ("00001", 0)], ("00001", 2)


@pytest.fixture
def sealed(tmp_path: Path) -> Config:
    """A campaign with a finished first layer by the fake engine, in which four rows have failed."""
    import pyarrow as pa

    from vila2_ray.campaign import plan as plans
    from vila2_ray.campaign.layout import Layout
    from vila2_ray.campaign.stages import WORK

    write_shards(tmp_path / "shards", [6, 5, 4])
    options = (f"corpus.pretrain={tmp_path}/shards", "recaption.engine.name=fake", "rounds.max=1")
    config = begin(tmp_path / "campaign", *options)
    finish(config, *ROUND_0)
    store = Store(config.campaign)
    store.write_text("checkpoints/vlm-0/sft/config.json", "{}")
    run = observe(Campaign(config.campaign))
    stage = next(s for s in plans.stages(config) if s.name == "recaption-1")
    inputs = {"sft-0": run.markers["sft-0"].digest}
    fingerprint = plans.fingerprint(stage, config, inputs)
    done = WORK["recaption"](run, stage, fingerprint)
    layer = Layout(store).layer("round-1", fingerprint)
    for _, shard in layer.shards():
        rows = layer.read("pretrain", shard).to_pylist()
        for row in rows:
            reason = "engine_died" if (shard, row["row"]) in DIED else "image_unreadable"
            if (shard, row["row"]) in [*DIED, UNREADABLE]:
                row.update(status="failed", text=None, error=reason, error_detail="by hand")
        layer.write("pretrain", shard, pa.Table.from_pylist(rows, layer.schema), layer.metadata("pretrain", shard))
    covers = run.corpus("pretrain").digest()
    fields = plans.fields_of(stage, config)
    write_marker(store, Marker(stage.name, fingerprint, fields, inputs, done.digest, 1, covers=covers))
    return config


def by_key(layer: Any) -> dict[tuple[str, int], dict[str, Any]]:
    return {(row["shard"], row["row"]): row for row in layer.to_table().to_pylist()}


def test_a_sealed_layer_stays_and_a_new_one_has_what_it_lacked(sealed: Config) -> None:
    campaign = Campaign(sealed.campaign)
    before = by_key(campaign.layer("round-1"))
    done = retry(sealed.campaign, ["engine_died"])
    assert (done.layer, done.new_layer, done.num_samples) == ("round-1", "round-1-retry-1", 3)
    assert (done.num_captioned, done.num_failed) == (3, 0)
    assert by_key(campaign.layer("round-1")) == before, "a sealed layer is never written again"
    after = by_key(campaign.layer("round-1-retry-1"))
    assert list(after) == list(before)
    for key, row in after.items():
        if key in DIED:
            assert row["status"] == "captioned"
            assert row["text"]
        else:
            assert row == before[key]
    assert after[UNREADABLE]["error"] == "image_unreadable", "other failures are kept as they are"
    metadata = campaign.layer("round-1-retry-1").metadata("pretrain", "00000")
    assert (metadata["retry_of"], metadata["retried"], metadata["model"]) == ("round-1", "engine_died", "vlm-0")
    assert not Store(sealed.campaign).list("parts")
    assert "recaption-1-retry-1" in {entry.stage for entry in campaign.ledger()}

    places = find_layers(sealed.campaign)
    assert [place.name for place in places] == ["round-1", "round-1-retry-1"]
    assert [dead.reason for dead in count_dead(places[1])] == ["image_unreadable"]
    assert retry(sealed.campaign, ["engine_died"]).num_samples == 0, "the newest layer has none of them"
    again = retry(sealed.campaign, ["engine_died"], layer="round-1")
    assert again.new_layer == "round-1-retry-2"


def test_a_retry_that_was_interrupted_goes_on(sealed: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    from vila2_ray.recaption import pipeline

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(pipeline, "recaption", interrupted)
        with pytest.raises(KeyboardInterrupt):
            retry(sealed.campaign, ["engine_died"])
    assert Store(sealed.campaign).list("parts"), "what was taken over lies there"
    done = retry(sealed.campaign, ["engine_died"])
    assert (done.new_layer, done.num_captioned) == ("round-1-retry-1", 3)


def test_what_cannot_be_retried_is_said(sealed: Config) -> None:
    with pytest.raises(ConfigError, match=r"--reason = 'boredom'.*engine_died"):
        retry(sealed.campaign, ["boredom"])
    with pytest.raises(CorpusError, match=r"round-9.*Layers: round-1"):
        retry(sealed.campaign, ["engine_died"], layer="round-9")
    assert retry(sealed.campaign, ["no_image"]).num_samples == 0
    with Lease(Store(sealed.campaign), lifetime_seconds=0.5), pytest.raises(CampaignBusy):
        retry(sealed.campaign, ["engine_died"])
    Store(sealed.campaign).delete("checkpoints/vlm-0/sft/config.json")
    with pytest.raises(StageFailed, match=r"captioner .*vlm-0/sft is gone.*--from sft-0"):
        retry(sealed.campaign, ["engine_died"])
