"""Serving with vLLM on its CPU build: whatever the company, what the stepped engine says; and nothing stays behind."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.engines.conftest import MakeRequests
from tests.unit.engines.live import ask, live, whole
from vila2_ray.config import EngineConfig
from vila2_ray.engines.base import generate_all
from vila2_ray.engines.choice import open_engine, open_live_engine, vllm_problem
from vila2_ray.engines.live import LiveEngine, LiveRequest, Piece, Turn
from vila2_ray.errors import CheckpointError, ConfigError, EngineDied, SampleError

pytestmark = pytest.mark.skipif(bool(vllm_problem()), reason=vllm_problem())

BASE = Path(__file__).parents[3] / "vila2_ray" / "recipes" / "tiny" / "base"
CONFIG = EngineConfig(name="vllm", dtype="float32", batch_size=16, max_model_length=160)


def descendants() -> set[int]:
    """Processes below this one that still run."""
    below, found = {os.getpid()}, set()
    for _ in range(4):
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it has ended meanwhile
                state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
                is_python_own = b"resource_tracker" in (folder / "cmdline").read_bytes()
                if int(parent) in below and state != "Z" and not is_python_own:
                    found.add(int(folder.name))
        below |= found
    return found


def runs(process: int) -> bool:
    """Whether a process is there, and not as a zombie, as some containers keep them."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A folder whose name is short: a socket's path must be."""
    with tempfile.TemporaryDirectory(prefix="v2r-", dir="/tmp") as made:
        yield Path(made)


def test_sockets_find_room_wherever_temporary_files_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vila2_ray.engines.live_vllm import _socket_folder

    far = tmp_path / ("far" * 30)
    far.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(far))
    made = Path(_socket_folder())
    assert len(str(made / str(uuid.uuid4()))) <= 107
    assert not list(far.iterdir())
    made.rmdir()


def test_serving(make_requests: MakeRequests, temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One engine for all of it: starting one takes seconds."""
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    kinds = (
        make_requests(16, prompts=("describe the image in detail.",), max_tokens=48),
        make_requests(8, prompts=("what is there on the left",), max_tokens=8, min_tokens=8),
        make_requests(8, max_tokens=16, temperature=1.0, top_p=0.9),
    )
    stepped = open_engine(EngineConfig(name="transformers", dtype="float32"), BASE)
    expected = [answer for kind in kinds for answer in generate_all(stepped, kind)]
    requests = [live(request, streamed=n % 3 > 0) for n, request in enumerate(r for kind in kinds for r in kind)]
    requests = [dataclasses.replace(request, key=f"{n}") for n, request in enumerate(requests)]
    before = descendants()

    async def scenario() -> None:
        engine = await open_live_engine(CONFIG, BASE)
        try:
            assert (engine.name, engine.capacity) == ("vllm", 16)
            started = descendants() - before
            assert len(started) == 1, "the engine's process, and no other"
            await in_company(engine)
            await bad_ones(engine)
            await going_away(engine)
            await the_engine_dies(engine, *started)
        finally:
            await engine.close()
            await engine.close()
        assert not descendants() - before
        assert not list(temporary.iterdir()), "no sockets are left"

    async def in_company(engine: LiveEngine) -> None:
        when = random.Random(5)

        async def later(request: LiveRequest) -> list[Piece]:
            await asyncio.sleep(when.random() / 4)
            return await ask(engine, request)

        answers = await asyncio.gather(*(later(request) for request in requests))
        for n, (request, pieces, wanted) in enumerate(zip(requests, answers, expected, strict=True)):
            last = pieces[-1]
            assert request.streamed or len(pieces) == 1
            if n >= 24:
                continue  # another random stream than transformers'
            assert whole(pieces) == wanted.text
            assert (last.num_output_tokens, last.finish_reason) == (wanted.num_output_tokens, wanted.finish_reason)
            assert last.mean_logprob == pytest.approx(wanted.mean_logprob, abs=1e-4)
            assert last.min_logprob == pytest.approx(wanted.min_logprob, abs=1e-3)
            assert last.num_prompt_tokens > 4
        again = await asyncio.gather(*(ask(engine, dataclasses.replace(r, key=f"a{r.key}")) for r in requests[24:]))
        assert [whole(pieces) for pieces in again] == [whole(pieces) for pieces in answers[24:]]
        silent = [dataclasses.replace(r, key=f"s{r.key}", with_logprobs=False) for r in requests[:6]]
        for pieces, wanted in zip(await asyncio.gather(*(ask(engine, r) for r in silent)), expected, strict=False):
            assert whole(pieces) == wanted.text, "asked for log-probabilities or not"
            assert pieces[-1].mean_logprob is pieces[-1].min_logprob is None
        assert max(map(len, answers)) > 2, "they stream; of what comes while nobody looks, vLLM makes one piece"

    async def bad_ones(engine: LiveEngine) -> None:
        long = dataclasses.replace(requests[0], key="long", turns=(Turn("user", "what is it " * 90),))
        with pytest.raises(SampleError):
            await ask(engine, long)
        special = (Turn("user", "what <image> is </s> it"), Turn("assistant", "a dog"), Turn("user", "which <s> color"))
        await ask(engine, dataclasses.replace(requests[0], key="special", turns=special))
        await engine.check()

    async def going_away(engine: LiveEngine) -> None:
        """At every point of a request's life; the image that went with it can be asked about again."""
        sampling = dataclasses.replace(requests[0].sampling, max_tokens=100, min_tokens=100)
        fresh = [live(request) for request in make_requests(24, prompts=("go",))][20:]
        for number, request in enumerate(fresh):
            endless = dataclasses.replace(request, key=f"away {number}", sampling=sampling)
            if number == 0:
                async with contextlib.aclosing(engine.generate(endless)) as pieces:
                    await anext(pieces)
            else:
                task = asyncio.create_task(ask(engine, endless))
                await asyncio.sleep(0.002 * number)
                task.cancel()
                await asyncio.wait((task,))
        llm = engine._llm  # type: ignore[attr-defined]
        assert llm.get_num_unfinished_requests() == 0
        for request in fresh:
            assert whole(await ask(engine, request))

    async def the_engine_dies(engine: LiveEngine, process: int) -> None:
        sampling = dataclasses.replace(requests[0].sampling, max_tokens=100, min_tokens=100)
        os.kill(process, signal.SIGSTOP)  # so that it cannot have answered before it dies
        running = asyncio.create_task(ask(engine, dataclasses.replace(requests[0], key="last", sampling=sampling)))
        await asyncio.sleep(0.01)
        os.kill(process, signal.SIGKILL)
        with pytest.raises(EngineDied):
            await asyncio.wait_for(running, 120)
        with pytest.raises(EngineDied):
            await engine.check()
        with pytest.raises(EngineDied):
            await ask(engine, requests[0])

    asyncio.run(scenario())


def test_what_cannot_be_opened_is_said(tmp_path: Path) -> None:
    async def scenario() -> None:
        with pytest.raises(ConfigError, match="trust_remote_code"):
            await open_live_engine(EngineConfig(name="vllm", vllm={"trust_remote_code": True}), BASE)
        with pytest.raises(CheckpointError, match=r"no config\.json"):
            await open_live_engine(CONFIG, tmp_path)
        with pytest.raises(CheckpointError, match=r"vLLM .* cannot serve it"):
            await open_live_engine(EngineConfig(name="vllm", vllm={"max_num_batched_tokens": -1}), BASE)

    asyncio.run(scenario())


OPENING = """
import asyncio, sys
from pathlib import Path
from vila2_ray.config import EngineConfig
from vila2_ray.engines.choice import open_live_engine

async def main():
    config = EngineConfig(name="vllm", dtype="float32", batch_size=4, max_model_length=160)
    engine = await open_live_engine(config, Path(sys.argv[1]))
    print("up", flush=True)
    await asyncio.sleep(600)
    await engine.close()

if __name__ == "__main__":
    asyncio.run(main())
"""


@pytest.mark.slow
def test_a_killed_server_leaves_no_process_behind(tmp_path: Path, temporary: Path) -> None:
    script, before = tmp_path / "opening.py", descendants()
    script.write_text(OPENING, "utf-8")
    environment = {**os.environ, "TMPDIR": str(temporary)}
    command = [sys.executable, str(script), str(BASE)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert server.stdout is not None
    assert server.stdout.readline() == "up\n"
    started = descendants() - before - {server.pid}
    assert started
    server.kill()
    server.wait()
    server.stdout.close()
    patience = time.monotonic() + 120
    while any(map(runs, started)):
        assert time.monotonic() < patience
        time.sleep(0.05)
    assert not list(temporary.glob("vila2-*"))


@pytest.mark.slow
def test_who_stops_waiting_while_it_loads_leaves_nothing(make_requests: MakeRequests) -> None:
    before = descendants()

    async def scenario() -> None:
        for seconds in (0.5, 4.0, 8.0):
            opening = asyncio.create_task(open_live_engine(CONFIG, BASE))
            await asyncio.sleep(seconds)
            opening.cancel()
            with pytest.raises(asyncio.CancelledError):
                await opening
            patience = time.monotonic() + 120
            await asyncio.sleep(2.0)
            while descendants() - before:
                assert time.monotonic() < patience
                await asyncio.sleep(0.2)

    asyncio.run(scenario())
