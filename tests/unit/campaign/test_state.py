from pathlib import Path

import pytest

from vila2_ray.campaign import plan as plans
from vila2_ray.campaign.ledger import CHARGED, Ledger, read_ledger
from vila2_ray.campaign.promotion import fence_promotion, promote, read_promoted
from vila2_ray.campaign.state import (
    Marker,
    check_fields,
    drop_markers,
    fence_markers,
    read_markers,
    read_round_scores,
    write_marker,
)
from vila2_ray.config import PricesConfig
from vila2_ray.errors import ConditionFailed, FingerprintError, LeaseLost
from vila2_ray.recipe import load_config
from vila2_ray.storage import Store


def finish(store: Store, config, *names: str) -> None:
    for stage in plans.stages(config):
        if stage.name in names:
            summary = {"scores": {"f1": 0.5}} if stage.kind == "evaluate" else {}
            fields = plans.fields_of(stage, config)
            write_marker(store, Marker(stage.name, "f" * 64, fields, {}, "d", 1, summary=summary))


def test_a_changed_field_of_finished_stages_is_named_with_the_way_out(tmp_path: Path) -> None:
    store, before = Store(tmp_path), load_config("tiny", ["train.sft.peak_lr=0.1"])
    finish(store, before, "index", "align", "pretrain-0", "sft-0", "evaluate-0")
    after = load_config("tiny", ["train.sft.peak_lr=0.2"])
    with pytest.raises(FingerprintError, match=r"peak_lr was 0.1, is 0.2.*sft-0, evaluate-0.*--from sft-0"):
        check_fields(plans.stages(after), after, read_markers(store))
    drop_markers(store, plans.stages(after), "sft-0")
    check_fields(plans.stages(after), after, read_markers(store))
    assert set(read_markers(store)) == {"index", "align", "pretrain-0"}


def test_a_field_of_a_stage_that_is_not_finished_may_change(tmp_path: Path) -> None:
    store, before = Store(tmp_path), load_config("tiny", ["train.sft.peak_lr=0.1"])
    finish(store, before, "index", "align", "pretrain-0")
    after = load_config("tiny", ["train.sft.peak_lr=0.2"])
    check_fields(plans.stages(after), after, read_markers(store))


def test_round_scores_stop_at_a_gap(tmp_path: Path) -> None:
    store, config = Store(tmp_path), load_config("tiny", ["rounds.max=3"])
    finish(store, config, "evaluate-0", "evaluate-1", "evaluate-3")
    assert len(read_round_scores(read_markers(store))) == 2


def test_failed_attempts_stay_in_the_ledger(tmp_path: Path) -> None:
    ledger = Ledger(Store(tmp_path), PricesConfig(node_dollars_per_hour=3600.0))
    with ledger.record("align") as figures:
        figures["num_samples"] = 3
    with pytest.raises(KeyError), ledger.record("sft-0"):
        raise KeyError
    entries = read_ledger(Store(tmp_path))
    assert [(e.stage, e.finished) for e in entries] == [("align", True), ("sft-0", False)]
    assert entries[0].dollars == pytest.approx(entries[0].seconds)
    assert entries[0].figures == {"num_samples": 3}


def test_promotion_keeps_its_history_and_repeats_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert promote(store, "vlm-1", "checkpoints/vlm-1/sft", "aa", {"f1": 0.5}, epoch=1)
    assert not promote(store, "vlm-1", "checkpoints/vlm-1/sft", "aa", {"f1": 0.5}, epoch=2)
    assert promote(store, "vlm-2", "checkpoints/vlm-2/sft", "bb", {"f1": 0.6}, epoch=2)
    state = read_promoted(store)
    assert state["current"]["model"] == "vlm-2"
    assert [entry["model"] for entry in state["history"]] == ["vlm-1", "vlm-2"]


def test_an_older_driver_cannot_write_over_a_fence(tmp_path: Path) -> None:
    store, config = Store(tmp_path), load_config("tiny", [])
    finish(store, config, "index", "align")
    names = [stage.name for stage in plans.stages(config)]
    fence_markers(store, names, epoch=2)
    fence_markers(store, names, epoch=2)
    assert set(read_markers(store)) == {"index", "align"}
    for name in ("align", "sft-0"):
        with pytest.raises(LeaseLost, match="another driver has taken this campaign over"):
            write_marker(store, Marker(name, "a" * 64, {}, {}, "d", epoch=1))
    with pytest.raises(LeaseLost):
        drop_markers(store, plans.stages(config), "align", epoch=1)
    write_marker(store, Marker("sft-0", "b" * 64, {}, {}, "d", epoch=2))
    drop_markers(store, plans.stages(config), "align", epoch=2)
    assert set(read_markers(store)) == {"index"}


def test_a_driver_paused_between_check_and_write_loses(tmp_path: Path) -> None:
    """The check passes, then another driver takes over, then the first one goes on to write."""
    store, config = Store(tmp_path), load_config("tiny", [])
    finish(store, config, "index")

    def another_takes_over() -> None:
        fence_markers(store, ["index", "align"], epoch=2)
        fence_promotion(store, epoch=2)

    with pytest.raises(LeaseLost):
        write_marker(store, Marker("align", "f" * 64, {}, {}, "d", epoch=1), check=another_takes_over)
    assert set(read_markers(store)) == {"index"}
    with pytest.raises(ConditionFailed):
        promote(store, "vlm-1", "c", "aa", {}, epoch=1, check=lambda: fence_promotion(store, epoch=3))
    assert read_promoted(store)["current"] is None


def test_what_others_charge_is_part_of_an_entrys_dollars(tmp_path: Path) -> None:
    ledger = Ledger(Store(tmp_path), PricesConfig(), look=list)
    with ledger.record("judge-votes") as figures:
        figures[CHARGED] = 1.5
        assert ledger.dollars() == 1.5
    [entry] = read_ledger(Store(tmp_path))
    assert (entry.dollars, entry.nodes, entry.figures) == (1.5, [], {CHARGED: 1.5})
