"""What the serving benchmark makes of pairs of windows, and that a process that asks obeys."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[3]
sys.path.append(str(REPOSITORY / "benchmarks"))  # where benchmarks find their trials

from trials.orders import Asking  # noqa: E402
from trials.servereport import Measured, Pair, Run, Window, figures, write_report  # noqa: E402


def window(rate: float, milliseconds: float, cpu: float) -> Window:
    asked = {"answers_per_second": rate, "seconds": 2.0, "latencies_ms": [milliseconds] * 9}
    return {**asked, "failures": [], "cpu_seconds": {"one": cpu}}


def pair(clients: int, rate: float, milliseconds: float) -> Pair:
    return Pair(clients, "captions", engine=window(100.0, 10.0, 1.0), way=window(rate, milliseconds, 1.0))


def test_ratios_are_of_neighbours_and_their_median_counts(tmp_path: Path) -> None:
    ours = Measured("ours", 9.0, [pair(1, 50.0, 13.0), *(pair(64, rate, 20.0) for rate in (80.0, 90.0, 20.0))])
    runs: list[Run] = [{"engine": Measured("engine", 5.0), "ours": ours}]
    options = argparse.Namespace(clients=[1, 64], seconds=2.0, pairs=3, runs=1, dtype="float32", tokens=64, to=tmp_path)
    found = figures(options, runs)
    assert found["throughput_ratio_to_engine"] == 0.8
    assert found["cpu_ratio_to_engine"] == 0.8
    assert found["p50_overhead_ms"] == 3.0
    write_report(options, runs)
    report = (tmp_path / "serve.md").read_text("utf-8")
    assert "| **0.8** | 0.2 – 0.9 | 0.2 – 0.9 | 3 |" in report
    assert "None" not in report


OBEDIENT = """
import asyncio, sys
from trials.orders import obey

async def ask(number):
    await asyncio.sleep(0.005)
    said[number] = f"{number}"

said = {}
asyncio.run(obey(lambda clients, route: [ask] * clients, said))
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into /proc")
def test_a_process_asks_when_it_is_told_to(tmp_path: Path) -> None:
    environment = {"PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'benchmarks'}"}
    asking = Asking.start([sys.executable, "-c", OBEDIENT], environment, tmp_path / "log")
    try:
        asking.warm(1, "captions")
        found = [asking.window(clients, "captions", 0.5, 0.1) for clients in (1, 3)]
        assert [one["clients"] for one in found] == [1, 3]
        assert found[0]["cpu_seconds"].keys() == {"python -c"}
        assert asking.said()[0] == "0"
    finally:
        assert asking.process.end() == []
