"""`kill -9` of the driver in the middle of a stage, then the same command: the same layers, every sample once.

That a killed training ends as an undisturbed one does is in `test_train_kill`.
"""

import os
import shutil
import signal
import time
from pathlib import Path

from tests.e2e import micro
from vila2_ray import Campaign

LIMIT_SECONDS = 900.0
UNTIL = ("--until", "recaption-1")
"""Later stages are of the same kinds as those before."""


def run_to_end(campaign: Path) -> None:
    process = micro.driver(campaign, *UNTIL)
    assert process.wait(LIMIT_SECONDS) == 0, Path(f"{campaign}.log").read_text()[-4000:]


def kill_when(campaign: Path, pattern: str) -> None:
    """Start a driver and kill its whole process group as soon as a file matches; fails if it never does."""
    process = micro.driver(campaign, *UNTIL)
    until = time.monotonic() + LIMIT_SECONDS
    while not list(campaign.glob(pattern)):
        assert process.poll() is None, Path(f"{campaign}.log").read_text()[-4000:]
        assert time.monotonic() < until
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def recaptioned_undisturbed(campaign: Path, copy: Path) -> Path:
    """The same models, recaptioning without a layer or a marker of it."""
    shutil.copytree(campaign, copy)
    (copy / "stages" / "recaption-1.json").unlink()
    for room in ("captions", "parts"):
        shutil.rmtree(copy / room, ignore_errors=True)
    run_to_end(copy)
    return copy


def test_killed_in_training_and_in_recaptioning(tmp_path: Path) -> None:
    campaign = tmp_path / "killed"
    kill_when(campaign, "training/vlm-0/pretrain/*/*")
    kill_when(campaign, "parts/round-1/*/*/*/*.parquet")
    run_to_end(campaign)
    undisturbed = recaptioned_undisturbed(campaign, tmp_path / "undisturbed")
    columns = ["source", "shard", "row", "variant", "sample_id", "status", "text", "image_sha256"]
    expected, found = (Campaign(str(c)).layer("round-1").to_pandas()[columns] for c in (undisturbed, campaign))
    assert len(found) == micro.NUM_PRETRAIN
    assert not found.duplicated(["source", "shard", "row", "variant"]).any()
    assert found.equals(expected)
    assert not list(campaign.glob("parts/**/*.parquet"))
