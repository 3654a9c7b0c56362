from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.utils.data import DataLoader

from tests.unit.train import small
from tests.unit.train.test_items import layer
from vila2_ray.corpus.corpus import Corpus
from vila2_ray.corpus.screening import Screening, Takedowns
from vila2_ray.errors import ConfigError, CorpusError
from vila2_ray.storage import Store
from vila2_ray.train import dataset as module
from vila2_ray.train.dataset import CaptionDataset


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Corpus:
    """Two shards of six squares, read three rows at a time."""
    monkeypatch.setattr(module, "_RANGE_ROWS", 3)
    return Corpus.open(str(small.write_shards(tmp_path / "pretrain")), "pretrain", Store(tmp_path / "index"))


def same(samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return samples


def ids(samples: Any) -> list[str]:
    return [sample["sample_id"] for sample in samples]


EVERY = [f"{shard:05d}/{row:03d}" for shard in range(2) for row in range(6)]


def test_in_order_with_image_text_and_captions_by_layer(corpus: Corpus, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{} for _ in range(6)]
    rows[1] = {"status": "failed", "text": None, "error": "engine_error"}
    captions, verdicts = layer(tmp_path, rows, flagged=(2,), edits={3: "A person's."})
    layers = {"judged": (captions, verdicts), "all": captions, "by folder": captions.store.uri}
    samples = list(CaptionDataset(corpus, layers, shuffle=False))
    assert ids(samples) == EVERY
    first, failed, flagged = samples[:3]
    assert first["alt_text"] == "a picture of thing 0 0"
    assert first["captions"] == {"judged": ["caption 0."], "all": ["caption 0."], "by folder": ["caption 0."]}
    assert failed["captions"] == {"judged": [], "all": [], "by folder": []}
    assert (flagged["captions"]["judged"], flagged["captions"]["all"]) == ([], ["caption 2."])
    assert samples[3]["captions"] == {"judged": ["A person's."], "all": ["caption 3."], "by folder": ["caption 3."]}
    assert samples[7]["image"].getpixel((0, 0)) == (40, 40, 90)
    assert (samples[7]["source"], samples[7]["shard"], samples[7]["row"]) == ("pretrain", "00001", 1)


def test_two_workers_share_every_epoch_in_an_order_of_its_own(corpus: Corpus) -> None:
    dataset = CaptionDataset(corpus, transform=lambda image: np.asarray(image), seed=3)
    loader = DataLoader(dataset, batch_size=4, num_workers=2, collate_fn=same, persistent_workers=True)
    epochs = []
    for epoch in (0, 1, 0):
        dataset.set_epoch(epoch)
        epochs.append([name for batch in loader for name in ids(batch)])
    assert sorted(epochs[0]) == sorted(epochs[1]) == EVERY
    assert epochs[0] == epochs[2] != epochs[1]
    assert epochs[0] != EVERY
    assert len(dataset) == 12


def test_ranks_share_the_samples(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [ids(CaptionDataset(corpus, rank=rank, world=3)) for rank in range(3)]
    assert sorted(name for part in parts for name in part) == EVERY
    assert all(parts)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert ids(CaptionDataset(corpus)) == parts[1]


def test_the_window_bounds_the_shuffle(corpus: Corpus) -> None:
    alone = ids(CaptionDataset(corpus, shuffle_window=1))
    assert [alone[at : at + 3] == sorted(alone[at : at + 3]) for at in range(0, 12, 3)] == [True] * 4
    assert ids(CaptionDataset(corpus)) != alone


def test_bad_and_screened_samples_are_left_out(tmp_path: Path) -> None:
    shards = small.write_shards(tmp_path / "bad", bad=2)
    corpus = Corpus.open(str(shards), "pretrain", Store(tmp_path / "index"))
    (tmp_path / "list.txt").write_text("00001/003\n")
    screening = Screening(corpus, None, Takedowns.look(Store(tmp_path / "t"), str(tmp_path / "list.txt")))
    found = ids(CaptionDataset(corpus, shuffle=False, screening=screening))
    assert found == [name for name in EVERY if name not in ("00000/002", "00001/003")]


def test_a_uri_keeps_its_index_where_it_is_told(tmp_path: Path) -> None:
    shards = small.write_shards(tmp_path / "shards")
    dataset = CaptionDataset(str(shards), index=str(tmp_path / "index"), source="mine")
    assert sorted(ids(dataset)) == EVERY
    assert (tmp_path / "index" / "mine" / "00000.parquet").exists()
    with pytest.raises(CorpusError):
        list(CaptionDataset(str(tmp_path / "nothing"), index=str(tmp_path / "index")))


@pytest.mark.parametrize("settings", [{"rank": 1}, {"rank": 2, "world": 2}, {"shuffle_window": 0}])
def test_settings_that_cannot_be_are_refused(corpus: Corpus, settings: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        CaptionDataset(corpus, **settings)  # type: ignore[arg-type]
