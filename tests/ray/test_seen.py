"""A driver on a real cluster as Prometheus and a log collector see it: the dashboard's metrics, and its records."""

from __future__ import annotations

import json
import logging
import os
import shutil
import socket
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.cluster.test_monitoring import expressions, selected
from tests.unit.recaption.pictures import bad_pictures, make_job, write_shards
from vila2_ray import logs, metrics
from vila2_ray.campaign import view
from vila2_ray.campaign.ledger import Ledger
from vila2_ray.campaign.live import read_live
from vila2_ray.campaign.pulse import Pulse
from vila2_ray.config import PricesConfig
from vila2_ray.recaption.pipeline import recaption
from vila2_ray.storage import Store

pytestmark = pytest.mark.slow
PATIENCE_SECONDS = 500.0
NOT_HERE = {"ray_node_gpus_utilization", "ray_node_gram_used", "ray_node_gram_available"}  # GPUs
NOT_HERE |= {"autoscaler_recently_failed_nodes"}  # an autoscaler that has lost one


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cluster with Ray's dashboard, as on a real head; its session's folder."""
    import ray

    folder = Path(tempfile.mkdtemp(prefix="v2r-", dir="/tmp"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    root, before = logging.getLogger(), list(logging.getLogger().handlers)
    os.environ |= {logs.VARIABLE: "json", "RAY_metrics_report_interval_ms": "3000"}
    init = ray.init

    def with_dashboard(**options: Any) -> Any:
        own = {"include_dashboard": True, "dashboard_host": "127.0.0.1", "dashboard_port": port, "num_cpus": 2}
        return init(**{**options, **own, "object_store_memory": 200_000_000, "_temp_dir": str(folder)})

    ray.init = with_dashboard
    try:
        view.connect_ray()
        yield folder
    finally:
        ray.init = init
        ray.shutdown()
        for name in (logs.VARIABLE, "RAY_metrics_report_interval_ms"):
            os.environ.pop(name)
        for handler in [found for found in root.handlers if found not in before]:
            root.removeHandler(handler)
        shutil.rmtree(folder, ignore_errors=True)


def scraped(session: Path) -> dict[str, list[str]]:
    """Name → lines, from every place that Ray tells Prometheus of."""
    found: dict[str, list[str]] = {}
    listed = session / "prom_metrics_service_discovery.json"
    targets = [t for of in json.loads(listed.read_text()) for t in of["targets"]] if listed.exists() else []
    for target in targets:
        try:
            with urllib.request.urlopen(f"http://{target}/metrics", timeout=10) as answer:
                lines = answer.read().decode().splitlines()
        except OSError:
            continue
        for line in lines:
            if line and not line.startswith("#"):
                found.setdefault(line.split("{")[0].split(" ")[0], []).append(line)
    return found


def test_prometheus_finds_all_that_the_dashboard_asks_for(session: Path, tmp_path: Path) -> None:
    wanted = {selector.name for _, expression in expressions() for selector in selected(expression)}
    wanted = {name for name in wanted if name.startswith(("ray_", "autoscaler_"))} - NOT_HERE
    bad = {(0, 5): bad_pictures()["image_unreadable"]}
    write_shards(tmp_path / "corpus", [64, 64], bad)
    store = Store(tmp_path / "cämpaign")
    missing, lines = set(wanted), dict[str, list[str]]()
    deadline = time.monotonic() + PATIENCE_SECONDS
    number = 0
    ledger = Ledger(store, PricesConfig())
    with Pulse(store, ledger, {}, every_seconds=0.5) as pulse:
        figures: dict[str, Any] = {}
        with ledger.record("filter-1"), pulse.meter.stage("filter-1", figures):
            figures["flags"] = {"captions": 190, "kept": 170, "refusal": 20}
        while missing and time.monotonic() < deadline:  # Ray tells of a dataset only after some seconds of it
            number += 1
            job = make_job(tmp_path, f"layer-{number}", range_rows=8)
            with ledger.record("recaption-1"), pulse.meter.stage("recaption-1", {}):
                recaption(job, _Scraping(pulse.meter, session, missing, lines))
            with ledger.record("sft-1"), pulse.meter.stage("sft-1", {}):
                pulse.meter.start("vlm-1 sft", 10, "steps")
                told = {"data_wait_share": 0.25, "tokens_per_second": 9.0, "samples_per_second": 2.0}
                pulse.meter.update(3, loss=1.5, lr=1e-3, **told)
                for _ in range(5):
                    time.sleep(2)
                    _look(session, missing, lines)
    assert not missing, sorted(missing)
    campaign = 'c\\\\xe4mpaign"'  # Prometheus' text format doubles the backslash
    for metric in metrics.METRICS:
        shown = lines[metric.exported][0]
        assert campaign in shown
        assert all(f'{label}="' in shown for label in metric.labels)
    [dead] = lines["ray_vila2_dead_letters_total"]
    assert 'reason="image_unreadable"' in dead
    assert float(dead.rpartition(" ")[2]) >= 1
    live = read_live(store)
    assert live is not None
    assert live.ended == "done"
    assert set(live.spent) == {"filter-1", "recaption-1", "sft-1"}


class _Scraping:
    """Tells a meter, and looks at the metrics while the work goes on."""

    def __init__(self, meter: Any, session: Path, missing: set[str], lines: dict[str, list[str]]) -> None:
        self._meter, self._look = meter, lambda: _look(session, missing, lines)
        self.start, self.finish, self.note = meter.start, meter.finish, meter.note
        self._looked = time.monotonic()

    def update(self, done: int, **figures: float | str) -> None:
        self._meter.update(done, **figures)
        if time.monotonic() - self._looked > 2:
            self._looked = time.monotonic()
            self._look()


def _look(session: Path, missing: set[str], lines: dict[str, list[str]]) -> None:
    for name, found in scraped(session).items():
        lines[name] = found
        missing.discard(name)


def test_workers_tell_of_shards_and_dead_letters_and_never_of_captions(session: Path) -> None:
    records = []
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not {"shard finished", "dead letters"} <= {record["message"] for record in records}:
        assert time.monotonic() < deadline, records
        text = "".join(path.read_text() for path in (session / "session_latest" / "logs").glob("worker-*.err"))
        told = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
        records = [record for record in told if record.get("name") == "vila2_ray.records"]
        time.sleep(0.5)
    shard = next(record for record in records if record["message"] == "shard finished")
    assert (shard["stage"], shard["rows"]) == ("recaption-1", 64)
    assert {"campaign", "shard", "source", "node", "node_id", "job_id", "task_id"} <= set(shard)
    dead = next(record for record in records if record["message"] == "dead letters")
    assert dead["reasons"] == {"image_unreadable": 1}
    assert {"shard", "start", "stop", "node_id"} <= set(dead)
    assert not any("caption of" in json.dumps(record) for record in records)
