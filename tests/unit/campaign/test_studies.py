"""Studies of a campaign: drawn from its layers and verdicts, listed, opened, never drawn over."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.judge.voting import pairs, votes
from tests.unit.report.test_collect import FAILED, FLAGGED, ROWS, make_campaign
from vila2_ray.campaign.api import Campaign
from vila2_ray.campaign.studies import (
    StudySummary,
    default_layers,
    draw_study,
    left_out,
    list_studies,
    open_study,
    parse_couples,
)
from vila2_ray.errors import ConfigError, CorpusError
from vila2_ray.judge.desks import Desks
from vila2_ray.judge.study import Study
from vila2_ray.judge.winning import figures_of
from vila2_ray.recipe import from_yaml, override, to_yaml

LAYERS = ("alt_text", "round-1", "round-2")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    return make_campaign(tmp_path_factory.mktemp("campaign"))


@pytest.fixture
def campaign(made: Campaign) -> Iterator[Campaign]:
    """Without studies."""
    yield made
    made.store.delete_tree("judgements")


def test_a_study_is_of_what_the_filters_keep(campaign: Campaign) -> None:
    assert default_layers(campaign) == list(LAYERS)
    study = draw_study(campaign, "votes", LAYERS, 100, ["overall"], 0)
    drawn = study.pairs()
    assert {pair.row for pair in drawn if pair.first.layer == "alt_text"} == set(range(1, ROWS)) - {FAILED, FLAGGED}
    assert {pair.row for pair in drawn if pair.first.layer == "round-1"} == set(range(ROWS)) - {FAILED, FLAGGED}
    assert {(pair.first.text, pair.second.text) for pair in drawn} == {
        ("a dog", "a small dog at the left."),
        ("a dog", "a small cat at the left."),
        ("a small dog at the left.", "a small cat at the left."),
    }
    told = study.told()["drawn_by"]
    assert told["layers"] == {
        "alt_text": "",
        "round-1": "ffffffff, kept by ffffffff",
        "round-2": "ffffffff, kept by ffffffff",
    }
    assert told["equal"] == dict.fromkeys(told["couples"], 0)
    everything = draw_study(campaign, "all", LAYERS, 100, ["overall"], 0, only_kept=False)
    assert {pair.row for pair in everything.pairs()} == set(range(ROWS)) - {FAILED}


def test_what_is_taken_down_later_is_shown_to_nobody(tmp_path: Path) -> None:
    campaign = make_campaign(tmp_path)
    study = draw_study(campaign, "votes", LAYERS, 100, ["overall"], 0)
    assert left_out(campaign, study) == frozenset()
    gone = study.pairs()[0]
    taken = tmp_path / "taken.txt"
    taken.write_text(f"{gone.sample_id}\n", "utf-8")
    told = campaign.store.read_text("campaign.yaml")
    campaign.store.write_text("campaign.yaml", to_yaml(override(from_yaml(told), [f"screen.takedown={taken}"])))
    assert draw_study(campaign, "votes", LAYERS, 100, ["overall"], 0).pairs() == study.pairs(), "it is there already"
    missing = left_out(campaign, study)
    assert missing == {pair.pair_id for pair in study.pairs() if pair.sample_id == gone.sample_id}
    desk = Desks(study, missing).of("ann")
    assert desk.total == len(study.pairs()) - len(missing)
    assert gone not in filter(None, map(desk.pair, desk.todo()))


def test_it_is_drawn_once(campaign: Campaign) -> None:
    first = draw_study(campaign, "votes", LAYERS, 5, ["overall"], 0)
    assert draw_study(campaign, "votes", LAYERS, 5, ["overall"], 0).pairs() == first.pairs()
    with pytest.raises(ConfigError, match="was drawn with seed = 0"):
        draw_study(campaign, "votes", LAYERS, 5, ["overall"], 1)
    assert open_study(campaign, "votes").pairs() == first.pairs()


def test_studies_are_listed_and_opened(campaign: Campaign) -> None:
    assert list_studies(campaign) == []
    with pytest.raises(ConfigError, match="there is none yet; draw one with vila2 judge draw"):
        open_study(campaign, "votes")
    study = draw_study(campaign, "votes", [], 4, ["detail"], 0, couples=[("round-2", "alt_text")])
    draw_study(campaign, "b", LAYERS[1:], 2, ["overall"], 0)
    for rater in ("ann", "ann", "model:m"):
        for vote in votes(study.pairs(), rater, "12"):
            study.cast(vote)
    assert list_studies(campaign) == [
        StudySummary("b", ("round-1", "round-2"), ("overall",), 2, 0, {}),
        StudySummary("votes", ("round-2", "alt_text"), ("detail",), 4, 0, {"ann": 2, "model:m": 2}),
    ]
    assert open_study(campaign, "votes").pairs() == study.pairs()
    for name in ("none", "../captions"):
        with pytest.raises(ConfigError, match="studies are b, votes"):
            open_study(campaign, name)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"layers": ("alt_text", "round-9")}, "finished layers are alt_text, round-1, round-2"),
        ({"layers": ("alt_text",)}, "one layer has nothing to be compared with"),
        ({"couples": [("round-1", "round-1")]}, "cannot be compared with itself"),
        ({"couples": [("round-1", "round-2"), ("round-2", "round-1")]}, "is named twice"),
        ({"num_samples": 0}, "at least 1"),
        ({"criteria": ["beauty"]}, "take some of hallucination"),
        ({"name": "../x"}, "letters, digits"),
    ],
)
def test_wishes_that_cannot_be(campaign: Campaign, changed: dict, told: str) -> None:
    wish = {"name": "votes", "layers": LAYERS, "num_samples": 5, "criteria": ["overall"], "seed": 0, **changed}
    with pytest.raises(ConfigError, match=told):
        draw_study(campaign, **wish)
    assert list_studies(campaign) == []


def test_a_study_of_other_origin_is_listed_as_well(campaign: Campaign) -> None:
    Study.draw(campaign.layout.study("made").store, pairs(3), {"by": "hand"}, ["detail"])
    assert list_studies(campaign) == [StudySummary("made", (), ("detail",), 3, 0, {})]
    assert figures_of(open_study(campaign, "made")).num_pairs == 3


def test_couples_by_name() -> None:
    assert parse_couples(["alt_text:round-1", "round-1:ocr"]) == [("alt_text", "round-1"), ("round-1", "ocr")]
    for wrong in ("round-1", "round-1:", ":ocr", "a:b:c"):
        with pytest.raises(ConfigError, match="a colon between them"):
            parse_couples([wrong])


def test_layers_that_say_the_same_are_no_question(tmp_path: Path) -> None:
    campaign = make_campaign(tmp_path, scored=False)
    layer = campaign.layer("round-2")
    for source, shard in layer.shards():
        layer.write(source, shard, campaign.layer("round-1").read(source, shard))
    with pytest.raises(CorpusError, match="They say the same of every image"):
        draw_study(campaign, "votes", LAYERS[1:], 5, ["overall"], 0)
