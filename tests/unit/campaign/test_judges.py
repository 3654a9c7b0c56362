"""A model votes on a campaign's study: pictures from its corpus, costs in its ledger, whatever ends the command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.served import eventually
from tests.unit.campaign.folders import begin
from tests.unit.corpus.conftest import Build
from tests.unit.judge.models import CRITERIA, Asked, Model, prefers, serving, verdict
from vila2_ray import cli
from vila2_ray.campaign.api import Campaign
from vila2_ray.judge.study import Pair, Shown, Study

RATER = "model:org-judge-7b"
NUM_PAIRS = 6
PRICES = ("judge.dollars_per_million_input_tokens=1000", "judge.dollars_per_million_output_tokens=10000")
DOLLARS_PER_VOTE = (100 * 1000 + 10 * 10000) / 1e6


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    with serving(prefers("good")) as made:
        yield made


@pytest.fixture
def campaign(tmp_path: Path, model: Model) -> Campaign:
    """With a study of six pairs, and a seventh whose picture is broken."""
    model.say = prefers("good")
    model.asked.clear()
    members = [*Build.samples(NUM_PAIRS), (f"{NUM_PAIRS:03}.png", b"broken"), (f"{NUM_PAIRS:03}.txt", b"alt")]
    Build.tar(tmp_path / "shards/00000.tar", members)
    begin(tmp_path / "campaign", f"corpus.pretrain={tmp_path / 'shards'}", f"judge.endpoint={model.url}/v1", *PRICES)
    made = Campaign(str(tmp_path / "campaign"))
    pairs = [
        Pair(f"{n:016x}", "pretrain", "00000", n, f"00000/{n:03}", Shown("alt_text", 0, f"cat {n}"),
             Shown("round-1", 0, f"a good cat {n}"))
        for n in range(NUM_PAIRS + 1)
    ]  # fmt: skip
    Study.draw(made.layout.study("votes").store, pairs, {"seed": 0}, CRITERIA)
    return made


def test_votes_pictures_and_costs(campaign: Campaign, model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["judge", "ask", campaign.uri]) == 0
    votes = campaign.layout.study("votes").votes(RATER)
    assert len(votes) == 14
    assert {vote.problem.partition(":")[0] for vote in votes if not vote.answers} == {"no picture"}
    assert {each.picture[:4] for each in model.asked} == {b"\x89PNG"}
    assert len({each.picture for each in model.asked}) == NUM_PAIRS
    [entry] = campaign.ledger()
    assert (entry.stage, entry.finished, entry.nodes) == ("judge-votes", True, [])
    assert entry.dollars == pytest.approx(12 * DOLLARS_PER_VOTE)
    assert entry.figures["num_votes"] == 14
    assert (entry.figures["input_tokens"], entry.figures["output_tokens"]) == (1200, 120)
    told = capsys.readouterr().out
    assert f"{RATER}: 14 votes, 2 of the new ones without an answer (for one: no picture: image_" in told
    assert "); 1,200 tokens read, 120 written, $2.4000" in told
    row = campaign.status()[-1]
    assert (row.name, row.state, row.done, row.unit) == ("judge-votes", "done", 14, "votes")
    assert row.dollars == pytest.approx(2.4)
    assert cli.main(["judge", "ask", campaign.uri]) == 0
    assert len(model.asked) == 12
    assert campaign.spent()["judge-votes"].dollars == pytest.approx(2.4)


def test_what_is_free_says_that_no_price_is_known(campaign: Campaign, capsys: pytest.CaptureFixture[str]) -> None:
    free = [f"{word.partition('=')[0]}=0" for word in PRICES]
    assert cli.main(["judge", "ask", campaign.uri, *free, "--max-pairs", "1"]) == 0
    assert "no price is known: judge.dollars_per_million_input_tokens=" in capsys.readouterr().out
    assert [entry.dollars for entry in campaign.ledger()] == [0.0]


def test_a_budget_ends_it(campaign: Campaign, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["judge", "ask", campaign.uri, "budget=0.1"]) in (0, 4), "the ledger is asked once a second"
    assert cli.main(["judge", "ask", campaign.uri, "budget=0.1", "--again"]) == 4
    assert "judge-votes: $" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--study", "none"], "studies are votes; draw one with vila2 judge draw"),
        (
            ["budget=1", *(f"judge.dollars_per_million_{way}_tokens=0" for way in ("input", "output"))],
            "cannot be kept without prices",
        ),
        (["rounds.max=1"], "a judge reads judge.* and budget only"),
        (["judge.endpoint="], "judge.endpoint = ''"),
        (["judge.key=sk-abc"], "must be the NAME of an environment variable"),
        (["judge.at_once=0"], "judge.at_once"),
    ],
)
def test_mistakes_cost_nothing(
    campaign: Campaign, model: Model, words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["judge", "ask", campaign.uri, *words]) == 2
    shown = capsys.readouterr().err
    assert told in shown
    assert "sk-abc" not in shown
    assert (campaign.ledger(), model.asked) == ([], [])


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130)])
def test_who_ends_it_midway_loses_nothing(campaign: Campaign, model: Model, number: int, code: int) -> None:
    over = threading.Event()

    def say(asked: Asked) -> str:
        if len(model.asked) > 5:
            over.wait(60)
        return verdict("tie")

    model.say = say
    command = [sys.executable, "-m", "vila2_ray.cli", "judge", "ask", campaign.uri, "judge.at_once=2"]
    study = campaign.layout.study("votes")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**os.environ}) as asking:
        try:
            eventually(lambda: len(model.asked) > 6 and len(study.judged_by(RATER)) >= 5)
            asking.send_signal(number)
            said, _ = asking.communicate(timeout=60)
        finally:
            asking.kill()
            over.set()
    assert asking.returncode == code, said
    kept = len(study.votes(RATER))
    assert kept >= 5
    model.say = prefers("good")
    assert cli.main(["judge", "ask", campaign.uri]) == 0
    assert len(study.votes(RATER)) == len(study.store.list(prefix="votes")) == 14
    if number == signal.SIGINT:
        assert [entry.finished for entry in campaign.ledger()] == [False, True]
        assert campaign.spent()["judge-votes"].dollars == pytest.approx(12 * DOLLARS_PER_VOTE)
