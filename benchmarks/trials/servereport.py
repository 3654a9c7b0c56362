"""What the serving benchmark found: its figures, and the file that tells them."""

from __future__ import annotations

import argparse
import os
import platform
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from trials.endpoints import WAYS
from trials.load import percentile


@dataclass
class Measured:
    """One way in one run."""

    way: str
    start_seconds: float = 0.0
    """From the start of its process to its first caption."""
    windows: list[dict[str, Any]] = field(default_factory=list)
    """As `load.Window`, with `route` and the `cpu_seconds` of the server's processes meanwhile."""
    said: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    """Processes that did not end when asked to."""
    client_cpu_seconds: float = 0.0

    def window(self, clients: int, route: str = "") -> dict[str, Any]:
        """Of the route that is compared, unless another is named."""
        route = route or (WAYS[self.way].routes or ("",))[0]
        return next(w for w in self.windows if w["clients"] == clients and w["route"] == route)

    def rate(self, clients: int, route: str = "") -> float:
        return float(self.window(clients, route)["answers_per_second"])

    def p50(self, clients: int, route: str = "") -> float:
        return percentile(self.window(clients, route)["latencies_ms"], 0.5)


Run = dict[str, Measured]


def of_runs(runs: Sequence[Run], one: str, other: str, what: Callable[[Measured, Measured], float]) -> list[float]:
    """A figure of two ways for each run that has both."""
    return [what(run[one], run[other]) for run in runs if one in run and other in run]


def compared(options: argparse.Namespace, runs: Sequence[Run]) -> dict[str, list[float]]:
    """The named figures, a value for each run."""
    few, many = options.clients[0], options.clients[-1]

    def ratio(one: Measured, other: Measured) -> float:
        return one.rate(many) / other.rate(many)

    def later(one: Measured, other: Measured) -> float:
        return one.p50(few) - other.p50(few)

    found = {
        "throughput_ratio_to_engine": of_runs(runs, "ours", "engine", ratio),
        "ratio_to_ray_serve_llm": of_runs(runs, "ours", "ray_serve_llm", ratio),
        "ratio_to_vllm_server": of_runs(runs, "ours", "vllm_server", ratio),
        "p50_overhead_ms": of_runs(runs, "ours", "engine", later),
        "cold_start_seconds": [run["ours"].start_seconds for run in runs if "ours" in run],
        "on_ray_throughput_ratio_to_engine": of_runs(runs, "ours_on_ray", "engine", ratio),
        "on_ray_ratio_to_ray_serve_llm": of_runs(runs, "ours_on_ray", "ray_serve_llm", ratio),
        "on_ray_p50_overhead_ms": of_runs(runs, "ours_on_ray", "engine", later),
        "on_ray_cold_start_seconds": [run["ours_on_ray"].start_seconds for run in runs if "ours_on_ray" in run],
        "vllm_server_throughput_ratio_to_engine": of_runs(runs, "vllm_server", "engine", ratio),
        "vllm_server_p50_overhead_ms": of_runs(runs, "vllm_server", "engine", later),
        "ray_serve_llm_p50_overhead_ms": of_runs(runs, "ray_serve_llm", "engine", later),
    }
    return {name: values for name, values in found.items() if values}


def figures(options: argparse.Namespace, runs: Sequence[Run]) -> dict[str, float]:
    """Medians over runs, for the last line."""
    return {name: round(statistics.median(values), 3) for name, values in compared(options, runs).items()}


def interval(values: Sequence[float], draws: int = 2000) -> tuple[float, float]:
    """90 % bootstrap interval of the median."""
    rng = random.Random(0)
    medians = sorted(statistics.median(rng.choices(values, k=len(values))) for _ in range(draws))
    return medians[int(0.05 * draws)], medians[int(0.95 * draws)]


TITLES = {
    "throughput_ratio_to_engine": "answers/s, {many} clients: `vila2 serve` ÷ bare engine",
    "ratio_to_ray_serve_llm": "answers/s, {many} clients: `vila2 serve` ÷ `ray.serve.llm`",
    "ratio_to_vllm_server": "answers/s, {many} clients: `vila2 serve` ÷ vLLM's OpenAI server",
    "p50_overhead_ms": "p50, {few} client: `vila2 serve` − bare engine, ms",
    "cold_start_seconds": "`vila2 serve`: start to first caption, seconds",
    "on_ray_throughput_ratio_to_engine": "answers/s, {many} clients: `vila2 serve` on Ray ÷ bare engine",
    "on_ray_ratio_to_ray_serve_llm": "answers/s, {many} clients: `vila2 serve` on Ray ÷ `ray.serve.llm`",
    "on_ray_p50_overhead_ms": "p50, {few} client: `vila2 serve` on Ray − bare engine, ms",
    "on_ray_cold_start_seconds": "`vila2 serve` on Ray: start to first caption, seconds",
    "vllm_server_throughput_ratio_to_engine": "answers/s, {many} clients: vLLM's OpenAI server ÷ bare engine",
    "vllm_server_p50_overhead_ms": "p50, {few} client: vLLM's OpenAI server − bare engine, ms",
    "ray_serve_llm_p50_overhead_ms": "p50, {few} client: `ray.serve.llm` − bare engine, ms",
}


def write_report(options: argparse.Namespace, runs: Sequence[Run]) -> None:
    """What is known so far, as `serve.md`."""
    few, many = options.clients[0], options.clients[-1]
    ways = [way for way in WAYS if any(way in run for run in runs)]
    lines = [
        "# The endpoint beside the bare engine",
        "",
        f"{date.today()}, {processor_name()}, {os.cpu_count()} cores, which servers and clients share; tiny model, "
        f"{options.dtype}, {options.tokens} tokens an answer, windows of {options.seconds:g} s. Made by "
        f"`python benchmarks/serve.py --runs {options.runs} --seconds {options.seconds:g}`.",
        "",
        "| | median | 90 % interval | runs |",
        "|---|---|---|---|",
    ]
    for name, values in compared(options, runs).items():
        low, high = interval(values)
        title = TITLES[name].format(few=few, many=many)
        lines.append(f"| {title} | **{statistics.median(values):.3g}** | {low:.3g} – {high:.3g} | {len(values)} |")
    for clients in options.clients:
        lines += ["", f"| {clients} client{'s' * (clients > 1)} | answers/s | p50, ms | p99, ms | answers |"]
        lines += ["|---|---|---|---|---|"]
        lines += [row(runs, way, clients, route) for way in ways for route in WAYS[way].routes or ("",)]
    lines += ["", "| | start to first caption, s | captions as the engine's | failed | did not end when asked |"]
    lines += ["|---|---|---|---|---|", *(conduct(runs, way) for way in ways), ""]
    for clients in (few, many):
        said = f"{clients} client{'s' * (clients > 1)}"
        lines += [f"Processor time of an answer by process, in ms, {said}, last run:", ""]
        lines += [*(spent(next(run[way] for run in reversed(runs) if way in run), clients) for way in ways), ""]
    options.to.mkdir(parents=True, exist_ok=True)
    (options.to / "serve.md").write_text("\n".join([line for line in lines if line is not None] + [""]), "utf-8")


def row(runs: Sequence[Run], way: str, clients: int, route: str) -> str | None:
    """Rates and percentiles, latencies of all runs together; None where the route was not asked by so many."""
    windows = [
        w for run in runs if way in run for w in run[way].windows if (w["clients"], w["route"]) == (clients, route)
    ]
    if not windows:
        return None
    rate = statistics.median(w["answers_per_second"] for w in windows)
    latencies = [value for w in windows for value in w["latencies_ms"]]
    title = WAYS[way].title + (", by `/v1/chat/completions`" if WAYS[way].routes[1:] and route == "chat" else "")
    middle, late = (percentile(latencies, share) for share in (0.5, 0.99))
    return f"| {title} | {rate:.1f} | {middle:.1f} | {late:.1f} | {len(latencies):,} |"


def conduct(runs: Sequence[Run], way: str) -> str:
    """Start, sameness, failures, leftovers."""
    found = [run[way] for run in runs if way in run]
    start = statistics.median(one.start_seconds for one in found)
    both = [(run[way].said, run["engine"].said) for run in runs if way in run and "engine" in run]
    known = [(a, b) for said, engine in both for a, b in zip(said, engine, strict=True) if a and b]
    same = f"{sum(a == b for a, b in known)} of {len(known)}" if known else "not compared"
    failed = sum(len(window["failures"]) for one in found for window in one.windows)
    left = sum(len(one.left) for one in found)
    return f"| {WAYS[way].title} | {start:.1f} | {same} | {failed} | {left} |"


def spent(measured: Measured, clients: int) -> str:
    """A line of what each kind of process took for one answer."""
    window = measured.window(clients)
    answers = len(window["latencies_ms"])
    costs = sorted(window["cpu_seconds"].items(), key=lambda item: -item[1])
    said = ", ".join(f"{name} {1000 * seconds / answers:.2f}" for name, seconds in costs if seconds / answers > 2e-5)
    return f"- {WAYS[measured.way].title}: {said}"


def processor_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
