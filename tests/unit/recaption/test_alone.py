"""A trial without Ray: a few captions, and what the rest would take."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from tests.unit.recaption.pictures import write_shards
from vila2_ray.config import EngineConfig, RecaptionConfig, SamplingConfig
from vila2_ray.errors import CheckpointError, CorpusError
from vila2_ray.recaption.alone import AloneJob, try_sample


@pytest.fixture
def alone(tmp_path: Path) -> AloneJob:
    write_shards(tmp_path / "corpus", [40] * 12, {(number, 0): b"no picture" for number in range(12)})
    (tmp_path / "model").mkdir()
    config = RecaptionConfig(
        engine=EngineConfig(name="fake", batch_size=8), sampling=SamplingConfig(max_tokens=99), num_variants=2
    )
    return AloneJob(str(tmp_path / "model"), str(tmp_path / "corpus"), str(tmp_path / "to"), config)


def test_a_trial_shows_captions_and_what_the_rest_would_take(alone: AloneJob, tmp_path: Path) -> None:
    trial = try_sample(alone, 60, node_dollars_per_hour=3.6)
    assert len(trial.captions) == 120
    assert len({tried.sample.sample_id for tried in trial.captions}) == 60
    assert len({tried.sample.shard for tried in trial.captions}) == 8, "drawn from many shards, but not from all"
    assert trial.num_rest == 12 * 40 * 2
    assert trial.seconds_rest == pytest.approx(trial.num_rest / trial.captions_per_second)
    assert trial.dollars_rest == pytest.approx(trial.seconds_rest * 0.001)
    for tried in trial.captions:
        assert (tried.text is None) == (tried.sample.row == 0)
        assert tried.sample.image, "it is shown"
        assert bool(tried.error) == (tried.text is None)
    assert not list((tmp_path / "to").glob("captions/**/*.parquet"))
    again = try_sample(alone, 60, 3.6)
    assert [(t.sample.sample_id, t.text) for t in again.captions] == [
        (t.sample.sample_id, t.text) for t in trial.captions
    ]


def test_a_folder_of_pictures_will_do(alone: AloneJob, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(3):
        Image.new("RGB", (10, 10), (number, 0, 0)).save(folder / f"{number}.png")
    trial = try_sample(replace(alone, corpus=str(folder)), 10, 1.0)
    assert (len(trial.captions), trial.num_rest) == (6, 6)
    assert all((tried.text or "").startswith("a picture known as") for tried in trial.captions)


def test_the_layers_name_follows_what_decides_the_captions(alone: AloneJob) -> None:
    def name(job: AloneJob) -> str:
        return job.job(job.open_corpus()).layer.store.uri

    faster = replace(alone.config, range_rows=9, engine=replace(alone.config.engine, max_actors=7))
    longer = replace(alone.config, sampling=SamplingConfig(max_tokens=7))
    worded = replace(alone.config, prompts={"detailed": "other words"})
    assert name(replace(alone, config=faster)) == name(alone)
    assert (
        len(
            {
                name(alone),
                name(replace(alone, config=longer)),
                name(replace(alone, config=worded)),
                name(replace(alone, seed=1)),
            }
        )
        == 4
    )


def test_what_is_missing_is_named(alone: AloneJob, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="nothing-here"):
        try_sample(replace(alone, corpus=str(tmp_path / "nothing-here")), 5, 1.0)
    real = replace(alone, config=replace(alone.config, engine=EngineConfig(name="transformers")))
    with pytest.raises(CheckpointError, match=r"config\.json"):
        try_sample(real, 5, 1.0)
