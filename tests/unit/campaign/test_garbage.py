"""What `vila2 gc` lists and what it never touches."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.campaign.folders import ROUND_0, begin, finish, whole_round
from vila2_ray.campaign.api import Campaign
from vila2_ray.campaign.garbage import collect, find_garbage
from vila2_ray.campaign.lease import Lease
from vila2_ray.campaign.promotion import promote
from vila2_ray.errors import CampaignBusy
from vila2_ray.storage import Store


def put(store: Store, *names: str) -> None:
    for name in names:
        store.write_bytes(name, b"12345")


def listed(folder: Path) -> dict[str, str]:
    return {garbage.path: garbage.why for garbage in find_garbage(Campaign(str(folder)))}


def test_a_finished_campaign_keeps_what_a_further_round_or_a_specialist_starts_from(tmp_path: Path) -> None:
    config, store = begin(tmp_path, "rounds.max=3", "rounds.min_gain=-1"), Store(tmp_path)
    names = (*ROUND_0, *whole_round(1), *whole_round(2), *whole_round(3))
    fps = finish(config, *names, "promote", "report", "export")
    for k in range(4):
        put(store, f"checkpoints/vlm-{k}/pretrain/model.safetensors", f"checkpoints/vlm-{k}/sft/model.safetensors")
    put(store, "checkpoints/base/align/model.safetensors", "checkpoints/vlm-1/.tmp-1/config.json")
    put(store, f"captions/round-1/{fps['recaption-1']}/pretrain/0.parquet")
    put(store, f"verdicts/round-1/{fps['filter-1']}/pretrain/0.parquet")
    put(store, f"packs/vlm-1-pretrain/{fps['pretrain-1']}/plan.parquet", "metrics/a", "report/index.html")
    for k, score in ((1, 0.1), (2, 0.2), (3, 0.3)):
        promote(store, f"vlm-{k}", f"checkpoints/vlm-{k}/sft", f"d{k}", {"object_f1": score}, 1)
    gone = listed(tmp_path)
    assert set(gone) == {
        "checkpoints/vlm-0/pretrain",
        "checkpoints/vlm-0/sft",
        "checkpoints/vlm-1/pretrain",
        "checkpoints/vlm-1/sft",
        "checkpoints/vlm-1/.tmp-1",
    }
    assert "interrupted export" in gone["checkpoints/vlm-1/.tmp-1"]
    assert "neither promoted" in gone["checkpoints/vlm-0/sft"]


def test_parts_go_with_their_shard_and_orphans_go_whole(tmp_path: Path) -> None:
    config, store = begin(tmp_path, "rounds.max=2"), Store(tmp_path)
    fps = finish(config, *ROUND_0, "recaption-1", "filter-1")
    mine, other = fps["recaption-1"], "00000000"
    put(store, f"captions/round-1/{mine}/pretrain/0.parquet", f"captions/round-1/{other}/pretrain/0.parquet")
    put(store, f"parts/round-1/{mine}/pretrain/0/000-256.parquet", f"parts/round-1/{mine}/pretrain/1/000-256.parquet")
    put(store, f"parts/round-1/{other}/pretrain/1/000-256.parquet", f"parts/round-1/{other}/pretrain/1/256-9.parquet")
    put(store, f"verdicts/round-1/{fps['filter-1']}/pretrain/0.parquet", f"verdicts/round-1/{other}/pretrain/0.parquet")
    gone = find_garbage(Campaign(str(tmp_path)))
    assert {g.path: (g.num_files, g.num_bytes) for g in gone} == {
        f"captions/round-1/{other}": (1, 5),
        f"parts/round-1/{mine}/pretrain/0": (1, 5),
        f"parts/round-1/{other}": (2, 10),
        f"verdicts/round-1/{other}": (1, 5),
    }


def test_work_of_an_unfinished_stage_stays_under_the_name_that_it_has_now(tmp_path: Path) -> None:
    config, store = begin(tmp_path, "rounds.max=2"), Store(tmp_path)
    fps = finish(config, *ROUND_0, "recaption-1")
    Store(tmp_path).delete("stages/recaption-1.json")
    put(
        store,
        f"parts/round-1/{fps['recaption-1']}/pretrain/0/0-9.parquet",
        "parts/round-1/0ld0ld00/pretrain/0/0-9.parquet",
    )
    put(store, "parts/round-2/unknown0/pretrain/0/0-9.parquet", "verdicts/round-1/unknown0/pretrain/0.parquet")
    put(store, "training/vlm-1/pretrain/unknown0/last.json", f"training/vlm-0/sft/{fps['sft-0']}/last.json")
    put(store, "packs/vlm-1-pretrain/unknown0/plan.parquet", "packs/vlm-0-sft/0ld0ld00/plan.parquet")
    put(store, "checkpoints/vlm-0/sft/model", "checkpoints/vlm-0/pretrain/model", "checkpoints/vlm-1/pretrain/model")
    put(store, "checkpoints/vlm-7/sft/model", "captions/round-1-retry-1/00000000/pretrain/0.parquet")
    gone = listed(tmp_path)
    assert set(gone) == {
        "parts/round-1/0ld0ld00",
        f"training/vlm-0/sft/{fps['sft-0']}",
        "packs/vlm-0-sft/0ld0ld00",
        "checkpoints/vlm-7/sft",
        "captions/round-1-retry-1/00000000",
    }
    assert "finished stage" in gone[f"training/vlm-0/sft/{fps['sft-0']}"]


def test_verdicts_on_earlier_layers_stay_where_a_later_round_picks_among_all(tmp_path: Path) -> None:
    options = ("rounds.max=2", "pick.by=mean_logprob", "pick.layers=all")
    config, store = begin(tmp_path, *options), Store(tmp_path)
    fps = finish(config, *ROUND_0, *whole_round(1), "recaption-2", "filter-2")
    put(store, f"verdicts/round-1/{fps['filter-2']}/pretrain/0.parquet", "verdicts/round-1/0ld0ld00/pretrain/0.parquet")
    assert set(listed(tmp_path)) == {"verdicts/round-1/0ld0ld00"}


def test_nothing_goes_while_a_driver_runs(tmp_path: Path) -> None:
    begin(tmp_path)
    store = Store(tmp_path)
    put(store, "checkpoints/vlm-7/sft/model")
    with Lease(store, lifetime_seconds=0.5), pytest.raises(CampaignBusy):
        list(collect(Campaign(str(tmp_path))))
    assert store.exists("checkpoints/vlm-7/sft/model")


def test_collecting_deletes_what_is_listed_and_nothing_else(tmp_path: Path) -> None:
    config, store = begin(tmp_path, "rounds.max=1"), Store(tmp_path)
    finish(config, *ROUND_0)
    put(store, "checkpoints/vlm-7/sft/model", "checkpoints/vlm-0/sft/model")
    assert [g.path for g in collect(Campaign(str(tmp_path)))] == ["checkpoints/vlm-7/sft"]
    assert store.list("checkpoints") == ["checkpoints/vlm-0/sft/model"]
    assert find_garbage(Campaign(str(tmp_path))) == []


def test_what_screening_found_stays(tmp_path: Path) -> None:
    config, store = begin(tmp_path, "rounds.max=1", "screen.min_side=8"), Store(tmp_path)
    put(store, "verdicts/images/0ld0ld00/pretrain/0.parquet", "parts/images/0ld0ld00/pretrain/0.parquet")
    assert listed(tmp_path) == {}, "screening has not ended"
    fps = finish(config, "index", "screen")
    put(store, f"verdicts/images/{fps['screen']}/pretrain/0.parquet")
    assert set(listed(tmp_path)) == {"verdicts/images/0ld0ld00", "parts/images/0ld0ld00"}
