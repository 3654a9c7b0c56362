"""The screen stage on a cluster: done once, growing with the corpus, refused when its lists change."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
import tarfile
from pathlib import Path

import pytest

from tests.unit.corpus.test_screening import encode, scene, write_tar
from tests.unit.recaption.pictures import make_job
from vila2_ray import Campaign
from vila2_ray.campaign.runner import run
from vila2_ray.campaign.stages import ray_map
from vila2_ray.config import Config, ScreenConfig
from vila2_ray.corpus.duplicates import flag_duplicates
from vila2_ray.corpus.screening import ImageVerdicts, Screening, ShardScreen, Takedowns
from vila2_ray.errors import FingerprintError
from vila2_ray.progress import NullProgress
from vila2_ray.recaption.pipeline import recaption
from vila2_ray.recipe import load_config
from vila2_ray.storage import Store

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two pretraining shards with a copy of each other's first and one of a held-out scene; SFT holds another."""
    write_tar(tmp_path / "pretrain" / "00001.tar", [encode(scene(0)), encode(scene(1)), encode(scene(90))])
    write_tar(tmp_path / "pretrain" / "00002.tar", [encode(scene(2)), encode(scene(0))])
    write_tar(tmp_path / "heldout" / "00000.tar", [encode(scene(90), "JPEG", quality=75), encode(scene(91))])
    write_tar(tmp_path / "sft" / "00000.tar", [encode(scene(91)), encode(scene(3))])
    return tmp_path


def configured(folder: Path, *more: str) -> Config:
    corpora = [f"corpus.{source}={folder / source}" for source in ("pretrain", "sft", "heldout")]
    rules = ["screen.exact_duplicates=true", "screen.near_duplicates=true", "screen.heldout=true"]
    return load_config("tiny", [f"campaign={folder / 'campaign'}", "specialists=[]", *corpora, *rules, *more])


def test_a_campaign_is_screened_once_and_grows_with_its_corpus(folder: Path) -> None:
    assert run(configured(folder), until="screen").ran == ["index", "screen"]
    campaign = Campaign(str(folder / "campaign"))
    before = campaign.markers()["screen"]
    assert before.summary["flags"] == {
        "pretrain": {"samples": 5, "kept": 3, "heldout": 1, "duplicate": 1},
        "sft": {"samples": 2, "kept": 1, "heldout": 1},
    }
    screening, sft = campaign.screening(), campaign.screening("sft")
    assert screening is not None
    assert sft is not None
    assert screening.flags("pretrain", "00001") == {2: ["heldout"]}
    assert screening.flags("pretrain", "00002") == {1: ["duplicate"]}
    assert sft.flags("sft", "00000") == {0: ["heldout"]}
    assert not list((folder / "campaign" / "parts").rglob("*.parquet"))
    assert run(configured(folder), until="screen").ran == []
    status = {row.name: row for row in campaign.status()}["screen"]
    assert (status.state, status.done, status.unit) == ("done", 7, "samples")

    write_tar(folder / "pretrain" / "00000.tar", [encode(scene(1))])
    assert run(configured(folder), until="screen").ran == ["index", "screen"]
    after = campaign.markers()["screen"]
    assert (after.fingerprint, after.digest) == (before.fingerprint, before.digest), "finished layers stay valid"
    assert screening.flags("pretrain", "00001") == {1: ["duplicate"], 2: ["heldout"]}


def test_another_list_of_heldout_hashes_is_other_work(folder: Path) -> None:
    listed = folder / "hashes.txt"
    listed.write_text("0123456789abcdef\n")
    config = configured(folder, f"screen.heldout_hashes=[{listed}]")
    run(config, until="screen")
    listed.write_text("# the same\n0123456789ABCDEF\n")
    assert run(config, until="screen").ran == []
    listed.write_text("0123456789abcdee\n")
    with pytest.raises(FingerprintError, match=r"heldout_hashes.*--from screen"):
        run(config, until="screen")
    with pytest.raises(FingerprintError, match=r"screen.min_side was 0, is 9.*--from screen"):
        run(configured(folder, "screen.min_side=9"), until="screen")


def test_a_screened_sample_goes_through_recaptioning_without_a_caption(folder: Path) -> None:
    shutil.move(folder / "pretrain", folder / "corpus")
    job = make_job(folder, range_rows=2)
    verdicts, config = ImageVerdicts(Store(folder / "verdicts")), ScreenConfig(exact_duplicates=True)
    for _ in ray_map(ShardScreen(job.corpus, verdicts, config), job.corpus.shards):
        pass
    flag_duplicates(job.corpus, verdicts, config, Store(folder / "work"), ray_map)
    (folder / "list.txt").write_text("https://x.example/00001/2\n")
    takedowns = Takedowns.look(Store(folder / "takedown"), str(folder / "list.txt"))
    job = dataclasses.replace(job, screening=Screening(job.corpus, verdicts, takedowns))
    summary = recaption(job, NullProgress())
    rows = job.layer.to_table(["shard", "row", "status", "error", "error_detail"]).to_pylist()
    assert [tuple(row.values()) for row in rows if row["status"] != "captioned"] == [
        ("00001", 2, "not_selected", None, "screened: takedown"),
        ("00002", 1, "not_selected", None, "screened: duplicate"),
    ]
    assert (summary.num_rows, summary.num_captioned, summary.num_not_selected, summary.num_failed) == (5, 3, 2, 0)


def test_an_interleaved_document_keeps_its_row_and_is_never_captioned(tmp_path: Path) -> None:
    write_tar(tmp_path / "corpus" / "00000.tar", [encode(scene(0))])
    document = json.dumps({"images": [None], "texts": ["a text"]}).encode()
    with tarfile.open(tmp_path / "corpus" / "00000.tar", "a") as archive:
        member = tarfile.TarInfo("document.json")
        member.size = len(document)
        archive.addfile(member, io.BytesIO(document))
    job = make_job(tmp_path)
    summary = recaption(job, NullProgress())
    rows = job.layer.to_table(["sample_id", "status", "error", "error_detail"]).to_pylist()
    assert [row["status"] for row in rows] == ["captioned", "not_selected"]
    assert tuple(rows[1].values()) == ("00000/document", "not_selected", None, "screened: document")
    assert summary.num_failed == 0
