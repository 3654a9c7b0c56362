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

Window = dict[str, Any]
"""As `load.Window`, with `route` and the `cpu_seconds` of all processes meanwhile, by name."""


@dataclass(frozen=True)
class Pair:
    """Two neighbouring windows of as many clients."""

    clients: int
    route: str
    engine: Window
    way: Window

    def ratio(self) -> float:
        """Of the answers in a second."""
        return float(self.way["answers_per_second"] / self.engine["answers_per_second"])

    def later_ms(self) -> float:
        """By so much is the way's median answer later."""
        return percentile(self.way["latencies_ms"], 0.5) - percentile(self.engine["latencies_ms"], 0.5)

    def cpu_ratio(self) -> float:
        """The engine's processor time of an answer ÷ the way's: what would remain of the throughput where processors
        are all there is."""
        return cpu_ms(self.engine) / cpu_ms(self.way)


@dataclass
class Measured:
    """One way in one run."""

    way: str
    start_seconds: float = 0.0
    """From the start of its process to its first caption."""
    pairs: list[Pair] = field(default_factory=list)
    """None for the engine itself, which is in everybody's."""
    said: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    """Processes that did not end when asked to."""

    def of(self, clients: int, route: str = "") -> list[Pair]:
        """Pairs of the route that is compared, unless another is named."""
        route = route or WAYS[self.way].routes[0]
        return [pair for pair in self.pairs if (pair.clients, pair.route) == (clients, route)]


Run = dict[str, Measured]


def cpu_ms(window: Window, name: str = "") -> float:
    """Processor milliseconds of an answer, of all processes or those of one name."""
    spent = window["cpu_seconds"].get(name, 0.0) if name else sum(window["cpu_seconds"].values())
    return float(1000 * spent / (window["answers_per_second"] * window["seconds"]))


def of_pairs(runs: Sequence[Run], way: str, clients: int, what: Callable[[Pair], float]) -> list[float]:
    """A figure of each pair, all runs together."""
    return [what(pair) for run in runs if way in run for pair in run[way].of(clients)]


def between(runs: Sequence[Run], one: str, other: str, clients: int) -> list[float]:
    """Answers in a second of two ways, each measured beside the engine; a value for each run that has both."""
    found = []
    for run in runs:
        if one in run and other in run:
            ratios = [statistics.median(pair.ratio() for pair in run[way].of(clients)) for way in (one, other)]
            found.append(ratios[0] / ratios[1])
    return found


def compared(options: argparse.Namespace, runs: Sequence[Run]) -> dict[str, list[float]]:
    """The named figures, a value for each pair or run."""
    few, many = options.clients[0], options.clients[-1]
    found = {}
    for way, before in {"ours": "", "ours_on_ray": "on_ray_", "vllm_server": "vllm_server_"}.items():
        found[f"{before}throughput_ratio_to_engine"] = of_pairs(runs, way, many, Pair.ratio)
        found[f"{before}cpu_ratio_to_engine"] = of_pairs(runs, way, many, Pair.cpu_ratio)
        found[f"{before}p50_overhead_ms"] = of_pairs(runs, way, few, Pair.later_ms)
    found["ray_serve_llm_p50_overhead_ms"] = of_pairs(runs, "ray_serve_llm", few, Pair.later_ms)
    found["ratio_to_ray_serve_llm"] = between(runs, "ours", "ray_serve_llm", many)
    found["ratio_to_vllm_server"] = between(runs, "ours", "vllm_server", many)
    found["on_ray_ratio_to_ray_serve_llm"] = between(runs, "ours_on_ray", "ray_serve_llm", many)
    found["cold_start_seconds"] = [run["ours"].start_seconds for run in runs if "ours" in run]
    found["on_ray_cold_start_seconds"] = [run["ours_on_ray"].start_seconds for run in runs if "ours_on_ray" in run]
    return {name: found[name] for name in TITLES if found[name]}


def figures(options: argparse.Namespace, runs: Sequence[Run]) -> dict[str, float]:
    """Medians, for the last line."""
    return {name: round(statistics.median(values), 3) for name, values in compared(options, runs).items()}


def interval(values: Sequence[float], draws: int = 2000) -> tuple[float, float]:
    """90 % bootstrap interval of the median."""
    rng = random.Random(0)
    medians = sorted(statistics.median(rng.choices(values, k=len(values))) for _ in range(draws))
    return medians[int(0.05 * draws)], medians[int(0.95 * draws)]


_RATE = "answers/s, {many} clients: "
_CPU = "processor time of an answer, {many} clients: bare engine ÷ "
_P50 = "p50, {few} client: "
TITLES = {
    "throughput_ratio_to_engine": _RATE + "`vila2 serve` ÷ bare engine",
    "cpu_ratio_to_engine": _CPU + "`vila2 serve`",
    "ratio_to_ray_serve_llm": _RATE + "`vila2 serve` ÷ `ray.serve.llm`",
    "ratio_to_vllm_server": _RATE + "`vila2 serve` ÷ vLLM's OpenAI server",
    "p50_overhead_ms": _P50 + "`vila2 serve` − bare engine, ms",
    "cold_start_seconds": "`vila2 serve`: start to first caption, seconds",
    "on_ray_throughput_ratio_to_engine": _RATE + "`vila2 serve` on Ray ÷ bare engine",
    "on_ray_cpu_ratio_to_engine": _CPU + "`vila2 serve` on Ray",
    "on_ray_ratio_to_ray_serve_llm": _RATE + "`vila2 serve` on Ray ÷ `ray.serve.llm`",
    "on_ray_p50_overhead_ms": _P50 + "`vila2 serve` on Ray − bare engine, ms",
    "on_ray_cold_start_seconds": "`vila2 serve` on Ray: start to first caption, seconds",
    "vllm_server_throughput_ratio_to_engine": _RATE + "vLLM's OpenAI server ÷ bare engine",
    "vllm_server_cpu_ratio_to_engine": _CPU + "vLLM's OpenAI server",
    "vllm_server_p50_overhead_ms": _P50 + "vLLM's OpenAI server − bare engine, ms",
    "ray_serve_llm_p50_overhead_ms": _P50 + "`ray.serve.llm` − bare engine, ms",
}


def write_report(options: argparse.Namespace, runs: Sequence[Run]) -> None:
    """What is known so far, as `serve.md`."""
    few, many = options.clients[0], options.clients[-1]
    ways = [way for way in WAYS if any(way in run for run in runs)]
    lines: list[str | None] = [
        "# The endpoint beside the bare engine",
        "",
        f"{date.today()}, {processor_name()}, {os.cpu_count()} cores, which servers and clients share; tiny model, "
        f"{options.dtype}, {options.tokens} tokens an answer. Each way takes turns with the bare engine in windows of "
        f"{options.seconds:g} s; ratios and differences are of neighbours. Made by `python benchmarks/serve.py --runs "
        f"{options.runs} --pairs {options.pairs} --seconds {options.seconds:g}`.",
        "",
        "| | median | 90 % interval | least – most | pairs or runs |",
        "|---|---|---|---|---|",
    ]
    for name, values in compared(options, runs).items():
        low, high = interval(values)
        spread = f"{low:.3g} – {high:.3g} | {min(values):.3g} – {max(values):.3g} | {len(values)}"
        lines.append(f"| {TITLES[name].format(few=few, many=many)} | **{statistics.median(values):.3g}** | {spread} |")
    for clients in options.clients:
        lines += [
            "",
            f"| {clients} client{'s' * (clients > 1)} | answers/s | p50, ms | p99, ms | processor, ms | answers |",
        ]
        lines += ["|---|---|---|---|---|---|"]
        lines += [row(runs, way, clients, route) for way in ways for route in WAYS[way].routes or ("",)]
    lines += ["", "| | start to first caption, s | captions as the engine's | failed | did not end when asked |"]
    lines += ["|---|---|---|---|---|", *(conduct(runs, way) for way in ways), ""]
    for clients in (few, many):
        said = f"{clients} client{'s' * (clients > 1)}"
        lines += [f"Processor time of an answer by process, in ms, {said}, median of windows:", ""]
        lines += [*(spent(runs, way, clients) for way in ways), ""]
    options.to.mkdir(parents=True, exist_ok=True)
    (options.to / "serve.md").write_text("\n".join([line for line in lines if line is not None] + [""]), "utf-8")


def windows(runs: Sequence[Run], way: str, clients: int, route: str = "") -> list[Window]:
    """All of a way; the engine's are everybody's."""
    if way != "engine":
        return [pair.way for run in runs if way in run for pair in run[way].of(clients, route)]
    pairs = [pair for run in runs for measured in run.values() for pair in measured.pairs]
    return [pair.engine for pair in pairs if pair.clients == clients]


def row(runs: Sequence[Run], way: str, clients: int, route: str) -> str | None:
    """Medians of windows, percentiles of all latencies; None where the route was not asked by so many."""
    found = windows(runs, way, clients, route)
    if not found:
        return None
    rate = statistics.median(window["answers_per_second"] for window in found)
    cost = statistics.median(cpu_ms(window) for window in found)
    latencies = [value for window in found for value in window["latencies_ms"]]
    title = WAYS[way].title + (", by `/v1/chat/completions`" if WAYS[way].routes[1:] and route == "chat" else "")
    middle, late = (percentile(latencies, share) for share in (0.5, 0.99))
    return f"| {title} | {rate:.1f} | {middle:.1f} | {late:.1f} | {cost:.1f} | {len(latencies):,} |"


def conduct(runs: Sequence[Run], way: str) -> str:
    """Start, sameness, failures, leftovers."""
    found = [run[way] for run in runs if way in run]
    start = statistics.median(one.start_seconds for one in found)
    both = [(run[way].said, run["engine"].said) for run in runs if way in run and run["engine"].said]
    known = [(a, b) for said, engine in both for a, b in zip(said, engine, strict=True) if a and b]
    same = f"{sum(a == b for a, b in known)} of {len(known)}" if known else "not compared"
    failed = sum(len(window["failures"]) for clients in every_count(runs) for window in windows(runs, way, clients))
    left = sum(len(one.left) for one in found)
    return f"| {WAYS[way].title} | {start:.1f} | {same} | {failed} | {left} |"


def every_count(runs: Sequence[Run]) -> list[int]:
    return sorted({pair.clients for run in runs for measured in run.values() for pair in measured.pairs})


def spent(runs: Sequence[Run], way: str, clients: int) -> str:
    """A line of what each kind of process took for one answer."""
    found = windows(runs, way, clients)
    names = {name for window in found for name in window["cpu_seconds"]}
    costs = {name: statistics.median(cpu_ms(window, name) for window in found) for name in names}
    told = sorted(((cost, name) for name, cost in costs.items() if cost >= 0.02), reverse=True)
    return f"- {WAYS[way].title}: {', '.join(f'{name} {cost:.2f}' for cost, name in told)}"


def processor_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
