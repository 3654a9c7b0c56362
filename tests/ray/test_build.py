"""Finetuning conversations through Ray Data, by a real OCR engine and by annotations; the command; going on."""

from __future__ import annotations

import json
import os
import random
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from tests.unit.experts.annotated import (
    CAT_AND_DOG,
    open_corpus,
    sign,
    square,
    write_annotations,
    write_shards,
)
from tests.unit.train import small
from vila2_ray import cli
from vila2_ray.config import SkillConfig
from vila2_ray.corpus.corpus import Corpus
from vila2_ray.corpus.samples import Sample
from vila2_ray.errors import ConfigError, CorpusError, StageFailed
from vila2_ray.experts import build, choice
from vila2_ray.experts.build import BuildJob, build_conversations
from vila2_ray.progress import NullProgress
from vila2_ray.storage import Store
from vila2_ray.train.work import ready_plan

pytestmark = pytest.mark.usefixtures("ray_cluster")


def job(folder: Path, skill="grounding", seed: int = 0, **settings) -> BuildJob:
    config = SkillConfig(**settings)
    corpus = open_corpus(folder)
    return BuildJob(skill, corpus, config, ["box all."], ["where is all?"], seed, Store(folder / "out"))


@pytest.fixture
def annotated(tmp_path: Path) -> str:
    pictures = [[square(8 * shard + row) for row in range(6)] for shard in range(3)]
    names = write_shards(tmp_path / "images", pictures)
    return write_annotations(tmp_path / "boxes.jsonl", dict.fromkeys(names[1:], CAT_AND_DOG))


def test_conversations_of_every_shard_and_what_was_left_out(tmp_path: Path, annotated: str) -> None:
    summary = build_conversations(job(tmp_path, annotations=annotated), NullProgress())
    assert (summary.num_images, summary.num_samples, summary.left_out) == (18, 17, {"no_annotation": 1})
    assert summary.expert.startswith("boxes.jsonl ")
    out = Store(tmp_path / "out")
    assert out.list() == ["00000.parquet", "00001.parquet", "00002.parquet", "build.json"]
    assert json.loads(out.read_text("build.json"))["prompts"] == ["box all."]
    assert summary.num_turns == sum(
        len(turns) // 2
        for name in out.list(suffix=".parquet")
        for turns in out.read_table(name)["conversations"].to_pylist()
    )


def test_it_goes_on_where_it_stopped_and_mixes_nothing(tmp_path: Path, annotated: str) -> None:
    first = build_conversations(job(tmp_path, annotations=annotated), NullProgress())
    kept = {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in ("00000.parquet", "00002.parquet")}
    (tmp_path / "out" / "00001.parquet").unlink()
    again = build_conversations(job(tmp_path, annotations=annotated), NullProgress())
    assert (again.digest, again.num_samples, again.left_out) == (first.digest, first.num_samples, first.left_out)
    assert kept == {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in kept}
    with pytest.raises(ConfigError, match="was made with another seed"):
        build_conversations(job(tmp_path, annotations=annotated, seed=1), NullProgress())
    with pytest.raises(ConfigError, match="was made with another min_score"):
        build_conversations(job(tmp_path, annotations=annotated, min_score=0.1), NullProgress())


def test_so_many_images_over_all_shards(tmp_path: Path, annotated: str) -> None:
    summary = build_conversations(job(tmp_path, annotations=annotated, max_samples=8), NullProgress())
    assert summary.num_images == 8
    with pytest.raises(ConfigError, match="max_samples"):
        build_conversations(job(tmp_path, annotations=annotated, max_samples=9), NullProgress())


def test_nothing_to_learn_from_the_whole_corpus(tmp_path: Path) -> None:
    write_shards(tmp_path / "images", [[square(1), square(2)]])
    strangers = write_annotations(tmp_path / "boxes.jsonl", {"elsewhere/1": CAT_AND_DOG})
    with pytest.raises(CorpusError, match=r"nothing to learn grounding from .*2 × no_annotation"):
        build_conversations(job(tmp_path, annotations=strangers), NullProgress())


@dataclass(frozen=True)
class Deadly(choice.ExpertChoice):
    """Its process dies on the second shard, as often as there are files to say so."""

    deaths: str = ""

    def open(self) -> Deadly:
        return self

    def annotate(self, samples: Sequence[Sample], images: Sequence[Image.Image]) -> list[choice.Found]:
        left = sorted(Path(self.deaths).iterdir())
        if samples[0].shard == "00001" and left:
            left[0].unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return [CAT_AND_DOG for _ in samples]


@pytest.mark.parametrize("deaths", [1, 9])
def test_a_shard_whose_process_died_is_tried_again(tmp_path: Path, annotated: str, monkeypatch, deaths: int) -> None:
    folder = tmp_path / "deaths"
    folder.mkdir()
    for number in range(deaths):
        (folder / str(number)).touch()
    wanted = job(tmp_path, annotations=annotated)
    deadly = Deadly("grounding", wanted.settings, "deadly", "1", deaths=str(folder))
    monkeypatch.setattr(build, "choose_expert", lambda skill, settings: deadly)
    if deaths == 1:
        assert build_conversations(wanted, NullProgress()).num_samples == 18
    else:
        monkeypatch.setattr(build, "_PASSES", 1)
        with pytest.raises(StageFailed, match=r"died 1 times on .*00001\.tar"):
            build_conversations(wanted, NullProgress())
        assert Store(tmp_path / "out").list(suffix=".parquet") == ["00000.parquet", "00002.parquet"]


def test_the_command_reads_signs_and_what_it_writes_is_trained_on(tmp_path: Path, capsys) -> None:
    pictures = [sign(random.Random(n).choice(("SALE", "OPEN", "MILK"))) for n in range(4)]
    write_shards(tmp_path / "images", [pictures, [b"broken", square(0)]])
    command = ["build-sft", "ocr", "--images", str(tmp_path / "images"), "--to", str(tmp_path / "to")]
    assert cli.main(command) == 0
    shown = capsys.readouterr().out
    assert all(told in shown for told in ("rapidocr", "image_type", "0000"))
    assert any(word in shown.upper() for word in ("SALE", "OPEN", "MILK"))
    chat = Corpus.open(str(tmp_path / "to"), "sft", Store(tmp_path / "chat-index"), holds="chat")
    training = small.job(tmp_path / "training", "sft", shards=tmp_path / "to")
    assert ready_plan(training, None, NullProgress()).num_steps > 0
    assert chat.total_rows() >= 4


def test_the_command_says_what_is_wrong(tmp_path: Path, capsys) -> None:
    write_shards(tmp_path / "images", [[square(0)]])
    command = ["build-sft", "spatial", "--images", str(tmp_path / "images"), "--to", str(tmp_path / "to")]
    assert cli.main(command) == 2
    assert "skills.spatial.annotations" in capsys.readouterr().err
    assert cli.main([*command, "--annotations", "x", "--detector", "y"]) == 2
    assert "not both" in capsys.readouterr().err
    assert not (tmp_path / "to").exists()
