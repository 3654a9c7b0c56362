"""Finding layers and putting dead letters of unfinished ones back; sealed layers are in tests/ray."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.campaign.folders import ROUND_0, begin, finish
from tests.unit.campaign.layers import SOURCE, rows, write_corpus
from vila2_ray.campaign.lease import Lease
from vila2_ray.campaign.retry import choose_layer, find_layers, retry
from vila2_ray.config import Config
from vila2_ray.corpus.deadletters import count_dead
from vila2_ray.corpus.layers import Layer, Parts
from vila2_ray.errors import CampaignBusy, ConfigError, CorpusError
from vila2_ray.recaption.plan import find_work
from vila2_ray.storage import Store


def died(row: int, variant: int) -> dict[str, str]:
    return {"status": "failed", "error": "engine_died"} if row in (2, 5) else {}


@pytest.fixture
def unfinished(tmp_path: Path) -> Config:
    """A campaign whose first layer has one shard whole, one begun, and no marker."""
    corpus = write_corpus(tmp_path / "corpus", [8, 8])
    config = begin(tmp_path / "campaign", f"corpus.pretrain={tmp_path}/corpus/shards", "rounds.max=2")
    fps = finish(config, *ROUND_0, "recaption-1")
    store = Store(config.campaign)
    store.delete("stages/recaption-1.json")
    layer, parts = (
        kind(store.sub(name, "round-1", fps["recaption-1"])) for kind, name in ((Layer, "captions"), (Parts, "parts"))
    )
    layer.write(SOURCE, "00000", rows("00000", range(corpus.num_rows("00000")), 1, died))
    parts.write(SOURCE, "00001", 0, 4, rows("00001", range(4), 1, died))
    return config


def test_a_layer_without_its_marker_is_put_back_in_place(unfinished: Config) -> None:
    (place,) = find_layers(unfinished.campaign)
    assert (place.name, place.is_sealed) == ("round-1", False)
    assert [dead.num_rows for dead in count_dead(place)] == [3]
    done = retry(unfinished.campaign, ["engine_died"])
    assert (done.layer, done.num_samples, done.new_layer) == ("round-1", 3, "")
    assert count_dead(place) == []
    corpus = write_corpus(Path(unfinished.corpus.pretrain).parent, [8, 8])
    work = find_work(corpus, place.layer, place.parts, 256)
    found = [(piece.shard, piece.start, piece.stop) for piece in work.ranges]
    assert found == [("00000", 2, 3), ("00000", 5, 6), ("00001", 2, 3), ("00001", 4, 8)]


def test_nothing_is_put_back_while_a_driver_runs(unfinished: Config) -> None:
    with Lease(Store(unfinished.campaign), lifetime_seconds=0.5), pytest.raises(CampaignBusy):
        retry(unfinished.campaign, ["engine_died"])


def test_what_vila2_recaption_wrote_is_found_without_a_campaign(tmp_path: Path) -> None:
    store = Store(tmp_path / "out")
    store.write_text("recaption-0123abcd.json", "{}")
    layer = Layer(store.sub("captions", "recaption", "0123abcd"))
    layer.write(SOURCE, "00000", rows("00000", range(8), 1, died))
    assert [place.name for place in find_layers(str(tmp_path / "out"))] == ["recaption-0123abcd"]
    assert retry(str(tmp_path / "out"), ["engine_died"]).num_samples == 2
    assert layer.shards() == []
    assert Parts(store.sub("parts", "recaption", "0123abcd")).ranges() == {(SOURCE, "00000"): [(0, 2), (3, 5), (6, 8)]}


def test_unknown_names_are_said_with_the_known_ones(unfinished: Config, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no campaign here and no recaptioned corpus"):
        find_layers(str(tmp_path / "nothing"))
    with pytest.raises(CorpusError, match=r"round-7: no such layer here. Layers: round-1"):
        choose_layer(find_layers(unfinished.campaign), "round-7")
    with pytest.raises(ConfigError, match=r"--reason = 'tired': must be one of no_image"):
        retry(unfinished.campaign, ["tired"])


def test_layers_stand_in_the_order_of_their_making(tmp_path: Path) -> None:
    from vila2_ray.campaign.state import Marker, write_marker

    config = begin(tmp_path / "campaign", "rounds.max=2")
    finish(config, *ROUND_0, "recaption-1")
    for number in (10, 2):
        name = f"recaption-1-retry-{number}"
        write_marker(Store(config.campaign), Marker(name, f"{number:064}", {}, {}, "d", 1))
    places = find_layers(config.campaign)
    assert [place.name for place in places] == ["round-1", "round-1-retry-2", "round-1-retry-10"]
    assert all(place.is_sealed for place in places)
