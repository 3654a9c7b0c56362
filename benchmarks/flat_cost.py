"""Do memory and time per caption stay flat when the corpus grows? The fake engine, 10 and 50 times the shards.

Each size runs in a process of its own: tars of `--rows` noise pictures, one caption actor. Told are the peak memory of
the driver and of the actor, and the seconds per caption from the first engine's being there to the last layer file.

    python benchmarks/flat_cost.py --shards 10 100 500

The last line is one JSON object: for the largest against the smallest size, the ratios of driver memory, actor memory
and time per caption.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from datetime import date
from pathlib import Path
from typing import Any

import psutil

REPOSITORY = Path(__file__).parents[1]


def one(num_shards: int, num_rows: int) -> dict[str, float]:
    """Recaption so many shards; figures."""
    import ray

    from vila2_ray.config import EngineConfig, RecaptionConfig
    from vila2_ray.progress import NullProgress
    from vila2_ray.recaption.alone import AloneJob, recaption_alone

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    peak: list[int] = [0]
    threading.Thread(target=watch_actors, args=(peak,), daemon=True).start()
    with tempfile.TemporaryDirectory() as folder:
        write_shards(Path(folder, "corpus"), num_shards, num_rows)
        Path(folder, "fake").mkdir()
        config = RecaptionConfig(range_rows=num_rows, engine=EngineConfig(name="fake", batch_size=64))
        job = AloneJob(f"{folder}/fake", f"{folder}/corpus", f"{folder}/out", config)
        _, summary = recaption_alone(job, NullProgress())
    ray.shutdown()
    assert summary.num_captioned == num_shards * num_rows, summary
    return {
        "shards": num_shards,
        "captions": summary.num_captioned,
        "driver_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "actor_mb": peak[0] / 2**20,
        "ms_per_caption": 1000 * summary.generating_seconds / summary.num_captioned,
    }


def watch_actors(peak: list[int]) -> None:
    """Keep the largest private memory of a caption actor."""
    while True:
        time.sleep(0.2)
        for process in psutil.Process().children(recursive=True):
            try:
                if "CaptionActor" in " ".join(process.cmdline()):
                    memory = process.memory_info()
                    peak[0] = max(peak[0], memory.rss - memory.shared)
            except psutil.Error:
                continue


def write_shards(folder: Path, num_shards: int, num_rows: int) -> None:
    """Tars of pictures that all differ."""
    import io
    import tarfile

    from PIL import Image

    folder.mkdir()
    for number in range(num_shards):
        with tarfile.open(folder / f"{number:06}.tar", "w") as archive:
            for row in range(num_rows):
                out = io.BytesIO()
                Image.frombytes("RGB", (16, 16), os.urandom(768)).save(out, "PNG")
                for name, content in ((f"{row:04}.png", out.getvalue()), (f"{row:04}.txt", b"alt text")):
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--shards", type=int, nargs="+", default=[10, 100, 500])
    parser.add_argument("--rows", type=int, default=50)
    parser.add_argument("--to", type=Path, default=REPOSITORY / "benchmarks" / "results")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one(options.one, options.rows)), flush=True)
        return
    found: list[dict[str, Any]] = []
    for num_shards in options.shards:
        command = [sys.executable, __file__, "--one", str(num_shards), "--rows", str(options.rows)]
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "RAY_AUTH_MODE": "disabled", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1200)
        if done.returncode:
            raise SystemExit(done.stderr[-3000:])
        found.append(json.loads(done.stdout.splitlines()[-1]))
        print(found[-1], flush=True)
    lines = ["# Flat cost", "", f"{date.today()}, fake engine, {options.rows} pictures a shard, one actor.", ""]
    lines += ["| shards | captions | driver, peak MB | actor, peak MB | ms per caption |", "|---|---|---|---|---|"]
    for row in found:
        lines.append(
            f"| {row['shards']:,} | {row['captions']:,} | {row['driver_mb']:.0f} | {row['actor_mb']:.0f} "
            f"| {row['ms_per_caption']:.2f} |"
        )
    options.to.mkdir(parents=True, exist_ok=True)
    (options.to / "flat_cost.md").write_text("\n".join(lines) + "\n", "utf-8")
    first, last = found[0], found[-1]
    names = ("driver_mb", "actor_mb", "ms_per_caption")
    print(json.dumps({f"{name}_ratio": round(last[name] / first[name], 3) for name in names}))


if __name__ == "__main__":
    main()
