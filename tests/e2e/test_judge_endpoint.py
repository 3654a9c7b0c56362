"""Judging end to end: a campaign's pictures and captions, by the campaign's own endpoint and by a vLLM server."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.trials.endpoints import BASE, flags
from tests.e2e.served import PATIENCE_SECONDS, eventually, served
from tests.e2e.test_serve_whole import Following
from tests.unit.campaign.folders import begin
from tests.unit.corpus.conftest import Build
from tests.unit.judge.models import CRITERIA
from tests.unit.serve.campaigns import FakeCampaign
from tests.unit.serve.scripted import PROMPTS, ScriptedCaptioner
from vila2_ray import cli
from vila2_ray.campaign.api import Campaign
from vila2_ray.config.serving import ServeConfig
from vila2_ray.engines.choice import vllm_problem
from vila2_ray.judge.study import Pair, Shown, Study, Vote
from vila2_ray.serve.app import create_app

NUM_PAIRS = 3
PRICES = ("judge.dollars_per_million_input_tokens=100", "judge.dollars_per_million_output_tokens=1000")
LOADING_SECONDS = 600.0
"""vLLM on a busy CPU."""


class Judging(ScriptedCaptioner):
    """Prefers whichever is read first; busy at its first question."""

    def __init__(self) -> None:
        super().__init__()
        self.was_busy = False

    async def _pieces(self, question: Any, by: Any) -> Any:
        turn = question.turns[-1]
        self.texts = [*getattr(self, "texts", []), turn.text]
        if not self.was_busy:
            self.was_busy = True
            turn = type(turn)(turn.role, "full")
        else:
            verdict = json.dumps({"reason": f"{by.model} saw it.", **dict.fromkeys(CRITERIA, "A")})
            turn = type(turn)(turn.role, f"and says {verdict}")
        async for piece in super()._pieces(type(question)(**{**vars(question), "turns": (turn,)}), by):
            yield piece


@pytest.fixture
def campaign(tmp_path: Path) -> Campaign:
    Build.tar(tmp_path / "shards/00000.tar", Build.samples(NUM_PAIRS))
    begin(tmp_path / "campaign", f"corpus.pretrain={tmp_path / 'shards'}", *PRICES)
    made = Campaign(str(tmp_path / "campaign"))
    pairs = [
        Pair(
            f"{n:016x}",
            "pretrain",
            "00000",
            n,
            f"00000/{n:03}",
            Shown("alt_text", 0, "a red cat"),
            Shown("round-1", 0, f"a red square. number {n}."),
        )
        for n in range(NUM_PAIRS)
    ]
    Study.draw(made.layout.study("votes").store, pairs, {"seed": 0}, CRITERIA)
    return made


def ask(campaign: Campaign, url: str, *words: str) -> list[Vote]:
    assert cli.main(["judge", "ask", campaign.uri, f"judge.endpoint={url}/v1", *words]) == 0
    return campaign.layout.study("votes").votes()


def check_figures(campaign: Campaign, votes: list[Vote]) -> None:
    """One vote for each pair in each order, and what their tokens cost in the ledger."""
    assert {(vote.pair_id, vote.swapped) for vote in votes} == {
        (f"{n:016x}", swapped) for n in range(NUM_PAIRS) for swapped in (False, True)
    }
    assert all(vote.input_tokens > 0 and vote.output_tokens > 0 and vote.seconds > 0 for vote in votes)
    [entry] = campaign.ledger()
    tokens = [sum(getattr(vote, name) for vote in votes) for name in ("input_tokens", "output_tokens")]
    assert [entry.figures["input_tokens"], entry.figures["output_tokens"]] == tokens
    assert entry.dollars == pytest.approx((tokens[0] * 100 + tokens[1] * 1000) / 1e6)


def test_by_the_campaigns_own_endpoint(campaign: Campaign) -> None:
    captioner = Judging()
    with served(create_app(captioner, ServeConfig(), PROMPTS)) as url:
        votes = ask(campaign, url)
    check_figures(campaign, votes)
    [rater] = {vote.rater for vote in votes}
    assert rater.startswith("model:vlm-1@"), "the checkpoint, not the name under which it is served"
    assert {(vote.swapped, vote.answers["overall"]) for vote in votes} == {(False, "first"), (True, "second")}
    assert {vote.reason for vote in votes} == {"vlm-1 saw it."}
    assert captioner.was_busy, "429 with Retry-After, then asked again"
    assert len({question.image_key for question in captioner.questions}) == NUM_PAIRS
    assert all("caption A]\na red" in text for text in captioner.texts)


def test_a_model_that_cannot_judge_leaves_problems(campaign: Campaign, tmp_path: Path) -> None:
    fake = FakeCampaign(tmp_path / "served")
    fake.promote("0")
    made = fake.setup()
    with served(create_app(Following(made), made.settings, made.prompts())) as url:
        eventually(lambda: httpx.get(f"{url}/readyz", timeout=PATIENCE_SECONDS).status_code == 200)
        votes = ask(campaign, url)
    check_figures(campaign, votes)
    assert all(vote.problem and not vote.answers for vote in votes)
    assert {vote.rater.partition("@")[0] for vote in votes} == {"model:vlm-0"}


@contextmanager
def vllm_server(folder: Path) -> Iterator[str]:
    """vLLM's OpenAI server with the tiny recipe's base weights, given a longer context than they learned."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings: dict[str, Any] = {"model": str(BASE), "served_model_name": "base", "dtype": "float32", "max_num_seqs": 4}
    settings |= {"max_model_len": 4096, "enforce_eager": True, "limit_mm_per_prompt": {"image": 1}, "port": port}
    settings |= {"host": "127.0.0.1", "generation_config": "vllm", "load_format": "safetensors"}
    told = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_NO_USAGE_STATS": "1"}
    told |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
    told |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *flags(settings)]
    log, url = folder / "vllm.log", f"http://127.0.0.1:{port}"
    with log.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out, env={**os.environ, **told}) as server:

        def is_ready() -> bool:
            assert server.poll() is None, log.read_text("utf-8", "replace")[-3000:]
            try:
                return httpx.get(f"{url}/health", timeout=5).status_code == 200
            except httpx.HTTPError:
                return False

        try:
            eventually(is_ready, LOADING_SECONDS)
            yield url
        finally:
            server.terminate()
            try:
                server.wait(PATIENCE_SECONDS)
            except subprocess.TimeoutExpired:
                server.kill()


@pytest.mark.slow
@pytest.mark.skipif(bool(vllm_problem()), reason=vllm_problem())
def test_by_a_vllm_server(campaign: Campaign, tmp_path: Path) -> None:
    with vllm_server(tmp_path) as url:
        patience = ("judge.timeout_seconds=300", "judge.max_tokens=256", "judge.at_once=2")
        votes = ask(campaign, url, *patience)
        check_figures(campaign, votes)
        assert {vote.rater for vote in votes} == {"model:base"}
        # So small a model's reasons need not end: a schema is kept to, or the answer ran into its bound.
        assert all(set(vote.answers) == set(CRITERIA) or "judge.max_tokens" in vote.problem for vote in votes)
        assert len(ask(campaign, url, *patience)) == len(votes), "nothing is asked twice"
