"""One campaign, killed twice on its way (`kill -9` of the driver and all its processes), looked at from all sides.

That a killed training ends as an undisturbed one does is in `faults/test_train_kill`.
"""

import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.e2e import micro
from vila2_ray import Campaign
from vila2_ray.campaign.runner import Outcome, run
from vila2_ray.errors import ConfigError, CorpusError, FingerprintError, StageFailed

PATIENCE_SECONDS = 900.0


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A campaign whose driver was killed in training, and the next one in recaptioning."""
    folder = tmp_path_factory.mktemp("campaigns") / "whole"
    kill_when(folder, "training/vlm-0/pretrain/*/*")
    kill_when(folder, "parts/round-1/*/*/*/*.parquet")
    return folder


def kill_when(campaign: Path, pattern: str) -> None:
    """Start a driver and kill its whole process group as soon as a file matches; fails if it never does."""
    process = micro.driver(campaign)
    until = time.monotonic() + PATIENCE_SECONDS
    while not list(campaign.glob(pattern)):
        assert process.poll() is None, Path(f"{campaign}.log").read_text()[-4000:]
        assert time.monotonic() < until
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.fixture(scope="module", autouse=True)
def ray_cluster(killed: Path) -> Iterator[None]:
    """Of this process; the killed drivers had their own."""
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def finished(killed: Path, ray_cluster: None) -> tuple[Path, Outcome]:
    return killed, run(micro.config(killed))


def test_killed_it_has_the_layer_that_an_undisturbed_one_has(finished: tuple[Path, Outcome], tmp_path: Path) -> None:
    copy = tmp_path / "undisturbed"
    shutil.copytree(finished[0], copy)
    (copy / "stages" / "recaption-1.json").unlink()
    for room in ("captions", "parts"):
        shutil.rmtree(copy / room, ignore_errors=True)
    assert run(micro.config(copy), only="recaption-1").ran == ["recaption-1"]
    columns = ["source", "shard", "row", "variant", "sample_id", "status", "text", "image_sha256"]
    expected, found = (Campaign(str(c)).layer("round-1").to_pandas()[columns] for c in (copy, finished[0]))
    assert not found.duplicated(["source", "shard", "row", "variant"]).any()
    assert found.equals(expected)


def test_every_sample_has_one_row_in_shard_order(finished: tuple[Path, Outcome]) -> None:
    frame = Campaign(str(finished[0])).layer("round-1").to_pandas()
    assert len(frame) == micro.NUM_PRETRAIN
    keys = list(zip(frame["shard"], frame["row"], strict=True))
    assert keys == sorted(set(keys))
    assert set(frame["status"]) == {"captioned"}


def test_layer_files_say_where_they_come_from(finished: tuple[Path, Outcome]) -> None:
    files = list(finished[0].glob("captions/round-1/*/pretrain/*.parquet"))
    assert len(files) == 3
    metadata = {k.decode(): v.decode() for k, v in pq.read_schema(files[0]).metadata.items()}
    assert {"layer", "round", "checkpoint_digest", "engine", "sampling", "prompts"} <= set(metadata)
    assert not list(finished[0].glob("parts/**/*.parquet")), "parts are deleted once their shard is whole"


def test_scores_promotion_report_and_export(finished: tuple[Path, Outcome]) -> None:
    folder, outcome = finished
    assert len(outcome.scores) == 2
    assert outcome.promoted is not None
    assert (folder / outcome.promoted["checkpoint"] / "model.safetensors").is_file()
    assert "<html" in (folder / "report" / "index.html").read_text("utf-8")[:500].lower()
    assert (folder / "export" / "captions" / "README.md").is_file()


def test_a_second_run_finds_nothing_to_do(finished: tuple[Path, Outcome]) -> None:
    before = {p: p.stat().st_mtime_ns for p in finished[0].rglob("*.parquet")}
    again = run(micro.config(finished[0]))
    assert again.ran == []
    assert again.scores == finished[1].scores
    assert before == {p: p.stat().st_mtime_ns for p in finished[0].rglob("*.parquet")}


def test_status_and_ledger(finished: tuple[Path, Outcome]) -> None:
    campaign = Campaign(str(finished[0]))
    assert {row.state for row in campaign.status()} == {"done"}
    assert {"recaption-1", "pretrain-1"} <= {entry.stage for entry in campaign.ledger()}
    assert campaign.layers() == ["round-1"]
    with pytest.raises(CorpusError, match="Finished layers: round-1"):
        campaign.layer("round-9")


def test_a_changed_field_is_refused_by_name(finished: tuple[Path, Outcome]) -> None:
    with pytest.raises(FingerprintError, match=r"train.sft.peak_lr.*--from sft-0"):
        run(micro.config(finished[0], "train.sft.peak_lr=0.123"))


def test_one_more_round_redoes_nothing_earlier(finished: tuple[Path, Outcome]) -> None:
    again = run(micro.config(finished[0], "rounds.max=2", "rounds.min_gain=-1"), until="filter-2")
    assert again.ran == ["recaption-2", "filter-2"]


def test_an_only_stage_without_its_inputs_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match="needs index"):
        run(micro.config(tmp_path / "new"), only="align")


def test_a_missing_corpus_is_named(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="nowhere"):
        run(micro.config(tmp_path / "new", "corpus.pretrain=/nowhere/at/all"))
    with pytest.raises(ConfigError, match="there is no campaign here"):
        Campaign(str(tmp_path / "empty"))


@pytest.mark.slow
def test_a_grown_takedown_list_reaches_later_stages_and_redoes_none(tmp_path: Path) -> None:
    folder, listed = tmp_path / "campaign", tmp_path / "takedown.txt"
    listed.write_text("")
    screened = (f"screen.takedown={listed}", "screen.exact_duplicates=true")
    done = run(micro.config(folder, *screened), until="recaption-1").ran
    rows = Campaign(str(folder)).layer("round-1").to_pandas()
    assert set(rows["status"]) == {"captioned"}
    taken = rows["sample_id"].iloc[5]
    listed.write_text(f"{taken}\n")
    again = run(micro.config(folder, *screened)).ran
    assert not set(done) & set(again)
    plans = {path.parts[-3]: pq.read_table(path).to_pylist() for path in folder.glob("packs/*/*/plan.parquet")}
    used = {name: {(row["shard"], row["row"]) for row in rows} for name, rows in plans.items()}
    key = (rows["shard"].iloc[5], rows["row"].iloc[5])
    assert key in used["base-align"]
    assert key not in used["vlm-1-pretrain"]
    exported = [row for path in folder.glob("export/captions/*.parquet") for row in pq.read_table(path).to_pylist()]
    assert exported
    assert taken not in {row["sample_id"] for row in exported}
    listed.write_text("")  # what was taken down once stays so
    screening = Campaign(str(folder)).screening()
    assert screening is not None
    assert screening.flags("pretrain", key[0]) == {key[1]: ["takedown"]}
