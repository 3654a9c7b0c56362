"""What it costs to plan, or to resume, a half-done recaptioning of very many shards on a real S3 server.

    python benchmarks/planning.py --shards 100000

Writes tiny tar shards, their index and catalogue, the layer files of every other shard and parts of some more to
SeaweedFS (the planner looks at names, sizes and times of these files and at the catalogue; it opens nothing else), for
1,000 shards, ten times and a hundred times as many. A fresh process then opens the corpus, takes its digest, looks for
work, cuts it into windows, and pickles what each read task carries. Each shard stands for 1,000 samples.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import json
import os
import pickle
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from pathlib import Path
from urllib.parse import quote, urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests import s3 as server
from vila2_ray.config import ColumnsConfig
from vila2_ray.corpus.catalogue import Catalogue, ShardFacts
from vila2_ray.corpus.corpus import Corpus
from vila2_ray.corpus.index import build_index, shard_identity
from vila2_ray.corpus.layers import Layer, Parts
from vila2_ray.progress import NullProgress
from vila2_ray.recaption.plan import find_work, windows
from vila2_ray.storage import Store

RESULTS = Path(__file__).parent / "results" / "planning.md"
SAMPLES_PER_SHARD = 1000
RANGE_ROWS = 256
NUM_ACTORS = 64
NUM_RUNS = 3
STEPS = ("open", "digest", "find_work", "windows", "tasks", "index_again")


def populate(root: str, num_shards: int) -> None:
    """A half-done campaign at `root`: even shards finished, every tenth of the others begun."""
    names = [f"{number:06}" for number in range(num_shards)]
    files = [f"shards/{name}.tar" for name in names]
    files += [f"index/pretrain/{name}.parquet" for name in names]
    files += [f"layer/pretrain/{name}.parquet" for name in names[::2]]
    files += [f"parts/pretrain/{name}/000000000-000000256.parquet" for name in names[1::20]]
    with ProcessPoolExecutor(2) as pool:
        for _ in pool.map(_put_all, [root] * 2, [files[0::2], files[1::2]]):
            pass
    corpus = open_corpus(root)
    assert len(corpus.shards) == num_shards
    facts = [(ref, ShardFacts(ref.stamp, _digest(ref.shard), SAMPLES_PER_SHARD, 0, "{}")) for ref in corpus.shards]
    identity = shard_identity(corpus.shards[0], corpus.columns)
    shared = {name: identity[name] for name in identity if name not in ("uri", "stamp")}
    Catalogue(corpus.index_store, "pretrain", shared).write(facts)


def open_corpus(root: str) -> Corpus:
    return Corpus.open(f"{root}/shards", "pretrain", Store(f"{root}/index"), ColumnsConfig())


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def _put_all(root: str, files: list[str]) -> None:
    """Signed PUTs over one connection: an SDK would take longer than the server."""
    from botocore.auth import S3SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    endpoint, body = os.environ["AWS_ENDPOINT_URL"], bytes(1024)  # an empty tar
    sign = S3SigV4Auth(
        Credentials(os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]), "s3", "us-east-1"
    )
    connection = http.client.HTTPConnection(urlsplit(endpoint).netloc, timeout=60)
    for file in files:
        path = "/" + quote(f"{root.removeprefix('s3://')}/{file}")
        request = AWSRequest("PUT", endpoint + path, data=body, headers={"x-amz-content-sha256": "UNSIGNED-PAYLOAD"})
        sign.add_auth(request)
        connection.request("PUT", path, body, dict(request.headers))
        answer = connection.getresponse()
        told = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{path}: {answer.status} {told!r}")


def measure(root: str) -> dict[str, float]:
    """Seconds of each step, in this process."""
    laps, figures = _Laps(), {}
    corpus = open_corpus(root)
    laps.end("open")
    corpus.digest()
    laps.end("digest")
    work = find_work(corpus, Layer(Store(f"{root}/layer")), Parts(Store(f"{root}/parts")), RANGE_ROWS)
    laps.end("find_work")
    cut = windows(work.ranges, NUM_ACTORS)
    laps.end("windows")
    sent = [len(pickle.dumps((corpus.part(dict.fromkeys(r.shard for r in window)), window))) for window in cut]
    laps.end("tasks")
    summary = build_index(corpus.shards, corpus.columns, corpus.index_store, NullProgress())
    laps.end("index_again")
    assert summary.num_samples == work.rows_total == SAMPLES_PER_SHARD * len(corpus.shards)
    figures.update(laps.seconds, total=sum(laps.seconds.values()), rows_done=work.rows_done, rows=work.rows_total)
    figures.update(num_ranges=len(work.ranges), num_windows=len(cut), largest_task_kilobytes=max(sent) / 1e3)
    figures.update(peak_megabytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3)
    return figures


class _Laps:
    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._began = time.perf_counter()

    def end(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name], self._began = now - self._began, now


def runs(root: str) -> Iterator[dict[str, float]]:
    """Of fresh processes."""
    for _ in range(NUM_RUNS):
        command = [sys.executable, __file__, "--measure", root]
        yield json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def report(rows: dict[int, dict[str, float]]) -> str:
    """The result as Markdown."""
    columns = ["shards", "samples", *STEPS, "total", "read tasks", "peak MB", "largest task KB"]
    lines = [
        "# Planning and resuming on S3",
        "",
        f"{date.today()}, {platform.machine()}, {os.cpu_count()} cores shared with the server (SeaweedFS) and other "
        f"work; `python benchmarks/planning.py`. Seconds, median of {NUM_RUNS} fresh processes; half of the shards are "
        "done.",
        "",
        "| " + " | ".join(columns) + " |",
        "|" + "---|" * len(columns),
    ]
    for num_shards, f in rows.items():
        cells = [f"{num_shards:,}", f"{f['rows']:,.0f}", *(f"{f[step]:.2f}" for step in STEPS), f"{f['total']:.2f}"]
        cells += [f"{f['num_windows']:,.0f}", f"{f['peak_megabytes']:.0f}", f"{f['largest_task_kilobytes']:.1f}"]
        lines.append("| " + " | ".join(cells) + " |")
    text = (
        "open: list the corpus. digest: read the catalogue, hash. find_work: list layer and parts, subtract. "
        "windows: cut. tasks: pickle what each read task carries. index_again: what the index stage of a resumed "
        "campaign does."
    )
    return "\n".join([*lines, "", text, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shards", type=int, default=100_000)
    parser.add_argument("--measure", metavar="ROOT", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.measure:
        print(json.dumps(measure(chosen.measure)))
        return
    rows: dict[int, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder, server.serve(Path(folder)) as endpoint:
        os.environ.update(server.environment(endpoint))
        bucket = server.make_bucket("planning")
        for num_shards in (chosen.shards // 100, chosen.shards // 10, chosen.shards):
            began = time.perf_counter()
            populate(f"{bucket}/{num_shards}", num_shards)
            print(f"{num_shards:,} shards written in {time.perf_counter() - began:.0f} s", file=sys.stderr)
            told = list(runs(f"{bucket}/{num_shards}"))
            rows[num_shards] = {name: statistics.median(run[name] for run in told) for name in told[0]}
    RESULTS.write_text(report(rows))
    print(report(rows))
    figures = {}
    for num_shards, f in rows.items():
        size = f"{num_shards // 1000}k" if num_shards >= 1000 else str(num_shards)
        figures.update(
            {f"plan_seconds_{size}": round(f["total"], 2), f"peak_megabytes_{size}": round(f["peak_megabytes"])}
        )
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
