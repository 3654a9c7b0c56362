"""The filter stage in its campaign: which layers it reads, what training then takes, what a collapse does."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.unit.campaign.folders import ROUND_0, begin, finish, whole_round
from tests.unit.campaign.layers import SOURCE, write_corpus, write_layer
from tests.unit.judge.judgements import edited, judgement, write_judgements
from vila2_ray.campaign import captioning
from vila2_ray.campaign import plan as plans
from vila2_ray.campaign.api import Campaign
from vila2_ray.campaign.inputs import current_fingerprint, observe, stage_inputs
from vila2_ray.campaign.stages import WORK
from vila2_ray.campaign.state import Marker, drop_markers, read_markers, write_marker
from vila2_ray.campaign.view import Run
from vila2_ray.cli_show import Wanted, show
from vila2_ray.config import Config
from vila2_ray.errors import ConfigError, CorpusError, StageFailed
from vila2_ray.judge.export import read_judgements
from vila2_ray.storage import Store


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards are judged in this process."""
    monkeypatch.setattr(captioning, "ray_map", lambda function, items, **_: map(function, items))


def campaign(tmp_path: Path, *options: str) -> Config:
    write_corpus(tmp_path / "corpus", [20, 20])
    return begin(tmp_path / "campaign", f"corpus.pretrain={tmp_path}/corpus/shards", "rounds.max=2", *options)


def layer(config: Config, k: int, change: Any = None, name: str = "") -> None:
    """Round k's layer with its marker."""
    (fp8,) = finish(config, f"recaption-{k}").values()
    corpus = Campaign(config.campaign).corpus()
    write_layer(Store(config.campaign).sub("captions", name or f"round-{k}", fp8), corpus, 1, change)


def run_filter(config: Config, k: int) -> Run:
    """Work on filter-k; the run, in which its marker stands."""
    run = observe(Campaign(config.campaign))
    plan = plans.stages(config)
    stage = next(stage for stage in plan if stage.name == f"filter-{k}")
    fingerprint = current_fingerprint(run, plan, stage)
    assert fingerprint is not None
    done = WORK["filter"](run, stage, fingerprint)
    marker = Marker(stage.name, fingerprint, {}, {}, done.digest, 1, summary=done.summary)
    write_marker(run.layout.store, marker)
    run.markers[stage.name] = marker
    return run


def fingerprint_of(config: Config, k: int) -> str:
    """What filter-k's work would be called now."""
    plan = plans.stages(config)
    stage = next(stage for stage in plan if stage.name == f"filter-{k}")
    found = current_fingerprint(observe(Campaign(config.campaign)), plan, stage)
    assert found is not None
    return found


def same(shard: str, row: int, variant: int) -> dict[str, Any]:
    return {"text": "The same caption again and again."}


def test_figures_stand_in_the_summary_and_beside_the_previous_round(tmp_path: Path) -> None:
    config = campaign(tmp_path)
    finish(config, *ROUND_0)
    layer(config, 1)
    first = run_filter(config, 1)
    assert first.markers["filter-1"].summary["drift"]["words_per_caption"] == 11.0
    assert "previous_similarity" not in first.markers["filter-1"].summary["drift"]
    assert len(first.layers("round-1")) == 1
    finish(config, "pretrain-1", "sft-1", "evaluate-1")
    layer(config, 2)
    second = run_filter(config, 2)
    assert second.markers["filter-2"].summary["drift"]["previous_similarity"] == 1.0


def test_a_collapse_leaves_no_marker_and_can_be_let_pass(tmp_path: Path) -> None:
    config = campaign(tmp_path)
    finish(config, *ROUND_0)
    layer(config, 1, same)
    with pytest.raises(StageFailed, match=r"share_identical is 1, max_share_identical = 0.5.*--from recaption-1"):
        run_filter(config, 1)
    assert "filter-1" not in Campaign(config.campaign).markers()
    loose = begin(
        tmp_path / "campaign",
        f"corpus.pretrain={tmp_path}/corpus/shards",
        "rounds.max=2",
        "drift.max_share_identical=1",
        "drift.max_share_starting_alike=1",
    )
    before = Campaign(config.campaign).store.list("verdicts")
    assert run_filter(loose, 1).markers["filter-1"].summary["flags"]["captions"] == 40
    assert Campaign(config.campaign).store.list("verdicts") == before, "a border is no output: nothing is judged again"


def test_picking_among_all_layers_judges_them_anew_and_trains_on_all(tmp_path: Path) -> None:
    config = campaign(tmp_path, "pick.by=mean_logprob", "pick.layers=all", "filters.drop_lowest_min_logprob_share=0")
    finish(config, *ROUND_0)
    layer(config, 1)
    run_filter(config, 1)
    finish(config, "pretrain-1", "sft-1", "evaluate-1")
    layer(config, 2, lambda shard, row, v: {"mean_logprob": -0.1 if row % 2 else -0.9, "text": f"Row {row} it is now."})
    run = run_filter(config, 2)
    assert run.markers["filter-2"].summary["flags"]["kept"] == 40
    (first, on_first), (second, on_second) = run.layers("round-2")
    assert on_first is not None
    assert on_second is not None
    assert {row for (row, _), flags in on_first.flags(SOURCE, "00000").items() if flags == ["not_picked"]} == {
        row for row in range(20) if row % 2
    }
    assert {row for row, _ in on_second.flags(SOURCE, "00000")} == {row for row in range(20) if not row % 2}
    found = Campaign(config.campaign)
    alone = found.verdicts("round-1")
    later = found.verdicts("round-1", "round-2")
    assert alone is not None
    assert later is not None
    assert alone.flags(SOURCE, "00000") == {}
    assert later.flags(SOURCE, "00000") == on_first.flags(SOURCE, "00000")
    assert (first.store.uri, second.store.uri) == tuple(found.layer(f"round-{k}").store.uri for k in (1, 2))


def test_a_retried_layer_is_read_in_place_of_its_layer(tmp_path: Path) -> None:
    config = campaign(tmp_path, "layers.round-1=round-1-retry-1")
    finish(config, *ROUND_0, "recaption-1")
    plan, store = plans.stages(config), Store(config.campaign)
    work = observe(Campaign(config.campaign))
    judge = next(stage for stage in plan if stage.name == "filter-1")
    with pytest.raises(StageFailed, match=r"needs recaption-1-retry-1.*vila2 retry"):
        stage_inputs(work, plan, judge)
    with pytest.raises(CorpusError, match="no finished layer 'round-1-retry-1'"):
        Campaign(config.campaign).layer("round-1")
    write_marker(store, Marker("recaption-1-retry-1", "a" * 64, {}, {}, "new", 1))
    write_layer(store.sub("captions", "round-1-retry-1", "a" * 8), Campaign(config.campaign).corpus())
    run = run_filter(config, 1)
    assert stage_inputs(run, plan, judge) == {"recaption-1-retry-1": "new"}
    assert run.layers("round-1")[0][0].store.uri.endswith("captions/round-1-retry-1/aaaaaaaa")
    assert Campaign(config.campaign).layer("round-1").store.uri.endswith("round-1-retry-1/aaaaaaaa")
    write_marker(store, replace(run.markers["recaption-1"], covers="a larger corpus"))
    with pytest.raises(StageFailed, match=r"lacks shards that recaption-1 has since got.*vila2 retry"):
        stage_inputs(observe(Campaign(config.campaign)), plan, judge)
    drop_markers(store, plan, "recaption-1")
    assert not [name for name in read_markers(store) if name.startswith(("recaption-1", "filter-1"))]


def test_the_scorers_digest_is_an_input(tmp_path: Path) -> None:
    from tests.unit.engines.tiny_siglip import write_siglip

    scorer = write_siglip(tmp_path / "siglip")
    config = campaign(
        tmp_path, "pick.by=scorer", f"pick.scorer={scorer}", "pick.fallback_alt_text.min_scorer_margin=-2"
    )
    finish(config, *ROUND_0)
    layer(config, 1)
    run = run_filter(config, 1)
    judge = next(stage for stage in plans.stages(config) if stage.name == "filter-1")
    assert set(stage_inputs(run, plans.stages(config), judge)) == {"recaption-1", "scorer"}
    assert run.markers["filter-1"].summary["flags"]["alt_text"] == 0


def test_votes_that_count_are_an_input_and_no_others(tmp_path: Path) -> None:
    config = campaign(tmp_path)
    finish(config, *ROUND_0)
    layer(config, 1)
    before = fingerprint_of(config, 1)
    file = write_judgements(
        tmp_path / "votes.csv",
        judgement(0, "alt_text", "round-1", "first"),
        judgement(1, "alt_text", "round-1", "first", rater="model:judge", kind="model"),
        edited(2, "round-1", "A person looked at it closely."),
        judgement(0, "round-1", "round-2", "first"),  # of layers that no stage judges together
    )

    def again(*options: str) -> Config:
        return begin(tmp_path / "campaign", f"corpus.pretrain={tmp_path}/corpus/shards", "rounds.max=2", *options)

    voted = again(f"pick.votes={file}")
    name = fingerprint_of(voted, 1)
    assert name != before
    assert fingerprint_of(again(f"pick.votes={file}", "pick.criterion=overall", "pick.raters=all"), 1) == name
    assert fingerprint_of(again(f"pick.votes={file}", "pick.raters=people"), 1) not in (name, before)
    more = write_judgements(
        tmp_path / "more.parquet", *read_judgements(file).to_pylist(), judgement(0, "x", "y", "tie")
    )
    assert fingerprint_of(again(f"pick.votes={more}"), 1) == name, "what counts has not changed"
    elsewhere = write_judgements(tmp_path / "of_round_2.csv", judgement(0, "alt_text", "round-2", "first"))
    assert fingerprint_of(again(f"pick.votes={elsewhere}"), 1) == before, "finished rounds stay as they are"
    run = run_filter(again(f"pick.votes={file}"), 1)
    found = run.markers["filter-1"].summary["flags"]
    assert (found["voted"], found["alt_text"], found["edited"], found["kept"]) == (2, 2, 1, 38)
    told = Campaign(config.campaign).verdicts("round-1")
    assert told is not None
    assert told.opinions(SOURCE, "00000") == (
        {(0, 0): ["not_picked"], (1, 0): ["not_picked"]},
        {(2, 0): "A person looked at it closely."},
    )
    out = Console(file=io.StringIO(), width=200)
    show(Campaign(config.campaign), Wanted("00000/002"), out)
    assert "edited  A person looked at it closely." in out.file.getvalue()  # type: ignore[attr-defined]
    out = Console(file=io.StringIO(), width=200)
    show(Campaign(config.campaign), Wanted(flag="edited"), out)
    assert "00000/002" in out.file.getvalue()  # type: ignore[attr-defined]
    assert "00000/001" not in out.file.getvalue()  # type: ignore[attr-defined]


def test_votes_on_the_latest_round_are_of_what_the_full_pass_took_over(tmp_path: Path) -> None:
    file = write_judgements(
        tmp_path / "votes.csv",
        judgement(0, "alt_text", "round-1", "second"),
        judgement(1, "alt_text", "round-2", "second"),
        judgement(2, "full", "round-2", "tie"),
        edited(3, "full", "A person looked at it closely."),
    )
    config = campaign(tmp_path, f"pick.votes={file}", "rounds.fraction=0.5")
    finish(config, *ROUND_0, *whole_round(1), *whole_round(2))
    run = observe(Campaign(config.campaign))
    votes = {stage.name: run.votes(stage) for stage in plans.stages(config) if stage.kind == "filter"}
    said = {name: found.of_shard(SOURCE, "00000") for name, found in votes.items() if found is not None}
    assert {name: [*found.comparisons] for name, found in said.items()} == {
        "filter-1": [0], "filter-2": [1], "filter-full": [1]
    }  # fmt: skip
    assert [*said["filter-full"].edits] == [(3, (0, 0))]


def test_a_criterion_that_nobody_was_asked_for_is_said(tmp_path: Path) -> None:
    file = write_judgements(tmp_path / "votes.csv", judgement(0, "alt_text", "round-1", "first"))
    config = campaign(tmp_path, f"pick.votes={file}", "pick.criterion=detail")
    finish(config, *ROUND_0)
    layer(config, 1)
    with pytest.raises(ConfigError, match=r"pick.criterion = 'detail'.*go by overall"):
        fingerprint_of(config, 1)


def test_exports_go_by_the_last_opinion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vila2_ray.campaign import exporting

    config = campaign(tmp_path, "pick.by=mean_logprob", "pick.layers=all", "rounds.min_gain=-1")
    finish(config, *ROUND_0, *whole_round(1), *whole_round(2))
    asked: list[tuple[str, str]] = []
    monkeypatch.setattr(Campaign, "verdicts", lambda self, name, judged_with="": asked.append((name, judged_with)))
    monkeypatch.setattr(exporting, "export", lambda *_: {})
    exporting.export_campaign(Campaign(config.campaign))
    assert asked == [("round-1", "round-2"), ("round-2", "round-2")]
