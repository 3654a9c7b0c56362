"""What does the endpoint cost beside the bare engine, and how do others fare? Same model, pictures, prompt and cores.

- *engine*: vLLM's `AsyncLLM`, asked by coroutines of its own process with decoded pictures (`rivals/bare_vllm.py`);
- *ours*: `vila2 serve`, `POST /v1/captions`; afterwards the same server by `/v1/chat/completions`. One model with one
  replica is served by one process;
- *ours_on_ray*: the same with `serve.process=own`, as several models or replicas are served: engines in replicas on Ray
  Serve, a hop away;
- *vllm_server*: vLLM's own OpenAI server;
- *ray_serve_llm*: `ray.serve.llm` (`rivals/ray_serve_llm.py`).

Every server is started anew in each run, and its first caption is waited for: that is its cold start. Then a process of
its own (`trials/load.py`) asks with 1, 8, 32 and 64 clients in turn, each with one question at a time. Every answer is
checked: status 200, as many tokens as were asked for (`min_tokens` equals `max_tokens`); and what is said about the
first pictures is compared with what the engine says about them. No picture comes twice within what a cache holds. The
order of the ways changes from run to run; ratios and differences are of the same run, their median over runs.

    python benchmarks/serve.py                             # some 40 minutes, on a machine that does nothing else
    python benchmarks/serve.py --runs 1 --seconds 4        # whether everything runs

The results' file is written anew after every way. The last line is one JSON object: `throughput_ratio_to_engine` (most
clients), `ratio_to_ray_serve_llm`, `p50_overhead_ms` (fewest clients), `cold_start_seconds`, …
"""

from __future__ import annotations

import argparse
import json
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from trials.endpoints import MODEL, PROMPT, REPOSITORY, WAYS, Facts, bare_command, command, environment, prepare
from trials.load import LONGEST_SECONDS, route
from trials.processes import Seen, Server, cpu_between
from trials.servereport import Measured, figures, write_report

START_SECONDS = 600.0


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


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
            raise SystemExit(f"the server ended: {log_tail(server)}")
    raise SystemExit(f"no caption after {START_SECONDS} s ({problem}): {log_tail(server)}")


def log_tail(server: Server) -> str:
    with open(server.log.name, encoding="utf-8", errors="replace") as log:
        return log.read()[-3000:]


def read_windows(asking: subprocess.Popen[bytes], server: Server, measured: Measured, route_name: str) -> None:
    """Follow what the asking process prints; note what the server's processes took meanwhile."""
    assert asking.stdout is not None
    before: list[Seen] = []
    after: list[Seen] = []
    for line in asking.stdout:
        told = json.loads(line)
        if told["event"] == "first":
            measured.start_seconds = time.monotonic() - server.began
        elif told["event"] == "begin":
            before = server.all()
        elif told["event"] == "end":
            after = server.all()
        elif told["event"] == "window":
            spent = cpu_between(before, after)
            measured.windows.append({**told, "route": route_name, "cpu_seconds": spent})
        elif told["event"] == "said" and not measured.said:
            measured.said = told["texts"]
        elif told["event"] == "client":
            measured.client_cpu_seconds += told["cpu_seconds"]
    if asking.wait():
        raise SystemExit(f"{measured.way}: the asking process ended with {asking.returncode}: {log_tail(server)}")


def measure(way: str, facts: Facts, options: argparse.Namespace, log: Path) -> Measured:
    """Start it, ask it, end it."""
    asked = ["--prompt", PROMPT, "--tokens", str(options.tokens), "--pictures", str(facts.pictures)]
    asked += ["--seconds", str(options.seconds), "--settle", str(options.settle)]
    measured = Measured(way)
    if way == "engine":
        all_asked = [*asked, "--clients", *map(str, options.clients)]
        server = Server.start(bare_command(facts, all_asked), environment(), log, stdout=subprocess.PIPE)
        try:
            read_windows(server.process, server, measured, "")
        finally:
            measured.left = server.end()
        return measured
    port = free_port()
    server = Server.start(command(way, facts, port), environment(), log)
    try:
        routes = WAYS[way].routes
        measured.start_seconds = await_first_caption(server, port, routes[0], facts, options.tokens)
        for number, route_name in enumerate(routes):
            # the second route only as a check: fewest and most clients
            counts = options.clients if number == 0 else sorted({options.clients[0], options.clients[-1]})
            load = [sys.executable, "-m", "trials.load", *asked, "--port", str(port), "--route", route_name]
            load += ["--model", MODEL, "--clients", *map(str, counts)]
            client = Server.start(load, environment(), log.with_suffix(".load"), stdout=subprocess.PIPE)
            try:
                read_windows(client.process, server, measured, route_name)
            finally:
                client.end(2.0)
    finally:
        measured.left = server.end()
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each timed window")
    parser.add_argument("--settle", type=float, default=2.0, help="seconds of asking before each window")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
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
        runs: list[dict[str, Measured]] = []
        for number in range(options.runs):
            runs.append({})
            for way in options.ways if number % 2 == 0 else reversed(options.ways):
                runs[-1][way] = measure(way, facts, options, logs / f"{number}-{way}.log")
                print(f"run {number + 1}: {told(runs[-1][way])}", flush=True)
                write_report(options, runs)
        print(json.dumps(figures(options, runs)))


def told(measured: Measured) -> str:
    parts = [f"{measured.way} up after {measured.start_seconds:.1f} s"]
    for window in measured.windows:
        middle = statistics.median(window["latencies_ms"])
        failed = f", {len(window['failures'])} failed ({window['failures'][0]})" if window["failures"] else ""
        rate = window["answers_per_second"]
        parts.append(f"{window['route']} {window['clients']}: {rate:.1f}/s, p50 {middle:.1f} ms{failed}".strip())
    if measured.left:
        parts.append(f"had to be killed: {', '.join(measured.left)}")
    return "; ".join(parts)


if __name__ == "__main__":
    main()
