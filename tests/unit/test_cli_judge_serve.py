"""`vila2 judge serve`: what is refused before it listens, and a whole life from Ctrl-C backwards."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.unit.campaign.folders import begin
from tests.unit.judge.studies import corpus, study
from vila2_ray.cli import main


@pytest.fixture
def campaign(tmp_path: Path) -> Path:
    """A campaign folder with a corpus and a study, and no round run."""
    folder = tmp_path / "campaign"
    corpus(tmp_path)
    begin(folder, f"corpus.pretrain={tmp_path / 'shards'}")
    study(folder)
    return folder


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--host", "0.0.0.0"], "--keys"),
        (["--study", "none"], "studies are votes"),
        (["--keys", "nowhere"], "no such file"),
    ],
)
def test_what_does_not_fit_is_told_before_it_listens(
    campaign: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert main(["judge", "serve", str(campaign), *words, "--port", "0"]) == 2
    assert said in capsys.readouterr().err


def test_it_serves_a_campaigns_study_until_ctrl_c(campaign: Path) -> None:
    command = [sys.executable, "-m", "vila2_ray.cli", "judge", "serve", str(campaign), "--port", "0"]
    running = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # As a shell in the foreground does: a suite in the background has Ctrl-C ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        assert running.stdout is not None
        line = running.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+", line)
        assert found, line
        ann = {"X-Rater": "ann"}
        session = httpx.get(f"{found[0]}/v1/session", headers=ann, timeout=60).json()
        name = session["todo"][0]
        shown = httpx.get(f"{found[0]}/v1/pairs/{name}/picture", headers=ann, timeout=60)
        assert shown.headers["content-type"] == "image/png"
        form = {"pair": name, "ballot": "b", "answers": {one["name"]: "tie" for one in session["criteria"]}}
        assert httpx.post(f"{found[0]}/v1/votes", json=form, headers=ann, timeout=60).json()["done"] == 1
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=120)
        assert (running.returncode, err) == (0, ""), out
    finally:
        running.kill()
        running.wait()
    assert [vote.answers["overall"] for vote in study(campaign).votes()] == ["tie"]
