"""One small Ray cluster of its own per test module."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # what Ray will do by default anyway; else it warns


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[None]:
    """Two CPUs, no dashboard, a temporary folder of its own; gone when the module is."""
    import ray

    folder = Path(tempfile.mkdtemp(prefix="v2r-", dir="/tmp"))  # short: Unix socket paths are limited to 107 bytes
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="error",
        object_store_memory=200_000_000,
        _temp_dir=str(folder),
    )
    try:
        yield
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
