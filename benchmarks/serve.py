"""What does the endpoint cost beside the bare engine, and how do others fare? Same model, pictures, prompt and cores.

- *engine*: vLLM's `AsyncLLM`, asked by coroutines of its own process with decoded pictures (`rivals/bare_vllm.py`);
- *ours*: `vila2 serve`, `POST /v1/captions`; afterwards the same server by `/v1/chat/completions`. One model with one
  replica is served by one process;
- *ours_on_ray*: the same with `serve.process=own`, as several models or replicas are served: engines in replicas on Ray
  Serve, a hop away;
- *vllm_server*: vLLM's own OpenAI server;
- *ray_serve_llm*: `ray.serve.llm` (`rivals/ray_serve_llm.py`).

Machines drift, shared ones by half within a minute. So the bare engine stays up for the whole run, and each way takes
turns with it in short windows: engine, way, way, engine, … Ratios and differences are of two neighbours; their median
over all such pairs counts, and its 90 % interval is told. Beside it, for machines that are never quiet: the processor
time of an answer, of the asking processes and of all that a server starts.

It is fair: same pictures, prompt and weights, 64 tokens an answer for all (`min_tokens` equals `max_tokens`, checked),
greedy, no log-probabilities, warm. No picture comes twice within what a cache holds. The bare engine gets its pictures
decoded and its prompt tokenized; over HTTP that is the server's work. Clients (`trials/clients.py`, 1, 8, 32 and 64 of
them) share the cores with what they ask; each has one question at a time. What is said about the first pictures is
compared with what the engine says about them.

Every server is started anew in each run, and its first caption is waited for: that is its cold start. The order of the
ways changes from run to run.

    python benchmarks/serve.py                                       # some 40 minutes
    python benchmarks/serve.py --runs 1 --pairs 1 --seconds 2        # whether everything runs

The results' file is written anew after every way. The last line is one JSON object: `throughput_ratio_to_engine` (most
clients), `ratio_to_ray_serve_llm`, `p50_overhead_ms` (fewest clients), `cpu_ratio_to_engine`, `cold_start_seconds`, …
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path

from trials.endpoints import MODEL, PROMPT, REPOSITORY, WAYS, Facts, bare_command, command, environment, prepare
from trials.load import LONGEST_SECONDS, route
from trials.orders import Asking
from trials.processes import Server, free_port
from trials.servereport import Measured, Pair, Run, figures, write_report

START_SECONDS = 600.0


def await_first_caption(server: Server, port: int, route_name: str, facts: Facts, tokens: int) -> float:
    """Ask until it answers; seconds from its start. Raises SystemExit when it ends or takes too long."""
    put = route(route_name, MODEL, PROMPT, tokens)
    picture = next(iter(sorted(facts.pictures.glob("*.jpg")))).read_bytes()
    headers = {"Content-Type": "application/json"}
    problem = ""
    while time.monotonic() - server.began < START_SECONDS:
        asked = urllib.request.Request(f"http://127.0.0.1:{port}{put.path}", put.body(picture), headers)
        try:
            with urllib.request.urlopen(asked, timeout=LONGEST_SECONDS) as answer:
                put.read(json.load(answer))
                return time.monotonic() - server.began
        except (OSError, urllib.error.HTTPError) as error:
            problem = str(error)
            time.sleep(0.1)
        if server.process.poll() is not None:
            raise SystemExit(f"the server ended: {server.log_tail()}")
    raise SystemExit(f"no caption after {START_SECONDS} s ({problem}): {server.log_tail()}")


def take_turns(
    engine: Asking, other: Asking, measured: Measured, clients: int, route_name: str, options: argparse.Namespace
) -> None:
    """A pair of neighbouring windows, the one first that was last before."""
    order = [engine, other] if len(measured.pairs) % 2 == 0 else [other, engine]
    seen = {id(one): one.window(clients, route_name, options.seconds, options.settle) for one in order}
    measured.pairs.append(Pair(clients, route_name, engine=seen[id(engine)], way=seen[id(other)]))


def measure(way: str, engine: Asking, facts: Facts, options: argparse.Namespace, log: Path) -> Measured:
    """Start it, ask it and the engine in turn, end it."""
    measured, port = Measured(way), free_port()
    server = Server.start(command(way, facts, port), environment(), log)
    try:
        routes = WAYS[way].routes
        measured.start_seconds = await_first_caption(server, port, routes[0], facts, options.tokens)
        asks = [sys.executable, "-m", "trials.clients", *asked(facts, options), "--port", str(port), "--model", MODEL]
        asks += ["--most", str(options.clients[-1])]
        other = Asking.start(asks, environment(), log.with_suffix(".clients"), server)
        try:
            other.warm(min(8, options.clients[-1]), routes[0])
            for clients, name, pairs in plan(options, routes):
                for _ in range(pairs):
                    take_turns(engine, other, measured, clients, name, options)
            measured.said = other.said()
        finally:
            other.process.end(2.0)
    finally:
        measured.left = server.end()
    return measured


def plan(options: argparse.Namespace, routes: Sequence[str]) -> list[tuple[int, str, int]]:
    """Clients, route and number of pairs. A second route is only a check: fewest and most clients."""
    ends = {options.clients[0], options.clients[-1]}
    found = [
        (clients, routes[0], options.pairs if clients in ends else options.pairs // 3) for clients in options.clients
    ]
    found += [(clients, other, options.pairs // 3) for other in routes[1:] for clients in sorted(ends)]
    return [(clients, name, max(1, pairs)) for clients, name, pairs in found]


def asked(facts: Facts, options: argparse.Namespace) -> list[str]:
    """What whoever asks must know."""
    return ["--prompt", PROMPT, "--tokens", str(options.tokens), "--pictures", str(facts.pictures)]


def one_run(
    found: Run, ways: Sequence[str], facts: Facts, options: argparse.Namespace, logs: Path, note: Callable[[], None]
) -> None:
    """All ways once, each beside the engine. What is known goes into `found`; `note` is called after each."""
    log = logs.with_name(f"{logs.name}-engine.log")
    engine = Asking.start(bare_command(facts, asked(facts, options)), environment(), log)
    itself = found["engine"] = Measured("engine")
    try:
        engine.await_line("first")
        itself.start_seconds = time.monotonic() - engine.process.began
        engine.warm(min(8, options.clients[-1]), "")
        for way in ways:
            found[way] = measure(way, engine, facts, options, logs.with_name(f"{logs.name}-{way}.log"))
            print(told(found[way]), flush=True)
            note()
        itself.said = engine.said()
    finally:
        itself.left = engine.process.end()
    note()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=6, help="of windows, for fewest and most clients; else a third")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each timed window")
    parser.add_argument("--settle", type=float, default=1.5, help="seconds of asking before each window")
    others = [way for way in WAYS if way != "engine"]
    parser.add_argument("--ways", nargs="+", choices=others, default=others)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32, 64])
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--scenes", type=int, default=1500, help="composed pictures; each is shown in four ways")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--to", type=Path, default=REPOSITORY / "benchmarks" / "results")
    parser.add_argument("--logs", type=Path, help="folder that keeps what the servers print")
    options = parser.parse_args()
    options.clients.sort()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    with tempfile.TemporaryDirectory() as folder:
        logs = options.logs or Path(folder) / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        facts = prepare(Path(folder), options.scenes, options.dtype, max(options.clients))
        runs: list[Run] = []
        for number in range(options.runs):
            runs.append({})
            print(f"run {number + 1}", flush=True)
            ways = options.ways if number % 2 == 0 else list(reversed(options.ways))
            one_run(runs[-1], ways, facts, options, logs / str(number), lambda: write_report(options, runs))
        print(json.dumps(figures(options, runs)))


def told(measured: Measured) -> str:
    parts = [f"{measured.way} up after {measured.start_seconds:.1f} s"]
    for clients, route_name in dict.fromkeys((pair.clients, pair.route) for pair in measured.pairs):
        pairs = measured.of(clients, route_name)
        ratio, later, cpu = (
            statistics.median(what(pair) for pair in pairs) for what in (Pair.ratio, Pair.later_ms, Pair.cpu_ratio)
        )
        failures = [failure for pair in pairs for failure in pair.way["failures"] + pair.engine["failures"]]
        failed = f", {len(failures)} failed ({failures[0]})" if failures else ""
        parts.append(f"{route_name} {clients}: rate × {ratio:.2f}, p50 {later:+.1f} ms, processor × {cpu:.2f}{failed}")
    if measured.left:
        parts.append(f"had to be killed: {', '.join(measured.left)}")
    return "; ".join(parts)


if __name__ == "__main__":
    main()
